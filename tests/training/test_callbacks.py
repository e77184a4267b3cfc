"""A fit as a whole: what it leaves behind, and that it goes on from wherever it was stopped."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import Dataset
from filelock import FileLock

from mavis import load
from mavis.cli.main import main
from mavis.decoding.reference import ReferencePolicy
from mavis.evaluation.collect import collected
from mavis.evaluation.kl_matching import best_of_n
from mavis.loudness import loudness
from mavis.prompts import digest
from mavis.reward import Units
from mavis.storage import Shards
from mavis.training.batching import collate
from mavis.training.callbacks import Rounds
from mavis.training.packing import pack_tree

KEYS = {  # DESIGN 3.6, and what stands beside
    *("round", "reward", "reward_se", "reward_reference", "kl", "kl_sampled", "kl_truncation"),
    *(
        "best_of_n_at_kl",
        "tokens",
        "trees",
        "seconds_rollout",
        "seconds_train",
        "r2",
        "seconds_cpu",
    ),
    *("sibling_rank_correlation", "distinct_3", "repetition", "length", "seconds_score"),
    *("distinct_3_reference", "repetition_reference", "length_reference", "abstained"),
}


def metrics(folder):
    """Without the seconds, which no two runs share."""
    entries = json.loads((folder / "metrics.json").read_text())
    return [{k: v for k, v in e.items() if not k.startswith("seconds")} for e in entries]


def rows(folder):
    return sorted(Shards(folder).rows(), key=lambda row: row["index"])


def test_what_it_leaves_behind(tiny_fit):
    names = {path.name for path in tiny_fit.iterdir()}
    assert names >= {"config.yaml", "metrics.json", "value", "checkpoints", "rollouts"}
    assert names >= {"reward_kl.png", "rewards.png", "calibration.png"}
    assert {path.name for path in (tiny_fit / "rollouts").iterdir()} == {"round-0", "round-1"}
    for split in ("train", "validation"):
        for k in (0, 1):
            assert (tiny_fit / "rollouts" / f"round-{k}" / split / "complete.json").is_file()
    assert not [*tiny_fit.rglob("*.part"), *tiny_fit.rglob("*.pkl"), *tiny_fit.rglob("*.old")]
    value = {path.name for path in (tiny_fit / "value").iterdir()}
    assert value == {"README.md", "head.safetensors", "prompts.json", "trunk", "value.json"} | {
        *("SHA256SUMS", ".prompts.json.sha256"),
    }
    seen = set(json.loads((tiny_fit / "value" / "prompts.json").read_text()))
    made = [r for k in (0, 1) for r in rows(tiny_fit / f"rollouts/round-{k}/train/made")]
    assert seen >= {digest(row["prompt"]) for row in made}


def test_metrics(tiny_fit):
    entries = json.loads((tiny_fit / "metrics.json").read_text())
    assert [entry["round"] for entry in entries] == [0, 1]
    for entry in entries:
        assert entry.keys() >= KEYS
        assert entry["trees"] == 4
        unknown = {name for name, value in entry.items() if not isinstance(value, int | float)}
        assert unknown <= {
            "best_of_n_at_kl",
            "best_of_n_share_predicted",
            "advantage_share_explained",
        }
        assert entry["kl"] > 0
        assert entry["kl_truncation"] > 0
        assert entry["reward_reference"] == pytest.approx(0, abs=1e-6)  # by standard units
    trees = rows(tiny_fit / "rollouts" / "round-1" / "train" / "made")
    assert entries[1]["tokens"] == sum(len(t["tokens"]) - t["start"][1] for t in trees)


def test_what_it_says(tiny_fit):
    said = (tiny_fit / "said.txt").read_text()
    first = metrics(tiny_fit)[0]
    assert f"round 0: reward {first['reward']:.2f} ± {first['reward_se']:.2f}" in said
    assert "round 1: reward" in said
    assert str(tiny_fit / "value") in said
    assert "mavis generate --weights.trial 1" in said


def test_guided_reward_is_that_of_the_samples_on_disk(tiny_fit):
    """Recomputed from the raw samples, with the reward written out again."""

    def raw(folder):
        return [
            [text.count("a") - 0.1 * len(text) for text in row["responses"]]
            for row in rows(folder / "made")
        ]

    answers = tiny_fit / "reference" / "validation"
    baseline = np.array(raw(answers))
    units = Units.measure(baseline.flatten().tolist())
    for entry in metrics(tiny_fit):
        folder = tiny_fit / "rollouts" / f"round-{entry['round']}" / "evaluation"
        guided = (np.array(raw(folder)) - units.mean) / units.std
        assert entry["reward"] == pytest.approx(guided.mean(), abs=1e-4)
        made = rows(folder / "made")
        kl = np.mean([row["kl"][0] - row["kl_truncation"][0] for row in made])
        assert entry["kl"] == pytest.approx(kl, abs=1e-5)
        curve = best_of_n((baseline - units.mean)[..., None] / units.std, [1.0])
        if entry["best_of_n_at_kl"] is not None:
            root_kl = np.sqrt([point.mean_kl for point in curve])
            expected = np.interp(kl**0.5, root_kl, [point.mean_rewards[0] for point in curve])
            assert entry["best_of_n_at_kl"] == pytest.approx(expected, abs=1e-4)


def test_the_value_folder_gives_the_values_of_the_module(tiny_fit, tiny_folder):
    policy = load({"trial": tiny_fit / "value"})
    assert policy.reference.name == str(tiny_folder / "reference")
    network = policy.guides[0]
    assert network.card.rounds == 2
    assert policy.beta == pytest.approx(metrics(tiny_fit)[-1]["beta"])
    state = torch.load(tiny_fit / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    mine = network.state_dict()
    assert {f"network.{name}" for name in mine} == set(state)
    for name, tensor in mine.items():
        torch.testing.assert_close(tensor, state[f"network.{name}"], atol=1e-6, rtol=1e-5)


def test_the_card_for_people(tiny_fit):
    text = (tiny_fit / "value" / "README.md").read_text()
    assert "Value model: trial" in text
    assert "| rounds | 2 |" in text
    assert f"{metrics(tiny_fit)[1]['kl']:.2f} nats" in text


# Stopped, and gone on


@pytest.fixture
def light(monkeypatch):
    """No pictures: they take most of a tiny fit's time."""
    monkeypatch.setattr("mavis.training.callbacks._plots", lambda *_: [])


@pytest.fixture
def interruptible():
    """Lightning ignores further interrupts once it has seen one."""
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


PHASES = {
    "scores of the reference": ("mavis_trial.behave", 1),
    "scores of the trees": ("mavis_trial.behave", 3),
    "reference answers": ("mavis.storage.Shards.append", 1),
    "rollouts": ("mavis.training.collect.tree_row", 3),
    "second rollouts": ("mavis.training.collect.tree_row", 12),
    "marker": ("mavis.training.data.write_json", 1),
    "first step": ("mavis.training.module.ValueModule.training_step", 1),
    "second round's training": ("mavis.training.module.ValueModule.training_step", -3),
    "evaluation": ("mavis.training.held_out.HeldOutPrompts.evaluate", 2),
    "value folder": ("mavis.decoding.value_model.ValueModel.save_pretrained", 2),
    "metrics": ("mavis.training.callbacks.write_json", 2),
    "checkpoint": ("mavis.training.callbacks.save_checkpoint", 2),
}
RARE = ("scores of the trees", "reference answers", "marker", "first step", "metrics")


@pytest.mark.usefixtures("light", "interruptible")
@pytest.mark.parametrize(
    "phase", [pytest.param(p, marks=[pytest.mark.slow] if p in RARE else []) for p in PHASES]
)
def test_interrupted_it_goes_on(
    phase, tiny_fit, fit_words, tmp_path, monkeypatch, capsys, same_run, stopper
):
    place, nth = PHASES[phase]
    if nth < 0:
        nth += 1 + steps_of(tiny_fit)
    owner = resolve(place.rpartition(".")[0])
    name = place.rpartition(".")[2]
    stop = stopper(vars(owner)[name], nth, KeyboardInterrupt())
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, stop)
        assert main(fit_words(tmp_path / "run")) == 130
    assert stop.left == 0
    said = capsys.readouterr()
    assert said.err.strip().splitlines()[-1] == (
        "mavis: interrupted; the same command resumes from here."
    )
    assert main(fit_words(tmp_path / "run")) == 0
    same_run(tmp_path / "run", tiny_fit)


def test_a_folder_takes_one_run_at_a_time(fit_words, tmp_path, capsys):
    (tmp_path / "run").mkdir()
    with FileLock(tmp_path / "run" / ".lock"):
        assert main(fit_words(tmp_path / "run")) == 1
    assert "another run is at work in" in capsys.readouterr().err


def test_what_would_change_the_values_may_not_change_half_way(tiny_fit, fit_words, capsys):
    assert main([*fit_words(tiny_fit), "--trainer.gradient_clip_val", "3"]) == 2
    assert "holds a run with trainer.gradient_clip_val = 1.0, not 3" in capsys.readouterr().err


def steps_of(folder):
    state = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    return state["global_step"]


def resolve(dotted):
    parts = dotted.split(".")
    for end in range(len(parts), 0, -1):
        module = sys.modules.get(".".join(parts[:end])) or maybe_import(".".join(parts[:end]))
        if module:
            for part in parts[end:]:
                module = getattr(module, part)
            return module
    raise AssertionError(dotted)


def maybe_import(name):
    try:
        return __import__(name, fromlist=["_"])
    except ImportError:
        return None


KILLER = """
import os, signal, sys
from mavis.evaluation import collect as tables
from mavis.training import collect
tables.PER_SHARD = 1
inner, left = collect.tree_row, [3]
def killer(*args):
    left[0] -= 1
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    return inner(*args)
collect.tree_row = killer
from mavis.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.usefixtures("light")
def test_killed_it_goes_on(tiny_fit, fit_words, plugin, tmp_path, capsys, monkeypatch, same_run):
    """kill −9 in the middle of the first round's rollouts: two trees are done, and stay."""
    run = tmp_path / "run"
    environment = {**os.environ, "PYTHONPATH": str(plugin), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", KILLER, *fit_words(run)],
        env=environment,
        capture_output=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    folder = run / "rollouts" / "round-0" / "train"
    kept = rows(folder / "made")
    assert len(kept) == 2
    assert not (folder / "complete.json").exists()
    remade = []
    inner = resolve("mavis.training.collect").tree_row
    monkeypatch.setattr(
        "mavis.training.collect.tree_row",
        lambda index, tree: remade.append(index) or inner(index, tree),
    )
    assert main(fit_words(run)) == 0
    assert not {row["index"] for row in kept} & set(remade[:2])
    for number, entry in enumerate(json.loads((run / "metrics.json").read_text())):
        parts = (run / "rollouts" / f"round-{number}" / split for split in ("train", "validation"))
        assert entry["seconds_cpu"] > sum(map(collected, parts)) > 0  # the killed process's, too
    capsys.readouterr()
    same_run(run, tiny_fit)


TERMINATED = {
    "rollouts": ("mavis.training.collect.tree_row", 3),
    "second round's training": ("mavis.training.module.ValueModule.training_step", 7),
    "last evaluation": ("mavis.training.held_out.HeldOutPrompts.evaluate", 2),
}


@pytest.mark.usefixtures("light")
@pytest.mark.parametrize("phase", TERMINATED)
def test_told_to_end_it_says_so_and_goes_on(
    phase, tiny_fit, fit_words, tmp_path, monkeypatch, capsys, same_run
):
    """SIGTERM, as a scheduler sends it; by itself, Lightning makes a success of it."""
    place, nth = TERMINATED[phase]
    owner, name = resolve(place.rpartition(".")[0]), place.rpartition(".")[2]
    inner, left, before = vars(owner)[name], [nth], signal.getsignal(signal.SIGTERM)

    def told(*args, **kwargs):
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGTERM)
        return inner(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, told)
        assert main(fit_words(tmp_path / "run")) == 143
    assert left[0] <= 0
    assert capsys.readouterr().err.strip().splitlines()[-1] == (
        "mavis: terminated; the same command resumes from here."
    )
    assert signal.getsignal(signal.SIGTERM) is before
    assert main(fit_words(tmp_path / "run")) == 0
    same_run(tmp_path / "run", tiny_fit)


TERMINATOR = KILLER.replace("SIGKILL", "SIGTERM")


@pytest.mark.usefixtures("light")
def test_a_process_that_was_told_to_end(tiny_fit, fit_words, plugin, tmp_path, same_run):
    run = tmp_path / "run"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(plugin), *sys.path])}
    done = subprocess.run(
        [sys.executable, "-c", TERMINATOR, *fit_words(run)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 143, done.stderr
    assert done.stderr.strip() == "mavis: terminated; the same command resumes from here."
    assert not (run / "value").exists()
    assert main(fit_words(run)) == 0
    same_run(run, tiny_fit)


@pytest.mark.usefixtures("light")
def test_disk_full(tiny_fit, fit_words, tmp_path, monkeypatch, capsys, same_run, stopper):
    run = tmp_path / "run"
    full = OSError(28, "No space left on device")
    with monkeypatch.context() as patch:
        patch.setattr("mavis.evaluation.collect.PER_SHARD", 1)
        patch.setattr(Dataset, "save_to_disk", stopper(Dataset.save_to_disk, 5, full))
        assert main(fit_words(run)) == 1
    said = capsys.readouterr()
    assert "No space left on device" in said.err
    (line,) = said.err.strip().splitlines()
    assert "Free some space and give the same command again" in line
    assert said.out == ""
    answers, trees = run / "reference" / "validation", run / "rollouts" / "round-0" / "train"
    assert len(rows(answers / "made")) == 2
    assert len(rows(trees / "made")) == 1  # behind 2 shards of answers, 1 of their scores
    assert main(fit_words(run)) == 0
    same_run(run, tiny_fit)


@pytest.mark.usefixtures("light")
def test_more_rounds_go_on_from_the_finished_ones(fit_words, tmp_path, capsys, same_run):
    """And each of them is trained on trees of its own: the second behind a stop, too."""
    run, whole = tmp_path / "run", tmp_path / "whole"
    assert main(fit_words(run, "--data.rounds", "1")) == 0
    assert len(metrics(run)) == 1
    assert main(fit_words(run, "--data.rounds", "3")) == 0
    assert "round 0" not in capsys.readouterr().out.split("try it", 1)[1]
    assert main(fit_words(whole, "--data.rounds", "3")) == 0
    same_run(run, whole)


@pytest.mark.usefixtures("light")
def test_again_nothing_is_made_again(
    tiny_fit, fit_words, tmp_path, monkeypatch, capsys, same_run, stopper
):
    run = tmp_path / "trial"
    shutil.copytree(tiny_fit, run)
    files = {path: path.stat().st_mtime_ns for path in run.rglob("*.arrow")}
    for place in ("mavis.training.collect.grow", "mavis_trial.behave"):
        owner = resolve(place.rpartition(".")[0])
        monkeypatch.setattr(owner, place.rpartition(".")[2], stopper(None, 1, AssertionError()))
    assert main(fit_words(run)) == 0
    said = capsys.readouterr()
    assert "round" not in said.out
    assert "mavis: this run is finished: nothing is left to train." in said.err
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*.arrow")} == files
    same_run(run, tiny_fit)


@pytest.mark.usefixtures("light")
def test_a_trial_run_is_not_gone_on_from(tiny_fit, fit_words, tmp_path, capsys, same_run):
    """fast_dev_run trains for one batch: what it leaves must not pass for a round."""
    run = tmp_path / "run"
    assert main(fit_words(run, "--trainer.fast_dev_run", "true")) == 0
    assert [path.name for path in run.iterdir() if path.is_dir()] == ["fast_dev_run"]
    shutil.rmtree(run / "fast_dev_run")
    assert main(fit_words(run)) == 0
    capsys.readouterr()
    same_run(run, tiny_fit)


def test_packs_of_a_round_fit_the_module(tiny_fit, tiny_folder):
    """The trees on disk are what the module is trained on: values of a pack are finite."""
    from mavis.training.tree import read_tree

    policy = load({"trial": tiny_fit / "value"})
    row = rows(tiny_fit / "rollouts" / "round-1" / "train" / "made")[0]
    tree = read_tree(row, np.zeros((len(row["leaves"]), 1), np.float32))
    batch = collate(pack_tree(tree, np.zeros((len(tree.tokens), 1), np.float32), 64))
    assert int(batch.tokens.max()) < policy.reference.vocabulary
    assert ReferencePolicy.load(str(tiny_folder / "reference")).fingerprint
    assert Path(policy.reference.name).is_dir()


@pytest.mark.parametrize(("level", "shown"), [("normal", False), ("verbose", True)])
def test_lightning_s_table_is_for_verbose_commands(level, shown):
    loops = (SimpleNamespace(verbose=None), SimpleNamespace(verbose=None))
    trainer = SimpleNamespace(validate_loop=loops[0], test_loop=loops[1])
    with loudness(level):
        Rounds().on_test_start(trainer, None)
    assert [loop.verbose for loop in loops] == [shown, shown]
