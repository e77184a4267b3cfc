"""Standardise the points of a sweep and compare the methods at one KL.

An interval over prompts does not cover the variance between training seeds. A sweep over several
seeds is therefore also analysed once per seed, at equal KL, in the same standard units and with the
same reference point of the hypervolume.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from mavis.comparison.indicators import AtEqualKL
from mavis.comparison.preferences import Weighting
from mavis.evaluation.bootstrap import means, resamples
from mavis.evaluation.kl_matching import PerPrompt, RewardsAtKL, analytic_kl, at_kl, per_prompt
from mavis.evaluation.samples import Array, ScoredSamples
from mavis.reward import Units

RESAMPLES = 1000
BY_SEED = ("hypervolume", "weighted_gain")  # the indicators that are reported for each seed

Replicate = dict[str, dict[str, float]]  # method -> indicator -> value


@dataclass(frozen=True)
class Analysis:
    """All points of a sweep, and the settings they are analysed under."""

    objectives: tuple[str, ...]  # names [M]
    weightings: Sequence[Weighting]  # λ [W][M]
    kl: float  # nats per answer at which methods are compared
    reference: ScoredSamples  # π_ref's answers
    best_of: ScoredSamples | None  # many answers of π_ref; None: best-of-N is not compared
    curves: Mapping[str, Sequence[Sequence[ScoredSamples]]]  # points by method and weighting
    corner: Sequence[float] | None = None  # the reference point of the hypervolume [M], if given
    prompts: Sequence[str] = ()  # their texts [P]; the report shows some of them
    given: Sequence[Units] = ()  # standard units of a larger sweep that has these answers, too

    @property
    def plain(self) -> ScoredSamples:
        """The largest set of π_ref's answers: gains and standard units are computed from it."""
        return self.best_of or self.reference

    @cached_property
    def units(self) -> list[Units]:
        """Mean and standard deviation of π_ref's rewards on these prompts, by objective."""
        return list(self.given) or self.plain.units

    def standard(self, point: ScoredSamples) -> Array:
        """A point's rewards in standard units [P, S, M]."""
        return point.standard(self.units)

    def per_prompt(self, point: ScoredSamples) -> PerPrompt:
        """Average a point's standardised rewards and KL for each prompt."""
        return per_prompt(self.standard(point), point.kl)

    def at_equal_kl(self, resampled: int | None = None) -> AtEqualKL:
        """Interpolate each method's reward–KL curve at the common KL.

        Args:
            resampled: bootstrap resamples of the prompts; None takes `RESAMPLES`.
        """
        counts = resamples(len(self.reference.kl), resampled or RESAMPLES)  # [S, P]
        start = self.per_prompt(self.plain)
        readings: dict[str, list[RewardsAtKL | None]] = {}
        for method, curves in self.curves.items():
            readings[method] = [
                at_kl([start, *map(self.per_prompt, points)], self.kl, counts) for points in curves
            ]
        if self.best_of is not None:
            readings["best_of"] = [
                at_kl(self.best_curve(weights), self.kl, counts) for weights in self.weightings
            ]
        reference = RewardsAtKL(start.mean_rewards, means(start.rewards, counts))
        return AtEqualKL(self.kl, self.weightings, reference, readings, self.corner)

    def best_curve(self, weights: Weighting) -> list[PerPrompt]:
        """Best-of-N for N = 1, 2, 3 …; N = 1 is the start of all curves if no reward abstains."""
        assert self.best_of is not None
        return self.best_of.best_of_n(self.units, weights)

    def nearest(self, method: str) -> list[ScoredSamples]:
        """Find, for each weighting, the point of a method whose KL is nearest to the common KL."""
        if method == "best_of" and self.best_of is not None:
            return [self._chosen(self.best_of, weights) for weights in self.weightings]
        if method not in self.curves:
            return [self.reference]
        return [min(c, key=lambda p: abs(p.kl.mean() - self.kl)) for c in self.curves[method]]

    def _chosen(self, many: ScoredSamples, weights: Weighting) -> ScoredSamples:
        """Choose the best of N answers to each prompt, for the N whose KL is nearest.

        Every seed takes its own window of N answers; the windows may overlap.
        """
        away = [abs(point.mean_kl - self.kl) for point in self.best_curve(weights)]
        n, size = int(np.argmin(away)) + 1, many.rewards.shape[1]
        scores = self.standard(many) @ np.asarray(weights)  # [P, size]
        # An answer without a reward is chosen last.
        scores = np.where(np.isfinite(scores), scores, -np.inf)
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


def replicates(analysis: Analysis, corner: Sequence[float] | None) -> list[Replicate]:
    """Compute the indicators of each seed separately; empty where there is only one seed.

    A seed has the methods that reach the KL at every weighting. The reference point of the
    hypervolume [M] is None where the hypervolume is undefined.
    """
    seeds = analysis.reference.rewards.shape[1]
    return [_of(analysis, seed, corner) for seed in range(seeds)] if seeds > 1 else []


def _of(analysis: Analysis, seed: int, corner: Sequence[float] | None) -> Replicate:
    one = replace(
        analysis,
        reference=analysis.best_of or analysis.reference.only(seed),  # the same start for all
        best_of=None,  # best-of-N has no model that depends on the seed
        curves={
            method: [[point.only(seed) for point in curve] for curve in curves]
            for method, curves in analysis.curves.items()
        },
        corner=corner,
        given=analysis.units,
    )
    comparison = one.at_equal_kl(resampled=1)
    shown = BY_SEED if corner is not None else BY_SEED[1:]
    return {m: {n: comparison.value(m, n) for n in shown} for m in comparison.methods}
