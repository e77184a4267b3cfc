"""Check for contamination: prompts seen in training, other rewards, other reference policies."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mavis.comparison.provenance import Cost, read
from mavis.comparison.sweep import Sweep
from mavis.decoding.reference import ReferencePolicy
from mavis.hub import lasting
from mavis.prompts import digest
from mavis.reward import identity

Folders = Mapping[str, Sequence[Mapping[str, Path]]]  # by method, for each seed


@dataclass(frozen=True)
class Checks:
    """The results of the contamination checks.

    Args:
        overlap: number of prompts that each trained method was trained on; None: not recorded.
        judged: objectives that were trained with another reward; None: not recorded.
        warnings: findings that may change how the results are to be read.
    """

    overlap: Mapping[str, int | None]
    judged: Mapping[str, list[str] | None]
    warnings: list[str]


def check(sweep: Sweep, folders: Folders, costs: Mapping[str, Cost]) -> Checks:
    """Check the cards of all models.

    Args:
        sweep: an opened sweep.
        folders: the folders of its models.
        costs: training costs of the trained methods, with the prompts they have seen.
    """
    asked = [digest(prompt) for prompt in sweep.setting.prompts]
    overlap = {
        name: None if cost.seen is None else sum(mark in cost.seen for mark in asked)
        for name, cost in costs.items()
    }
    rewards = {one.name: identity(one) for one in sweep.setting.objectives}
    judges = {name: _others(_places(folders[name]), rewards) for name in costs}
    said = [*_seen(overlap, len(asked)), *_judged(judges)]
    for name in costs:
        if sweep.twins(name):
            said.append(f"{name}: two of its training seeds have the same model.")
        said += _strangers(name, _places(folders[name]), sweep.setting.reference)
    return Checks(overlap, judges, said)


def _places(seeds: Sequence[Mapping[str, Path]]) -> list[Path]:
    return list(dict.fromkeys(place for mine in seeds for place in mine.values()))


def _others(places: Sequence[Path], rewards: Mapping[str, str]) -> list[str] | None:
    """Find the objectives whose reward differs from the one in training; None: not recorded."""
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
    """Warn of models that were trained under another reference policy or prompt template."""
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
