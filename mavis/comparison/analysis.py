"""The points of a sweep, in standard units, and what they say at one KL."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from mavis.comparison.indicators import AtEqualKL
from mavis.comparison.kl_matching import PerPrompt, RewardsAtKL, at_kl, best_of_n, stand
from mavis.comparison.preferences import Weighting
from mavis.comparison.samples import Array, ScoredSamples
from mavis.evaluation.bootstrap import means, resamples
from mavis.evaluation.metrics import analytic_kl
from mavis.reward import Units

RESAMPLES = 1000


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
        rewards = self.plain.rewards
        return list(self.given) or [
            Units.measure(rewards[..., m].ravel().tolist(), name)
            for m, name in enumerate(self.objectives)
        ]

    def standard(self, point: ScoredSamples) -> Array:
        """A point's rewards in standard units [P, S, M]."""
        mean = np.array([units.mean for units in self.units])
        std = np.array([units.std for units in self.units])
        found: Array = (point.rewards - mean) / std
        return found

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
        baseline = RewardsAtKL(mean(start.rewards), means(start.rewards, counts))
        return AtEqualKL(self.kl, self.weightings, baseline, readings, self.corner)

    def best_curve(self, weights: Weighting) -> list[PerPrompt]:
        """Best-of-N for N = 1, 2, 3 …; N = 1 is where all curves start."""
        assert self.best_of is not None
        cost = self.best_of.numbers["kl_truncation"]
        return best_of_n(self.standard(self.best_of), cost, weights)

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
        away = [abs(s.kl.mean() - self.kl) for s in self.best_curve(weights)]
        n, size = int(np.argmin(away)) + 1, many.rewards.shape[1]
        weighted = (self.standard(many) * np.asarray(weights)).sum(-1)  # [P, size]
        weighted = np.where(np.isfinite(weighted), weighted, -np.inf)
        seeds = self.reference.rewards.shape[1]
        sets = [(np.arange(n) + seed * size // seeds) % size for seed in range(seeds)]
        best = np.stack([one[weighted[:, one].argmax(1)] for one in sets], axis=1)  # [P, S]
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


def mean(values: Array) -> Array:
    """Mean over prompts [M]."""
    (found,) = means(values, np.ones((1, len(values)), dtype=np.int64))
    average: Array = found
    return average
