"""Weights that can be summed: of one architecture, with the same options, tied or not.

Models often share one matrix between the embeddings and the head. A policy whose two have come
apart (it was tuned untied, or an adapter changed one of them) can only be summed with others in a
model where they are apart.
"""

from collections import defaultdict
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

# Options of an architecture that change nothing of what a model says: names, training, sizes that
# the weights tell by themselves.
_IDLE = {
    *("architectures", "dtype", "transformers_version", "tie_word_embeddings", "vocab_size"),
    *("bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "cls_token_id"),
    *("use_cache", "return_dict", "output_hidden_states", "output_attentions", "id2label"),
    *("label2id", "problem_type", "pretraining_tp", "router_aux_loss_coef", "output_router_logits"),
}
_IDLE_PARTS = ("dropout", "pdrop", "initializer", "summary_", "_name_or_path")


def untie(model: nn.Module) -> None:
    """Give every module parameters of its own, where several had one in common."""
    known = set()
    for name, parameter in list(model.named_parameters(remove_duplicate=False)):
        if id(parameter) in known:
            place, _, last = name.rpartition(".")
            own = nn.Parameter(parameter.detach().clone(), requires_grad=False)
            setattr(model.get_submodule(place), last, own)
        known.add(id(parameter))


def fill(model: PreTrainedModel, like: PreTrainedModel, weights: Mapping[str, Tensor]) -> None:
    """Put weights into an untied copy of a model, in that one's types, and tied where they can be.

    Raises:
        ValueError: weights differ that the architecture cannot hold apart.
    """
    types = {name: tensor.dtype for name, tensor in like.state_dict().items()}
    model.load_state_dict({n: t.to(types[n]) for n, t in weights.items()}, assign=True)
    model.requires_grad_(False)
    groups = defaultdict(list)
    for name, parameter in like.named_parameters(remove_duplicate=False):
        groups[id(parameter)].append(name)
    parts = dict(model.named_parameters(remove_duplicate=False))
    ends = {id(layer.weight) for layer in _ends(model)}
    for first, *others in groups.values():
        for other in others:
            place, _, last = other.rpartition(".")
            if torch.equal(parts[first], parts[other]):
                setattr(model.get_submodule(place), last, parts[first])
            elif {id(parts[first]), id(parts[other])} == ends:
                _say_untied(model)
            else:
                raise ValueError(
                    f"{model.config.model_type} models have {first} and {other} in common, which "
                    "the soup would part."
                )


def fitted(weights: Mapping[str, Tensor], model: PreTrainedModel) -> dict[str, Tensor] | None:
    """Weights without the rows of tokens that a model does not know; None if they do not fit it."""
    start, found = model.state_dict(), dict(weights)
    for name, module in model.named_modules():
        if module in _ends(model):
            for part in (f"{name}.weight", f"{name}.bias"):
                if part in found and part in start:
                    found[part] = found[part][: len(start[part])]
    shapes = {name: tensor.shape for name, tensor in found.items()}
    return found if shapes == {name: tensor.shape for name, tensor in start.items()} else None


def differing(config: PreTrainedConfig, other: PreTrainedConfig) -> str | None:
    """An option that makes two models of the same shape say different things, with its values.

    >>> from transformers import LlamaConfig
    >>> differing(LlamaConfig(), LlamaConfig(rms_norm_eps=0.1, attention_dropout=0.5))
    'rms_norm_eps (1e-06 and 0.1)'
    """
    if type(config) is not type(other):
        return f"model_type ({config.model_type} and {other.model_type})"
    # What the class does not know of, its models do not read.
    known = type(config)().to_dict().keys()
    mine, theirs = config.to_dict(), other.to_dict()
    for name in sorted(known):
        idle = name in _IDLE or any(part in name for part in _IDLE_PARTS)
        if name == "max_position_embeddings":  # counts where positions are scaled by it
            idle = "default" in str(mine.get("rope_parameters", "default"))
        if not idle and mine.get(name) != theirs.get(name):
            return f"{name} ({mine.get(name)} and {theirs.get(name)})"
    return None


def _ends(model: PreTrainedModel) -> tuple[nn.Module, nn.Module]:
    return model.get_input_embeddings(), model.get_output_embeddings()


def _say_untied(model: PreTrainedModel) -> None:
    for config in (model.config, model.config.get_text_config()):
        config.tie_word_embeddings = False
