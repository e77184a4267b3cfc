"""Bootstrap against closed forms and against drawing for real."""

import math

import numpy as np
import pytest

from mavis.evaluation.bootstrap import Interval, difference, interval, means, ratio, resamples


def test_resamples_are_draws_with_replacement():
    counts = resamples(prompts=40, count=5000, seed=3)
    assert counts.shape == (5000, 40)
    assert (counts.sum(axis=1) == 40).all()
    assert (counts == resamples(40, 5000, 3)).all()
    assert (counts != resamples(40, 5000, 4)).any()
    # A count is binomial (B, 1 / B): mean 1, variance 1 − 1 / B. Five standard errors of each
    # prompt's mean, and of the variance (.004): missed by one seed in 40,000.
    assert counts.mean(axis=0) == pytest.approx(np.ones(40), abs=5 / math.sqrt(5000))
    assert counts.var() == pytest.approx(1 - 1 / 40, abs=0.02)


def test_means_are_those_of_repeated_rows():
    values = np.random.default_rng(0).normal(size=(7, 3, 2))
    counts = resamples(7, count=20)
    found = means(values, counts)
    assert found.shape == (20, 3, 2)
    for row, count in zip(found, counts, strict=True):
        assert row == pytest.approx(np.repeat(values, count, axis=0).mean(axis=0))
    assert means(values[:, 0, 0], counts) == pytest.approx(found[:, 0, 0])
    assert means(values, np.ones((1, 7), int))[0] == pytest.approx(values.mean(axis=0))


def test_means_leave_out_what_is_not_known():
    values = np.array([[1.0, math.nan], [3.0, 5.0], [math.nan, 7.0]])
    counts = np.array([[1, 1, 1], [2, 1, 0], [0, 0, 3]])
    found = means(values, counts)
    assert found[0].tolist() == [2.0, 6.0]
    assert found[1] == pytest.approx([5 / 3, 5.0])
    assert math.isnan(found[2, 0])
    assert found[2, 1] == 7.0


def test_spread_of_resampled_means_is_the_closed_form():
    values = np.random.default_rng(1).normal(size=200)
    samples = means(values, resamples(200, count=20_000))
    # Relative standard error of a standard deviation of 20,000 draws: .5 %. Five of them.
    assert samples.std() == pytest.approx(values.std() / math.sqrt(200), rel=0.025)
    found = interval(values.mean(), samples)
    assert found.high - found.low == pytest.approx(
        2 * 1.96 * values.std() / math.sqrt(200), rel=0.05
    )


def test_coverage():
    """A 95 % interval of a normal mean holds the truth about 95 times in a hundred.

    At B = 100 a percentile interval covers about 94 %; over 400 repeats the standard error is
    1.2 %, so that .90 to .985 is missed for less than one seed in a thousand.
    """
    random = np.random.default_rng(2)
    counts = resamples(100, count=600)
    hits = 0
    for values in random.normal(5.0, 2.0, size=(400, 100)):
        found = interval(values.mean(), means(values, counts))
        hits += found.low <= 5.0 <= found.high
    assert 0.90 <= hits / 400 <= 0.985


def test_interval_is_the_middle_of_the_samples():
    samples = np.random.default_rng(0).permutation(np.arange(1.0, 1002.0))
    assert interval(500, samples) == Interval(500.0, 26.0, 976.0)  # 25 on either side
    assert interval(500, samples, level=0.5) == Interval(500.0, 251.0, 751.0)
    with_nan = np.concatenate([samples, np.full(500, math.nan)])
    assert interval(500, with_nan) == interval(500, samples)
    assert interval(3, [3.0]) == Interval(3.0, 3.0, 3.0)
    nothing = interval(3, [math.nan, math.nan])
    assert nothing.value == 3
    assert math.isnan(nothing.low)
    assert math.isnan(nothing.high)


def test_what_is_printed():
    assert str(Interval(1.234, 1.1, 1.35)) == "1.23 [1.10, 1.35]"
    assert f"{Interval(-1.0, -2.0, math.inf):.1f}" == "-1.0 [-2.0, inf]"


def test_a_paired_difference_is_tighter():
    """Prompts differ by 10, methods by 1: what they share cancels."""
    random = np.random.default_rng(4)
    prompt = random.normal(0.0, 10.0, size=300)
    a, b = prompt + 1 + random.normal(size=300), prompt + random.normal(size=300)
    counts = resamples(300)
    mine, theirs = means(a, counts), means(b, counts)
    paired = difference(a.mean(), mine, b.mean(), theirs)
    unpaired = difference(a.mean(), mine, b.mean(), means(b, resamples(300, seed=1)))
    assert paired.value == unpaired.value == a.mean() - b.mean()
    # Closed forms: √2 · 1 and √2 · √101, over √300; ten times as wide.
    assert paired.high - paired.low < 0.2 * (unpaired.high - unpaired.low)
    assert paired.low > 0 > unpaired.low
    spread = 2 * 1.96 * np.std(a - b) / math.sqrt(300)
    assert paired.high - paired.low == pytest.approx(spread, rel=0.15)


def test_ratio():
    found = ratio(6.0, [1.0, 2.0, 3.0], 4.0, [2.0, 2.0, 2.0], level=0.5)
    assert found == Interval(1.5, 0.5, 1.5)
    # A method with no volume at all: the upper end is open, and 0 / 0 says nothing.
    assert ratio(1.0, [1.0, 1.0, 0.0], 1.0, [1.0, 0.0, 0.0]) == Interval(1.0, 1.0, math.inf)
    assert ratio(1.0, [1.0], 0.0, [1.0]).value == math.inf
    assert math.isnan(ratio(0.0, [1.0], 0.0, [1.0]).value)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: resamples(0), "prompts and count must be at least 1, got 0 and 1000."),
        (lambda: resamples(5, 0), "prompts and count must be at least 1, got 5 and 0."),
        (lambda: means(np.zeros((4, 2)), resamples(5)), r"got shapes \(4, 2\) and \(1000, 5\)\."),
        (lambda: means(1.0, resamples(5)), r"got shapes \(\) and \(1000, 5\)\."),
        (lambda: interval(0, [[1.0]]), r"samples must be a vector \[S\], got shape \(1, 1\)\."),
        (lambda: interval(0, [1.0], level=95), "level must lie between 0 and 1, got 95."),
        (lambda: difference(0, [1.0], 0, [1.0, 2.0]), r"samples_b .* \(shape \(1,\)\), got \(2,\)"),
        (lambda: ratio(0, [1.0], 0, [1.0, 2.0]), r"samples_b .* \(shape \(1,\)\), got \(2,\)"),
    ],
)
def test_errors_say_what_is_wrong(call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
