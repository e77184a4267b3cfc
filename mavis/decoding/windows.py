"""Sliding windows: layers in which a token sees those alone that are less than W positions before.

A model may have layers of both kinds, and then takes a mask for each, by the name of the kind. The
window is one of positions, not of places: tokens side by side in a tree may share a position.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedConfig, PreTrainedModel
from transformers.cache_utils import DynamicSlidingWindowLayer

from mavis.decoding.attention import PLAIN, implementation

Windows = Mapping[str, int | None]  # by kind of layer: W, or None where all is seen
_SLIDING = "sliding_attention"


def windows_of(config: PreTrainedConfig) -> Windows:
    """The windows of the kinds of layers that a model has.

    Raises:
        ValueError: they are of several sizes, or layers differ that the config does not tell apart.
    """
    text = config.get_text_config(decoder=True)
    layers = DynamicCache(config=config).layers
    kinds = getattr(text, "layer_types", None)
    if not any(isinstance(layer, DynamicSlidingWindowLayer) for layer in layers):
        return {"": None}
    windows: dict[str, int | None] = {}
    for at, layer in enumerate(layers):
        window = layer.sliding_window if isinstance(layer, DynamicSlidingWindowLayer) else None
        kind = kinds[at] if kinds else _SLIDING
        if window is not None and kind != _SLIDING:
            raise ValueError(f"some layers use {kind.replace('_', ' ')}")
        if windows.setdefault(kind, window) != window:
            raise ValueError("their sliding windows are of several sizes")
    return windows


def masks_by_kind(mask: Tensor, distance: Tensor, windows: Windows) -> Tensor | dict[str, Tensor]:
    """What a model with such windows takes as its mask.

    Args:
        mask: which token may see which [..., q, span], bool.
        distance: how many positions the one is after the other, of a shape that broadcasts to it.
        windows: of the model's kinds of layers.

    Returns:
        one mask for all layers, where they are of one kind, or one for each kind.

    >>> import torch
    >>> at = torch.arange(3)
    >>> masks_by_kind(torch.ones(3, 3).tril().bool(), at[:, None] - at, {"": 2}).int()
    tensor([[1, 0, 0],
            [1, 1, 0],
            [0, 1, 1]], dtype=torch.int32)
    """
    masks = {
        kind: mask if window is None else mask & (distance < window)
        for kind, window in windows.items()
    }
    return masks if len(masks) > 1 else masks.popitem()[1]


def tree_masks(
    model: PreTrainedModel, mask: Tensor, positions: Tensor, added: bool = False
) -> Tensor | dict[str, Tensor]:
    """What a model takes as its mask for tokens at some positions, side by side in trees.

    Args:
        model: which reads them, without a cache.
        mask: which token may see which [B, 1, T, T], bool.
        positions: [B, T].
        added: whether it must be numbers that are added to the scores, in the model's type.

    Returns:
        bool, unless numbers are asked for, or all that the model's attention understands.
    """
    positions = positions.int()
    distance = (positions[:, :, None] - positions[:, None])[:, None]
    masks = masks_by_kind(mask, distance, windows_of(model.config))
    if not added and implementation(model) == PLAIN:
        return masks
    if isinstance(masks, dict):
        return {kind: _added(one, model.dtype) for kind, one in masks.items()}
    return _added(masks, model.dtype)


def _added(mask: Tensor, dtype: torch.dtype) -> Tensor:
    # Not -inf, which has no gradient in some kernels.
    return torch.zeros_like(mask, dtype=dtype).masked_fill(~mask, torch.finfo(dtype).min)


@contextmanager
def narrowed(config: PreTrainedConfig, window: int) -> Iterator[None]:
    """Let a model's sliding windows be short for a while, so that few tokens show what they do."""
    text = config.get_text_config(decoder=True)
    wide = getattr(text, "sliding_window", None)
    if wide is None:
        yield
        return
    text.sliding_window = window
    try:
        yield
    finally:
        text.sliding_window = wide
