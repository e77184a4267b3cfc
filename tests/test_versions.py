"""What earlier versions wrote is read as it was; what a newer one wrote is refused in a line.

tests/data/old was written by mavis of November 2026, before folders had the number of a format: a
value model of the tiny llama, what it answered, and trees that it wrote, scored by one reward.
"""

import importlib
import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

import mavis
from mavis.cli.fit_help import options
from mavis.cli.main import main
from mavis.evaluation.collect import Collector
from mavis.objective import Objective
from mavis.training.collect import collect_trees
from mavis.training.module import ValueModule
from mavis.training.rollout import Shape
from mavis.versions import FORMAT, MOVED, same_class

OLD = Path(__file__).parent / "data" / "old"
PROMPTS = ["an ant", "a tin", "hats"]
NEWER = r"was written by a newer version of mavis \(format 99; this version reads 1\): update mavis"


class Vowels:
    """The reward that scored the old trees; its digest does not depend on this file."""

    __module__ = "an_old_plugin"

    def __repr__(self):
        return "Vowels()"

    def __call__(self, *_):
        raise AssertionError("these replies are scored already")


@pytest.fixture
def reference(build_reference):
    return build_reference(layers=1, hidden_size=16, intermediate_size=16, num_attention_heads=2)


def test_an_old_value_model_answers_as_it_did(reference):
    network = mavis.ValueModel.from_pretrained(OLD / "value", reference)
    assert network.card.objectives == ("humor",)
    policy = mavis.GuidedPolicy(reference, (network,))
    found = policy.generate(PROMPTS, weights={"humor": 1.0}, max_tokens=12, seed=3)
    for answer, before in zip(found, json.loads((OLD / "answers.json").read_text()), strict=True):
        assert (answer.text, answer.tokens) == (before["text"], before["tokens"])
        assert answer.kl == pytest.approx(before["kl"], rel=1e-5)


def test_old_trees_are_read_and_not_scored_again(tmp_path):
    shutil.copytree(OLD / "rollouts", tmp_path / "rollouts")
    objective, how = Objective("vowels", Vowels()), (Shape((2, 2), 8), mavis.SamplingParams((1.0,)))
    folder = tmp_path / "rollouts"
    trees = collect_trees(Collector(), folder, None, PROMPTS, [objective], *how, (0, 0), 8)
    expected = json.loads((OLD / "trees.json").read_text())
    for tree, before in zip(trees, expected, strict=True):
        assert tree.tokens.tolist() == before["tokens"]
        assert tree.rewards.shape == (len(tree.leaves), 1)
        wanted = np.array(before["rewards"], np.float32)
        np.testing.assert_array_equal(tree.rewards[:, 0], wanted)


def as_it_was(run):
    """Make a run what earlier versions left.

    No numbers of formats, the old name of the module, another meaning of the learning rates, a
    given strength in place of a KL budget, and heads without a centre.
    """
    (run / "value" / "SHA256SUMS").unlink()
    for file in (run / "value" / "value.json", run / "reference" / "identity.json"):
        content = json.loads(file.read_text())
        assert content.pop("format") == FORMAT
        file.write_text(json.dumps(content))
        file.with_name(f".{file.name}.sha256").unlink(missing_ok=True)
    settings = yaml.safe_load((run / "config.yaml").read_text().partition("\n")[2])
    settings["model"]["class_path"] = "mavis.learn.module.ValueModule"
    arguments, data = settings["model"]["init_args"], settings["data"]
    del arguments["credit"], arguments["trunk_lr"], data["kl_budget"]
    arguments.update(source="action", lr=0.001)
    data["eta"] = 0.5
    (run / "config.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    entries = json.loads((run / "metrics.json").read_text())
    news = ("beta", "kl_expected", "reward_spread", "reward_predicted")
    for entry in entries:
        for name in news:
            del entry[name]
    (run / "metrics.json").write_text(json.dumps(entries))
    (run / ".metrics.json.sha256").unlink()
    head = load_file(run / "value" / "head.safetensors")
    save_file({n: x for n, x in head.items() if n != "centre"}, run / "value" / "head.safetensors")
    last = run / "checkpoints" / "last.ckpt"
    state = torch.load(last, weights_only=True)
    del state["state_dict"]["network.head.centre"], state["RolloutDataModule"]["beta"]
    (optimizer,) = state["optimizer_states"]
    one, *others = optimizer["param_groups"]
    one["params"] += [number for group in others for number in group["params"]]
    optimizer["param_groups"] = [one]
    torch.save(state, last)
    (last.parent / ".last.ckpt.sha256").unlink()


@pytest.fixture
def old_run(tiny_fit, tmp_path, monkeypatch):
    monkeypatch.setattr("mavis.training.callbacks._plots", lambda *_: [])
    run = shutil.copytree(tiny_fit, tmp_path / "run")
    as_it_was(run)
    return run


def words_for(fit_words, run, spelled, command="fit"):
    """The options that the run had, spelled out or from its own configuration."""
    if spelled:
        then = ("--data.eta", "0.5", "--model.source", "action", "--model.lr", "0.001")
        return fit_words(run, *then, command=command)
    return [command, "-c", str(run / "config.yaml"), "--out", str(run)]


@pytest.mark.parametrize("spelled", [True, False])
def test_an_old_run_that_is_finished_is_of_use(old_run, fit_words, capsys, spelled):
    files = ("config.yaml", "metrics.json", "value/value.json")
    before = [(old_run / file).read_text() for file in files]
    assert main(words_for(fit_words, old_run, spelled)) == 0
    assert "this run is finished: nothing is left to train" in capsys.readouterr().err
    for command in ("validate", "test"):
        words = words_for(fit_words, old_run, spelled, command)
        assert main(words) == 0, capsys.readouterr().err
    found = json.loads((old_run / "test.json").read_text())
    assert found["beta"] == 2.0  # 1 / η, as it was
    assert [(old_run / file).read_text() for file in files] == before
    words = ["generate", "an um", "--weights.trial", "1", "--values.trial", f"{old_run / 'value'}"]
    assert main([*words, "--max_tokens", "3"]) == 0


@pytest.mark.parametrize("spelled", [True, False])
def test_an_old_run_is_not_trained_on(old_run, fit_words, capsys, spelled):
    """Its learning rate means something else now, and would teach nothing."""
    before = {path: path.read_bytes() for path in old_run.rglob("*") if path.is_file()}
    assert main([*words_for(fit_words, old_run, spelled), "--data.rounds", "3"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert f"{old_run} was begun by an earlier mavis" in line
    assert "give another --out" in line
    assert before == {path: path.read_bytes() for path in before}
    (old_run / "metrics.json").unlink()  # stopped in its first round
    assert main(words_for(fit_words, old_run, spelled)) == 2


def test_a_run_of_today_goes_on_under_the_old_name_of_the_module(
    tiny_fit, fit_words, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr("mavis.training.callbacks._plots", lambda *_: [])
    run = shutil.copytree(tiny_fit, tmp_path / "run")
    settings = yaml.safe_load((run / "config.yaml").read_text().partition("\n")[2])
    settings["model"]["class_path"] = "mavis.learn.module.ValueModule"
    (run / "config.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    assert main(fit_words(run, "--data.rounds", "3")) == 0, capsys.readouterr().err
    before, after = (json.loads((f / "metrics.json").read_text()) for f in (tiny_fit, run))
    assert after[:2] == before
    assert [entry["round"] for entry in after] == [0, 1, 2]


def newer(file):
    content = json.loads(file.read_text()) | {"format": 99, "what is new": True}
    file.write_text(json.dumps(content))
    for sums in (file.with_name(f".{file.name}.sha256"), file.with_name("SHA256SUMS")):
        sums.unlink(missing_ok=True)


def test_a_newer_value_model_is_refused(tiny_fit, tmp_path, capsys):
    shutil.copytree(tiny_fit / "value", tmp_path / "value")
    newer(tmp_path / "value" / "value.json")
    with pytest.raises(RuntimeError, match=NEWER):
        mavis.load(tmp_path / "value")
    words = ["generate", "a", "--weights.trial", "1", "--values.trial", str(tmp_path / "value")]
    assert main(words) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(NEWER, line)


@pytest.mark.parametrize("file", ["reference/identity.json", "value/value.json"])
def test_a_newer_run_is_refused_and_left_as_it_is(tiny_fit, fit_words, tmp_path, capsys, file):
    run = tmp_path / "run"
    shutil.copytree(tiny_fit, run)
    newer(run / file)
    before = (run / file).read_text()
    assert main(fit_words(run)) == 1
    assert re.search(NEWER, capsys.readouterr().err)
    assert (run / file).read_text() == before


def test_a_class_is_found_where_it_was(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("mavis.learn")]:
        monkeypatch.delitem(sys.modules, name)  # as in a process that has not met the old names
    assert options("mavis.learn.module.ValueModule") == options(
        f"{ValueModule.__module__}.ValueModule"
    )
    assert importlib.import_module("mavis.learn.module").ValueModule is ValueModule
    for old, now in MOVED.items():
        assert importlib.import_module(old).__getattr__("__name__") == now
    assert same_class("mavis.learn.module.ValueModule", "mavis.ValueModule")
    assert not same_class("mavis.learn.module.ValueModule", "mavis.ValueModel")
    assert not same_class("gone.One", "gone.Other")
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        _ = importlib.import_module("mavis.learn.module").nonsense
    with pytest.raises(ModuleNotFoundError, match=r"mavis\.learn\.nonsense"):
        importlib.import_module("mavis.learn.nonsense")
