"""Scored samples, in memory and on disk."""

import numpy as np
import pytest

from mavis.comparison.sweep import place
from mavis.evaluation.samples import NUMBERS, ScoredSamples, side_by_side
from mavis.reward import Units


def made(prompts=3, seeds=2):
    rng = np.random.default_rng(0)
    tokens = [[[1, 2, 3, 1, 2, 3], [4] * (p + 1)][:seeds] for p in range(prompts)]
    rewards = rng.normal(size=(prompts, seeds, 2))
    rewards[0, 0, 1] = np.nan
    numbers = {name: rng.uniform(size=(prompts, seeds)) for name in NUMBERS}
    numbers["kl"] += numbers["kl_truncation"]  # of which it is a part
    return ScoredSamples(
        objectives=("humor", "helpfulness"),
        method="mavis",
        weights=(0.25, 0.75),
        strength=2.0,
        responses=[[f"p{p} s{s}" for s in range(seeds)] for p in range(prompts)],
        tokens=tokens,
        rewards=rewards,
        numbers=numbers,
        seconds=1.5,
    )


def test_a_point_comes_back_as_it_was(tmp_path):
    point = made()
    point.save(tmp_path / "deep" / "point.parquet")
    again = ScoredSamples.load(tmp_path / "deep" / "point.parquet")
    for name in ("objectives", "method", "weights", "strength", "responses", "tokens", "seconds"):
        assert getattr(again, name) == getattr(point, name)
    np.testing.assert_array_equal(again.rewards, point.rewards)
    for name in NUMBERS:
        np.testing.assert_array_equal(again.numbers[name], point.numbers[name])
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["point.parquet"]


def test_a_point_s_means():
    point = made()
    found = point.summary
    assert found["kl"] == pytest.approx(point.kl.mean())
    assert found["tokens"] == 3 * 6 + 1 + 2 + 3
    assert found["length"] == found["tokens"] / 6
    assert found["perplexity"] == pytest.approx(
        np.exp(-point.numbers["log_ref"].sum() / found["tokens"])
    )
    # 3-grams: one seed's answers are three of 123123 (123 231 312 123), the other's have one, 444.
    assert found["distinct_3"] == pytest.approx((3 / 12 + 1) / 2)
    assert found["repetition"] == pytest.approx(3 * 0.25 / 6)


def test_rounding_makes_no_negative_kl():
    """The reference's own is all truncation; of NaN nothing is known."""
    point = made()
    point.numbers["kl"][:] = point.numbers["kl_truncation"] - 1e-9
    assert point.summary["kl"] == 0
    assert (point.kl == 0).all()
    broken = made()
    broken.numbers["kl"][:] = np.nan
    assert np.isnan(broken.summary["kl"])


def test_a_file_is_named_by_what_it_is_of(tmp_path):
    names = ["humor", "helpfulness"]
    found = place(tmp_path, "mod", (0.25, 0.75), 2**0.5, names)
    assert found == tmp_path / "points" / "mod" / "humor0.25_helpfulness0.75@1.414.parquet"
    assert place(tmp_path, "reference", (), 0.0, []).name == "@0.parquet"


def test_standard_units_are_those_of_each_objective():
    samples = made(prompts=4)
    units = samples.units
    for m, one in enumerate(units):
        raw = samples.rewards[..., m]
        assert one.mean == pytest.approx(np.nanmean(raw))
        assert one.std == pytest.approx(np.nanstd(raw, ddof=1))
        np.testing.assert_allclose(
            samples.standard(units)[..., m], (raw - one.mean) / one.std, atol=1e-12
        )
    means = samples.mean_rewards([Units(1.0, 2.0), Units(0.0, 1.0)])
    assert means["humor"] == pytest.approx((samples.rewards[..., 0].mean() - 1) / 2)
    assert means["helpfulness"] == pytest.approx(np.nanmean(samples.rewards[..., 1]))


def test_parts_side_by_side_are_the_whole():
    whole = made()
    again = side_by_side([whole.only(0), whole.only(1)])
    assert again.responses == whole.responses
    assert again.tokens == whole.tokens
    np.testing.assert_array_equal(again.rewards, whole.rewards)
    for name in NUMBERS:
        np.testing.assert_array_equal(again.numbers[name], whole.numbers[name])
    assert again.seconds == 2 * whole.seconds
