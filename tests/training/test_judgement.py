"""The judgement on a round's values: the figures of a fit, and the doubts that they raise."""

import json
import math
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mavis import GuidedPolicy, SamplingParams, evaluate, load
from mavis.cli.main import main
from mavis.evaluation.advantages import agreement, reply_advantages
from mavis.reward import Units
from mavis.storage import Shards
from mavis.training import judgement
from mavis.training.data import RolloutDataModule
from mavis.training.judgement import ANSWERS, doubts, in_a_line, overspent, truncation_hint


def data_of(kl_budget=None):
    return SimpleNamespace(
        trees=40, kl_budget=kl_budget, objective=SimpleNamespace(name="humor"), max_tokens=8
    )


DATA = data_of()


def entry(low, high, slope, kl=1.5, beta=2.0):
    """As of a round whose policy is `kl` nats from the reference, one of them by truncation."""
    ends = {"advantage_correlation_low": low, "advantage_correlation_high": high}
    spent = {"kl": kl, "kl_truncation": 1.0}
    return ends | spent | {"advantage_slope": slope, "beta": beta}


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
    # Where the strength follows from the KL budget, their size does not matter.
    assert doubts(entry(0.1, 0.3, 0.16), data_of(2.0)) == ""


def test_a_policy_beyond_its_budget():
    """Truncation is not charged; up to half more than the budget is no matter."""
    assert doubts(entry(0.3, 0.5, 0.9, kl=3.9), data_of(2.0)) == ""
    assert not overspent(entry(0.3, 0.5, 0.9, kl=3.9), data_of(2.0))
    said = doubts(entry(0.3, 0.5, 0.9, kl=4.1), data_of(2.0))
    assert overspent(entry(0.3, 0.5, 0.9, kl=4.1), data_of(2.0))
    assert "3.1 nats from the reference where 2 were to be spent" in said
    assert "smaller --data.kl_budget" in said
    assert "--data.trees 80" in said
    assert not overspent(entry(0.3, 0.5, 0.9, kl=99.0), DATA)  # a given strength has no budget


def test_a_budget_that_no_strength_spends():
    said = doubts({**entry(0.3, 0.5, 0.9), "kl_expected": 0.1}, data_of(500.0))
    assert "no strength spends the KL budget of 500 nats" in said
    assert "0.1 are expected. Give a smaller --data.kl_budget." in said
    assert doubts({**entry(0.3, 0.5, 0.9), "kl_expected": 2.0}, data_of(2.0)) == ""


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


def judged_as(monkeypatch, verdict):
    """Have `verdict(data)` say how good a round's values are; all else is measured."""
    inner, kept = judgement.judge, ("low", "high")

    def judge(data, *others):
        found = inner(data, *others)
        names = [f"advantage_correlation_{end}" for end in kept]
        return found | {name: verdict(data)[name] for name in names}

    monkeypatch.setattr(judgement, "judge", judge)
    monkeypatch.setattr(judgement, "overspent", lambda *_: False)


def test_a_round_that_lost_what_was_learned_is_taken_back(fit_words, tmp_path, capsys, monkeypatch):
    """Round 0 is judged good, round 1 bad: what follows has the values of round 0."""
    good = entry(0.2, 0.6, 0.9)
    by_round = {0: good, 1: entry(-0.2, 0.3, 0.9), 2: good}
    judged_as(monkeypatch, lambda data: by_round[data.round])
    one, two, three = (tmp_path / name for name in ("one", "two", "three"))
    assert main(fit_words(one, "--data.rounds", "1")) == 0
    assert main(fit_words(two)) == 0
    assert "warning: round 1: the values of round 0 are kept" in capsys.readouterr().err
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


def test_the_strength_spends_the_budget(tiny_fit, tiny_folder):
    """That of each round, on the answers that values are judged on."""
    entries = json.loads((tiny_fit / "metrics.json").read_text())
    for kept in entries:
        assert kept["kl_expected"] == pytest.approx(2.0, rel=0.01)
        assert kept["beta"] > 0
    assert len({kept["beta"] for kept in entries}) == 2
    policy = load({"trial": tiny_fit / "value"}, reference=str(tiny_folder / "reference"))
    last = [kept for kept in entries if kept["promoted"]][-1]
    assert policy.beta == pytest.approx(last["beta"])
    rows = list(Shards(tiny_fit / "reference" / "validation" / "made").rows())
    asked = [row["prompt"] for row in rows for _ in row["tokens"][:ANSWERS]]
    replies = [tokens for row in rows for tokens in row["tokens"][:ANSWERS]]
    scores = policy.score(asked, replies, {"trial": 1.0}, policy.beta, top_k=12)
    spent = np.mean([sum(one.kl) - sum(one.truncation) for one in scores])
    assert spent == pytest.approx(last["kl_expected"], rel=1e-3)


def test_no_more_is_kept_than_fits(fit_words, tmp_path, monkeypatch):
    """The strength is then found on some of the replies."""
    monkeypatch.setattr("mavis.training.callbacks._plots", lambda *_: [])
    counts, inner = [], judgement.ExpectedKL

    def watched(policy, prompts, replies, *others, **settings):
        counts.append(len(replies))
        assert len(prompts) == len(replies)
        return inner(policy, prompts, replies, *others, **settings)

    monkeypatch.setattr(judgement, "ExpectedKL", watched)
    assert main(fit_words(tmp_path / "one", "--data.rounds", "1")) == 0
    monkeypatch.setattr(judgement, "MOST", 600)  # 12 candidates, each with one value
    assert main(fit_words(tmp_path / "two", "--data.rounds", "1")) == 0
    assert counts[0] == 8
    assert 1 <= counts[1] < 8
    whole, few = (
        json.loads((tmp_path / name / "metrics.json").read_text())[0] for name in ("one", "two")
    )
    assert few["kl_expected"] == pytest.approx(2.0, rel=0.01)
    assert few["beta"] != whole["beta"]


def test_what_is_predicted_of_a_round(tiny_fit):
    """The mean reward of the reference, and √(2 KL) · correlation · spread above it."""
    rows = list(Shards(tiny_fit / "reference" / "validation" / "made").rows())
    raw = np.array([[t.count("a") - 0.1 * len(t) for t in row["responses"]] for row in rows])
    units = Units.measure(raw.flatten().tolist())
    rewards = (raw - units.mean) / units.std
    spread = np.sqrt(np.mean([np.var(row, ddof=1) for row in rewards]))
    for kept in json.loads((tiny_fit / "metrics.json").read_text()):
        assert kept["reward_spread"] == pytest.approx(spread, rel=1e-4)
        gain = np.sqrt(2 * kept["kl_expected"]) * max(0, kept["advantage_correlation"]) * spread
        assert kept["reward_predicted"] == pytest.approx(rewards.mean() + gain, abs=1e-4)


@pytest.mark.parametrize(
    ("words", "beta"), [(("--data.eta", "0.5"), 2.0), (("--data.beta", "3"), 3.0)], ids=str
)
def test_a_strength_that_was_given_stays(fit_words, tmp_path, words, beta):
    assert main(fit_words(tmp_path / "run", "--data.rounds", "1", *words)) == 0
    (kept,) = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert kept["beta"] == beta
    assert kept["kl_expected"] > 0
    assert load({"trial": tmp_path / "run" / "value"}).beta == beta


def test_a_round_that_is_taken_back_gives_back_its_strength(fit_words, tmp_path, monkeypatch):
    """To the next round, to the test, and to a value model that is written again."""
    run = tmp_path / "run"
    monkeypatch.setattr("mavis.training.callbacks._plots", lambda *_: [])
    bad = entry(-0.2, 0.3, 0.9)
    judged_as(monkeypatch, lambda data: bad if data.round == 1 else entry(0.2, 0.6, 0.9))
    assert main(fit_words(run)) == 0
    first, second = json.loads((run / "metrics.json").read_text())
    assert [first["promoted"], second["promoted"]] == [True, False]
    assert second["beta"] != first["beta"]
    state = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    (found,) = [v["beta"] for v in state.values() if isinstance(v, dict) and "beta" in v]
    assert found == first["beta"]
    card = (run / "value" / "value.json").read_text()
    assert 1 / json.loads(card)["eta"] == pytest.approx(first["beta"])
    shutil.rmtree(run / "value")
    assert main(fit_words(run)) == 0
    assert (run / "value" / "value.json").read_text() == card
    assert main(fit_words(run, command="test")) == 0
    assert json.loads((run / "test.json").read_text())["beta"] == first["beta"]
    # With a round more, its trees are grown at the strength of the values that were kept.
    betas, inner = [], RolloutDataModule._grow

    def watched(self, split, round_):
        betas.append((round_, self.strength.beta))
        return inner(self, split, round_)

    monkeypatch.setattr(RolloutDataModule, "_grow", watched)
    assert main(fit_words(run, "--data.rounds", "3")) == 0
    assert set(betas) == {(2, first["beta"])}


def test_a_round_that_spends_too_much_is_not_promoted(fit_words, tmp_path, monkeypatch, capsys):
    """But for the first: there is nothing else to keep."""
    judged_as(monkeypatch, lambda _: entry(0.2, 0.6, 0.9))
    monkeypatch.setattr(judgement, "overspent", lambda *_: True)
    monkeypatch.setattr("mavis.training.callbacks._plots", lambda *_: [])
    assert main(fit_words(tmp_path / "run")) == 0
    entries = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert [kept["promoted"] for kept in entries] == [True, False]
    assert "its answers are unlike the reference's" in capsys.readouterr().err
