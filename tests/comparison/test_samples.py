"""Points on disk."""

import numpy as np
import pytest

from mavis.comparison.samples import NUMBERS, ScoredSamples, place


def made(prompts=3, seeds=2):
    rng = np.random.default_rng(0)
    tokens = [[[1, 2, 3, 1, 2, 3], [4] * (p + 1)][:seeds] for p in range(prompts)]
    rewards = rng.normal(size=(prompts, seeds, 2))
    rewards[0, 0, 1] = np.nan
    return ScoredSamples(
        method="mavis",
        weights=(0.25, 0.75),
        strength=2.0,
        responses=[[f"p{p} s{s}" for s in range(seeds)] for p in range(prompts)],
        tokens=tokens,
        rewards=rewards,
        numbers={name: rng.uniform(size=(prompts, seeds)) for name in NUMBERS},
        seconds=1.5,
    )


def test_a_point_comes_back_as_it_was(tmp_path):
    point = made()
    point.save(tmp_path / "deep" / "point.parquet", ["humor", "helpfulness"])
    again = ScoredSamples.load(tmp_path / "deep" / "point.parquet")
    for name in ("method", "weights", "strength", "responses", "tokens", "seconds"):
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


def test_a_file_is_named_by_what_it_is_of(tmp_path):
    names = ["humor", "helpfulness"]
    found = place(tmp_path, "mod", (0.25, 0.75), 2**0.5, names)
    assert found == tmp_path / "points" / "mod" / "humor0.25_helpfulness0.75@1.414.parquet"
    assert place(tmp_path, "reference", (), 0.0, []).name == "@0.parquet"
