"""Which models can be decoded row by row: told from their configs, before weights are read."""

from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, DynamicCache, PreTrainedConfig
from transformers.cache_utils import DynamicLayer

# What cannot be told from a config, by model type.
_UNFIT = {
    "their state is recurrent": {
        *("rwkv", "mamba", "mamba2", "falcon_mamba", "xlstm", "recurrent_gemma"),
    },
    "ALiBi ignores position ids": {"bloom", "mpt"},
    "they number positions in their own way": {
        *("roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod"),
        *("camembert", "data2vec-text"),
    },
    "their attention takes no mask but its own": {
        *("gptj", "gpt_neo", "codegen", "openai-gpt", "xglm", "gpt_neox_japanese", "xlnet"),
    },
}


def check_architecture(config: PreTrainedConfig) -> None:
    """Refuse what the rows cache cannot hold exactly.

    Raises:
        ValueError: the model keeps a recurrent state, attends through a sliding window, is no
            causal LM, or takes other positions or masks than those it is given.
    """
    kind = config.model_type
    reasons = [reason for reason, kinds in _UNFIT.items() if kind in kinds]
    if config.is_encoder_decoder:
        reasons.append("they are encoder-decoders")
    if getattr(config, "alibi", False):
        reasons.append("ALiBi ignores position ids")
    if not reasons and type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        reasons.append("they are no causal language models")
    if not reasons:
        cache = DynamicCache(config=config)
        if any(cache.is_linear):
            reasons.append("some layers keep a recurrent state")
        if any(cache.is_sliding):
            reasons.append("some layers use a sliding window")
        if any(type(layer) is not DynamicLayer for layer in cache.layers):
            reasons.append("some layers keep more than keys and values")
    if reasons:
        raise ValueError(f"{kind} models cannot be guided: {reasons[0]}.")


def check_task(config: PreTrainedConfig, name: str) -> None:
    """Refuse weights of another task: as a causal LM they would speak through a random head."""
    listed = config.architectures or []
    heads = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
    if listed and not any(architecture.endswith(heads) for architecture in listed):
        raise ValueError(f"{name} is a {listed[0]}, not a causal language model.")
