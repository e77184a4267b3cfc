"""The judgement on a round's values: the figures of a fit, and the doubts that they raise."""

import json
import math
import shutil
from types import SimpleNamespace

import numpy as np
import pytest

from mavis import GuidedPolicy, SamplingParams, evaluate, load
from mavis.cli.main import main
from mavis.evaluation.advantages import agreement, reply_advantages
from mavis.storage import Shards
from mavis.training import judgement
from mavis.training.judgement import ANSWERS, doubts

DATA = SimpleNamespace(trees=40, beta=2.0, objective=SimpleNamespace(name="humor"))


def entry(low, high, slope):
    ends = {"advantage_correlation_low": low, "advantage_correlation_high": high}
    return ends | {"advantage_slope": slope}


def test_good_values_raise_no_doubt():
    assert doubts(entry(0.3, 0.5, 0.9), DATA) == ""


@pytest.mark.parametrize(("low", "high"), [(-0.1, 0.2), (-0.4, -0.2)])
def test_values_within_their_noise(low, high):
    said = doubts(entry(low, high, 1.0), DATA)
    assert "have not learned humor" in said
    assert f"between {low:z.2f} and {high:z.2f}" in said
    assert "--data.trees 80" in said


def test_values_that_are_all_the_same():
    said = doubts(entry(math.nan, math.nan, math.nan), DATA)
    assert "have not learned humor" in said
    assert "they tell no answer from another" in said


def test_values_that_are_too_large():
    said = doubts(entry(0.1, 0.3, 0.16), DATA)
    assert "6.2 times as large" in said
    assert "--beta 0.32" in said


def test_a_fit_is_judged_on_held_out_answers_of_the_reference(tiny_fit, tiny_folder, tmp_path):
    """The figures of the last round, again from what the run left on disk."""
    last = json.loads((tiny_fit / "metrics.json").read_text())[-1]
    policy = load({"trial": tiny_fit / "value"}, reference=str(tiny_folder / "reference"))
    folder = shutil.copytree(tiny_fit / "reference" / "validation", tmp_path / "answers")
    rows = sorted(Shards(folder / "made").rows(), key=lambda row: row["index"])
    prompts = [row["prompt"] for row in rows]
    sampling = SamplingParams(top_k=12)
    plain = GuidedPolicy(policy.reference)
    samples = evaluate(plain, prompts, ["trial"], sampling, 8, 4, folder=folder)
    assert samples.tokens == [row["tokens"] for row in rows]  # nothing was sampled anew
    tokens = [answers[:ANSWERS] for answers in samples.tokens]
    sums = reply_advantages(policy, prompts, tokens, sampling)[..., 0]
    wanted = agreement(sums, samples.standard(samples.units)[:, :ANSWERS, 0])
    assert last["advantage_slope"] == pytest.approx(wanted.slope, rel=1e-3)
    assert last["advantage_r2"] == pytest.approx(wanted.r2, abs=1e-4)
    correlation = last["advantage_correlation"]
    assert correlation == pytest.approx(wanted.correlation.value, abs=1e-4)
    assert last["advantage_correlation_low"] <= correlation <= last["advantage_correlation_high"]


def test_a_fit_that_learned_nothing_says_so(fit_words, tmp_path, capsys, monkeypatch):
    """Values that tell no answer from another: the fit goes to its end, and says so."""
    same = np.zeros((2, ANSWERS, 1))
    monkeypatch.setattr(judgement, "reply_advantages", lambda *_: same)
    assert main(fit_words(tmp_path / "run", "--data.rounds", "1")) == 0
    (line,) = [x for x in capsys.readouterr().err.splitlines() if "warning" in x]
    assert line.startswith("mavis: warning: round 0: the values have not learned trial: ")
