"""`ValueModule`: the LightningModule that learns a value model from packed rollout trees."""

from functools import cached_property
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from transformers import PreTrainedModel

from mavis.decoding.backbone import shared_layers
from mavis.decoding.model_card import ModelCard, Source
from mavis.decoding.request import stream
from mavis.decoding.value_heads import ActionHead
from mavis.decoding.value_model import ValueModel, build_network
from mavis.options import positive
from mavis.reward import identity
from mavis.training.batching import Batch, inputs
from mavis.training.data import RolloutDataModule
from mavis.training.distil import Teachers, check_teachers
from mavis.training.growing import second_pass
from mavis.training.joint_head import JointHead
from mavis.training.losses import MixedLoss, Scores, by_objective
from mavis.training.path_consistency import MEAN_PASSES, PathLoss
from mavis.training.rates import parameter_groups, rise_and_fall
from mavis.training.ridge import PER_DOUBLING
from mavis.training.value_design import LAYERS, Credit, Design, begun, check, choose, differing
from mavis.training.weightings import guiding


class ValueModule(LightningModule):
    """Learns a value network: by gradient steps on every token's target, or by joint credit.

    Args:
        source: what values are read from: `action`, a model of their own; `state`, one that reads
            each candidate; `shared`, the reference (None: `state`; below 20 million parameters
            `action`).
        credit: learn from each token (`token`) or whole replies (`joint`; None: `joint` for a large
            reference, but not for `action` or lora).
        trunk: first layers of the reference, or another causal LM (None: half; two if `joint`).
        lora: arguments of `peft.LoraConfig`, such as `{r: 8}`, to train adapters alone.
        lr: standard units that the head's first step moves a value by.
        trunk_lr: learning rate of the trunk (None: 1e-3 below 20 million parameters, else 1e-4).
        later_lr: rates in later rounds, as a share of the first.
        warmup: steps in which the rates rise.
        weight_decay: weight decay of the trunk, or of the hidden layer of `shared` values.
        layers: layers that values read, 0: embeddings (None: the last; with `joint` others).
        teacher: folders of `action` values that `shared` ones are learned from.
    """

    network: ValueModel

    def __init__(
        self,
        source: Source | None = None,
        credit: Credit | None = None,
        trunk: int | str | None = None,
        lora: dict[str, Any] | None = None,
        lr: float = 2.0,
        trunk_lr: float | None = None,
        later_lr: float = 0.7,
        warmup: int = 20,
        weight_decay: float = 0.01,
        layers: tuple[int, ...] | None = None,
        teacher: str | list[str] | None = None,
    ) -> None:
        super().__init__()
        positive(lr=lr, later_lr=later_lr)
        if trunk_lr is not None:
            positive(trunk_lr=trunk_lr)
        check(source, credit, layers, lora, taught=bool(teacher))
        self.teacher = [teacher] if isinstance(teacher, str) else teacher or []
        self.source, self.layers, self.credit = source, layers, credit
        self.trunk, self.lora, self.weight_decay, self.warmup = trunk, lora, weight_decay, warmup
        self.lr, self.later_lr, self.trunk_lr = lr, later_lr, trunk_lr
        self.joint_head: JointHead | None = None
        self._seen: list[tuple[Scores, Scores, Scores, Scores]] = []
        self.calibration: list[tuple[Scores, Scores, Scores]] = []  # see `losses.by_objective`

    @property
    def joint(self) -> bool:
        """Whether values are learned by joint credit."""
        return self.design.credit == "joint"

    @property
    def consistent(self) -> bool:
        """Whether values are learned by path consistency, for all weights at once.

        Their source must know all candidates of a state, and the targets be those of whole replies.
        """
        known = self.design.source != "state" and self.data.prefix_discount == 1
        several = len(self.data.objectives) > 1 and self.data.strength.beta != 0
        return several and known and not self.joint and not self.teacher

    @property
    def reads_candidates(self) -> bool:
        """Whether the loss asks for the values of candidates."""
        return self.consistent or bool(self.teacher)

    @cached_property
    def design(self) -> Design:
        """How the values are built and learned, for this reference."""
        given = (self.source, self.credit, self.layers, self.trunk, self.lora)
        return choose(self.data.reference.model, *given, taught=bool(self.teacher))

    @property
    def data(self) -> RolloutDataModule:
        """The data module of the trainer."""
        data: RolloutDataModule = self.trainer.datamodule  # type: ignore[attr-defined]
        return data

    def prepare_data(self) -> None:
        """Load the teachers: what is wrong with them is said before anything is sampled."""
        if self.teacher:
            _ = self._teachers

    @cached_property
    def _teachers(self) -> Teachers:
        names = [one.name for one in self.data.objectives]
        check_teachers(self.teacher, names)  # before a model is loaded
        return Teachers(self.teacher, names, self.data.reference)

    def configure_model(self) -> None:
        """Build the network when the reference policy is known."""
        if hasattr(self, "network"):
            return
        data, reference = self.data, self.data.reference
        card = ModelCard(
            source=self.design.source,
            layers=self.design.layers,
            head_width=self.design.head_width,
            objectives=tuple(one.name for one in self.data.objectives),
            units=data.units,
            reference=reference.name,
            fingerprint=reference.fingerprint,
            template=reference.template,
            template_args=dict(reference.template_args or {}) or None,
            reference_weights=reference.weights_digest,
            eta=self.data.strength.eta,
            rewards=tuple(identity(one) for one in self.data.objectives),
        )
        with torch.random.fork_rng():  # whatever has been drawn before, here or by a reward
            torch.manual_seed(int(stream((data.seed, "network")).integers(2**62)))
            self.network = build_network(card, reference, self.design.trunk, self.lora)
        head = self.network.head
        if self.joint:
            self.network.requires_grad_(False)
            head.requires_grad_(True)
            joint = JointHead(head, self.network.table, data.prefix_discount, self.design.nonlinear)
            self.joint_head = joint.to(reference.model.device)

    def forward(self, batch: Batch) -> Tensor:
        """Predicted values [B, T, M] of the state after each token, in standard units, float32."""
        hidden = self._hidden(batch)
        before = batch.before(hidden)
        with torch.autocast(batch.tokens.device.type, enabled=False):
            if self.joint_head is not None:
                return torch.as_tensor(self.joint_head(hidden, before, batch))
            if self.network.card.source == "state":
                return self.network.state_values(hidden)
            # Q(s, a): the state is read at the token before, the action is the token itself.
            return self.network.action_values(before, batch.tokens[..., None])[..., 0, :]

    def _hidden(self, batch: Batch) -> Tensor:
        """States after each token [B, T, H], of the trunk or of the reference policy."""
        model = self._shared if self.network.trunk is None else self.network.trunk
        if self.network.trunk is None or self.joint_head:  # frozen: in the precision of decoding
            with torch.no_grad(), torch.autocast(batch.tokens.device.type, enabled=False):
                return self.network.states(model, **inputs(model, batch))
        return self.network.states(model, **inputs(model, batch))  # autocast, if precision is mixed

    @cached_property
    def _shared(self) -> PreTrainedModel:
        """The reference policy as far as its layers are read; its weights are no part of this."""
        return shared_layers(self.data.reference.model, self.network.card.layers)

    def training_step(self, batch: Batch, index: int) -> Tensor:
        """The loss of `losses`, of `path_consistency`, or of `distil` if there is a teacher.

        Joint credit takes no gradient steps: of a round's passes the first one foresees.
        """
        if self.joint_head is not None:
            if self.joint_head.foresight is not None:
                self.joint_head.foresee(*self._read(batch), self._total)
            # Nothing to descend: a zero that depends on the head keeps the trainer's loop as it is.
            return 0.0 * torch.stack([p.sum() for p in self.network.head.parameters()]).sum()
        if self.teacher:
            sampling = [self.data.sampling(row) for row in guiding(batch.weights.tolist())]
            with torch.autocast(batch.tokens.device.type, enabled=False):
                loss = self._teachers.loss(self.network, self._hidden(batch), batch, sampling)
        elif self.consistent and self.current_epoch >= MEAN_PASSES:
            hidden, step = self._hidden(batch), (self.current_epoch, index)
            paths = PathLoss(self.data.covariance, self.data.strength_of, self.data.seed)
            with torch.autocast(batch.tokens.device.type, enabled=False):
                loss = paths(self.network, hidden, batch, step)
        else:
            loss = self.mixed_loss(self(batch), batch.targets, batch.weights)
        self.log("train_loss", loss, prog_bar=True)
        return loss

    @cached_property
    def mixed_loss(self) -> MixedLoss:
        """The loss of values that will be mixed; of one objective it is its mean squared error."""
        return MixedLoss(self.data.covariance)

    def validation_step(self, batch: Batch, _: int) -> None:
        """Collect predictions and targets of held-out trees."""
        known = batch.targets.isfinite().any(-1)
        columns = (batch.depth, self(batch), batch.targets, batch.siblings)
        depth, predicted, target, siblings = (c[known].cpu().double().numpy() for c in columns)
        self._seen.append((depth, predicted, target, siblings))

    def on_validation_epoch_end(self) -> None:
        """Log loss, R² and rank correlation among siblings on held-out trees.

        Each is the mean over the objectives of what it is on the tokens that have a target.
        """
        columns = [np.concatenate(column) for column in zip(*self._seen, strict=True)]
        self._seen.clear()
        self.calibration, means = by_objective(*columns)
        self.log_dict(means, rank_zero_only=True)

    def on_train_epoch_start(self) -> None:
        """Begin to gather what joint credit needs of a round's trees."""
        if self.joint_head is not None and self.current_epoch % self.data.epochs == 0:
            self.joint_head.begin()

    def on_train_batch_end(self, *_: Any) -> None:
        """Read a round's trees once more after the first pass, and solve for the head."""
        joint, data = self.joint_head, self.data
        if joint is None or not self.trainer.is_last_batch or not joint.expect(self._total):
            return
        self.log(PER_DOUBLING, second_pass(joint, data, self._read, self._total))

    def _read(self, batch: Batch) -> tuple[Tensor, Tensor, Batch]:
        """States after and before each token [B, T, H], and their batch, on this device."""
        mine = self.transfer_batch_to_device(batch, self.device, 0)
        hidden = self._hidden(mine)
        return hidden, mine.before(hidden), mine

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Say which layers values read: what is chosen may be another in a later version."""
        checkpoint[LAYERS] = list(self.design.layers)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Read checkpoints of earlier versions, too.

        Raises:
            ValueError: it is of a network that is built otherwise.
        """
        # A round begins with a new optimizer, and a checkpoint is of a round's end.
        checkpoint["optimizer_states"], checkpoint["lr_schedulers"] = [], []
        state, head = checkpoint["state_dict"], self.network.head
        width = head.state.in_features // max(1, len(self.design.layers))
        design = begun(self.design, checkpoint, width, self.layers, self.trunk)
        if design != self.design:
            self.design, self.joint_head = design, None
            del self.network
            self.configure_model()
            head = self.network.head
        if isinstance(head, ActionHead):  # of before heads had a centre
            state.setdefault("network.head.centre", torch.zeros_like(head.centre))
        if name := differing(self.state_dict(), state):
            raise ValueError(
                f"{self.trainer.ckpt_path} is of values that are built otherwise (it differs in "
                f"{name}): go on with the options and the mavis that made it, or give another "
                "--out."
            )

    def learned(self) -> list[Tensor]:
        """What a round changes, apart from the equations of its trees."""
        expected = [] if self.joint_head is None else [self.joint_head.expected]
        return [*(p for p in self.network.parameters() if p.requires_grad), *expected]

    def _total(self, part: Tensor) -> Tensor:
        """The sum of a tensor over all processes."""
        if self.trainer.world_size == 1:  # not every device knows double precision
            return part
        found = self.trainer.strategy.reduce(part.to(self.device), reduce_op="sum")
        return torch.as_tensor(found).to(part.device)

    test_step = validation_step
    on_test_epoch_end = on_validation_epoch_end

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW; within a round the rate rises for `warmup` steps, then falls to 0."""
        batches = len(self.data.train_dataloader())
        steps = -(-batches // self.trainer.accumulate_grad_batches) * self.data.epochs
        # Lightning clips no gradients for a fused optimizer under mixed precision.
        fused = not isinstance(self.trainer.precision_plugin, MixedPrecision)
        later = self.later_lr if self.data.round else 1.0
        rates = (later * self.lr, self.trunk_lr and later * self.trunk_lr, self.weight_decay)
        groups = parameter_groups(self.network, self.data.reference, *rates)
        optimizer = torch.optim.AdamW(groups, weight_decay=0.0, fused=fused)
        schedule = rise_and_fall(optimizer, steps, self.warmup)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
