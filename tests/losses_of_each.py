"""An independent loss for tests: the mean squared error of each objective by itself."""

import torch


def value_losses(predicted, targets):
    """[M] of predictions [B, T, M] where targets [B, T, M] are not NaN."""
    known = targets.isfinite()
    return torch.stack(
        [
            (predicted[..., m] - targets[..., m])[known[..., m]].square().mean()
            for m in range(targets.shape[-1])
        ]
    )
