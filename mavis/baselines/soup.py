"""Rewarded soups: one policy whose weights are a weighted sum of others' (arXiv 2306.04488).

    θ = θ_ref + Σ λ_i (θ_i − θ_ref)

which is Σ λ_i θ_i where the λ sum to 1, and stays near π_ref where they do not; they may be
negative. An adapter is the full weights that it makes of its base, merged by itself; for LoRA that
is the sum of products, W + Σ λ_i B_i A_i. Others publish the product of sums,
W + (Σ √λ_i B_i)(Σ √λ_i A_i), which mixes the factors of different policies and is no soup of
weights; it is here under its own name, to be compared with.
"""

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor
from transformers import PreTrainedModel

from mavis.baselines.adapters import merged, multiplied
from mavis.baselines.model_weights import differing, fill, fitted, untie
from mavis.baselines.policy_guides import PolicyGuide, guide, load_policies
from mavis.baselines.probe import log_probs, probe_tokens, same_policy
from mavis.decoding.policy import GuidedPolicy
from mavis.decoding.reference import ReferencePolicy

How = Literal["products", "factors"]  # the sum of products (exact), or the product of sums
SOUP = "soup"


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
            f"{what} is more than its weights: in the place of those of {reference.name} they say "
            "something else. MOD mixes such policies."
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
