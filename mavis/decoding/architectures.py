"""Which models can be decoded row by row: read from their configs, and tried once they are loaded.

A row must not change with the rows beside it, nor with how many tokens are read at once.
"""

from collections.abc import Iterator, Mapping
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    DynamicCache,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from mavis.decoding.kv_cache import CachedRows
from mavis.decoding.windows import narrowed, windows_of

_ROUNDING = 1e-3  # of a model's largest number: far above rounding, far below a wrong mask

# What no setting of a config shows, by model type.
_UNFIT = {
    "their state is recurrent": {
        *("rwkv", "mamba", "mamba2", "falcon_mamba", "xlstm", "recurrent_gemma"),
    },
    "ALiBi ignores position ids": {"bloom", "mpt"},
    "they number positions in their own way": {
        *("roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod"),
        *("camembert", "data2vec-text"),
    },
    "their local attention counts from the end of the longest row": {"gpt_neo"},
    "their attention takes no mask but its own": {
        *("gptj", "codegen", "openai-gpt", "xglm", "gpt_neox_japanese", "xlnet"),
    },
}


def check_architecture(config: PreTrainedConfig) -> None:
    """Refuse what the rows cache cannot hold exactly.

    Raises:
        ValueError: the model keeps a recurrent state, attends in chunks, scales its
            positions by the longest row, is no causal LM, or takes other positions or masks than
            those it is given.
    """
    kind = config.model_type
    reasons = [reason for reason, kinds in _UNFIT.items() if kind in kinds]
    if config.is_encoder_decoder:
        reasons.append("they are encoder-decoders")
    if getattr(config, "alibi", False):
        reasons.append("ALiBi ignores position ids")
    # As `transformers` tells them, when it works out its frequencies anew in each forward.
    growing = [rope for rope in _ropes(config.to_dict()) if "dynamic" in rope or rope == "longrope"]
    if growing:
        reasons.append(
            f"positions of rope_type {growing[0]!r} are scaled by the longest row of a batch"
        )
    if not reasons and type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        reasons.append("they are no causal language models")
    if getattr(config, "attn_temperature_tuning", False):  # worked out from the cache's length
        reasons.append("attention is scaled by the longest row of a batch")
    reasons = reasons or _layers(config)
    if reasons:
        raise ValueError(f"{kind} models cannot be guided: {reasons[0]}.")


def _layers(config: PreTrainedConfig) -> list[str]:
    """What the layers keep that a rows cache does not."""
    try:
        cache = DynamicCache(config=config)
    except (AttributeError, LookupError):
        return ["some layers keep what no plain cache holds"]
    reasons = []
    if any(cache.is_linear):
        reasons.append("some layers keep a recurrent state")
    if any(type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer) for layer in cache.layers):
        reasons.append("some layers keep more than keys and values")
    if not reasons:
        try:
            windows_of(config)
        except ValueError as error:
            reasons.append(str(error))
    return reasons


def _ropes(settings: Mapping[str, Any]) -> Iterator[str]:
    """Every rope type in a config: of the model, of its parts, of single layers."""
    kinds = [settings[name] for name in ("rope_type", "type") if name in settings]
    yield from (kind for kind in kinds if isinstance(kind, str))
    for part in settings.values():
        if isinstance(part, Mapping):
            yield from _ropes(part)


def try_rows(model: PreTrainedModel, name: str) -> None:
    """Read two rows side by side, and compare one with what the model gives for it alone.

    That finds what no config tells: a cache, a mask or positions that are not those it is given.
    Only in float32 on a CPU, where the two are equal but for rounding.

    Raises:
        ValueError: they differ, or the model cannot be called in this way.
    """
    if model.dtype != torch.float32 or model.device.type != "cpu":
        return
    size = len(cast(Any, model.get_input_embeddings()).weight)
    row, beside = ([token % size for token in ids] for ids in ([3, 2, 3, 2], [2, 3, 3] * 4))
    why = f"{name} cannot be guided ({model.config.model_type}): "
    try:
        # A window that is shorter than the rows: one of thousands of tokens would not be seen.
        with torch.inference_mode(), narrowed(model.config, 3):
            alone = _last(model(input_ids=torch.tensor([row]), use_cache=False))
            rows = CachedRows(model, 2)
            rows.extend(np.arange(2), [row[:3], beside[:2]])
            reading = rows.extend(np.arange(2), [row[3:], beside[2:]])
    except (ValueError, TypeError, LookupError, RuntimeError, AttributeError) as error:
        first, *_ = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(f"{why}it takes no rows of unlike length side by side: {first}") from error
    together = reading.hidden if reading.logits is None else reading.logits
    assert together is not None
    known = alone.isfinite() & together[0].isfinite()  # the decoder reports what is not
    gap = (alone - together[0])[known].abs()
    if len(gap) and float(gap.max()) > _ROUNDING * max(1.0, float(alone[known].abs().max())):
        raise ValueError(f"{why}a row changes with the rows beside it (by {float(gap.max()):.2g}).")


def check_reach(model: PreTrainedModel, what: str, context: int, reference: str) -> None:
    """See that a model which reads along with a reference policy has every position it may reach.

    Only on a CPU, where a learned position that is missing is an error that can be caught.
    `context` is the reference's, in tokens.

    Raises:
        ValueError: its positions are learned, and there are fewer of them.
    """
    if model.device.type != "cpu":
        return
    last = torch.tensor([[context - 1]])
    try:
        with torch.inference_mode():
            model(input_ids=torch.zeros_like(last), position_ids=last, use_cache=False)
    except IndexError as error:
        known = getattr(model.config.get_text_config(), "max_position_embeddings", "fewer")
        raise ValueError(
            f"{what} has learned positions for {known} tokens, and the reference {reference} reads "
            f"up to {context}: give a model that reads as many."
        ) from error


def _last(output: Any) -> Tensor:
    """Logits [V], or else hidden states [H], after the last token of one row."""
    states: Tensor = output.logits if "logits" in output else output.last_hidden_state
    return states[0, -1].float()


def check_task(config: PreTrainedConfig, name: str) -> None:
    """Refuse weights of another task: as a causal LM they would have a random head."""
    listed = config.architectures or []
    heads = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
    if listed and not any(architecture.endswith(heads) for architecture in listed):
        raise ValueError(f"{name} is a {listed[0]}, not a causal language model.")
