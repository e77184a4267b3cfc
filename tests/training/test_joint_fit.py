"""Whole fits by joint credit: stopped and gone on, taken back, and used."""

import json
import signal
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from mavis import load
from mavis.cli.main import main
from mavis.storage import Shards
from mavis.training import joint_head, judgement
from mavis.training.data import RolloutDataModule
from mavis.training.ridge import Solution
from mavis.training.value_design import RANDOM, choose

SIX = ("--data.trees", "6", "--data.most_trees", "6")
JOINT = ("--model.credit", "joint", *SIX, "--data.rounds", "2")


@pytest.fixture(scope="module")
def joint_fit(tmp_path_factory, fit_words):
    """The folder of a fit of two rounds. Shared by all tests: copy it to change it."""
    run = tmp_path_factory.mktemp("joint") / "trial"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mavis.training.callbacks._plots", lambda *_: [])
        assert main(fit_words(run, *JOINT)) == 0
    return run


@pytest.fixture
def interrupted(fit_words, tmp_path, monkeypatch, stopper):
    """`interrupted(words, nth)`: a run that was stopped when a policy was measured, and went on."""
    monkeypatch.setattr("mavis.training.callbacks._plots", lambda *_: [])

    def run(nth, *words):
        folder = tmp_path / "interrupted"
        before = signal.getsignal(signal.SIGINT)
        with monkeypatch.context() as patch:
            stop = stopper(RolloutDataModule.evaluate, nth, KeyboardInterrupt())
            patch.setattr(RolloutDataModule, "evaluate", stop)
            assert main(fit_words(folder, *JOINT, *words)) == 130
        signal.signal(signal.SIGINT, before)
        assert main(fit_words(folder, *JOINT, *words)) == 0
        return folder

    return run


def state_of(run):
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def test_more_rounds_add_trees_to_those_that_are_there(
    joint_fit, fit_words, tmp_path, same_run, monkeypatch
):
    """A run that had come to its end is the same as one that was asked for all rounds at once."""
    run = tmp_path / "run"
    monkeypatch.setattr("mavis.training.callbacks._plots", lambda *_: [])
    for rounds in "12":
        assert main(fit_words(run, *JOINT[:-1], rounds)) == 0
    same_run(run, joint_fit)


def test_it_learns_a_head_and_leaves_the_trunk(joint_fit, tiny_folder):
    policy = load({"trial": joint_fit / "value"})
    network = policy.guides[0]
    assert network.card.source == "state"
    assert network.head.state.weight.any()
    whole = dict(policy.reference.model.base_model.named_parameters())
    for name, tensor in network.trunk.named_parameters():
        assert torch.equal(tensor, whole[name])
    (answer,) = policy.generate(["an um"], max_tokens=4)
    assert answer.kl > answer.kl_truncation
    assert policy.reference.name == str(tiny_folder / "reference")


@pytest.mark.parametrize("nth", [1, 2])
def test_a_fit_that_was_stopped_comes_to_the_same(joint_fit, interrupted, same_run, nth):
    """In its first round, and after it, with the equations of the first round's trees."""
    run = interrupted(nth)
    same_run(run, joint_fit)
    mine, its = (state_of(folder)["joint_head._extra_state"] for folder in (run, joint_fit))
    assert mine["replies"] == its["replies"] > 40  # of both rounds
    for name in ("squares", "products", "spread", "mean"):
        torch.testing.assert_close(mine[name], its[name])


def test_validate_and_test(joint_fit, fit_words, capsys):
    assert main(fit_words(joint_fit, *JOINT, command="validate")) == 0
    assert "validation: loss" in capsys.readouterr().out
    assert main(fit_words(joint_fit, *JOINT, command="test")) == 0
    assert "test: reward" in capsys.readouterr().out


def test_a_round_that_is_taken_back_leaves_its_equations(
    fit_words, tmp_path, monkeypatch, interrupted, same_run
):
    """Its trees say as much of the tokens as others; what is kept is the head of the one before."""
    monkeypatch.setattr("mavis.training.callbacks._plots", lambda *_: [])
    verdicts = {0: True, 1: False, 2: True}
    monkeypatch.setattr(judgement, "learned", lambda entry: verdicts[entry["round"]])
    monkeypatch.setattr(judgement, "overspent", lambda *_: False)
    one, two, three = (tmp_path / name for name in ("one", "two", "three"))
    for run, rounds in ((one, 1), (two, 2), (three, 3)):
        assert main(fit_words(run, *JOINT, "--data.rounds", str(rounds))) == 0
    entries = json.loads((three / "metrics.json").read_text())
    assert [entry["promoted"] for entry in entries] == [True, False, True]
    first, second, third = map(state_of, (one, two, three))
    for name in ("network.head.state.weight", "joint_head.expected"):
        assert torch.equal(second[name], first[name])
        assert not torch.equal(third[name], second[name])
    replies = [state["joint_head._extra_state"]["replies"] for state in (first, second, third)]
    assert replies[0] < replies[1] < replies[2]
    heads = [load_file(run / "value" / "head.safetensors") for run in (one, two)]
    assert torch.equal(heads[0]["state.weight"], heads[1]["state.weight"])
    same_run(interrupted(3, "--data.rounds", "3"), three)


def test_adapters_are_refused(fit_words, tmp_path, capsys):
    words = fit_words(tmp_path / "run", *JOINT, "--model.lora", "{r: 2}")
    assert main(words) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "joint credit trains no adapters: leave lora out, or credit joint" in line
    assert not (tmp_path / "run" / "reference").exists()


def test_one_reply_to_a_prompt_is_refused(fit_words, tmp_path, capsys):
    words = fit_words(tmp_path / "run", *JOINT, "--data.first_branching", "[1,1]")
    assert main(words) != 0
    assert "joint credit needs two scored replies to a prompt" in capsys.readouterr().err


SHARED = ("--model.source", "shared", "--data.trees", "16", "--data.most_trees", "16")


def test_shared_values_are_learned_from_a_middle_layer(
    fit_words, tmp_path, monkeypatch, interrupted, same_run
):
    """And a fit of them that was stopped comes to the same."""
    monkeypatch.setattr("mavis.training.callbacks._plots", lambda *_: [])
    run = tmp_path / "whole"
    assert main(fit_words(run, *JOINT, *SHARED)) == 0
    policy = load({"trial": run / "value"})
    network = policy.guides[0]
    depth = policy.reference.model.config.num_hidden_layers
    assert network.card.layers == (round(0.4 * depth),)
    assert network.head.mix.weight.any()
    assert network.head.token.any()
    (answer,) = policy.generate(["an um"], max_tokens=4)
    assert answer.kl > answer.kl_truncation
    same_run(interrupted(2, *SHARED), run)


def test_layers_that_were_asked_for(fit_words, tmp_path, monkeypatch):
    monkeypatch.setattr("mavis.training.callbacks._plots", lambda *_: [])
    words = ("--model.layers", "[2,0]", "--data.rounds", "1", *SHARED)
    assert main(fit_words(tmp_path / "run", *JOINT, *words)) == 0
    network = load({"trial": tmp_path / "run" / "value"}).guides[0]
    assert network.card.layers == (2, 0)
    assert network.head.mix.in_features == 2 * network.table.shape[1]


def test_a_run_of_before_layers_were_read_goes_on(fit_words, tmp_path, monkeypatch, capsys):
    """From the last state, as it began; other layers are refused."""
    monkeypatch.setattr("mavis.training.callbacks._plots", lambda *_: [])
    run, words = tmp_path / "run", (*JOINT, "--model.source", "state")
    first = fit_words(run, *words, "--model.layers", "[]", "--data.rounds", "1")
    assert main(first) == 0
    lines = (run / "config.yaml").read_text().splitlines()[1:]
    (at,) = [number for number, line in enumerate(lines) if "layers:" in line]
    (run / "config.yaml").write_text("\n".join([*lines[:at], *lines[at + 1 :]]) + "\n")
    replies = state_of(run)["joint_head._extra_state"]["replies"]
    capsys.readouterr()
    assert main(fit_words(run, *words, "--model.layers", "[1]")) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "holds a run with model.init_args.layers = None, not [1]" in line
    assert main(fit_words(run, *words)) == 0
    assert len(json.loads((run / "metrics.json").read_text())) == 2
    assert state_of(run)["joint_head._extra_state"]["replies"] > replies
    assert load({"trial": run / "value"}).guides[0].card.layers == ()


def test_a_run_of_before_there_were_random_features_goes_on(fit_words, tmp_path, monkeypatch):
    """Without them: its equations are of states that were foretold from the states before alone."""
    monkeypatch.setattr("mavis.training.callbacks._plots", lambda *_: [])
    run, first = tmp_path / "run", ("--data.rounds", "1")
    with monkeypatch.context() as earlier:

        def without(*given, **more):
            return replace(choose(*given, **more), nonlinear=0)

        earlier.setattr("mavis.training.module.choose", without)
        assert main(fit_words(run, *JOINT, *first)) == 0
    before = state_of(run)
    assert RANDOM not in before
    assert main(fit_words(run, *JOINT)) == 0
    after = state_of(run)
    assert RANDOM not in after
    assert after["joint_head.expected"].shape == before["joint_head.expected"].shape
    replies = [state["joint_head._extra_state"]["replies"] for state in (before, after)]
    assert replies[1] > replies[0]


GROWING = ("--model.credit", "joint", "--data.trees", "3", "--data.most_trees", "8")


@pytest.fixture
def growing(monkeypatch):
    """Whatever the trees say, more of them are worth their time."""
    monkeypatch.setattr("mavis.training.callbacks._plots", lambda *_: [])
    monkeypatch.setattr("mavis.training.round_trees.WORTH", 0.0)


def trees_of(run, round_=0):
    rows = Shards(run / "rollouts" / f"round-{round_}" / "train" / "made").rows()
    return {row["index"]: row["prompt"] for row in rows}


@pytest.mark.usefixtures("growing")
def test_trees_are_doubled_while_that_explains_more(
    fit_words, tmp_path, capsys, stopper, same_run, monkeypatch
):
    """Up to what was asked for; later rounds have as many, of other prompts; stopped or not."""
    run = tmp_path / "run"
    assert main(fit_words(run, *GROWING)) == 0
    said = capsys.readouterr().err
    assert "3 trees are read; 3 more are rolled out" in said
    assert "6 trees are read; 2 more are rolled out" in said
    assert "(--data.most_trees 6: no more than that)" in said
    entries = json.loads((run / "metrics.json").read_text())
    assert [entry["trees"] for entry in entries] == [8, 8]
    assert sorted(trees_of(run)) == list(range(8))
    assert trees_of(run, 1)[0] not in trees_of(run).values()
    complete = json.loads((run / "rollouts/round-0/train/complete.json").read_text())
    assert complete["trees"] == 8
    for nth in (1, 2):
        folder = tmp_path / f"stopped-{nth}"
        with monkeypatch.context() as patch:
            stop = stopper(RolloutDataModule.grown, nth, KeyboardInterrupt())
            patch.setattr(RolloutDataModule, "grown", stop)
            assert main(fit_words(folder, *GROWING)) == 130
        assert main(fit_words(folder, *GROWING)) == 0
        same_run(folder, run)


def test_enough_trees_stay_as_many(fit_words, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("mavis.training.callbacks._plots", lambda *_: [])
    monkeypatch.setattr("mavis.training.round_trees.WORTH", 1e9)
    nothing = Solution(*[torch.zeros(1)] * 4, torch.ones(1))
    monkeypatch.setattr(joint_head, "solve", lambda trees: replace_weights(nothing, trees))
    assert main(fit_words(tmp_path / "run", *GROWING, "--data.rounds", "1")) == 0
    assert "more are rolled out" not in capsys.readouterr().err
    assert len(trees_of(tmp_path / "run")) == 3


def replace_weights(solution, trees):
    """As many weights as there are features."""
    after, before = trees.mean.shape[1], trees.mean.shape[0]
    return replace(solution, weights=torch.zeros(after, 1), expected=torch.zeros(before, 1))


@pytest.mark.usefixtures("growing")
def test_trees_of_a_run_that_had_added_some(fit_words, tmp_path, monkeypatch, capsys):
    run, other = tmp_path / "run", tmp_path / "other"
    assert main(fit_words(run, *GROWING)) == 0

    def no_trees(*_):
        raise AssertionError("a tree was grown")

    with monkeypatch.context() as patch:
        patch.setattr("mavis.training.collect.grow", no_trees)
        words = (*GROWING, "--data.trees_of", str(run))
        assert main(fit_words(other, *words)) == 0, capsys.readouterr().err
    entries = json.loads((other / "metrics.json").read_text())
    assert [entry["trees"] for entry in entries] == [8, 8]


def test_most_trees_are_of_joint_credit(fit_words, tmp_path, capsys):
    assert main(fit_words(tmp_path / "run", "--data.trees", "8", "--data.most_trees", "4")) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "most_trees must be at least 8, got 4" in line
    words = ("--data.trees", "3", "--data.most_trees", "6", "--data.rounds", "1")
    assert main(fit_words(tmp_path / "run", *words)) == 0
    assert "--data.most_trees is of joint credit: no tree is added" in capsys.readouterr().err
    assert len(trees_of(tmp_path / "run")) == 3
