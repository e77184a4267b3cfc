"""Checks against fooling oneself: what the models of a sweep have seen, and who judged them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mavis.comparison.provenance import Cost, read
from mavis.comparison.sweep import Sweep
from mavis.decoding.reference import ReferencePolicy
from mavis.hub import lasting
from mavis.prompts import digest
from mavis.reward import identity

Folders = Mapping[str, Sequence[Mapping[str, Path]]]  # of every method, for each seed


@dataclass(frozen=True)
class Checks:
    """What a sceptical reader should know.

    Args:
        overlap: how many of the prompts each trained method has seen; None: its models do not say.
        judged: objectives whose reward was another one in training; None: its models do not say.
        warnings: what of it may change how the results are to be read.
    """

    overlap: Mapping[str, int | None]
    judged: Mapping[str, list[str] | None]
    warnings: list[str]


def check(sweep: Sweep, folders: Folders, costs: Mapping[str, Cost]) -> Checks:
    """Look through the cards of all models.

    Args:
        sweep: an open one.
        folders: its models.
        costs: of the methods that were trained, and the prompts these have seen.
    """
    asked = [digest(prompt) for prompt in sweep.ground.prompts]
    overlap = {
        name: None if cost.seen is None else sum(mark in cost.seen for mark in asked)
        for name, cost in costs.items()
    }
    rewards = {one.name: identity(one) for one in sweep.ground.objectives}
    judges = {name: _others(_places(folders[name]), rewards) for name in costs}
    said = [*_seen(overlap, len(asked)), *_judged(judges)]
    for name in costs:
        if sweep.twins(name):
            said.append(f"{name}: two of its training seeds have the same model.")
        said += _strangers(name, _places(folders[name]), sweep.ground.reference)
    return Checks(overlap, judges, said)


def _places(seeds: Sequence[Mapping[str, Path]]) -> list[Path]:
    return list(dict.fromkeys(place for mine in seeds for place in mine.values()))


def _others(places: Sequence[Path], rewards: Mapping[str, str]) -> list[str] | None:
    """The objectives whose reward is not the one that models learned from."""
    others = set()
    for place in places:
        card = read(place)
        if card is None or not card.rewards:
            return None
        known = zip(card.objectives, card.rewards, strict=True)
        others |= {name for name, mark in known if rewards.get(name, mark) != mark}
    return [name for name in rewards if name in others]


def _seen(overlap: Mapping[str, int | None], prompts: int) -> list[str]:
    said = []
    for name, both in overlap.items():
        if both is None:
            said.append(f"{name}: its models do not say which prompts they were trained on.")
        elif both:
            said.append(
                f"{name}: {both} of the {prompts} prompts were among those it was trained on."
            )
    return said


def _judged(judges: Mapping[str, list[str] | None]) -> list[str]:
    return [
        f"{name}: it learned from another reward of {', '.join(others)} than the one that judges "
        "here, or from that one before it was edited."
        for name, others in judges.items()
        if others
    ]


def _strangers(method: str, places: Sequence[Path], policy: ReferencePolicy) -> Iterator[str]:
    """Models that were trained under another reference policy, or its prompts written otherwise."""
    for place in places:
        card = read(place)
        if card is None:
            continue
        trained = f"{method}: {place} was trained under the"
        if lasting(card.reference) != lasting(policy.name):
            yield f"{trained} reference policy {card.reference}, not under {policy.name}."
        elif (weights := card.reference_weights) and weights != policy.weights_digest:
            yield (
                f"{trained} reference policy {card.reference} when that had other weights than now."
            )
        if card.template != policy.template:
            theirs, ours = (one or "chat template" for one in (card.template, policy.template))
            yield f"{trained} template {theirs}, not under {ours}."
        told, asked = card.template_args or {}, policy.template_args or {}
        if told != asked:
            yield f"{trained} template arguments {told}, not under {asked}."
