"""How the methods stand at equal KL: rewards, fronts, indicators, and who is ahead by how much.

Numbers come with bootstrap intervals over prompts, and comparisons are paired: every method is read
on the same resamples.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from mavis.evaluation import pareto
from mavis.evaluation.bootstrap import Interval, difference, interval, ratio
from mavis.evaluation.kl_matching import RewardsAtKL

Array = npt.NDArray[np.float64]
# rewards [W, M], the reference policy's [M], the front of all methods [F, M] -> a number
Indicator = Callable[[Array, Array, Array], float]

SAME = 1e-9  # standard units: rewards that are no further apart are one reward

INDICATORS = {  # name -> what it says, for people; more is better but where it says less
    "hypervolume": "volume of the rewards that the front dominates, above the reference point",
    "weighted_gain": "mean over weightings of the weighted reward, less the reference policy's",
    "inner_product": "mean inner product of weighting and reward; the reference policy's own is 0 "
    "in these units, so this is the weighted gain with an interval that is not paired with it",
    "worst_case": "mean over weightings of the smallest reward",
    "igd_plus": "distance to the front of all methods together (less is better)",
    "epsilon": "how much must be added to dominate that front (less is better)",
    "maximin": "Balling's maximin fitness against that front (less is better)",
}


@dataclass(frozen=True)
class AtEqualKL:
    """Methods at one KL.

    Args:
        kl: nats per answer.
        weightings: λ [W][M].
        reference: the reference policy's rewards.
        readings: by method, for each weighting; None where it does not get as far.
        corner: the reference point of the hypervolume [M]; None: a tenth of the range below the
            worst reward of any method, or of the reference policy.
    """

    kl: float
    weightings: Sequence[Sequence[float]]
    reference: RewardsAtKL
    readings: Mapping[str, Sequence[RewardsAtKL | None]]
    corner: Sequence[float] | None = None
    _samples: dict[tuple[str, str], Array] = field(default_factory=dict)

    @cached_property
    def methods(self) -> list[str]:
        """Those with a reward at the KL at every weighting: the ones that can be compared."""
        return [
            m
            for m, found in self.readings.items()
            if all(r is not None and np.isfinite(r.rewards).all() for r in found)
        ]

    @cached_property
    def weights(self) -> Array:
        """[W, M]."""
        return np.array(self.weightings, dtype=np.float64)

    def rewards(self, method: str) -> Array:
        """Mean rewards [W, M]."""
        return np.array([reading.rewards for reading in self._read(method)])

    def samples(self, method: str) -> Array:
        """The same on every resample that says something of all methods [≤ S, W, M]."""
        return self._drawn(method)[self._known]

    def _drawn(self, method: str) -> Array:
        return np.stack([reading.samples for reading in self._read(method)], axis=1)

    @cached_property
    def _known(self) -> npt.NDArray[np.bool_]:
        """Which resamples drew a prompt with a reward for every number: all, or nearly [S]."""
        worlds = [self.reference.samples, *map(self._drawn, self.methods)]
        flat = np.concatenate([world.reshape(len(world), -1) for world in worlds], axis=1)
        known: npt.NDArray[np.bool_] = np.isfinite(flat).all(axis=1)
        return known

    @cached_property
    def constant(self) -> list[int]:
        """The objectives of which all methods, and the reference policy, have the same reward."""
        known = [self.reference.rewards[None], *(self.rewards(m) for m in self.methods)]
        span = np.ptp(np.concatenate(known), axis=0)
        return [int(m) for m in np.flatnonzero(span <= SAME)]

    @cached_property
    def has_volume(self) -> bool:
        """Whether a hypervolume says anything here.

        Of one objective it is a length, which says no more than the reward; where an objective is
        constant, no reference point lies below all of the front unless one is given.
        """
        return self.weights.shape[1] > 1 and (self.corner is not None or not self.constant)

    @cached_property
    def reference_point(self) -> Array:
        """The reference point of every hypervolume here [M]."""
        if self.corner is not None:
            return pareto.vector("reference point", self.corner)
        start = self.reference.rewards[None]  # a range there is even where there is one point
        return pareto.reference_point([start, *(self.rewards(m) for m in self.methods)])

    @cached_property
    def union(self) -> Array:
        """The front of all methods together [F, M]."""
        return pareto.union_front([self.rewards(method) for method in self.methods])

    @cached_property
    def _unions(self) -> list[Array]:
        """The same on every resample: a method must be held against a front of its own world."""
        every = [self.samples(method) for method in self.methods]
        return [pareto.union_front(world) for world in zip(*every, strict=True)]

    def indicator(self, method: str, name: str) -> Interval:
        """One of `INDICATORS`, with its interval."""
        return interval(self.value(method, name), self._resampled(method, name))

    def against(self, method: str, other: str, name: str, *, by: str = "ratio") -> Interval:
        """How far a method is ahead of another by an indicator: their ratio, or difference."""
        compare = {"ratio": ratio, "difference": difference}[by]
        return compare(
            self.value(method, name),
            self._resampled(method, name),
            self.value(other, name),
            self._resampled(other, name),
        )

    def value(self, method: str, name: str) -> float:
        """One of `INDICATORS` on all prompts as they are; NaN for a volume that is undefined."""
        of = self._indicators()[name]
        return of(self.rewards(method), self.reference.rewards, self.union)

    def _resampled(self, method: str, name: str) -> Array:
        key = (method, name)
        if key not in self._samples:
            of = self._indicators()[name]
            start = self.reference.samples[self._known]
            worlds = zip(self.samples(method), start, self._unions, strict=True)
            self._samples[key] = np.array([of(*world) for world in worlds])
        return self._samples[key]

    def _indicators(self) -> dict[str, Indicator]:
        def volume(rewards: Array, *_: Array) -> float:
            corner = self.reference_point if self.has_volume else None
            return np.nan if corner is None else pareto.hypervolume(rewards, corner)

        return {
            "hypervolume": volume,
            "weighted_gain": lambda r, start, _: pareto.weighted_gain(r, start, self.weights),
            "inner_product": lambda r, *_: pareto.inner_product(r, self.weights),
            "worst_case": lambda r, *_: pareto.worst_case(r),
            "igd_plus": lambda r, _, front: pareto.igd_plus(r, front),
            "epsilon": lambda r, _, front: pareto.epsilon_dominance(r, front),
            "maximin": lambda r, _, front: pareto.maximin(r, front),
        }

    def _read(self, method: str) -> list[RewardsAtKL]:
        found = [reading for reading in self.readings[method] if reading is not None]
        assert len(found) == len(self.weightings)
        return found
