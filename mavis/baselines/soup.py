"""Rewarded soups: one policy whose weights are a weighted sum of others' (arXiv 2306.04488).

    θ = θ_ref + Σ λ_i (θ_i − θ_ref)

which is Σ λ_i θ_i where the λ sum to 1, and stays near π_ref where they do not; they may be
negative. An adapter is the full weights that it makes of its base, merged by itself; for LoRA that
is the sum of products, W + Σ λ_i B_i A_i. Others publish the product of sums,
W + (Σ √λ_i B_i)(Σ √λ_i A_i), which mixes the factors of different policies and is no soup of
weights; it is here under its own name, to be compared with.

Models often share one matrix between the embeddings and the head. A policy whose two have come
apart (it was tuned untied, or an adapter changed one of them) can only be summed with others in a
model where they are apart.
"""

from collections import defaultdict
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from mavis.baselines.adapters import multiplied
from mavis.baselines.policy_guides import PolicyGuide, guide, load_policies
from mavis.decoding.adapters import merged, untie
from mavis.decoding.policy import GuidedPolicy
from mavis.decoding.probe import log_probs, probe_tokens, same_policy
from mavis.decoding.reference import ReferencePolicy

How = Literal["products", "factors"]  # the sum of products (exact), or the product of sums
SOUP = "soup"

# Options of an architecture that change nothing of its logits: names, training, sizes that are
# those of the weights.
_IDLE = {
    *("architectures", "dtype", "transformers_version", "tie_word_embeddings", "vocab_size"),
    *("bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "cls_token_id"),
    *("use_cache", "return_dict", "output_hidden_states", "output_attentions", "id2label"),
    *("label2id", "problem_type", "pretraining_tp", "router_aux_loss_coef", "output_router_logits"),
}
_IDLE_PARTS = ("dropout", "pdrop", "initializer", "summary_", "_name_or_path")


def soup(
    reference: ReferencePolicy,
    policies: Mapping[str, str | Path] | tuple[PolicyGuide, ...],
    weights: Mapping[str, float],
    how: How = "products",
) -> GuidedPolicy:
    """Stir policies into one.

    Args:
        reference: π_ref: what they were trained from.
        policies: folders by name, as `mod` takes them, of full models of π_ref's own shape or
            adapters; or what `load_policies` gives.
        weights: λ by name; a policy that is not named weighs nothing.
        how: how LoRA policies are summed.

    Returns:
        a policy with one guide, `soup`, to be sampled at weight 1; β (default 1) tempers its
        log-ratio to π_ref.

    Raises:
        ValueError: a policy is no sum of π_ref's weights and a difference (another shape, another
            architecture, an adapter that cannot be merged), or a weight for one that is not there;
            or policies or weights are not given by name.
    """
    if not isinstance(policies, tuple | list) or not all(
        isinstance(policy, PolicyGuide) for policy in policies
    ):
        policies = load_policies(reference, cast(Any, policies))
    if not isinstance(weights, Mapping):
        raise ValueError(f'weights must be by name, as in {{"humor": 0.5}}, got {weights!r}.')
    known = [name for policy in policies for name in policy.objectives]
    unknown = sorted(set(weights) - set(known))
    if unknown:
        raise ValueError(f"weights must be for {', '.join(known)}, got {unknown[0]!r}.")
    factors = how == "factors"
    model = _factors(policies, weights) if factors else _sum(reference, policies, weights)
    return GuidedPolicy(reference, (guide(reference, SOUP, model),))


@torch.no_grad()
def _sum(
    reference: ReferencePolicy, policies: tuple[PolicyGuide, ...], weights: Mapping[str, float]
) -> PreTrainedModel:
    """θ_ref and the weighted differences from it, summed in float32."""
    if getattr(reference.model.config, "quantization_config", None) is not None:
        raise ValueError(f"{reference.name} is quantized: its weights cannot be summed.")
    model = cast(PreTrainedModel, deepcopy(reference.model).float())
    untie(model)
    start = {name: tensor.float().clone() for name, tensor in model.state_dict().items()}
    sums = {name: tensor.clone() for name, tensor in start.items()}
    for policy in policies:
        for at, name in enumerate(policy.objectives):
            if name in weights:
                for part, theta in _whole(reference, policy, at, model).items():
                    sums[part] += weights[name] * (theta.float() - start[part])
    fill(model, reference.model, sums)
    return model


def _whole(
    reference: ReferencePolicy, policy: PolicyGuide, at: int, model: PreTrainedModel
) -> dict[str, Tensor]:
    """The full weights of one policy, which are put into `model`, of the reference's architecture.

    Raises:
        ValueError: the policy is not all in its weights.
    """
    what = _description(policy, at)
    if option := differing(reference.model.config, policy.model.config):
        raise ValueError(
            f"{what} and the reference {reference.name} differ in {option}: a sum of their weights "
            "would be neither. MOD mixes such policies."
        )
    tokens, own = probe_tokens(reference.vocabulary), policy.model
    if policy.adapters:
        own = deepcopy(policy.model).float()
        own.set_adapter(policy.adapters[at])
    wanted = log_probs(own, tokens, reference.vocabulary)
    if policy.adapters:
        untie(own)  # or what an adapter adds to one place would be added to another, too
        own = merged(own, what)
    theirs = fitted(own.state_dict(), model)
    if theirs is None:
        raise ValueError(
            f"{what} has not the shape of {reference.name}: weights can only be summed where all "
            "models are of one architecture and size. MOD mixes others."
        )
    model.load_state_dict(theirs)
    if not same_policy(log_probs(model, tokens, reference.vocabulary), wanted, own.dtype):
        raise ValueError(
            f"{what} is more than its weights: in the place of those of {reference.name} they are "
            "another policy. MOD mixes such policies."
        )
    return theirs


def _description(policy: PolicyGuide, at: int) -> str:
    """A policy for messages: its name, and where it lies."""
    place = f" at {policy.folders[at]}" if policy.folders else ""
    return f"the policy {policy.objectives[at]}{place}"


@torch.no_grad()
def _factors(policies: tuple[PolicyGuide, ...], weights: Mapping[str, float]) -> PreTrainedModel:
    """The product of sums of the factors of LoRA adapters that share a base."""
    if len(policies) != 1 or not policies[0].adapters:
        raise ValueError(
            "a soup of factors must be of plain LoRA adapters of one base: sum products instead."
        )
    (policy,) = policies
    shares = {
        adapter: float(weights[name])
        for adapter, name in zip(policy.adapters, policy.objectives, strict=True)
        if name in weights
    }
    model = deepcopy(policy.model)
    untie(model)
    names = " and ".join(_description(policy, at) for at in range(len(shares)))
    return multiplied(model, shares, names)


def fill(model: PreTrainedModel, like: PreTrainedModel, weights: Mapping[str, Tensor]) -> None:
    """Put weights into an untied copy of a model, in its types, and tie again what is equal.

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
                for config in (model.config, model.config.get_text_config()):
                    config.tie_word_embeddings = False
            else:
                raise ValueError(
                    f"{model.config.model_type} models share one matrix between {first} and "
                    f"{other}, which differ in this soup: it cannot be a model of this kind."
                )


def fitted(weights: Mapping[str, Tensor], model: PreTrainedModel) -> dict[str, Tensor] | None:
    """Weights without the rows of tokens that a model does not know; None if they do not fit it."""
    start, cut = model.state_dict(), dict(weights)
    for name, module in model.named_modules():
        if module in _ends(model):
            for part in (f"{name}.weight", f"{name}.bias"):
                if part in cut and part in start:
                    cut[part] = cut[part][: len(start[part])]
    shapes = {name: tensor.shape for name, tensor in cut.items()}
    return cut if shapes == {name: tensor.shape for name, tensor in start.items()} else None


def differing(config: PreTrainedConfig, other: PreTrainedConfig) -> str | None:
    """An option by which two models of the same weights would differ, with its two values.

    >>> from transformers import LlamaConfig
    >>> differing(LlamaConfig(), LlamaConfig(rms_norm_eps=0.1, attention_dropout=0.5))
    'rms_norm_eps (1e-06 and 0.1)'
    """
    if type(config) is not type(other):
        return f"model_type ({config.model_type} and {other.model_type})"
    # What the class has no option for, its models do not read.
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
