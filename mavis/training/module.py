"""`ValueModule`: the LightningModule that learns a value model from packed rollout trees."""

from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torchmetrics.functional import r2_score
from transformers import PreTrainedModel

from mavis.decoding.model_card import ModelCard, Source
from mavis.decoding.reference import ReferencePolicy
from mavis.decoding.value_model import ValueModel, build_network
from mavis.decoding.windows import tree_masks
from mavis.evaluation.metrics import sibling_rank_correlation
from mavis.reward import identity
from mavis.training.data import RolloutDataModule
from mavis.training.packing import Batch

Scores = npt.NDArray[np.float64]


class ValueModule(LightningModule):
    """Regression of a value network on soft targets, at every sampled token.

    Args:
        source: what values are read from, `action`, `state` or `shared`: a model of their own that
            reads the text once, or with each candidate, or the reference model's own states.
        trunk: number of the reference's first layers that the value model starts from, or another
            causal LM with the same tokenizer (None: half of the layers, at least two).
        lora: arguments of `peft.LoraConfig`, such as `{r: 8, lora_alpha: 16}`, to train adapters
            in place of all weights.
        lr: learning rate in the first round.
        later_lr: learning rate in later rounds, as a fraction of the first round's.
        warmup: optimizer steps in which the learning rate rises; after these it falls to 0.
        weight_decay: weight decay of the AdamW optimizer.
    """

    network: ValueModel

    def __init__(
        self,
        source: Source = "action",
        trunk: int | str | None = None,
        lora: dict[str, Any] | None = None,
        lr: float = 1e-3,
        later_lr: float = 0.7,
        warmup: int = 20,
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__()
        for name, value in {"lr": lr, "later_lr": later_lr}.items():
            if not value > 0:
                raise ValueError(f"{name} must be above 0, got {value}.")
        self.source, self.trunk, self.lora = source, trunk, lora
        self.lr, self.later_lr = lr, later_lr
        self.warmup, self.weight_decay = warmup, weight_decay
        self._seen: list[tuple[Scores, Scores, Scores, Scores]] = []
        # Depth, predicted value and target of the held-out tokens [P], for each objective.
        self.calibration: list[tuple[Scores, Scores, Scores]] = []

    @property
    def data(self) -> RolloutDataModule:
        """The data module of the trainer."""
        data: RolloutDataModule = self.trainer.datamodule  # type: ignore[attr-defined]
        return data

    def configure_model(self) -> None:
        """Build the network when the reference policy is known."""
        if hasattr(self, "network"):
            return
        reference: ReferencePolicy = self.data.reference
        card = ModelCard(
            source=self.source,
            objectives=tuple(one.name for one in self.data.objectives),
            units=self.data.units,
            reference=reference.name,
            fingerprint=reference.fingerprint,
            template=reference.template,
            template_args=dict(reference.template_args or {}) or None,
            reference_weights=reference.weights_digest,
            eta=self.data.eta,
            rewards=tuple(identity(one) for one in self.data.objectives),
        )
        self.network = build_network(card, reference, self.trunk, self.lora)

    def forward(self, batch: Batch) -> Tensor:
        """Predicted values [B, T, M] of the state after each token, in standard units, float32."""
        trunk, exact = self.network.trunk, torch.autocast(batch.tokens.device.type, enabled=False)
        if trunk is None:
            with torch.no_grad(), exact:  # in the precision of decoding
                hidden = _states(cast(Any, self.data.reference.model).base_model, batch)
        else:
            hidden = _states(trunk, batch)  # under mixed precision, this part is autocast
        with exact:
            if self.source == "state":
                return self.network.state_values(hidden)
            # Q(s, a): the state is read at the token before, the action is the token itself.
            width = hidden.shape[-1]
            before = hidden.gather(1, batch.previous[..., None].expand(-1, -1, width))
            return self.network.action_values(before, batch.tokens[..., None])[..., 0, :]

    def training_step(self, batch: Batch, _: int) -> Tensor:
        """Mean over the objectives of the squared error on tokens that have a target."""
        loss = value_losses(self(batch), batch.targets).mean()
        self.log("train_loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: Batch, _: int) -> None:
        """Collect predictions and targets of held-out trees."""
        known = batch.targets.isfinite().any(-1)
        columns = (batch.depth, self(batch), batch.targets, batch.siblings)
        depth, predicted, target, siblings = (c[known].double().cpu().numpy() for c in columns)
        self._seen.append((depth, predicted, target, siblings))

    def on_validation_epoch_end(self) -> None:
        """Log loss, R² and rank correlation among siblings on held-out trees.

        Each is the mean over the objectives of what it is on the tokens that have a target.
        """
        columns = zip(*self._seen, strict=True)
        depth, predicted, target, siblings = (np.concatenate(column) for column in columns)
        self._seen.clear()
        self.calibration = []
        metrics: list[dict[str, float]] = []  # of each objective
        for values, aims in zip(predicted.T, target.T, strict=True):
            known = np.isfinite(aims)
            self.calibration.append((depth[known], values[known], aims[known]))
            metrics.append(_metrics(values[known], aims[known], siblings[known]))
        means = {name: float(np.mean([each[name] for each in metrics])) for name in metrics[0]}
        self.log_dict(means, rank_zero_only=True)

    test_step = validation_step
    on_test_epoch_end = on_validation_epoch_end

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW; within a round the rate rises for `warmup` steps, then falls to 0."""
        rate = self.lr * (self.later_lr if self.data.round else 1.0)
        trained = [p for p in self.network.parameters() if p.requires_grad]
        # Lightning clips no gradients for a fused optimizer under mixed precision.
        fused = not isinstance(self.trainer.precision_plugin, MixedPrecision)
        optimizer = torch.optim.AdamW(trained, rate, weight_decay=self.weight_decay, fused=fused)
        batches = len(self.data.train_dataloader())
        steps = -(-batches // self.trainer.accumulate_grad_batches) * self.data.epochs
        warmup = min(self.warmup, max(1, steps // 2))

        def share(step: int) -> float:
            rising = (step + 1) / warmup
            falling = (steps - step) / max(1, steps - warmup)
            return max(0.0, min(1.0, rising, falling))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, share)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def value_losses(predicted: Tensor, targets: Tensor) -> Tensor:
    """Mean squared error [M] of predictions [B, T, M] where targets [B, T, M] are not NaN.

    The training loss is the mean of these: an objective that abstains often counts as much as
    another, and the gradient of the shared layers does not grow with the number of objectives.
    """
    known = targets.isfinite()
    squares = torch.where(known, predicted - targets.nan_to_num(), 0.0).square()
    # Each objective is summed in the same order as if it were the only one.
    sums = torch.stack([one.sum() for one in squares.movedim(-1, 0).contiguous()])
    return sums / known.sum((0, 1)).clamp(min=1)


def _metrics(predicted: Scores, target: Scores, siblings: Scores) -> dict[str, float]:
    """How well the values [P] of one objective predict their targets [P], by name."""
    node = siblings >= 0
    family = siblings[node].astype(np.int64)
    return {
        "val_loss": float(np.square(predicted - target).mean()),
        "r2": float(r2_score(torch.from_numpy(predicted), torch.from_numpy(target))),
        "sibling_rank_correlation": sibling_rank_correlation(predicted[node], target[node], family),
    }


def _states(model: PreTrainedModel, batch: Batch) -> Tensor:
    """Hidden states [B, T, H] under the tree mask."""
    output = model(
        input_ids=batch.tokens,
        attention_mask=tree_masks(model, batch.mask, batch.position),
        position_ids=batch.position,
        use_cache=False,
    )
    hidden: Tensor = output.last_hidden_state
    return hidden
