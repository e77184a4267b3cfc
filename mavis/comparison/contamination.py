"""Check for contamination: prompts seen in training, other rewards, other reference policies."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mavis.comparison.provenance import Cost, Folders, read
from mavis.comparison.sweep import Sweep
from mavis.decoding.reference import ReferencePolicy
from mavis.hub import lasting
from mavis.prompts import digest
from mavis.reward import identity


@dataclass(frozen=True)
class Checks:
    """The results of the contamination checks, by trained method; None: not recorded."""

    overlap: Mapping[str, int | None]  # number of the sweep's prompts that it was trained on
    judged: Mapping[str, list[str] | None]  # objectives that were trained with another reward
    warnings: list[str]  # findings that may change how the results are to be read


def check(sweep: Sweep, folders: Mapping[str, Folders], costs: Mapping[str, Cost]) -> Checks:
    """Check the cards of all models of an opened sweep.

    Args:
        sweep: the sweep.
        folders: of its models, by method.
        costs: of the trained methods, with the prompts that these have seen.
    """
    setting = sweep.setting
    asked = [digest(prompt) for prompt in setting.prompts]
    rewards = {one.name: identity(one) for one in setting.objectives}
    places = {
        method: list(dict.fromkeys(place for seed in folders[method] for place in seed.values()))
        for method in costs
    }
    overlap = {
        method: None if cost.seen is None else sum(prompt in cost.seen for prompt in asked)
        for method, cost in costs.items()
    }
    judged = {method: _other_rewards(places[method], rewards) for method in costs}
    warnings = [*_overlap_warnings(overlap, len(asked)), *_reward_warnings(judged)]
    for method in costs:
        if sweep.shares_models(method):
            warnings.append(f"{method}: two of its training seeds have the same model.")
        warnings += _reference_warnings(method, places[method], setting.reference)
    return Checks(overlap, judged, warnings)


def _other_rewards(places: Sequence[Path], rewards: Mapping[str, str]) -> list[str] | None:
    """Find the objectives whose reward differs from the one in training; None: not recorded."""
    others = set()
    for place in places:
        card = read(place)
        if card is None or not card.rewards:
            return None
        trained = zip(card.objectives, card.rewards, strict=True)
        others |= {name for name, reward in trained if rewards.get(name, reward) != reward}
    return [name for name in rewards if name in others]


def _overlap_warnings(overlap: Mapping[str, int | None], prompts: int) -> Iterator[str]:
    for method, both in overlap.items():
        if both is None:
            yield f"{method}: its models do not say which prompts they were trained on."
        elif both:
            yield f"{method}: {both} of the {prompts} prompts were among those it was trained on."


def _reward_warnings(judged: Mapping[str, list[str] | None]) -> Iterator[str]:
    for method, others in judged.items():
        if others:
            yield (
                f"{method}: it learned from another reward of {', '.join(others)} than the one "
                "that judges here, or from that one before it was edited."
            )


def _reference_warnings(
    method: str, places: Sequence[Path], policy: ReferencePolicy
) -> Iterator[str]:
    """Warn of models that were trained under another reference policy or prompt template."""
    for place in places:
        card = read(place)
        if card is None:
            continue
        trained = f"{method}: {place} was trained under the"
        if lasting(card.reference) != lasting(policy.name):
            yield f"{trained} reference policy {card.reference}, not under {policy.name}."
        elif card.reference_weights not in (None, "", policy.weights_digest):
            yield (
                f"{trained} reference policy {card.reference} when that had other weights than now."
            )
        if card.template != policy.template:
            theirs, ours = (one or "chat template" for one in (card.template, policy.template))
            yield f"{trained} template {theirs}, not under {ours}."
        in_training, now = card.template_args or {}, policy.template_args or {}
        if in_training != now:
            yield f"{trained} template arguments {in_training}, not under {now}."
