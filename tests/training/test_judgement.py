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
from mavis.training import callbacks, judgement
from mavis.training.judgement import ANSWERS, doubts, in_a_line, truncation_hint

DATA = SimpleNamespace(trees=40, beta=2.0, objective=SimpleNamespace(name="humor"))


def entry(low, high, slope):
    ends = {"advantage_correlation_low": low, "advantage_correlation_high": high}
    return ends | {"advantage_slope": slope}


def test_good_values_raise_no_doubt():
    assert doubts(entry(0.3, 0.5, 0.9), DATA) == ""


@pytest.mark.parametrize(("low", "high"), [(-0.1, 0.2), (-0.4, -0.2)])
def test_values_within_their_noise(low, high):
    said = doubts(entry(low, high, 1.0), DATA)
    assert "nothing shows that the values have learned humor" in said
    assert f"between {low:z.2f} and {high:z.2f}" in said
    assert "--data.trees 80" in said


def test_values_that_are_all_the_same():
    said = doubts(entry(math.nan, math.nan, math.nan), DATA)
    assert "nothing shows that the values have learned humor" in said
    assert "they tell no answer from another" in said


def test_values_that_are_too_large():
    said = doubts(entry(0.1, 0.3, 0.16), DATA)
    assert "6.2 times as large" in said
    assert "--beta 0.32" in said


def test_truncation_is_shown_where_it_costs_something():
    numbers = {"reward": 0.2, "reward_se": 0.1, "reward_reference": 0.0, "best_of_n_at_kl": None}
    line = in_a_line(numbers | {"kl": 4.2, "kl_truncation": 3.4})
    assert line.endswith("no best-of-N at this KL), KL 4.2 nats, 3.4 of them by truncation")
    assert in_a_line(numbers | {"kl": 1.8, "kl_truncation": 0.07}).endswith("), KL 1.8 nats")
    data = SimpleNamespace(sampling=lambda _: SamplingParams(top_k=40))
    hint = truncation_hint({"kl_truncation": 3.4, "length": 31.0}, data)
    assert "--data.top_k 40 and --data.top_p 1 alone cost 0.11 nats a token" in hint
    assert truncation_hint({"kl_truncation": 0.07, "length": 31.0}, data) == ""


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


def test_a_round_that_lost_what_was_learned_is_taken_back(fit_words, tmp_path, capsys, monkeypatch):
    """Round 0 is judged good, round 1 bad: what follows has the values of round 0."""
    good = entry(0.2, 0.6, 0.9)
    whole = {"advantage_correlation": 0.4, "advantage_r2": 0.1, **good}
    by_round = {0: whole, 1: whole | entry(-0.2, 0.3, 0.9), 2: whole}
    judged = lambda data, *_: by_round[data.round]  # noqa: E731
    monkeypatch.setattr(callbacks, "judge", judged)
    one, two, three = (tmp_path / name for name in ("one", "two", "three"))
    assert main(fit_words(one, "--data.rounds", "1")) == 0
    assert main(fit_words(two)) == 0
    assert "round 1: the values of the last round that had learned are kept" in (
        capsys.readouterr().err
    )
    files = ("head.safetensors", "trunk/model.safetensors")
    for file in files:
        assert (one / "value" / file).read_bytes() == (two / "value" / file).read_bytes()
    entries = json.loads((two / "metrics.json").read_text())
    assert [old["promoted"] for old in entries] == [True, False]
    assert json.loads((two / "value" / "value.json").read_text())["rounds"] == 1
    # Going on with more rounds starts from the values that were kept, and these are promoted.
    assert main(fit_words(three, "--data.rounds", "3")) == 0
    entries = json.loads((three / "metrics.json").read_text())
    assert [old["promoted"] for old in entries] == [True, False, True]
    assert json.loads((three / "value" / "value.json").read_text())["rounds"] == 3


def test_a_fit_that_learned_nothing_says_so(fit_words, tmp_path, capsys, monkeypatch):
    """Values that tell no answer from another: the fit goes to its end, and says so."""
    same = np.zeros((2, ANSWERS, 1))
    monkeypatch.setattr(judgement, "reply_advantages", lambda *_: same)
    assert main(fit_words(tmp_path / "run", "--data.rounds", "1")) == 0
    (line,) = [x for x in capsys.readouterr().err.splitlines() if "warning" in x]
    assert line.startswith(
        "mavis: warning: round 0: nothing shows that the values have learned trial: "
    )
