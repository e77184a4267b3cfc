"""How much of a result is the luck of one training: the indicators of every seed by itself.

An interval over prompts says nothing of the models: with others from another seed, everything may
come out a little differently. So a sweep over several seeds is read once for each, at equal KL, in
the same units and above the same reference point.
"""

from collections.abc import Sequence
from dataclasses import replace

from mavis.comparison.analysis import Analysis
from mavis.comparison.samples import ScoredSamples

SHOWN = ("hypervolume", "weighted_gain")

Replicate = dict[str, dict[str, float]]  # method -> indicator -> value


def replicates(findings: Analysis, corner: Sequence[float] | None) -> list[Replicate]:
    """The indicators of every seed by itself.

    Args:
        findings: of all seeds.
        corner: the reference point of the hypervolume [M]; None: it is undefined.

    Returns:
        for each seed, the methods that get to the KL at every weighting; empty for one seed, which
        has nothing beside it.
    """
    seeds = findings.reference.rewards.shape[1]
    return [_of(findings, seed, corner) for seed in range(seeds)] if seeds > 1 else []


def _of(findings: Analysis, seed: int, corner: Sequence[float] | None) -> Replicate:
    one = replace(
        findings,
        reference=findings.best_of or _only(findings.reference, seed),  # the same start for all
        best_of=None,  # it has no seed's models
        curves={
            method: [[_only(point, seed) for point in curve] for curve in curves]
            for method, curves in findings.curves.items()
        },
        corner=corner,
        given=findings.units,
    )
    standing = one.standing(resampled=1)
    shown = SHOWN if corner is not None else SHOWN[1:]
    return {m: {n: standing.value(m, n) for n in shown} for m in standing.methods}


def _only(point: ScoredSamples, seed: int) -> ScoredSamples:
    """A point with the answers of one seed."""
    return replace(
        point,
        responses=[[said[seed]] for said in point.responses],
        tokens=[[said[seed]] for said in point.tokens],
        rewards=point.rewards[:, [seed]],
        numbers={name: column[:, [seed]] for name, column in point.numbers.items()},
    )
