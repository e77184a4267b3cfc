"""Rewarded soups: one policy whose weights are a weighted sum of others' (arXiv 2306.04488).

    θ = θ_ref + Σ λ_i (θ_i − θ_ref)

which is Σ λ_i θ_i where the λ sum to 1, and stays near π_ref where they do not; they may be
negative. For LoRA policies the same sum is one of products, W + Σ λ_i B_i A_i. Others publish the
product of sums, W + (Σ √λ_i B_i)(Σ √λ_i A_i), which mixes the factors of different policies and is
no soup of weights; it is here under its own name, to be compared with.
"""

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any, Literal, cast

import torch
from transformers import PreTrainedModel

from mavis.guide.policy import GuidedPolicy
from mavis.guide.reference import ReferencePolicy
from mavis.measure.rivals.policies import Policies, guide

How = Literal["products", "factors"]  # the sum of products (exact), or the product of sums
SOUP = "soup"


def soup(
    reference: ReferencePolicy,
    policies: tuple[Policies, ...],
    weights: Mapping[str, float],
    how: How = "products",
) -> GuidedPolicy:
    """Stir policies into one.

    Args:
        reference: π_ref: what they were trained from.
        policies: as `load_policies` gives them: full models of π_ref's own shape, or adapters of
            one base.
        weights: λ by name; a policy that is not named weighs nothing.
        how: how LoRA policies are summed.

    Returns:
        a policy with one guide, `soup`, to be sampled at weight 1; β (default 1) tempers its
        log-ratio to π_ref.

    Raises:
        ValueError: full models and adapters together, adapters of several bases, models of other
            shapes, or a weight for a policy that is not there.
    """
    known = [name for policy in policies for name in policy.objectives]
    unknown = sorted(set(weights) - set(known))
    if unknown:
        raise ValueError(f"weights must be for {', '.join(known)}, got {unknown[0]!r}.")
    adapters = [policy for policy in policies if policy.adapters]
    if adapters and len(policies) > 1:
        raise ValueError(
            "a soup must be of full models alone or of adapters of one base, got both or several: "
            "mix them by MOD, or merge the adapters first."
        )
    if adapters:
        model = _adapter_soup(adapters[0], weights, how)
    else:
        models = {policy.objectives[0]: policy.model for policy in policies}
        model = _full_soup(reference, models, weights)
    return GuidedPolicy(reference, (guide(reference, SOUP, model),))


def _full_soup(
    reference: ReferencePolicy, models: Mapping[str, PreTrainedModel], weights: Mapping[str, float]
) -> PreTrainedModel:
    stirred = deepcopy(reference.model)
    sums = {name: tensor.float() for name, tensor in reference.model.state_dict().items()}
    for objective, model in models.items():
        theirs = model.state_dict()
        if {n: t.shape for n, t in theirs.items()} != {n: t.shape for n, t in sums.items()}:
            raise ValueError(
                f"the policy {objective} has not the shape of {reference.name}: weights can only "
                "be summed where all models are of one architecture and size. MOD mixes others."
            )
        share = weights.get(objective, 0.0)
        for name, start in reference.model.state_dict().items():
            sums[name] = sums[name] + share * (theirs[name].float() - start.float())
    stirred.load_state_dict(sums)
    return stirred


@torch.no_grad()
def _adapter_soup(policy: Policies, weights: Mapping[str, float], how: How) -> PreTrainedModel:
    combination = {"products": "cat", "factors": "linear"}[how]
    names = [name for name in policy.objectives if name in weights]
    model = cast(Any, deepcopy(policy.model))
    model.add_weighted_adapter(
        names, [float(weights[name]) for name in names], SOUP, combination_type=combination
    )
    model.set_adapter(SOUP)
    return cast(PreTrainedModel, model.merge_and_unload())


def save(policy: GuidedPolicy, folder: Path) -> None:
    """Write a soup as a normal model folder."""
    (stirred,) = policy.networks
    assert isinstance(stirred, Policies)
    stirred.model.save_pretrained(folder)
    policy.reference.tokenizer.save_pretrained(folder)
