"""Sliding windows: which layers have them, and what they let a token see."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import AutoConfig, PreTrainedModel

from mavis.decoding.attention import let_attend_by_length
from mavis.decoding.backbone import first_layers
from mavis.decoding.windows import masks_by_kind, narrowed, tree_masks, windows_of

KINDS = ["sliding_attention", "full_attention"]


@pytest.mark.parametrize(
    ("kind", "settings", "windows"),
    [
        ("llama", {}, {"": None}),
        ("mistral", {"sliding_window": None}, {"": None}),
        ("mistral", {"sliding_window": 7}, {"sliding_attention": 7}),
        ("qwen2", {"sliding_window": 7}, {"": None}),  # which it does not use
        (
            "gemma3_text",
            {"sliding_window": 7, "num_hidden_layers": 2, "layer_types": KINDS},
            {"sliding_attention": 7, "full_attention": None},
        ),
    ],
)
def test_windows_by_kind(kind: str, settings: dict[str, Any], windows: dict[str, Any]) -> None:
    assert windows_of(AutoConfig.for_model(kind, **settings)) == windows


def test_what_is_no_window() -> None:
    with pytest.raises(ValueError, match="some layers use chunked attention"):
        windows_of(AutoConfig.for_model("llama4_text"))


def test_copies_of_the_first_layers_have_their_windows(
    tiny_lm: Callable[..., PreTrainedModel],
) -> None:
    model = tiny_lm("gemma3_text", layers=4)
    assert set(windows_of(first_layers(model, 2).config)) == set(KINDS)
    assert set(windows_of(first_layers(model, 1).config)) == {"sliding_attention"}


def test_a_window_is_one_of_positions_not_of_places() -> None:
    """A tree: after two shared tokens, two branches of three; packed in one row of eight."""
    positions = torch.tensor([[0, 1, 2, 3, 4, 2, 3, 4]])
    parents = [-1, 0, 1, 2, 3, 1, 5, 6]
    seen = torch.eye(8, dtype=torch.bool)
    for token, parent in enumerate(parents):
        if parent >= 0:
            seen[token] |= seen[parent]
    distance = positions[:, :, None] - positions[:, None]
    mask = masks_by_kind(seen, distance, {"sliding_attention": 4})
    assert isinstance(mask, torch.Tensor)
    assert mask[0, 4].nonzero().flatten().tolist() == [1, 2, 3, 4]
    assert mask[0, 7].nonzero().flatten().tolist() == [1, 5, 6, 7]  # the same of the other branch


@pytest.mark.parametrize("family", ["gemma3_text", "gemma2"], indirect=True)
def test_a_mask_for_each_kind_in_numbers_where_attention_needs_them(
    tiny_lm: Callable[..., PreTrainedModel], family: str
) -> None:
    model = tiny_lm(family)
    let_attend_by_length(model)  # as a model that has been decoded with
    seen = torch.ones(9, 9).tril().bool()[None, None]
    at = torch.arange(9)[None]
    eager = model.config._attn_implementation == "eager"
    masks = tree_masks(model, seen, at)
    assert isinstance(masks, dict)
    assert {kind: one.is_floating_point() for kind, one in masks.items()} == dict.fromkeys(
        KINDS, eager
    )
    ids = torch.randint(0, 20, (1, 9))
    with torch.inference_mode():
        want = model(ids, use_cache=False).logits
        for added in (False, True):
            mask = tree_masks(model, seen, at, added)
            found = model(ids, attention_mask=mask, position_ids=at, use_cache=False).logits
            torch.testing.assert_close(found, want, atol=2e-5, rtol=2e-5)


def test_windows_are_narrowed_for_a_while() -> None:
    config = AutoConfig.for_model("mistral", sliding_window=100)
    with narrowed(config, 3):
        assert windows_of(config) == {"sliding_attention": 3}
    assert windows_of(config) == {"sliding_attention": 100}
    plain = AutoConfig.for_model("mistral", sliding_window=None)
    with narrowed(plain, 3):
        assert windows_of(plain) == {"": None}
