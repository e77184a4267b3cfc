"""Collect the results of a sweep in one JSON object: fronts, indicators, costs and warnings.

`results.json` holds everything that the report shows and everything needed to repeat the sweep.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, cast

import numpy as np

from mavis.comparison.analysis import Analysis, replicates
from mavis.comparison.contamination import Checks
from mavis.comparison.indicators import INDICATORS, AtEqualKL
from mavis.comparison.provenance import Cost
from mavis.comparison.result_format import (
    Estimate,
    Lead,
    MethodResults,
    Pair,
    Point,
    Results,
    Sample,
)
from mavis.evaluation.bootstrap import Interval, interval
from mavis.evaluation.kl_matching import RewardsAtKL
from mavis.evaluation.samples import ScoredSamples

AHEAD = "mavis"  # the method that is compared with each baseline
SHOWN = 4  # sample prompts of the report


def results(
    analysis: Analysis,
    costs: Mapping[str, Cost],
    speeds: Mapping[str, float],
    settings: Mapping[str, Any],
    checks: Checks,
) -> Results:
    """Compute the results of a sweep as an object that JSON can hold.

    Training costs and speeds (tokens per CPU second) are by trained method; the settings are what
    is needed to repeat the sweep.
    """
    comparison = analysis.at_equal_kl()
    near = {m: analysis.nearest(m) for m in comparison.readings}
    volume = bool(comparison.methods) and comparison.has_volume
    corner = comparison.reference_point.tolist() if volume else None
    return {
        "objectives": list(analysis.objectives),
        "units": [vars(units) for units in analysis.units],
        "kl": analysis.kl,
        "weightings": [list(weights) for weights in analysis.weightings],
        "reference_point": corner,
        "hypervolume_undefined": _undefined(comparison, analysis.objectives),
        "reference": {
            **_point(analysis, analysis.reference),
            "rewards": analysis.per_prompt(analysis.plain).mean_rewards.tolist(),
        },
        "methods": {
            m: _method(analysis, comparison, m, near[m], costs.get(m), speeds.get(m))
            for m in comparison.readings
        },
        "ahead": _ahead(comparison),
        "paired": _paired(comparison),
        "by_seed": replicates(analysis, corner) if comparison.methods else [],
        "overlap": dict(checks.overlap),
        "judged": dict(checks.judged),
        "samples": _samples(analysis, near),
        "warnings": [*checks.warnings, *_short_of(comparison)],
        "settings": dict(settings),
    }


def _method(
    analysis: Analysis,
    comparison: AtEqualKL,
    method: str,
    near: Sequence[ScoredSamples],
    cost: Cost | None,
    speed: float | None,
) -> MethodResults:
    reached = method in comparison.methods
    summaries = [point.summary for point in near]
    names = ("kl", "length", "distinct_3", "repetition", "perplexity", "kl_truncation")
    return {
        "rewards": [_rewards(reading) for reading in comparison.readings[method]],
        "indicators": {
            name: _cell(comparison, name, comparison.indicator(method, name)) if reached else None
            for name in INDICATORS
        },
        "answers": {name: float(np.mean([s[name] for s in summaries])) for name in names},
        "strengths": [point.strength for point in near],
        "training_cpu_seconds": cost.seconds if cost else 0.0,
        "parameters": cost.parameters if cost else 0,
        "tokens_per_cpu_second": speed,
        "points": _best_curves(analysis) if method == "best_of" else _curves(analysis, method),
    }


def three(count: int) -> list[int]:
    """Return the distinct indices of the first, middle and last of `count` weightings.

    >>> three(6), three(1)
    ([0, 3, 5], [0])
    """
    return sorted({0, count // 2, count - 1})


def _samples(analysis: Analysis, near: Mapping[str, Sequence[ScoredSamples]]) -> list[Sample]:
    """Take the first answers to evenly spaced prompts, without looking at the answers."""
    count = len(analysis.prompts)
    shown = range(0, count, -(-count // SHOWN)) if count else ()
    start = {"reference": [analysis.reference] * len(analysis.weightings)}
    return [
        {
            "weights": list(analysis.weightings[at]),
            "number": number + 1,
            "prompt": analysis.prompts[number],
            "answers": {
                method: {
                    "text": points[at].responses[number][0],
                    "rewards": analysis.standard(points[at])[number, 0].tolist(),
                    "kl": float(points[at].kl[number, 0]),
                }
                for method, points in (start | dict(near)).items()
            },
        }
        for at in three(len(analysis.weightings))
        for number in shown
    ]


def _rewards(reading: RewardsAtKL | None) -> list[Estimate] | None:
    """Return the mean reward of each objective with its interval."""
    if reading is None:
        return None
    return [
        _estimate(interval(float(value), samples))
        for value, samples in zip(reading.rewards, reading.samples.T, strict=True)
    ]


def _point(analysis: Analysis, point: ScoredSamples) -> Point:
    rewards = analysis.per_prompt(point).mean_rewards.tolist()
    return cast(Point, {"strength": point.strength, "rewards": rewards, **point.summary})


def _curves(analysis: Analysis, method: str) -> list[list[Point]]:
    return [[_point(analysis, point) for point in curve] for curve in analysis.curves[method]]


def _best_curves(analysis: Analysis) -> list[list[Point]]:
    """Return the best-of-N points at N = 1, 2, 4 … for each weighting."""
    return [
        [
            {"strength": n, "kl": point.mean_kl, "rewards": point.mean_rewards.tolist()}
            for n, point in enumerate(analysis.best_curve(weights), 1)
            if n.bit_count() == 1  # a power of 2
        ]
        for weights in analysis.weightings
    ]


def _estimate(number: Interval) -> Estimate:
    return {"value": number.value, "low": number.low, "high": number.high}


def _cell(comparison: AtEqualKL, name: str, number: Interval) -> Estimate | None:
    """Convert an interval for JSON; None for a hypervolume that is undefined."""
    undefined = name == "hypervolume" and not comparison.has_volume
    return None if undefined else _estimate(number)


def _undefined(comparison: AtEqualKL, objectives: Sequence[str]) -> str | None:
    """Explain why the hypervolume is undefined; None if it is defined or nothing is compared."""
    if not comparison.methods or comparison.has_volume:
        return None
    if len(objectives) == 1:
        return "there is one objective, and its reward says all that a volume would"
    names = " and ".join(objectives[m] for m in comparison.constant)
    return (
        f"the reward of {names} is the same for the reference policy and every method, so there "
        "is no range to measure a volume in (--reference_point would give it one)"
    )


def _ahead(comparison: AtEqualKL) -> dict[str, Lead]:
    """Compare MAVIS with every baseline: ratios of indicators and differences of the gain."""
    if AHEAD not in comparison.methods:
        return {}

    def lead(baseline: str) -> Lead:
        # A ratio means nothing if the baseline may have no gain, or if MAVIS has a loss.
        theirs = comparison.indicator(baseline, "weighted_gain").low
        gains = theirs > 0 and comparison.value(AHEAD, "weighted_gain") >= 0
        unknown = Interval(np.nan, np.nan, np.nan)
        volume = comparison.against(AHEAD, baseline, "hypervolume")
        ratio = comparison.against(AHEAD, baseline, "weighted_gain") if gains else unknown
        more = comparison.against(AHEAD, baseline, "weighted_gain", by="difference")
        return {
            "hypervolume_ratio": _cell(comparison, "hypervolume", volume),
            "gain_ratio": _estimate(ratio),
            "gain_difference": _estimate(more),
        }

    return {method: lead(method) for method in comparison.methods if method != AHEAD}


def _paired(comparison: AtEqualKL) -> list[Pair]:
    """Compute the paired difference of every indicator for every pair of methods."""
    return [
        {
            "methods": [one, other],
            "differences": {
                name: _cell(comparison, name, comparison.against(one, other, name, by="difference"))
                for name in INDICATORS
            },
        }
        for one, other in combinations(comparison.methods, 2)
    ]


def _short_of(comparison: AtEqualKL) -> list[str]:
    return [
        f"{method} does not reach {comparison.kl:g} nats, or has no reward there, at "
        f"{sum(r is None or not np.isfinite(r.rewards).all() for r in by_weighting)} of "
        f"{len(by_weighting)} "
        "weightings: it is left out of the comparison there and of the indicators. "
        f"{'A larger --best_of or another' if method == 'best_of' else 'Another'} --kl may lie "
        "within its reach."
        for method, by_weighting in comparison.readings.items()
        if method not in comparison.methods
    ]
