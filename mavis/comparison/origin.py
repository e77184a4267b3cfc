"""Find the reference policy, template and prompts that the models of a sweep were trained under.

Models are only valid for the reference policy they were trained under. So whatever the user does
not give is taken from the model cards, and cards that disagree are an error.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml

from mavis.comparison.config import ParetoConfig
from mavis.comparison.provenance import read
from mavis.decoding.model_card import ModelCard
from mavis.hub import is_local, lasting
from mavis.objective import Objective, common_source
from mavis.options import EMBEDDED

CONFIG = "config.yaml"  # the configuration of a fit, beside its value model

T = TypeVar("T")


@dataclass(frozen=True)
class Origin:
    """The reference policy, template and prompts of a sweep."""

    reference: str  # name of the reference policy
    template: str | None  # dotted name of a function that formats prompts; None: the chat template
    template_args: Mapping[str, Any] | None  # of the chat template
    prompts: str  # data set of the prompts
    column: str | None  # column of the data set; None finds it

    def given(self, objectives: Sequence[Objective]) -> dict[str, str]:
        """Return the options that a training command needs, where its defaults differ."""
        sources = {objective.prompts for objective in objectives}
        defaults = {"reference": EMBEDDED, "prompts": min(sources) if len(sources) == 1 else None}
        options = {n: v for n, v in vars(self).items() if v is not None and v != defaults.get(n)}
        return {n: v if isinstance(v, str) else json.dumps(v) for n, v in options.items()}


def origin(asked: ParetoConfig, places: Sequence[Path], objectives: Sequence[Objective]) -> Origin:
    """Resolve options in this order: the user's, those of training, the embedded defaults.

    The folders of the models, `places`, need not exist.

    Raises:
        FileNotFoundError: the models' reference policy has moved.
        ValueError: an option is not given and the models were trained under different ones, or a
            card is broken.
    """
    cards = {place: card for place in places if place.is_dir() and (card := read(place))}
    names = {place: lasting(card.reference) for place, card in cards.items()}
    reference = asked.reference or _agreed("reference", names) or EMBEDDED
    if not asked.reference and is_local(reference) and not Path(reference).exists():
        first = next(place for place, name in names.items() if name == reference)
        raise FileNotFoundError(
            f"the model at {first} was trained under the reference policy {reference}, which is "
            "no longer there: give its new place by --reference."
        )
    formats = {}
    for name in ("template", "template_args"):
        formats[name] = getattr(asked, name)
        if formats[name] is None:
            of_cards = {place: getattr(card, name) for place, card in cards.items()}
            formats[name] = _agreed(name, of_cards)
    source, column = asked.prompts, asked.column
    if source is None:
        sources = {place: _prompts(place, objectives) for place in cards}
        known = {place: source for place, source in sources.items() if source is not None}
        source, trained = _agreed("prompts", known) or (None, None)
        column = column or trained
    source = source or common_source("prompts", None, objectives)
    return Origin(reference, prompts=source, column=column, **formats)


def _agreed(what: str, values: Mapping[Path, T]) -> T | None:
    """Return the value that all models agree on; None if there are no models.

    Raises:
        ValueError: the models disagree.
    """
    places, agreed = list(values), list(values.values())
    for place, value in values.items():
        if value != agreed[0]:
            raise ValueError(
                f"{what} must be given, by --{what}, for the models were trained under different "
                f"ones: {places[0]} under {_shown(agreed[0])}, {place} under {_shown(value)}."
            )
    return agreed[0] if agreed else None


def _shown(value: object) -> str:
    """Format a value for messages.

    >>> _shown(("a.jsonl", None)), _shown(None)
    ('a.jsonl', 'none')
    """
    parts = value if isinstance(value, tuple) else (value,)
    return " ".join(str(part) for part in parts if part is not None) or "none"


def _prompts(place: Path, objectives: Sequence[Objective]) -> tuple[str, str | None] | None:
    """Return the data set and column that a model was trained on; None: not recorded."""
    card = read(place)
    settings = getattr(card, "settings", {})
    if isinstance(card, ModelCard):
        own = {one.name: one.prompts for one in objectives}
        settings = _settings(place.parent / CONFIG)
        if settings and settings.get("prompts") is None:
            settings = settings | {"prompts": own.get(card.objectives[0])}
    source = settings.get("prompts")
    return None if source is None else (lasting(str(source)), settings.get("column"))


def _settings(file: Path) -> dict[str, Any]:
    """Read the data options of a fit from its configuration; empty if there is no such file."""
    if not file.is_file():
        return {}
    try:
        return dict(yaml.safe_load(file.read_text(encoding="utf-8"))["data"])
    except (yaml.YAMLError, UnicodeError, TypeError, KeyError, ValueError) as error:
        raise ValueError(
            f"{file} is damaged: it is not the configuration of a fit. Give the prompts of the "
            "sweep by --prompts."
        ) from error
