"""The loss of values that are learned from mean targets, and metrics of what they have learned.

It is that of one objective, of `state` values, and of the first pass over trees of several
objectives, whose later ones learn by `path_consistency`.

An error e [M] in the values of M objectives is an error λᵀe in a mix of them with weights λ, whose
rewards have the spread σ_λ. So the squared error of values of M objectives is

    (Q − target)ᵀ A (Q − target)

with A = λλᵀ / σ_λ² on a tree that a policy of weights λ has grown: its targets are of that policy,
and say nothing of the values under another one. The reference policy belongs to no weights, and its
trees count for all of them: there A is the mean of λλᵀ / σ_λ² over the weights that a fit draws.
"""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchmetrics.functional import r2_score

from mavis.decoding.spread import SMALLEST
from mavis.evaluation.metrics import sibling_rank_correlation
from mavis.training.weightings import drawn

Scores = npt.NDArray[np.float64]

DRAWS = 2000  # weights that the mean over all of them is taken over


class MixedLoss:
    """The mean over tokens of (Q − target)ᵀ A (Q − target) / M, with A of the trace M on average.

    Args:
        covariance: C of the rewards [M, M], σ_λ² = λᵀCλ.
    """

    def __init__(self, covariance: npt.ArrayLike) -> None:
        squares = np.asarray(covariance, dtype=np.float64)
        weights = np.array([drawn((at, "metric"), len(squares)) for at in range(DRAWS)])
        spread = np.einsum("dm,mn,dn->d", weights, squares, weights).clip(SMALLEST**2)
        mean = np.einsum("dm,dn,d->mn", weights, weights, 1 / spread) / DRAWS
        scale = len(squares) / np.trace(mean)
        self.covariance = torch.from_numpy(squares).float()
        self.scale, self.reference = float(scale), torch.from_numpy(scale * mean).float()

    def metric(self, weights: Tensor) -> Tensor:
        """A [B, M, M] of trees that policies of the weights [B, M] have grown; 0: the reference."""
        weights = weights.float()  # of half precision: Lightning rounds the floats of a batch
        covariance, reference = (
            each.to(weights.device) for each in (self.covariance, self.reference)
        )
        spread = torch.einsum("bm,mn,bn->b", weights, covariance, weights)
        products = weights[:, :, None] * weights[:, None, :]
        own = self.scale * products / spread.clamp(min=SMALLEST**2)[:, None, None]
        return torch.where(weights.any(-1)[:, None, None], own, reference)

    def __call__(self, predicted: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        """The loss of predictions [B, T, M], for targets [B, T, M] that may be NaN.

        A token of the reference's trees counts by the objectives that are known. Of a mix nothing
        is known where one of its objectives is not.
        """
        known = targets.isfinite()
        asked = weights[:, None, :] != 0
        counts = torch.where(asked.any(-1), (known | ~asked).all(-1), known.any(-1))  # [B, T]
        error = torch.where(known & counts[..., None], predicted - targets.nan_to_num(), 0.0)
        squares = torch.einsum("btm,bmn,btn->bt", error, self.metric(weights), error)
        return squares.sum() / counts.sum().clamp(min=1) / targets.shape[-1]


def metrics(predicted: Scores, target: Scores, siblings: Scores) -> dict[str, float]:
    """How well the values [P] of one objective predict their targets [P], by name.

    `siblings` [P] numbers the family of siblings that a token ends a node of; −1: it ends none.
    """
    node = siblings >= 0
    family = siblings[node].astype(np.int64)
    return {
        "val_loss": float(np.square(predicted - target).mean()),
        "r2": float(r2_score(torch.from_numpy(predicted), torch.from_numpy(target))),
        "sibling_rank_correlation": sibling_rank_correlation(predicted[node], target[node], family),
    }


def by_objective(
    depth: Scores, predicted: Scores, target: Scores, siblings: Scores
) -> tuple[list[tuple[Scores, Scores, Scores]], dict[str, float]]:
    """What `metrics` says of values of M objectives, on average over them.

    Args:
        depth: of P tokens in their replies [P].
        predicted: their values [P, M].
        target: what they should be [P, M]; NaN where it is not known.
        siblings: see `metrics` [P].

    Returns:
        depth, value and target of the tokens that have one, for each objective; and the means.
    """
    known = np.isfinite(target).T
    columns = zip(known, predicted.T, target.T, strict=True)
    points = [(depth[there], values[there], aims[there]) for there, values, aims in columns]
    pairs = zip(known, points, strict=True)
    found = [metrics(values, aims, siblings[there]) for there, (_, values, aims) in pairs]
    return points, {name: float(np.mean([each[name] for each in found])) for name in found[0]}
