"""Compare methods at equal KL: rewards, fronts, indicators, and paired differences.

Numbers have bootstrap intervals over prompts. Comparisons are paired: every method is evaluated on
the same resamples.
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

SAME = 1e-9  # standard units; rewards that differ by less count as equal

INDICATORS = {  # name -> its meaning, for people; more is better unless stated otherwise
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
    """The rewards of all methods, interpolated at one KL.

    Where no reference point of the hypervolume is given, it is a tenth of the range below the worst
    reward of any method, or of the reference policy.
    """

    kl: float  # nats per answer
    weightings: Sequence[Sequence[float]]  # λ [W][M]
    reference: RewardsAtKL  # the reference policy's rewards
    readings: Mapping[str, Sequence[RewardsAtKL | None]]  # [W] by method; None: KL not reached
    corner: Sequence[float] | None = None  # the reference point of the hypervolume [M]
    _samples: dict[tuple[str, str], Array] = field(default_factory=dict)

    @cached_property
    def methods(self) -> list[str]:
        """The methods that reach the KL at every weighting, and so can be compared."""
        return [
            m
            for m, readings in self.readings.items()
            if all(r is not None and np.isfinite(r.rewards).all() for r in readings)
        ]

    @cached_property
    def weights(self) -> Array:
        """The weightings as an array [W, M]."""
        return np.array(self.weightings, dtype=np.float64)

    def rewards(self, method: str) -> Array:
        """Return a method's mean rewards [W, M]."""
        return np.array([reading.rewards for reading in self._read(method)])

    def samples(self, method: str) -> Array:
        """Return the mean rewards on the resamples where all methods have rewards [≤ S, W, M]."""
        return self._drawn(method)[self._known]

    def _drawn(self, method: str) -> Array:
        return np.stack([reading.samples for reading in self._read(method)], axis=1)

    @cached_property
    def _known(self) -> npt.NDArray[np.bool_]:
        """Mask of the resamples on which every method has a finite reward [S]."""
        worlds = [self.reference.samples, *map(self._drawn, self.methods)]
        flat = np.concatenate([world.reshape(len(world), -1) for world in worlds], axis=1)
        known: npt.NDArray[np.bool_] = np.isfinite(flat).all(axis=1)
        return known

    @cached_property
    def constant(self) -> list[int]:
        """Indices of the objectives whose reward is equal for all methods and the reference."""
        known = [self.reference.rewards[None], *(self.rewards(m) for m in self.methods)]
        span = np.ptp(np.concatenate(known), axis=0)
        return [int(m) for m in np.flatnonzero(span <= SAME)]

    @cached_property
    def has_volume(self) -> bool:
        """Whether the hypervolume is defined.

        With one objective it is a length, which adds nothing to the reward. Where an objective is
        constant, there is no range to place a reference point by, unless one is given.
        """
        return self.weights.shape[1] > 1 and (self.corner is not None or not self.constant)

    @cached_property
    def reference_point(self) -> Array:
        """The reference point of all hypervolumes [M]."""
        if self.corner is not None:
            return pareto.vector("reference point", self.corner)
        start = self.reference.rewards[None]  # a range there is even where there is one point
        return pareto.reference_point([start, *(self.rewards(m) for m in self.methods)])

    @cached_property
    def union(self) -> Array:
        """The non-dominated rewards of all methods together [F, M]."""
        return pareto.union_front([self.rewards(method) for method in self.methods])

    @cached_property
    def _unions(self) -> list[Array]:
        """The union front on each resample: a method is compared with the front of its resample."""
        every = [self.samples(method) for method in self.methods]
        return [pareto.union_front(world) for world in zip(*every, strict=True)]

    def indicator(self, method: str, name: str) -> Interval:
        """Compute one of `INDICATORS` with its interval."""
        return interval(self.value(method, name), self._resampled(method, name))

    def against(self, method: str, other: str, name: str, *, by: str = "ratio") -> Interval:
        """Compute the paired ratio, or difference, of two methods' indicators."""
        compare = {"ratio": ratio, "difference": difference}[by]
        return compare(
            self.value(method, name),
            self._resampled(method, name),
            self.value(other, name),
            self._resampled(other, name),
        )

    def value(self, method: str, name: str) -> float:
        """Compute one of `INDICATORS` on all prompts; NaN for a hypervolume that is undefined."""
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
            return pareto.hypervolume(rewards, self.reference_point) if self.has_volume else np.nan

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
        readings = [reading for reading in self.readings[method] if reading is not None]
        assert len(readings) == len(self.weightings)
        return readings
