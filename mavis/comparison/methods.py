"""The methods that are compared, each as a policy of the shared decoder.

    reference   π_ref itself
    best_of     the best of N answers of π_ref by the weighted reward
    mavis       π_ref, tilted by a value model of all objectives, or by one of each
    mavis_linear   π_ref, tilted by a value model of each objective, as published
    mod         single-objective policies, mixed token by token
    soup        single-objective policies, their weights summed
    morlhf      one policy for each weighting, tuned on the weighted reward
    parm        one reward model that is conditioned on the preference

Strength multiplies the weighting λ: it is β for values, and the exponent of π_i/π_ref for policies.
At strength 0 every method is π_ref. The strength is swept so that methods are compared at equal KL.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import NamedTuple

from mavis.baselines.parm import guided_by, load_parm
from mavis.baselines.policy_guides import PolicyGuide, load_policies, mod
from mavis.baselines.soup import SOUP, soup
from mavis.comparison.checkpoints import VALUES, Models
from mavis.comparison.preferences import Weighting, as_option
from mavis.decoding.guides import relative_strength_of
from mavis.decoding.policy import GuidedPolicy
from mavis.decoding.reference import ReferencePolicy
from mavis.decoding.value_model import ValueModel

Chosen = tuple[GuidedPolicy, tuple[float, ...]]  # a policy, and the weights to sample it with

WHOLE = "policy"  # the only guide of a policy that was tuned for a whole weighting


class Method(NamedTuple):
    """A method with its models loaded."""

    strength: float  # natural strength of a single objective
    open: Callable[[Weighting], Chosen]  # the policy for a weighting, and the weights to sample it
    relative: Callable[[Weighting], float] = lambda _: 1.0  # what multiplies it at a weighting


class MethodModels:
    """A method's models for every seed, loaded when they are first used.

    Args:
        method: name of the method.
        load: loads the models from the folders of a seed.
        folders: model folders of each seed; seeds with the same folders share their models.
    """

    def __init__(
        self,
        method: str,
        load: Callable[[Mapping[str, Path]], Method],
        folders: Sequence[Mapping[str, Path]],
    ) -> None:
        self.method = method
        self._first = [folders.index(mine) for mine in folders]
        self._open = cache(lambda at: load(folders[at]))

    @property
    def strength(self) -> float:
        """The natural strength of a single objective."""
        return self._open(0).strength

    def start(self, weights: Weighting) -> float:
        """The strength at which a sweep of a weighting begins."""
        return self.strength * self._open(0).relative(weights)

    def weighted(self, weights: Weighting) -> Callable[[int], Chosen]:
        """Return a function from seed to the policy for a weighting."""
        opened = cache(lambda at: self._open(at).open(weights))
        return lambda seed: opened(self._first[seed])


def as_deployed(chosen: Chosen) -> Chosen:
    """Return the policy as it would be deployed: without π_ref where one model is enough."""
    policy, _ = chosen
    for guide in policy.guides:
        if isinstance(guide, PolicyGuide) and guide.objectives[0] in (SOUP, WHOLE):
            reference = policy.reference
            return GuidedPolicy(replace(reference, model=guide.model)), ()
    return chosen


def open_method(
    method: str,
    reference: ReferencePolicy,
    objectives: tuple[str, ...],
    models: Models,
    folders: Mapping[str, Path],
) -> Method:
    """Load a method's models from the folders that `Models.folders` returns.

    Args:
        method: one of `config.METHODS`.
        reference: π_ref.
        objectives: names of the M weights, in order.
        models: how the policies were tuned.
        folders: by objective, or by weighting for morlhf.
    """
    if method in VALUES:
        places = dict.fromkeys(folders.values())  # one folder may be of several objectives
        networks = [ValueModel.from_pretrained(place, reference) for place in places]
        policy = GuidedPolicy(reference, tuple(networks))
        etas = [network.card.eta or 1.0 for network in networks]
        weigh = _by_name(policy, objectives)
        return Method(1 / max(etas), weigh, lambda w: relative_strength_of(networks, weigh(w)[1]))
    if method == "mod":
        policy = mod(reference, folders, models.divergence, models.alpha, models.base)
        return Method(1.0, _by_name(policy, objectives))
    if method == "soup":
        policies = load_policies(reference, folders, models.base)

        def stir(weights: Weighting) -> Chosen:
            return soup(reference, policies, dict(zip(objectives, weights, strict=True))), (1.0,)

        return Method(1.0, stir)
    if method == "morlhf":

        def tuned(weights: Weighting) -> Chosen:
            place = folders[as_option(weights, objectives)]
            whole = load_policies(reference, {WHOLE: place}, models.base)
            return GuidedPolicy(reference, whole), (1.0,)

        return Method(1.0, tuned)
    if method == "parm":
        (place,) = folders.values()
        arm = load_parm(reference, place, models.base)
        return Method(0.5, _by_name(guided_by(reference, arm), objectives))
    return Method(0.0, lambda _: (GuidedPolicy(reference), ()))


def _by_name(policy: GuidedPolicy, objectives: tuple[str, ...]) -> Callable[[Weighting], Chosen]:
    """Use one policy for all weightings, with the weighting as its weights."""

    def weigh(weights: Weighting) -> Chosen:
        return policy, policy.vector(dict(zip(objectives, weights, strict=True)))

    return weigh
