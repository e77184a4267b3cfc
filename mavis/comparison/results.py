"""What a sweep comes to, as one JSON object: the fronts, the indicators, the costs, the warnings.

`results.json` holds everything that the report shows and all that is needed to run it again.
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

AHEAD = "mavis"  # whose lead over every other method is worked out
SHOWN = 4  # prompts whose answers are shown


def results(
    findings: Analysis,
    costs: Mapping[str, Cost],
    speeds: Mapping[str, float],
    settings: Mapping[str, Any],
    checks: Checks,
) -> Results:
    """Everything that is known of a sweep, fit for JSON.

    Args:
        findings: its points.
        costs: of the methods that were trained.
        speeds: tokens per CPU second of each method, served as one would.
        settings: what is needed to run it again.
        checks: what its models have seen, and who judged them.
    """
    standing = findings.standing()
    near = {m: findings.nearest(m) for m in standing.readings}
    volume = bool(standing.methods) and standing.has_volume
    corner = standing.reference_point.tolist() if volume else None
    return {
        "objectives": list(findings.objectives),
        "units": [vars(units) for units in findings.units],
        "kl": findings.kl,
        "weightings": [list(weights) for weights in findings.weightings],
        "reference_point": corner,
        "hypervolume_undefined": _undefined(standing, findings.objectives),
        "reference": {
            **_point(findings, findings.reference),
            "rewards": findings.stand(findings.plain).mean_rewards.tolist(),
        },
        "methods": {
            m: _method(findings, standing, m, near[m], costs.get(m), speeds.get(m))
            for m in standing.readings
        },
        "ahead": _ahead(standing),
        "paired": _paired(standing),
        "by_seed": replicates(findings, corner) if standing.methods else [],
        "overlap": dict(checks.overlap),
        "judged": dict(checks.judged),
        "samples": _samples(findings, near),
        "warnings": [*checks.warnings, *_short_of(standing)],
        "settings": dict(settings),
    }


def _method(
    findings: Analysis,
    standing: AtEqualKL,
    method: str,
    near: Sequence[ScoredSamples],
    cost: Cost | None,
    speed: float | None,
) -> MethodResults:
    reached = method in standing.methods
    said = [point.summary for point in near]
    about = ("kl", "length", "distinct_3", "repetition", "perplexity", "kl_truncation")
    return {
        "rewards": [_rewards(reading) for reading in standing.readings[method]],
        "indicators": {
            name: _cell(standing, name, standing.indicator(method, name)) if reached else None
            for name in INDICATORS
        },
        "answers": {name: float(np.mean([s[name] for s in said])) for name in about},
        "strengths": [point.strength for point in near],
        "training_cpu_seconds": cost.seconds if cost else 0.0,
        "parameters": cost.parameters if cost else 0,
        "tokens_per_cpu_second": speed,
        "points": _best_curves(findings) if method == "best_of" else _curves(findings, method),
    }


def three(count: int) -> list[int]:
    """The numbers of the first, the middle and the last of some weightings, each once.

    >>> three(6), three(1)
    ([0, 3, 5], [0])
    """
    return sorted({0, count // 2, count - 1})


def _samples(findings: Analysis, near: Mapping[str, Sequence[ScoredSamples]]) -> list[Sample]:
    """First answers to prompts that are evenly spaced in their list, whatever was answered."""
    count = len(findings.prompts)
    shown = range(0, count, -(-count // SHOWN)) if count else ()
    start = {"reference": [findings.reference] * len(findings.weightings)}
    return [
        {
            "weights": list(findings.weightings[at]),
            "number": number + 1,
            "prompt": findings.prompts[number],
            "answers": {
                method: {
                    "text": points[at].responses[number][0],
                    "rewards": findings.standard(points[at])[number, 0].tolist(),
                    "kl": float(points[at].kl[number, 0]),
                }
                for method, points in (start | dict(near)).items()
            },
        }
        for at in three(len(findings.weightings))
        for number in shown
    ]


def _rewards(reading: RewardsAtKL | None) -> list[Estimate] | None:
    """The mean reward of each objective with its interval."""
    if reading is None:
        return None
    return [
        _estimate(interval(float(value), samples))
        for value, samples in zip(reading.rewards, reading.samples.T, strict=True)
    ]


def _point(findings: Analysis, point: ScoredSamples) -> Point:
    rewards = findings.stand(point).mean_rewards.tolist()
    found = {"strength": point.strength, "rewards": rewards, **point.summary}
    return cast(Point, found)


def _curves(findings: Analysis, method: str) -> list[list[Point]]:
    return [[_point(findings, point) for point in curve] for curve in findings.curves[method]]


def _best_curves(findings: Analysis) -> list[list[Point]]:
    """Best-of-N at N = 1, 2, 4 … for each weighting."""
    curves: list[list[Point]] = []
    for weights in findings.weightings:
        curve = findings.best_curve(weights)
        powers = [n for n in range(1, len(curve) + 1) if n & (n - 1) == 0]
        curves.append(
            [
                {
                    "strength": n,
                    "kl": curve[n - 1].mean_kl,
                    "rewards": curve[n - 1].mean_rewards.tolist(),
                }
                for n in powers
            ]
        )
    return curves


def _estimate(found: Interval) -> Estimate:
    return {"value": found.value, "low": found.low, "high": found.high}


def _cell(standing: AtEqualKL, name: str, found: Interval) -> Estimate | None:
    """An interval, as it is written; None for one of volumes where they are undefined."""
    undefined = name.startswith("hypervolume") and not standing.has_volume
    return None if undefined else _estimate(found)


def _undefined(standing: AtEqualKL, objectives: Sequence[str]) -> str | None:
    """Why there are no hypervolumes; None: there are, or no method can be compared."""
    if not standing.methods or standing.has_volume:
        return None
    if len(objectives) == 1:
        return "there is one objective, and its reward says all that a volume would"
    names = " and ".join(objectives[m] for m in standing.constant)
    return (
        f"the reward of {names} is the same for the reference policy and every method, so there "
        "is no range to measure a volume in (--reference_point would give it one)"
    )


def _ahead(standing: AtEqualKL) -> dict[str, Lead]:
    """How far MAVIS is ahead of every other method: ratios, and differences of the gain."""
    if AHEAD not in standing.methods:
        return {}

    def lead(baseline: str) -> Lead:
        # A ratio to what may be no gain says nothing, and neither does one of a loss.
        theirs = standing.indicator(baseline, "weighted_gain").low
        gains = theirs > 0 and standing.value(AHEAD, "weighted_gain") >= 0
        unknown = Interval(np.nan, np.nan, np.nan)
        volume = standing.against(AHEAD, baseline, "hypervolume")
        ratio = standing.against(AHEAD, baseline, "weighted_gain") if gains else unknown
        more = standing.against(AHEAD, baseline, "weighted_gain", by="difference")
        return {
            "hypervolume_ratio": _cell(standing, "hypervolume", volume),
            "gain_ratio": _estimate(ratio),
            "gain_difference": _estimate(more),
        }

    return {method: lead(method) for method in standing.methods if method != AHEAD}


def _paired(standing: AtEqualKL) -> list[Pair]:
    """How far each method is from each other by every indicator, on the same resamples."""
    return [
        {
            "methods": [one, other],
            "differences": {
                name: _cell(standing, name, standing.against(one, other, name, by="difference"))
                for name in INDICATORS
            },
        }
        for one, other in combinations(standing.methods, 2)
    ]


def _short_of(standing: AtEqualKL) -> list[str]:
    return [
        f"{method} does not get to {standing.kl:g} nats, or has no reward there, at "
        f"{sum(r is None or not np.isfinite(r.rewards).all() for r in found)} of {len(found)} "
        "weightings: it is left out of the comparison there and of the indicators. "
        "Another --kl may lie within its reach."
        for method, found in standing.readings.items()
        if method not in standing.methods
    ]
