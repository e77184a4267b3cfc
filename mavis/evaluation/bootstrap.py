"""How sure a number is: bootstrap over prompts (Efron, 1979), percentile intervals.

Prompts are the draws from the world, so they are what is resampled; whatever else varies (answers
to one prompt, seeds) is averaged within a prompt first. All methods share the same `resamples`, so
that an easy prompt is easy for all of them and a difference is paired.

The road from per-prompt rewards [B, W, M] to the interval of any statistic of their means:

>>> from mavis.evaluation.pareto import hypervolume
>>> rewards = np.random.default_rng(0).normal([[1.0, 3.0], [3.0, 1.0]], 1.0, size=(50, 2, 2))
>>> samples = [hypervolume(row, [0, 0]) for row in means(rewards, resamples(prompts=50))]  # [S]
>>> print(interval(hypervolume(rewards.mean(axis=0), [0, 0]), samples))
5.15 [4.26, 6.04]

A statistic that takes maxima over noisy points, as a hypervolume does, tends to be biased upwards,
in its value and once more in its samples. The percentiles carry that; a paired difference of
methods with as many points cancels most of it.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A number and the range that its resamples keep to.

    >>> f"{Interval(1.234, 1.1, 1.35)} or {Interval(1.234, 1.1, 1.35):.1f}"
    '1.23 [1.10, 1.35] or 1.2 [1.1, 1.4]'
    """

    value: float
    low: float
    high: float

    def __format__(self, spec: str) -> str:
        """Format each of the three numbers by `spec`; with two decimals by default."""
        value, low, high = (format(x, spec or ".2f") for x in (self.value, self.low, self.high))
        return f"{value} [{low}, {high}]"

    def __str__(self) -> str:
        """With two decimals."""
        return format(self)


def resamples(prompts: int, count: int = 1000, seed: int = 0) -> npt.NDArray[np.int64]:
    """How often each prompt is drawn in each of `count` draws of B prompts with replacement.

    The same on every machine for the same arguments.

    >>> resamples(prompts=3, count=2).sum(axis=1).tolist()
    [3, 3]

    Args:
        prompts: B.
        count: S.
        seed: of the draws; methods to be compared share it.

    Returns:
        [S, B].

    Raises:
        ValueError: if prompts or count is below 1.
    """
    if min(prompts, count) < 1:
        raise ValueError(f"prompts and count must be at least 1, got {prompts} and {count}.")
    # A counter-based generator gives the same draws on every machine.
    random = np.random.Generator(np.random.Philox(seed))
    return random.multinomial(prompts, np.full(prompts, 1 / prompts), size=count)


def means(values: npt.ArrayLike, counts: npt.NDArray[np.int64]) -> Array:
    """The mean over prompts in every resample.

    A value that is not finite (the reward abstained) is left out of its mean.

    Args:
        values: [B, …].
        counts: of `resamples` [S, B].

    Returns:
        [S, …]; NaN where a resample drew no known value.

    Raises:
        ValueError: if the numbers of prompts differ.
    """
    array = np.asarray(values, dtype=np.float64)
    if counts.ndim != 2 or array.shape[:1] != counts.shape[1:]:
        raise ValueError(
            f"values [B, …] must have the prompts of counts [S, B], "
            f"got shapes {array.shape} and {counts.shape}."
        )
    flat = array.reshape(len(array), -1)
    known = np.isfinite(flat)
    draws = counts.astype(np.float64)
    # Over the draws that are known: one that is not takes no part in the sum nor in the count.
    weight = draws @ known
    total = draws @ np.where(known, flat, 0.0)
    mean = np.divide(total, weight, out=np.full_like(total, np.nan), where=weight > 0)
    return mean.reshape(len(counts), *array.shape[1:])


def interval(value: float, samples: npt.ArrayLike, level: float = 0.95) -> Interval:
    """The percentile interval: the middle `level` of the samples. NaN samples are left out.

    Its ends are samples, not interpolated, so that an infinite one (see `ratio`) stays what it is.

    Args:
        value: of the statistic on all prompts as they are.
        samples: the statistic on each resample [S].
        level: e.g. 0.95.

    Returns:
        With NaN ends if no sample is known.

    Raises:
        ValueError: if samples is not a vector, or level not between 0 and 1.
    """
    known = np.asarray(samples, dtype=np.float64)
    if known.ndim != 1:
        raise ValueError(f"samples must be a vector [S], got shape {known.shape}.")
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, got {level}.")
    known = known[~np.isnan(known)]
    if not len(known):
        return Interval(float(value), np.nan, np.nan)
    tails = [(1 - level) / 2, (1 + level) / 2]
    low, high = np.quantile(known, tails, method="inverted_cdf")
    return Interval(float(value), float(low), float(high))


def _paired(samples_a: npt.ArrayLike, samples_b: npt.ArrayLike) -> tuple[Array, Array]:
    a, b = np.asarray(samples_a, dtype=np.float64), np.asarray(samples_b, dtype=np.float64)
    if a.shape != b.shape:
        raise ValueError(
            f"samples_b must come from the resamples of samples_a (shape {a.shape}), got {b.shape}."
        )
    return a, b


def difference(
    a: float, samples_a: npt.ArrayLike, b: float, samples_b: npt.ArrayLike, level: float = 0.95
) -> Interval:
    """The interval of a − b, sample by sample: both must come from the same `resamples`.

    >>> print(difference(3.0, [2.0, 3.0, 4.0], 1.0, [0.0, 1.0, 2.0]))
    2.00 [2.00, 2.00]

    Raises:
        ValueError: if the samples differ in number, or as `interval`.
    """
    left, right = _paired(samples_a, samples_b)
    return interval(a - b, left - right, level)


def ratio(
    a: float, samples_a: npt.ArrayLike, b: float, samples_b: npt.ArrayLike, level: float = 0.95
) -> Interval:
    """The interval of a / b, sample by sample, for quantities that are not negative.

    A denominator of 0 makes the ratio infinite, 0 / 0 makes it NaN.

    >>> print(ratio(3.0, [2.0, 4.0], 1.5, [1.0, 2.0]))
    2.00 [2.00, 2.00]

    Raises:
        ValueError: if the samples differ in number, or as `interval`.
    """
    left, right = _paired(samples_a, samples_b)
    with np.errstate(divide="ignore", invalid="ignore"):
        return interval(float(np.divide(a, b)), left / right, level)
