"""Read from model folders, without loading the models, how they were trained, and at what cost.

Models are only valid for the reference policy they were trained under. So whatever the user of a
sweep does not give is taken from the model cards, and cards that disagree are an error.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from safetensors import safe_open
from transformers import AutoTokenizer

from mavis.baselines.parm import ParmCard
from mavis.baselines.policy_card import TunedCard
from mavis.cards import TrainedCard
from mavis.comparison.config import ParetoConfig
from mavis.decoding.model_card import ModelCard
from mavis.decoding.model_folders import loading
from mavis.decoding.tokenizers import fingerprint
from mavis.hub import is_local, lasting
from mavis.objective import Objective, common_source
from mavis.options import EMBEDDED
from mavis.storage import read_json
from mavis.training.callbacks import SEEN

ADAPTER = "adapter_config.json"  # PEFT's file
CONFIG = "config.yaml"  # the configuration of a fit, beside its value model

T = TypeVar("T")
Folders = Sequence[Mapping[str, Path]]  # of the models of one method, by name, for each seed


@dataclass(frozen=True)
class Cost:
    """The training cost of a method's models."""

    seconds: float | None  # CPU seconds of training, without evaluation; None: unknown
    parameters: int  # in all model files
    seen: frozenset[str] | None  # digests of the training prompts; None: unknown


def cost(folders: Folders) -> Cost:
    """Read a method's cost from its cards: mean seconds over seeds, and all prompts seen."""
    parts = [[_cost(place) for place in dict.fromkeys(mine.values())] for mine in folders]
    seconds = [part.seconds for mine in parts for part in mine]
    seen = [part.seen for mine in parts for part in mine]
    return Cost(
        seconds=None if None in seconds else sum(s or 0.0 for s in seconds) / len(folders),
        parameters=sum(part.parameters for part in parts[0]),
        seen=None if None in seen else frozenset().union(*(s or () for s in seen)),
    )


def _cost(place: Path) -> Cost:
    card = read(place)
    seconds: float | None = None
    seen: frozenset[str] | None = None
    if isinstance(card, TrainedCard):
        seconds, seen = card.cpu_seconds, frozenset(card.prompts)
    elif (place / SEEN).is_file():
        seen = frozenset(read_json(place / SEEN))
    metrics = place.parent / "metrics.json"
    if isinstance(card, ModelCard) and metrics.is_file():
        rounds = read_json(metrics)
        if all("seconds_cpu" in entry for entry in rounds):
            seconds = sum(float(entry["seconds_cpu"]) for entry in rounds)
    return Cost(seconds, sum(map(_parameters, _weights(place))), seen)


def read(place: Path) -> TunedCard | ParmCard | ModelCard | None:
    """Read the card of a model that mavis trained; None for any other model."""
    kinds = (TunedCard, ParmCard, ModelCard)
    return next((kind.read(place) for kind in kinds if (place / kind.FILE).is_file()), None)


def tokenizer(place: Path) -> str | None:
    """Return the fingerprint of a model's tokenizer; None if the folder has none."""
    if card := read(place):
        return card.fingerprint
    if not (place / "tokenizer_config.json").is_file():
        return None
    with loading(f"the tokenizer of {place}"):
        return fingerprint(AutoTokenizer.from_pretrained(place))


def purpose(place: Path) -> str | None:
    """Return what a model was trained for, as `policy_card.label` formats it; None: unknown."""
    card = read(place)
    if isinstance(card, TunedCard):
        return card.label or None
    return "+".join(card.objectives) if isinstance(card, ModelCard) else None


def divergence(place: Path) -> tuple[str, float | None] | None:
    """Return the divergence that a policy was tuned under, and its α; None: unknown."""
    card = read(place)
    return (card.divergence, card.settings.get("alpha")) if isinstance(card, TunedCard) else None


def lack(method: str, place: Path) -> str | None:
    """Explain why a folder is not the model that a method needs; None if it is."""
    values = (ModelCard.FILE,)
    needed = {"mavis": values, "mavis_linear": values, "parm": (ParmCard.FILE,)}.get(
        method, ("config.json", ADAPTER)
    )
    if not place.is_dir():
        return "there is no such folder"
    missing = not any((place / name).is_file() for name in needed)
    return f"{' or '.join(needed)} is missing" if missing else None


def _weights(place: Path) -> list[Path]:
    files = place.rglob("*.safetensors")
    return sorted(file for file in files if "checkpoints" not in file.parts)


def _parameters(file: Path) -> int:
    with safe_open(file, "pt") as tensors:
        shapes = [tensors.get_slice(name).get_shape() for name in tensors.keys()]  # noqa: SIM118
    return sum(map(math.prod, shapes))


def identity(place: Path) -> str:
    """Compute a digest of a model's weights, which changes when the model is trained again."""
    digest = hashlib.blake2b(digest_size=8)
    for file in _weights(place):
        digest.update(file.relative_to(place).as_posix().encode())
        with file.open("rb") as content:
            while block := content.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


# The options that a sweep takes from its models


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
