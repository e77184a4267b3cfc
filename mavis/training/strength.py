"""The strength of guidance in a fit, and the KL price that belongs to it."""

import math
from collections.abc import Mapping
from typing import Any

from mavis.decoding.spread import Covariance, relative_strength

USUAL = 2.0  # nats, where no budget is given


class Strength:
    """β of a fit's policies, and η of its targets.

    The policy of strength β is the best one where a nat of KL costs 1 / β: with η = 1 / β a round
    is a step of soft policy improvement. So one follows from the other, unless both are given.
    Of several objectives these are β₀ and η₀, of one that is guided by alone: see `relative`.

    Args:
        beta: β, if it is given.
        eta: η, if it is given.
        budget: nats that β is found for, once there are values. Before that it is what values spend
            them at that foretell all of a reward, β² / 2 nats for each unit of its variance.
    """

    def __init__(self, beta: float | None, eta: float | None, budget: float | None = None) -> None:
        self._eta, self.covariance = eta, Covariance()
        before = math.sqrt(2 * (budget or USUAL))
        self.beta = beta if beta is not None else 1 / eta if eta is not None else before

    @property
    def eta(self) -> float:
        """The KL price, in standard units of reward per nat."""
        if self._eta is not None:
            return self._eta
        return 1 / self.beta if self.beta else 0.0

    def relative(self, weights: tuple[float, ...]) -> float:
        """What multiplies β, and divides η, for a policy of these weights."""
        known = len(weights) > 1 and self.covariance
        return relative_strength(weights, self.covariance) if known else 1.0

    def set(self, beta: float) -> None:
        """Go on with another strength."""
        self.beta = beta

    def state(self) -> dict[str, Any]:
        """What rounds change, for a checkpoint."""
        return {"beta": self.beta, "covariance": self.covariance}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Put back what `state` has given; older checkpoints may lack it."""
        self.beta = state.get("beta", self.beta)
        self.covariance = tuple(map(tuple, state.get("covariance", self.covariance)))
