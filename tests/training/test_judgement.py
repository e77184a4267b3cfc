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
from mavis.training import judgement, round_entry
from mavis.training.data import RolloutDataModule
from mavis.training.judgement import ANSWERS, in_a_line, kl_correction


def entry(low, high, slope, kl=1.5, beta=2.0):
    """As of a round whose policy is `kl` nats from the reference, one of them by truncation."""
    ends = {"advantage_correlation_low": low, "advantage_correlation_high": high}
    spent = {"kl": kl, "kl_truncation": 1.0}
    return ends | spent | {"advantage_slope": slope, "beta": beta}


def test_truncation_is_shown_where_it_costs_something():
    numbers = {"reward": 0.2, "reward_se": 0.1, "reward_reference": 0.0, "best_of_n_at_kl": None}
    line = in_a_line(numbers | {"kl": 4.2, "kl_truncation": 3.4})
    assert line.endswith("best-of-N does not reach this KL), KL 4.2 nats, and 3.4 by truncation")
    assert in_a_line(numbers | {"kl": 1.8, "kl_truncation": 0.07}).endswith("), KL 1.8 nats")


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
    inner, kept = round_entry.judge, ("low", "high")

    def judge(data, *others):
        names = [f"advantage_correlation_{end}" for end in kept]
        ends = {name: verdict(data)[name] for name in names}
        return {weights: found | ends for weights, found in inner(data, *others).items()}

    monkeypatch.setattr(round_entry, "judge", judge)
    monkeypatch.setattr(judgement, "overspent", lambda *_: False)


def test_a_round_that_lost_what_was_learned_is_taken_back(fit_words, tmp_path, capsys, monkeypatch):
    """Round 0 is judged good, round 1 bad: what follows has the values of round 0."""
    good = entry(0.2, 0.6, 0.9)
    by_round = {0: good, 1: entry(-0.2, 0.3, 0.9), 2: good}
    judged_as(monkeypatch, lambda data: by_round[data.round])
    one, two, three = (tmp_path / name for name in ("one", "two", "three"))
    assert main(fit_words(one, "--data.rounds", "1")) == 0
    assert main(fit_words(two)) == 0
    assert "warning: trial, round 1: the values of round 0 are kept" in capsys.readouterr().err
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
    inner = judgement.on_grid
    monkeypatch.setattr(judgement, "on_grid", lambda *given: 0 * inner(*given))
    assert main(fit_words(tmp_path / "run", "--data.rounds", "1")) == 0
    (line,) = [x for x in capsys.readouterr().err.splitlines() if "warning" in x]
    assert line.startswith(
        "mavis: warning: trial, round 0: nothing shows that the values have learned trial yet: "
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
    assert spent == pytest.approx(last["kl_expected"] / last["kl_correction"], rel=1e-3)


def test_no_more_is_kept_than_fits(fit_words, tmp_path, monkeypatch):
    """The strength is then found on some of the replies; advantages are of all of them."""
    monkeypatch.setattr("mavis.training.callbacks._plots", lambda *_: [])
    kept, inner = [], judgement.ExpectedKL

    def watched(*given):
        kept.append(inner(*given))
        return kept[-1]

    monkeypatch.setattr(judgement, "ExpectedKL", watched)
    assert main(fit_words(tmp_path / "one", "--data.rounds", "1")) == 0
    monkeypatch.setattr(judgement, "MOST", 600)  # 12 candidates, each with one value
    assert main(fit_words(tmp_path / "two", "--data.rounds", "1")) == 0
    assert kept[0].replies == 8
    assert 1 <= kept[1].replies < 8
    assert kept[1].log_ref.numel() + kept[1].values.numel() < kept[0].log_ref.numel()
    whole, few = (
        json.loads((tmp_path / name / "metrics.json").read_text())[0] for name in ("one", "two")
    )
    assert few["kl_expected"] == pytest.approx(2.0, rel=0.01)
    assert few["beta"] != whole["beta"]
    assert few["advantage_correlation"] == whole["advantage_correlation"]


@pytest.mark.parametrize("source", ["action", "state", "shared"])
def test_one_walk_finds_what_two_have_found(tiny_reference, tiny_network, monkeypatch, source):
    """Advantages by scores at strength 1 and weight 1; the KL by scores at its strength."""
    policy = GuidedPolicy(tiny_reference, (tiny_network(tiny_reference, source, ("humor",)),))
    prompts, settings = ["an um", "hats"], {"temperature": 0.8, "top_k": 12}
    sampling = SamplingParams((1.0,), **settings)
    tokens = [[[5, 9, 2], [7]], [[33, 6], [], [4, 4]]]
    data = SimpleNamespace(sampling=lambda _: sampling, reference=tiny_reference)
    walks, inner = [], GuidedPolicy.walk
    monkeypatch.setattr(
        GuidedPolicy, "walk", lambda self, *a, **k: walks.append(a) or inner(self, *a, **k)
    )
    sums, expected = judgement._read(data, policy, prompts, tokens)
    assert len(walks) == 1
    assert np.isnan(sums[0, 2]).all()
    assert np.isnan(sums[1, 1]).all()
    spent = []
    for p, s in ((0, 0), (0, 1), (1, 0), (1, 2)):
        given = ([prompts[p]], [tokens[p][s]], {"humor": 1.0})
        (one,) = policy.score(*given, 1.0, **settings)
        assert sums[p, s, 0] == pytest.approx(np.nansum(one.parts["humor"]), abs=1e-5)
        (one,) = policy.score(*given, 3.0, **settings)
        spent.append(sum(one.kl) - sum(one.truncation))
    assert expected(3.0) == pytest.approx(np.mean(spent), abs=1e-4)


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


def test_what_siblings_leave_to_explain():
    """The share is of the squared correlation; none where siblings are not alike for sure."""
    rng = np.random.default_rng(0)
    advantages = rng.normal(size=(60, 8))
    rewards = 0.5 * advantages + rng.normal(size=(60, 8))
    first = {"reward_explainable": 0.4, "reward_explainable_low": 0.3}
    first["reward_explainable_high"] = 0.5
    found = judgement._verdict(advantages, rewards, 0.5, first)
    assert found["reward_explainable"] == 0.4
    squared = found["advantage_correlation"] ** 2
    assert found["advantage_share_explained"] == pytest.approx(squared / 0.4)
    whole = judgement._verdict(rewards, rewards, 0.5, first)
    assert whole["advantage_share_explained"] == 1.0  # what comes after the last branching, too
    wrong = judgement._verdict(-advantages, rewards, 0.5, first)
    assert wrong["advantage_share_explained"] == 0.0
    for low in (-0.1, None):
        unsure = judgement._verdict(
            advantages, rewards, 0.5, {**first, "reward_explainable_low": low}
        )
        assert unsure["advantage_share_explained"] is None
    assert math.isnan(judgement._verdict(advantages, rewards, 0.5, {})["reward_explainable"])


def test_prompts_that_a_reward_abstains_from_are_left_out():
    rng = np.random.default_rng(0)
    advantages = rng.normal(size=(6, 8))
    rewards = advantages + rng.normal(size=(6, 8))
    some = rewards.copy()
    some[4], some[5, 1:] = math.nan, math.nan
    found = judgement._verdict(advantages, some, 0.5, {})
    clean = judgement._verdict(advantages[:4], rewards[:4], 0.5, {})
    assert found["reward_spread"] == pytest.approx(clean["reward_spread"])
    assert math.isfinite(found["reward_predicted"])
    nothing = judgement._verdict(advantages[:1], np.full((1, 8), 2.0), 0.0, {})
    assert nothing["reward_spread"] == 0.0


def test_the_share_of_best_of_n_that_is_predicted():
    """Best of 2 of 0 and 1, with replacement by chance: from a mean of .5 up to 1 at log 2 − .5."""
    rewards = np.tile([0.0, 1.0], (5, 1))
    kl = math.log(2) - 0.5
    assert judgement._share_of_best_of_n(rewards, kl, 0.4) == pytest.approx(0.8)
    # The curve is straight in √KL: at a quarter of it, half of the gain.
    assert judgement._share_of_best_of_n(rewards, kl / 4, 0.1) == pytest.approx(0.4)
    assert judgement._share_of_best_of_n(rewards, 2 * kl, 0.4) is None
    assert judgement._share_of_best_of_n(rewards, 0.0, 0.0) is None


@pytest.mark.parametrize(
    ("spent", "expected", "before", "factor"),
    [
        (2.5, 2.0, 1.0, 1.25),
        (2.0, 2.0, 1.25, 1.25),  # what was corrected is not corrected anew
        (9.0, 2.0, 1.0, 2.0),
        (0.1, 2.0, 1.0, 0.5),
        (2.5, 0.0, 1.0, 1.0),
        (2.5, 2.0, None, 1.0),  # of an older run, whose KL held what truncation costs
        (2.5, None, None, 1.0),  # of an older run, and of values that are all the same
    ],
)
def test_kl_is_corrected_by_what_the_last_round_has_shown(spent, expected, before, factor):
    last = {"kl": spent, "kl_truncation": 0.5, "kl_expected": expected}
    last["kl_correction"] = before
    assert kl_correction([{}, last]) == pytest.approx(factor)
    assert kl_correction([]) == 1.0


def test_the_budget_of_later_rounds_is_corrected(fit_words, tmp_path, monkeypatch):
    """By the round before, also in a fit that goes on later: nothing but its entries is asked."""
    monkeypatch.setattr("mavis.training.callbacks._plots", lambda *_: [])
    once, twice = tmp_path / "once", tmp_path / "twice"
    assert main(fit_words(once)) == 0
    assert main(fit_words(twice, "--data.rounds", "1")) == 0
    assert main(fit_words(twice, "--data.rounds", "2")) == 0
    entries, again = (json.loads((run / "metrics.json").read_text()) for run in (once, twice))
    assert entries[0]["kl_correction"] == 1.0
    assert entries[1]["kl_correction"] == pytest.approx(kl_correction(entries[:1])) != 1.0
    for name in ("kl_correction", "kl_expected", "beta", "reward_explainable"):
        assert [kept[name] for kept in entries] == [kept[name] for kept in again]
    assert entries[0]["reward_explainable"] == entries[1]["reward_explainable"]


def test_values_that_foretell_less_than_those_before_are_not_kept():
    """By more than is noise, at any weighting; a little less is no reason."""
    data = SimpleNamespace(kl_budget=2.0, objective=SimpleNamespace(name="humor"))

    def judged(correlation, low=None):
        return {
            "kl": 2.0,
            "advantage_correlation": correlation,
            "advantage_correlation_low": correlation - 0.06 if low is None else low,
        }

    assert judgement.keeps_up(judged(0.72), judged(0.75), data)
    assert not judgement.keeps_up(judged(0.47), judged(0.73), data)
    several = [{"weightings": {"a": judged(0.5), "b": judged(x)}} for x in (0.7, 0.5)]
    assert not judgement.keeps_up(several[1], several[0], data)
    assert judgement.keeps_up(judged(0.2), judged(0.3, low=-0.1), data)  # that had learned nothing
