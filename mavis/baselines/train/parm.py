"""Training of an autoregressive reward model on preferences, by Lightning."""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.utils.data import DataLoader

from mavis.baselines.parm import AutoregressiveRewardModel
from mavis.baselines.pblora import adapters
from mavis.baselines.train.preferences import (
    Group,
    Groups,
    answer_log_probs,
    dirichlet,
    preference_loss,
    preferred,
    side_by_side,
)
from mavis.progress import track
from mavis.tracking.mlflow_logger import Tracking

WARMUP = 0.05  # share of the steps in which the rate rises


class ArmModule(LightningModule):
    """Learns the adapters of a reward model; a preference is drawn anew for every group and epoch.

    Args:
        arm: the reward model.
        beta_r: the reward of a nat.
        lr: the highest learning rate.
        seed: of the preferences.
    """

    def __init__(self, arm: AutoregressiveRewardModel, beta_r: float, lr: float, seed: int) -> None:
        super().__init__()
        self.model = arm.model
        self.preference, self.size = arm.preference, len(arm.objectives)
        self.beta_r, self.lr, self.seed = beta_r, lr, seed
        for _, parameter in adapters(arm.model):
            parameter.requires_grad_(True)

    def training_step(self, batch: Groups, _: int) -> Tensor:
        """The loss under one preference per group, and how many pairs are in the right order."""
        alpha = dirichlet(self.size, batch.keys, self.current_epoch, self.seed).to(self.device)
        self.preference.rows = alpha
        log_probs = answer_log_probs(self.model, batch)
        wins = preferred(batch.rewards)
        loss = preference_loss(log_probs, wins, alpha, self.beta_r)
        right = (wins & preferred(log_probs[..., None])).sum((1, 2)) / wins.sum((1, 2)).clamp(min=1)
        self.log_dict({"train_loss": loss, "train_accuracy": (alpha * right).sum(-1).mean()})
        return loss

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW, the rate rising over `WARMUP` of the steps, then falling to 0."""
        trained = [parameter for _, parameter in adapters(self.model)]
        optimizer = torch.optim.AdamW(trained, lr=self.lr, weight_decay=0.0)
        steps = int(self.trainer.estimated_stepping_batches)
        warmup = max(1, round(WARMUP * steps))

        def share(step: int) -> float:
            return min((step + 1) / warmup, (steps - step) / max(1, steps - warmup))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, share)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class Bar(Callback):
    """Shows how far a training has got, as all else here shows it."""

    def __init__(self) -> None:
        self._steps: Iterator[int] = iter(())

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the bar."""
        del pl_module
        total = int(trainer.estimated_stepping_batches)
        self._steps = track(range(total), "reward model", "steps", total)
        next(self._steps, None)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *_: object, **__: object
    ) -> None:
        """Move it on; behind the last step it goes away."""
        del trainer, pl_module
        next(self._steps, None)


def train_arm(
    arm: AutoregressiveRewardModel,
    groups: Sequence[Group],
    beta_r: float,
    lr: float,
    epochs: int,
    batch: int,
    seed: int,
    tracking: Tracking | None = None,
) -> None:
    """Train a reward model, in place.

    Args:
        arm: the reward model; its base stays as it is.
        groups: answers and their rewards.
        beta_r: the reward of a nat.
        lr: the highest learning rate.
        epochs: passes over the groups.
        batch: groups per step.
        seed: of their order, and of the preferences.
        tracking: where metrics go.

    Raises:
        ValueError: an objective prefers no answer to another.
    """
    for at, name in enumerate(arm.objectives):
        if not any(preferred(group.rewards[None, :, at, None]).any() for group in groups):
            raise ValueError(f"objective {name!r} prefers no answer to another: nothing to learn.")
    loader: DataLoader[Any] = DataLoader(
        cast(Any, list(groups)),
        batch_size=batch,
        shuffle=True,
        generator=torch.Generator().manual_seed(seed),
        collate_fn=side_by_side,
    )
    place = arm.model.device
    with _quiet():
        trainer = Trainer(
            accelerator="gpu" if place.type == "cuda" else place.type,
            devices=[place.index or 0] if place.type == "cuda" else 1,
            max_epochs=epochs,
            gradient_clip_val=1.0,
            log_every_n_steps=10,
            logger=tracking or False,
            callbacks=[Bar()],
            enable_checkpointing=False,  # it takes minutes; what takes long is kept by `collect`
            enable_model_summary=False,
            enable_progress_bar=False,
        )
        trainer.fit(ArmModule(arm, beta_r, lr, seed), loader)
    for _, parameter in adapters(arm.model):
        parameter.requires_grad_(False)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Lightning from talking over our own lines."""
    loggers = [logging.getLogger(f"lightning.{part}") for part in ("pytorch", "fabric")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*LeafSpec.*is deprecated")  # against torch 2.13
        warnings.filterwarnings("ignore", ".*does not have many workers")  # made in memory
        warnings.filterwarnings("ignore", ".*smaller than the logging interval")
        warnings.filterwarnings("ignore", ".*in eval mode at the start")  # no dropout, on purpose
        for logger in loggers:
            logger.setLevel(logging.WARNING)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
