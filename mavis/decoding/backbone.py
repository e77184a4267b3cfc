"""The trunk of a value network: layers of the reference policy, or another model, with adapters."""

import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel

from mavis.decoding.architectures import check_reach, try_rows
from mavis.decoding.attention import implementation
from mavis.decoding.model_folders import (
    check_model_folder,
    load_config,
    load_model,
    load_tokenizer,
)
from mavis.decoding.reference import ReferencePolicy
from mavis.decoding.tokenizers import names_alike
from mavis.hub import reachable


def first_layers(model: PreTrainedModel, layers: int | None) -> PreTrainedModel:
    """Copy the first layers of a causal LM, its embeddings and its final norm, in float32."""
    depth = int(model.config.num_hidden_layers)
    count = max(2, depth // 2) if layers is None else layers
    count = min(count, depth) if layers is None else count
    if not 1 <= count <= depth:
        raise ValueError(f"trunk must be 1 to {depth} layers of the reference, got {count}.")
    config = _shortened(model.config, count)
    trunk: PreTrainedModel = AutoModel.from_config(
        config, attn_implementation=implementation(model)
    )
    # Layers beyond the copy's have no place in it; everything else must find one.
    missing = trunk.load_state_dict(model.base_model.state_dict(), strict=False).missing_keys
    if missing:
        raise ValueError(
            f"{config.model_type} cannot be copied by layers: {missing[0]} is missing."
        )
    return cast(PreTrainedModel, trunk.float())


def shared_layers(model: PreTrainedModel, layers: Sequence[int]) -> PreTrainedModel:
    """A causal LM without its head, as far as its states after some layers ask for.

    It shares the model's weights. No layers are its last state; where a model cannot be read in
    part, the whole is given.
    """
    base = cast(PreTrainedModel, model.base_model)
    # One more: the state after a model's last layer is given after its final norm.
    count = max(layers) + 1 if layers else sys.maxsize
    if count >= int(model.config.get_text_config().num_hidden_layers):
        return base
    with torch.device("meta"):  # no memory for weights that are not its own
        trunk: PreTrainedModel = AutoModel.from_config(
            _shortened(model.config, count), attn_implementation=implementation(model)
        )
    trunk.load_state_dict(base.state_dict(), strict=False, assign=True)
    known = dict(base.named_buffers())
    for name, _ in list(trunk.named_buffers()):
        owner, _, leaf = name.rpartition(".")
        if name in known:
            trunk.get_submodule(owner).register_buffer(leaf, known[name], persistent=False)
    tensors = (*trunk.parameters(), *trunk.buffers())
    return base if any(one.is_meta for one in tensors) else trunk.eval().requires_grad_(False)


def _shortened(whole: PreTrainedConfig, count: int) -> PreTrainedConfig:
    """The configuration of a model's first layers."""
    config = deepcopy(whole)
    config.num_hidden_layers = count
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:count]
    _without_dropout(config)
    return config


def load_trunk(name: str) -> PreTrainedModel:
    """Load a folder or hub name as a trunk, in float32."""
    path, what = reachable(name, "trunk"), f"trunk {name}"
    config = load_config(what, path)
    _without_dropout(config)
    model = load_model(AutoModel, what, path, config=config, dtype=torch.float32)
    try_rows(model, what)
    return model


def _without_dropout(config: PreTrainedConfig) -> None:
    """Switch dropout off: noise in a regression, and packed tokens would share their masks."""
    for name, value in config.to_dict().items():
        if isinstance(value, float) and ("dropout" in name or name.endswith("pdrop")):
            setattr(config, name, 0.0)


def sibling(name: str, reference: ReferencePolicy) -> PreTrainedModel:
    """Load another model as the trunk.

    Raises:
        ValueError: its tokenizer is not the reference policy's, or it knows fewer tokens or
            positions.
    """
    path = reachable(name, "trunk")
    check_model_folder(path)
    if not names_alike(load_tokenizer(f"trunk {name}", path), reference.tokenizer):
        raise ValueError(f"trunk {name} and reference {reference.name} have different tokenizers.")
    model = load_trunk(name)
    size = len(embeddings(model))
    if size < reference.vocabulary:
        raise ValueError(
            f"trunk {name} knows {size} tokens, the reference {reference.name} "
            f"{reference.vocabulary}."
        )
    check_reach(model, f"trunk {name}", reference.context, reference.name)
    return model


def with_lora(model: PreTrainedModel, options: dict[str, Any]) -> PreTrainedModel:
    """Add trainable adapters to a trunk (`options`: of `peft.LoraConfig`), and freeze the rest."""
    from peft import LoraConfig, get_peft_model

    with adapting():
        return cast(PreTrainedModel, get_peft_model(model, LoraConfig(**options)))


@contextmanager
def adapting() -> Iterator[None]:
    """Put adapters on a model without peft's warnings about `transformers`."""
    with warnings.catch_warnings():
        # peft reads an attribute that newer transformers have under another name.
        warnings.filterwarnings("ignore", ".is_gradient_checkpointing", FutureWarning)
        yield


def merged(trunk: PreTrainedModel) -> PreTrainedModel:
    """The trunk with its adapters folded in, as a plain model; the trunk itself stays as it is."""
    if not hasattr(trunk, "merge_and_unload"):
        return trunk
    return cast(PreTrainedModel, cast(Any, deepcopy(trunk)).merge_and_unload())


def embeddings(model: PreTrainedModel) -> Tensor:
    """A model's table of token embeddings [V, E]."""
    layer = model.get_input_embeddings()
    assert isinstance(layer, nn.Embedding)
    return layer.weight
