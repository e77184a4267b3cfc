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
    """The reference policy, template and prompts of a sweep.

    Args:
        reference: name of the reference policy.
        template: dotted name of a function that formats prompts; None: the chat template.
        template_args: arguments of the chat template.
        prompts: data set of the prompts.
        column: column of the data set; None finds it.
    """

    reference: str
    template: str | None
    template_args: Mapping[str, Any] | None
    prompts: str
    column: str | None

    def given(self, objectives: Sequence[Objective]) -> dict[str, str]:
        """Return the options that a training command needs, where its defaults differ."""
        usual = {"reference": EMBEDDED, "prompts": _own(objectives)}
        told = {n: v for n, v in vars(self).items() if v is not None and v != usual.get(n)}
        return {n: v if isinstance(v, str) else json.dumps(v) for n, v in told.items()}


def origin(asked: ParetoConfig, places: Sequence[Path], objectives: Sequence[Objective]) -> Origin:
    """Resolve options in this order: the user's, those of training, the embedded defaults.

    Args:
        asked: options of the sweep.
        places: folders of the models, which need not exist.
        objectives: objectives of the sweep.

    Raises:
        FileNotFoundError: the models' reference policy has moved.
        ValueError: an option is not given and the models were trained under different ones, or a
            card is broken.
    """
    known = {place: card for place in places if place.is_dir() and (card := read(place))}
    names = {place: lasting(card.reference) for place, card in known.items()}
    reference = asked.reference or _agreed("reference", names) or EMBEDDED
    if not asked.reference and is_local(reference) and not Path(reference).exists():
        first = next(place for place, name in names.items() if name == reference)
        raise FileNotFoundError(
            f"the model at {first} was trained under the reference policy {reference}, which is "
            "no longer there: give its new place by --reference."
        )
    template = asked.template
    if template is None:
        template = _agreed("template", {place: card.template for place, card in known.items()})
    arguments: Mapping[str, Any] | None = asked.template_args
    if arguments is None:
        arguments = _agreed(
            "template_args", {place: card.template_args for place, card in known.items()}
        )
    column = asked.column
    if (source := asked.prompts) is None:
        homes = {place: _prompts(place, objectives) for place in known}
        sure = {place: home for place, home in homes.items() if home is not None}
        source, trained = _agreed("prompts", sure) or (None, None)
        column = column or trained
    source = source or common_source("prompts", None, objectives)
    return Origin(reference, template, arguments, source, column)


def _own(objectives: Sequence[Objective]) -> str | None:
    """Return the data set that all objectives share, if there is one."""
    homes = {one.prompts for one in objectives}
    return homes.pop() if len(homes) == 1 else None


def _agreed(what: str, told: Mapping[Path, T]) -> T | None:
    """Return the value that all models agree on; None if there are no models.

    Raises:
        ValueError: the models disagree.
    """
    first = next(iter(told.items()), None)
    other = next((item for item in told.items() if first and item[1] != first[1]), None)
    if first and other:
        raise ValueError(
            f"{what} must be given, by --{what}, for the models were trained under different ones: "
            f"{first[0]} under {_said(first[1])}, {other[0]} under {_said(other[1])}."
        )
    return first[1] if first else None


def _said(value: object) -> str:
    """Format a value for messages.

    >>> _said(("a.jsonl", None)), _said(None)
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
