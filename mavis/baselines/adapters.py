"""Adapters as policies that are mixed: sums of their factors, and the model that each is put on."""

from collections.abc import Mapping
from typing import Any, cast

from transformers import PreTrainedModel

from mavis.baselines.adapter_bases import base_of, find_base
from mavis.decoding.adapters import (
    PLAIN,
    Adapter,
    kind_of,
    peft_errors,
    put_on,
    unusual_options,
)
from mavis.decoding.reference import ReferencePolicy

# What may differ where factors are summed: PEFT gives the sum the first one's scale and layers.
_FACTORS = PLAIN - {
    *("use_rslora", "rank_pattern", "alpha_pattern", "layers_to_transform", "layers_pattern"),
    "exclude_modules",
}
_SUM = "sum_of_factors"  # the name of an adapter


def multiplied(model: PreTrainedModel, weights: Mapping[str, float], what: str) -> PreTrainedModel:
    """Fold the product of weighted sums of LoRA factors into a model, which is used up.

    Raises:
        ValueError: some of the adapters are not plain LoRA of one rank.
    """
    adapted: Any = model
    for name in weights:
        config = adapted.peft_config[name]
        if kind_of(config) != "LORA" or (more := sorted(set(unusual_options(config)) - _FACTORS)):
            kind = kind_of(config) + (f" with {more[0]}" if kind_of(config) == "LORA" else "")
            raise ValueError(
                f"a soup of factors must be of plain LoRA adapters, but of {what} one is {kind}: "
                "sum products instead."
            )
    with peft_errors(what):
        adapted.add_weighted_adapter(
            list(weights), list(weights.values()), _SUM, combination_type="linear"
        )
        adapted.set_adapter(_SUM)
        return cast(PreTrainedModel, adapted.merge_and_unload())


def base_for(reference: ReferencePolicy, adapter: Adapter, given: str | None) -> str:
    """The name of the model that an adapter is put on; see `adapter_bases.find_base`."""
    return find_base(
        reference,
        adapter.config.base_model_name_or_path or "",
        f"adapter {adapter.folder}",
        given,
        lambda: put_on(base_of(reference, reference.name, copied=not adapter.plain), [adapter]),
    )
