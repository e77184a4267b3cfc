"""Trains an autoregressive reward model on preferences, by Lightning, and measures it."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.utils.data import DataLoader

from mavis.baselines.parm import (
    CARD,
    AutoregressiveRewardModel,
    ParmCard,
    guided_by,
    load_parm,
    new_arm,
    save_parm,
)
from mavis.baselines.pblora import adapters
from mavis.baselines.train.config import ParmConfig
from mavis.baselines.train.preferences import (
    Group,
    Groups,
    answer_log_probs,
    collect,
    dirichlet,
    preference_loss,
    preferred,
    side_by_side,
)
from mavis.baselines.train.setup import TrainingSetup, quiet_libraries
from mavis.decoding.request import SamplingParams
from mavis.evaluation.collect import collected
from mavis.progress import track
from mavis.prompts import digest
from mavis.storage import alone_in, check_same, read_json, write_json
from mavis.tracking.mlflow_logger import Tracking

SETTINGS = "settings.json"  # of an unfinished or a finished run
MEASURED_AT = 0.5  # 1/β_arm
WARMUP = 0.05  # share of the steps in which the rate rises


@dataclass(frozen=True)
class RewardModelTrainer(TrainingSetup):
    """Trains one reward model for any preference among the objectives."""

    config: ParmConfig

    def train(self) -> None:
        """Train and measure the reward model, unless that was done before.

        Raises:
            ValueError: its folder holds a run with other settings.
            RuntimeError: another process is at work in it.
        """
        folder, settings = Path(self.config.folder), self.settings(self.objectives)
        with alone_in(folder):
            if (folder / SETTINGS).is_file():
                before = self.config.renew(read_json(folder / SETTINGS))
                check_same(folder, "run", before, settings)
            if not (folder / CARD).is_file():
                self._train(folder, settings)
            elif ParmCard.read(folder).measured:
                print(f"reward model  {folder} (already trained)")
                return
            arm, card = load_parm(self.reference, folder), ParmCard.read(folder)
            card = replace(card, measured=self._measure(arm, card))
            card.save(folder)
        print("\n".join([*map(_line, card.measured), f"reward model  {folder}"]))

    def _train(self, folder: Path, settings: dict[str, Any]) -> None:
        """Sample and score answers, train the reward model on their preferences, and save it."""
        config, reference = self.config, self.reference
        prompts = self.prompts("train")[: config.num_prompts]
        _ = self.held_out  # prompts that cannot be used are refused before the folder is claimed
        write_json(folder / SETTINGS, settings)
        units = self.reference_answers(len(self.held_out)).units
        tracking = Tracking(str(folder), uri=config.tracking)
        tracking.log_hyperparams(settings)
        wall, answers = time.perf_counter(), folder / "answers"
        groups = collect(reference, self.objectives, prompts, config.answers, config, answers)
        cpu = time.process_time()
        ranks = (config.rank, config.rank)
        arm = new_arm(reference, reference.name, config.names, ranks, seed=config.seed)
        train_arm(arm, groups, config, tracking)
        # Sampling time includes that of earlier, interrupted runs.
        cpu = time.process_time() - cpu + collected(answers)
        wall = time.perf_counter() - wall
        trained = dict(adapters(arm.model))
        card = ParmCard(
            **self.card_entries(settings),
            objectives=arm.objectives,
            units=tuple(units),
            ranks=ranks,
            beta_r=config.beta_r,
            targets=tuple(dict.fromkeys(name.split(".")[-2] for name in trained)),
            parameters=sum(part.numel() for part in trained.values()),
            train_seconds=wall,
            cpu_seconds=cpu,
            prompts=tuple(digest(prompt) for prompt in prompts),
        )
        save_parm(arm, card, folder)

    def _measure(self, arm: AutoregressiveRewardModel, card: ParmCard) -> list[dict[str, Any]]:
        """Reward and KL on the held-out prompts, at the corners and the centre of the simplex."""
        policy, size = guided_by(self.reference, arm), len(self.objectives)
        points = [tuple(float(at == other) for other in range(size)) for at in range(size)]
        points += [(1 / size,) * size] if size > 1 else []
        measured = []
        for point in points:
            samples = self.answers(policy, self.objectives, SamplingParams(point, MEASURED_AT))
            rewards, kl = samples.mean_rewards(card.units), samples.summary["kl"]
            row = {"preference": point, "beta": MEASURED_AT, "reward": rewards, "kl": kl}
            measured.append(row)
        return measured


def _line(row: dict[str, Any]) -> str:
    """Format the measurements of one preference as a line."""
    rewards = {name: round(reward, 2) + 0.0 for name, reward in row["reward"].items()}  # no "-0.00"
    listed = ", ".join(f"{name} {reward:+.2f}" for name, reward in rewards.items())
    shares = ", ".join(f"{share:.2g}" for share in row["preference"])
    return f"preference {shares}: {listed} at KL {row['kl']:.2f} (1/β_arm = {row['beta']:g})"


class ArmModule(LightningModule):
    """Learns the adapters of a reward model; a preference is drawn for every group and epoch."""

    def __init__(self, arm: AutoregressiveRewardModel, config: ParmConfig) -> None:
        super().__init__()
        self.model, self.config = arm.model, config
        self.preference, self.size = arm.preference, len(arm.objectives)
        for _, parameter in adapters(arm.model):
            parameter.requires_grad_(True)

    def on_train_start(self) -> None:
        """Show a bar over the steps of all epochs."""
        total = int(self.trainer.estimated_stepping_batches)
        self._bar = track(range(total), "reward model", "steps", total)
        next(self._bar, None)

    def on_train_batch_end(self, *_: Any, **__: Any) -> None:
        """Move the bar; after the last step it goes away."""
        next(self._bar, None)

    def training_step(self, batch: Groups, _: int) -> Tensor:
        """The loss under one preference per group, and how many pairs are in the right order."""
        alpha = dirichlet(self.size, batch.keys, self.current_epoch, self.config.seed)
        self.preference.rows = alpha = alpha.to(self.device)
        log_probs = answer_log_probs(self.model, batch)
        wins = preferred(batch.rewards)
        loss = preference_loss(log_probs, wins, alpha, self.config.beta_r)
        right = (wins & preferred(log_probs[..., None])).sum((1, 2)) / wins.sum((1, 2)).clamp(min=1)
        self.log_dict({"train_loss": loss, "train_accuracy": (alpha * right).sum(-1).mean()})
        return loss

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW, whose rate rises over `WARMUP` of the steps, then falls to 0."""
        trained = [parameter for _, parameter in adapters(self.model)]
        optimizer = torch.optim.AdamW(trained, lr=self.config.lr, weight_decay=0.0)
        steps = int(self.trainer.estimated_stepping_batches)
        warmup = max(1, round(WARMUP * steps))

        def share(step: int) -> float:
            return min((step + 1) / warmup, (steps - step) / max(1, steps - warmup))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, share)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def train_arm(
    arm: AutoregressiveRewardModel,
    groups: Sequence[Group],
    config: ParmConfig,
    tracking: Tracking | None = None,
) -> None:
    """Train the adapters of a reward model, in place.

    Raises:
        ValueError: an objective prefers no answer to another.
    """
    for at, name in enumerate(arm.objectives):
        if not any(preferred(group.rewards[None, :, at, None]).any() for group in groups):
            raise ValueError(f"objective {name!r} prefers no answer to another: nothing to learn.")
    loader: DataLoader[Any] = DataLoader(
        cast(Any, list(groups)),
        batch_size=config.batch,
        shuffle=True,
        generator=torch.Generator().manual_seed(config.seed),
        collate_fn=side_by_side,
    )
    place = arm.model.device
    with quiet_libraries():
        trainer = Trainer(
            accelerator="gpu" if place.type == "cuda" else place.type,
            devices=[place.index or 0] if place.type == "cuda" else 1,
            max_epochs=config.epochs,
            gradient_clip_val=1.0,
            log_every_n_steps=10,
            logger=tracking or False,
            enable_checkpointing=False,  # it takes minutes; what takes long is kept by `collect`
            enable_model_summary=False,
            enable_progress_bar=False,
        )
        trainer.fit(ArmModule(arm, config), loader)
    for _, parameter in adapters(arm.model):
        parameter.requires_grad_(False)
