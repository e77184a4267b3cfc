"""Preference-aware bilinear LoRA: linear layers that read a preference beside their input.

With α the preference of a row, on the simplex of M objectives (PARM, arXiv 2505.06274):

    W(α) = W₀ + s · (B₁ W₁ A₁ + B₂ W₂(α) A₂),     W₂(α) = Σ_m α_m Φ_m

W₀ is frozen; A₁, B₁, W₁ are for all preferences, and the Φ_m steer A₂, B₂. The B begin at zero, so
that an adapted model begins as the model that it adapts.
"""

import math
from collections.abc import Iterator, Mapping
from typing import cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

SCALE = 1.0  # s


class Preference:
    """The preferences of the rows that are read next, which all layers of a model share."""

    def __init__(self) -> None:
        self.rows = torch.empty(0, 0)  # α [R, M], to be set before each forward


class PBLoRA(nn.Module):
    """A linear layer with its bilinear adapter.

    Args:
        base: the frozen layer.
        preference: of the rows that are read.
        objectives: M.
        ranks: r₁ of the shared adapter, r₂ of the preference-conditioned adapter.
        scale: s.
        seed: generator that initialises the factors that do not start at zero.
    """

    def __init__(
        self,
        base: nn.Module,
        preference: Preference,
        objectives: int,
        ranks: tuple[int, int],
        scale: float,
        seed: torch.Generator,
    ) -> None:
        super().__init__()
        self.base, self.scale = base, scale
        self.preference = preference
        weight = cast(Tensor, base.weight)
        outer, inner = weight.shape if isinstance(base, nn.Linear) else weight.T.shape  # Conv1D
        agnostic, aware = ranks
        self.down = nn.Parameter(torch.empty(agnostic + aware, inner))  # A₁ over A₂
        self.up = nn.Parameter(torch.zeros(outer, agnostic + aware))  # B₁ beside B₂
        self.core = nn.Parameter(torch.empty(agnostic, agnostic))  # W₁
        self.mix = nn.Parameter(torch.empty(objectives, aware, aware))  # the Φ_m
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5), generator=seed)  # as LoRA does
        for square in (self.core, self.mix):
            # Keeps the size of what passes through.
            nn.init.normal_(square, std=1 / math.sqrt(square.shape[-1] or 1), generator=seed)

    def middle(self, preferences: Tensor) -> Tensor:
        """W₁ and W₂(α) as blocks of one matrix: α [R, M] -> [R, r₁ + r₂, r₁ + r₂]."""
        agnostic, size = len(self.core), len(self.down)
        blocks = self.core.new_zeros(len(preferences), size, size)
        blocks[:, :agnostic, :agnostic] = self.core
        preferences = preferences.to(self.mix.dtype)
        blocks[:, agnostic:, agnostic:] = torch.tensordot(preferences, self.mix, dims=1)
        return blocks

    def forward(self, states: Tensor) -> Tensor:
        """W(α_r) x for states [R, T, in] -> [R, T, out], each row with its own preference."""
        plain: Tensor = self.base(states)
        low = states.to(self.down.dtype) @ self.down.T  # [R, T, r]
        low = low @ self.middle(self.preference.rows).transpose(1, 2)
        return plain + (self.scale * (low @ self.up.T)).to(plain.dtype)


def adapt(
    model: PreTrainedModel,
    objectives: int,
    ranks: tuple[int, int],
    seed: int = 0,
    scale: float = SCALE,
) -> Preference:
    """Put adapters, in place, on all linear layers of a model but its output layer.

    Returns:
        the preferences that all layers share, to be set before each forward.

    Raises:
        ValueError: the model has no linear layers.
    """
    preference, draws = Preference(), torch.Generator().manual_seed(seed)
    head = model.get_output_embeddings()
    linear = {
        name: layer
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear | Conv1D) and layer is not head
    }
    if not linear:
        raise ValueError(f"{model.config.model_type} models have no linear layers to adapt.")
    for name, layer in linear.items():
        adapted = PBLoRA(layer, preference, objectives, ranks, scale, draws)
        place, _, last = name.rpartition(".")
        setattr(model.get_submodule(place), last, adapted.to(model.device))
    return preference


def adapters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """The adapters' own parameters by name: all that is trained, and all that is saved."""
    for name, layer in model.named_modules():
        if isinstance(layer, PBLoRA):
            for part in ("down", "up", "core", "mix"):
                yield f"{name}.{part}", getattr(layer, part)


@torch.no_grad()
def set_adapters(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Give the adapters of a model their values.

    Raises:
        ValueError: the tensors are of another model, or of other ranks.
    """
    own = dict(adapters(model))
    if own.keys() != tensors.keys():
        other = min(own.keys() ^ tensors.keys())
        raise ValueError(f"the adapters are for another model: {other} is in one only.")
    for name, parameter in own.items():
        if parameter.shape != tensors[name].shape:
            raise ValueError(
                f"the adapters are for another model: {name} must be {list(parameter.shape)}, "
                f"got {list(tensors[name].shape)}."
            )
        parameter.copy_(tensors[name])
