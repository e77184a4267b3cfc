"""The points of a sweep, in standard units, and what they say at one KL.

An interval over prompts says nothing of the luck of a training: with models from another seed,
everything may come out a little differently. So a sweep over several seeds is also read once for
each, at equal KL, in the same units and above the same reference point.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from mavis.comparison.indicators import AtEqualKL
from mavis.comparison.preferences import Weighting
from mavis.evaluation.bootstrap import means, resamples
from mavis.evaluation.kl_matching import (
    PerPrompt,
    RewardsAtKL,
    analytic_kl,
    at_kl,
    stand,
)
from mavis.evaluation.samples import Array, ScoredSamples
from mavis.reward import Units

RESAMPLES = 1000
BY_SEED = ("hypervolume", "weighted_gain")  # the indicators that are shown seed by seed

Replicate = dict[str, dict[str, float]]  # method -> indicator -> value


@dataclass(frozen=True)
class Analysis:
    """The points of a sweep.

    Args:
        objectives: names of the M axis.
        weightings: λ [W][M].
        kl: nats per answer, at which methods are compared.
        reference: π_ref's answers.
        best_of: many answers of π_ref, to take the best of; None if nobody asked.
        curves: the points of every other method, for each weighting.
        corner: the hypervolume's reference point [M], if one was given.
        prompts: as text [P], of which some are shown.
        given: standard units to keep to, for some of the answers of a larger sweep.
    """

    objectives: tuple[str, ...]
    weightings: Sequence[Weighting]
    kl: float
    reference: ScoredSamples
    best_of: ScoredSamples | None
    curves: Mapping[str, Sequence[Sequence[ScoredSamples]]]
    corner: Sequence[float] | None = None
    prompts: Sequence[str] = ()
    given: Sequence[Units] = ()

    @property
    def plain(self) -> ScoredSamples:
        """As many answers of π_ref as there are: gains and standard units are from these."""
        return self.best_of or self.reference

    @cached_property
    def units(self) -> list[Units]:
        """Mean and standard deviation of π_ref's rewards on these prompts, by objective."""
        return list(self.given) or self.plain.units

    def standard(self, point: ScoredSamples) -> Array:
        """A point's rewards in standard units [P, S, M]."""
        return point.standard(self.units)

    def stand(self, point: ScoredSamples) -> PerPrompt:
        """A point, prompt by prompt."""
        return stand(self.standard(point), point.kl)

    def standing(self, resampled: int | None = None) -> AtEqualKL:
        """All methods at the KL asked for, with so many resamples of the prompts, or enough."""
        counts = resamples(len(self.reference.kl), resampled or RESAMPLES)
        start = self.stand(self.plain)
        readings: dict[str, list[RewardsAtKL | None]] = {}
        for method, curves in self.curves.items():
            stands = [[start, *map(self.stand, points)] for points in curves]
            readings[method] = [at_kl(curve, self.kl, counts) for curve in stands]
        if self.best_of is not None:
            readings["best_of"] = [
                at_kl(self.best_curve(weights), self.kl, counts) for weights in self.weightings
            ]
        reference = RewardsAtKL(start.mean_rewards, means(start.rewards, counts))
        return AtEqualKL(self.kl, self.weightings, reference, readings, self.corner)

    def best_curve(self, weights: Weighting) -> list[PerPrompt]:
        """Best-of-N for N = 1, 2, 3 …; N = 1 is where all curves start, if no reward abstains."""
        assert self.best_of is not None
        return self.best_of.best_of_n(self.units, weights)

    def nearest(self, method: str) -> list[ScoredSamples]:
        """For each weighting, the point of a method whose KL is nearest to the one compared at."""
        if method == "best_of" and self.best_of is not None:
            return [self._chosen(self.best_of, weights) for weights in self.weightings]
        if method not in self.curves:
            return [self.reference]
        return [min(c, key=lambda p: abs(p.kl.mean() - self.kl)) for c in self.curves[method]]

    def _chosen(self, many: ScoredSamples, weights: Weighting) -> ScoredSamples:
        """The best of N of each prompt's answers, N being the one whose KL is nearest.

        One for each seed, of N answers that begin at another place: the sets may overlap.
        """
        away = [abs(point.mean_kl - self.kl) for point in self.best_curve(weights)]
        n, size = int(np.argmin(away)) + 1, many.rewards.shape[1]
        scores = self.standard(many) @ np.asarray(weights)  # [P, size]
        scores = np.where(np.isfinite(scores), scores, -np.inf)  # who abstained is chosen last
        seeds = self.reference.rewards.shape[1]
        sets = [(np.arange(n) + seed * size // seeds) % size for seed in range(seeds)]
        best = np.stack([one[scores[:, one].argmax(1)] for one in sets], axis=1)  # [P, S]
        numbers = {k: np.take_along_axis(v, best, axis=1) for k, v in many.numbers.items()}
        kl = analytic_kl(n) + numbers["kl_truncation"]
        return replace(
            many,
            weights=tuple(weights),
            strength=float(n),
            responses=[[s[i] for i in b] for s, b in zip(many.responses, best, strict=True)],
            tokens=[[s[i] for i in b] for s, b in zip(many.tokens, best, strict=True)],
            rewards=np.take_along_axis(many.rewards, best[..., None], axis=1),
            numbers=numbers | {"kl": kl, "kl_sampled": kl},
        )


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
        reference=findings.best_of or findings.reference.only(seed),  # the same start for all
        best_of=None,  # it has no seed's models
        curves={
            method: [[point.only(seed) for point in curve] for curve in curves]
            for method, curves in findings.curves.items()
        },
        corner=corner,
        given=findings.units,
    )
    standing = one.standing(resampled=1)
    shown = BY_SEED if corner is not None else BY_SEED[1:]
    return {m: {n: standing.value(m, n) for n in shown} for m in standing.methods}
