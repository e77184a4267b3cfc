"""What the models of a sweep were trained under: the reference, template and prompts it takes.

A sweep of other ones is of another policy than the one that the models know. So what nobody asks
for is read off their cards, and cards that disagree are a question to the user.
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

CONFIG = "config.yaml"  # of a fit, beside its value model

T = TypeVar("T")


@dataclass(frozen=True)
class Origin:
    """Where a sweep begins.

    Args:
        reference: name of the reference policy.
        template: dotted name of a function that writes prompts out; None: the chat template.
        template_args: arguments of the chat template.
        prompts: data set of the prompts.
        column: of the data set; None finds it.
    """

    reference: str
    template: str | None
    template_args: Mapping[str, Any] | None
    prompts: str
    column: str | None

    def given(self, objectives: Sequence[Objective]) -> dict[str, str]:
        """What a command that trains a model must be told, as it has other defaults."""
        usual = {"reference": EMBEDDED, "prompts": _own(objectives)}
        told = {n: v for n, v in vars(self).items() if v is not None and v != usual.get(n)}
        return {n: v if isinstance(v, str) else json.dumps(v) for n, v in told.items()}


def origin(asked: ParetoConfig, places: Sequence[Path], objectives: Sequence[Objective]) -> Origin:
    """What was asked for, and else what the models were trained under, or else what is embedded.

    Args:
        asked: the options of the sweep.
        places: folders of the models, be they there or not.
        objectives: of the sweep.

    Raises:
        FileNotFoundError: the models' reference policy has moved.
        ValueError: nothing was asked for, and the models were trained under different ones; or a
            card is broken.
    """
    known = {place: card for place in places if place.is_dir() and (card := read(place))}
    names = {place: lasting(card.reference) for place, card in known.items()}
    reference = asked.reference or _agreed("reference", names) or EMBEDDED
    if not asked.reference and is_local(reference) and not Path(reference).exists():
        first = next(place for place, name in names.items() if name == reference)
        raise FileNotFoundError(
            f"the model at {first} was trained under the reference policy {reference}, which is "
            "not there any more: say where it is by --reference."
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
    """The data set that all objectives have their prompts from, if it is one."""
    homes = {one.prompts for one in objectives}
    return homes.pop() if len(homes) == 1 else None


def _agreed(what: str, told: Mapping[Path, T]) -> T | None:
    """What all models say; None if there is none to say anything.

    Raises:
        ValueError: they do not agree.
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
    """A value for people.

    >>> _said(("a.jsonl", None)), _said(None)
    ('a.jsonl', 'none')
    """
    parts = value if isinstance(value, tuple) else (value,)
    return " ".join(str(part) for part in parts if part is not None) or "none"


def _prompts(place: Path, objectives: Sequence[Objective]) -> tuple[str, str | None] | None:
    """The data set and the column that a model was trained on the prompts of; None: not known."""
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
    """The data options of a fit, from its configuration; none if there is no such file."""
    if not file.is_file():
        return {}
    try:
        return dict(yaml.safe_load(file.read_text(encoding="utf-8"))["data"])
    except (yaml.YAMLError, UnicodeError, TypeError, KeyError, ValueError) as error:
        raise ValueError(
            f"{file} is no configuration of a fit, so it is broken: say where the prompts of the "
            "sweep are by --prompts."
        ) from error
