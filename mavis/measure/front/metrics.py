"""The indicators of `pareto` as torchmetrics: rewards come in batches, from any number of ranks.

What is kept is the sum and the number of rewards per point (a weighting, a setting), so the state
does not grow, and metrics in one `MetricCollection` share it.

>>> metric = Hypervolume(points=2, reference=[0.0, 0.0])
>>> metric.update(torch.tensor([[0.0, 2.0], [2.0, 4.0]]), point=torch.tensor([0, 0]))
>>> metric.update(torch.tensor([[3.0, 1.0]]), point=torch.tensor([1]))
>>> metric.compute().item()  # of (1, 3) and (3, 1)
5.0
"""

import numpy.typing as npt
import torch
from torch import Tensor
from torchmetrics import Metric

from mavis.measure.front import pareto


class PointRewards(Metric):
    """Mean rewards per point; a subclass says what they come to.

    A reward that is not finite (it abstained) is left out of its mean, and a point is left out
    until there is a reward for each of its objectives.

    Args:
        points: P, how many points there are.
        objectives: M.
    """

    full_state_update = False
    is_differentiable = False
    sums: Tensor  # [P, M]
    counts: Tensor  # [P, M]

    def __init__(self, points: int, objectives: int) -> None:
        super().__init__()
        if min(points, objectives) < 1:
            raise ValueError(
                f"points and objectives must be at least 1, got {points} and {objectives}."
            )
        zeros = torch.zeros(points, objectives, dtype=torch.float64)
        self.add_state("sums", zeros, dist_reduce_fx="sum")
        self.add_state("counts", zeros.long(), dist_reduce_fx="sum")

    def update(self, rewards: Tensor, point: Tensor) -> None:
        """Count rewards in.

        Args:
            rewards: of samples [N, M].
            point: which point each sample belongs to [N], 0 to P − 1.

        Raises:
            ValueError: if shapes do not agree, or there is no such point.
        """
        size, width = self.sums.shape
        if rewards.ndim != 2 or rewards.shape[1] != width:
            raise ValueError(f"rewards must be [N, M = {width}], got {tuple(rewards.shape)}.")
        if point.shape != rewards.shape[:1] or point.is_floating_point():
            raise ValueError(
                f"point must be one whole number per sample (N = {len(rewards)}), "
                f"got {tuple(point.shape)} of {point.dtype}."
            )
        if point.numel() and not 0 <= int(point.min()) <= int(point.max()) < size:
            raise ValueError(
                f"point must lie in 0 to {size - 1}, got {int(point.min())} to {int(point.max())}."
            )
        known = rewards.isfinite()
        self.sums = self.sums.index_add(0, point, rewards.double().where(known, 0.0))
        self.counts = self.counts.index_add(0, point, known.long())

    def seen(self) -> Tensor:
        """Which points have a reward for each objective [P]."""
        return self.counts.gt(0).all(dim=1)

    def means(self) -> pareto.Array:
        """Mean rewards of the points seen [≤ P, M]."""
        found: pareto.Array = (self.sums / self.counts)[self.seen()].cpu().numpy()
        return found

    def tensor(self, value: npt.ArrayLike) -> Tensor:
        """A result, where the rewards are."""
        return torch.as_tensor(value, dtype=torch.float64, device=self.device)


class NonDominated(PointRewards):
    """The front of the points [F, M], each point once, by the first objective."""

    higher_is_better = None

    def compute(self) -> Tensor:
        """`pareto.union_front`."""
        return self.tensor(pareto.union_front([self.means()]))


class Hypervolume(PointRewards):
    """`pareto.hypervolume`.

    Args:
        points: P.
        reference: [M].
    """

    higher_is_better = True

    def __init__(self, points: int, reference: npt.ArrayLike) -> None:
        corner = pareto.vector("reference", reference)
        super().__init__(points, len(corner))
        self.reference = corner

    def compute(self) -> Tensor:
        """Of the mean rewards."""
        return self.tensor(pareto.hypervolume(self.means(), self.reference))


class AgainstFront(PointRewards):
    """Held against a front; a subclass says how.

    Args:
        points: P.
        front: [F, M], e.g. of `pareto.union_front`.
    """

    higher_is_better = False

    def __init__(self, points: int, front: npt.ArrayLike) -> None:
        best = pareto.matrix("front", front)
        super().__init__(points, best.shape[1])
        self.front = best


class IGDPlus(AgainstFront):
    """`pareto.igd_plus` to a front."""

    def compute(self) -> Tensor:
        """Of the mean rewards."""
        return self.tensor(pareto.igd_plus(self.means(), self.front))


class EpsilonDominance(AgainstFront):
    """`pareto.epsilon_dominance` over a front."""

    def compute(self) -> Tensor:
        """Of the mean rewards."""
        return self.tensor(pareto.epsilon_dominance(self.means(), self.front))


class Maximin(AgainstFront):
    """`pareto.maximin` against a front."""

    def compute(self) -> Tensor:
        """Of the mean rewards."""
        return self.tensor(pareto.maximin(self.means(), self.front))


class InnerProduct(PointRewards):
    """`pareto.inner_product`, over the weightings seen.

    Args:
        weights: [P, M], a point is a weighting.
    """

    higher_is_better = True

    def __init__(self, weights: npt.ArrayLike) -> None:
        asked = pareto.matrix("weights", weights)
        super().__init__(*asked.shape)
        self.weights = asked

    def compute(self) -> Tensor:
        """Of the mean rewards."""
        asked = self.weights[self.seen().cpu().numpy()]
        return self.tensor(pareto.inner_product(self.means(), asked))


class WorstCase(PointRewards):
    """`pareto.worst_case`, over the points seen."""

    higher_is_better = True

    def compute(self) -> Tensor:
        """Of the mean rewards."""
        return self.tensor(pareto.worst_case(self.means()))
