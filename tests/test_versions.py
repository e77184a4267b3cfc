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
import yaml

import mavis
from mavis.cli.fit_help import options
from mavis.cli.main import main
from mavis.decoding.value_model import read_card
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
    """Make a run what earlier versions left: no numbers of formats, the old name of the module."""
    (run / "value" / "SHA256SUMS").unlink()
    for file in (run / "value" / "value.json", run / "reference" / "identity.json"):
        content = json.loads(file.read_text())
        assert content.pop("format") == FORMAT
        file.write_text(json.dumps(content))
        file.with_name(f".{file.name}.sha256").unlink(missing_ok=True)
    settings = yaml.safe_load((run / "config.yaml").read_text().partition("\n")[2])
    settings["model"]["class_path"] = "mavis.learn.module.ValueModule"
    (run / "config.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))


@pytest.mark.parametrize("words", ["the same options", "its own configuration"])
def test_an_old_run_goes_on(tiny_fit, fit_words, tmp_path, capsys, monkeypatch, words):
    monkeypatch.setattr("mavis.training.callbacks._plots", lambda *_: [])
    run = tmp_path / "run"
    shutil.copytree(tiny_fit, run)
    as_it_was(run)
    same = (
        fit_words(run) if words == "the same options" else ["fit", "-c", str(run / "config.yaml")]
    )
    assert main([*same, "--out", str(run), "--data.rounds", "3"]) == 0, capsys.readouterr().err
    before, after = (json.loads((f / "metrics.json").read_text()) for f in (tiny_fit, run))
    assert after[:2] == before
    assert [entry["round"] for entry in after] == [0, 1, 2]
    assert read_card(run / "value").rounds == 3
    assert json.loads((run / "value" / "value.json").read_text())["format"] == FORMAT


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
