"""What mavis records about a model that it wrote: the card, a JSON file in the model's folder.

A card is written last of all: a folder that has one is whole.
"""

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Self, get_origin

from mavis.checksums import REMEDY, check
from mavis.reward import Units
from mavis.storage import write_json
from mavis.versions import FORMAT, check_format


@dataclass(frozen=True, kw_only=True)
class Card:
    """Where a model comes from.

    Args:
        objectives: what it was trained for, in order.
        units: standard units of each objective's reward.
        reference: the reference policy that it was trained under.
        fingerprint: of the tokenizer.
        template: dotted name of the function that wrote the prompts out, if not a chat template.
        template_args: arguments of the chat template.
        reference_weights: a digest of the reference policy's weights; None: not known.
        rewards: a digest of the reward of each objective; empty: not known.
    """

    FILE: ClassVar[str]
    KIND: ClassVar[str]  # of model, for people
    MAKER: ClassVar[str]  # the command that makes one
    REMEDY: ClassVar[str] = REMEDY  # what to do where the card is damaged
    COLUMNS: ClassVar[tuple[str, ...]] = ("objectives", "units")  # one for each objective

    objectives: tuple[str, ...]
    units: tuple[Units, ...]
    reference: str
    fingerprint: str
    template: str | None = None
    template_args: dict[str, Any] | None = None
    reference_weights: str | None = None
    rewards: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check that the columns are equally long."""
        lengths = [len(getattr(self, name)) for name in self.COLUMNS]
        if len(set(lengths)) > 1:
            raise ValueError(
                f"{_listed(self.COLUMNS)} must be equally many, got {_listed(lengths)}."
            )

    @classmethod
    def read(cls, folder: str | Path) -> Self:
        """Read the card in a model's folder.

        Raises:
            FileNotFoundError: there is none: the folder holds no such model, or one that is still
                in training.
            ValueError: the card is broken.
            RuntimeError: a newer version of mavis wrote it.
        """
        file = Path(folder) / cls.FILE
        if not file.is_file():
            raise FileNotFoundError(
                f"{folder} holds no {cls.KIND}: {cls.FILE} is missing. `{cls.MAKER}` makes one."
            )
        check(file, cls.REMEDY)
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            if not isinstance(content, dict):
                raise ValueError("it is no JSON object.")
            check_format(file, content)
            content.pop("format", None)
            return cls(**cls._entries(content))
        except (OSError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"{file} is no card of a {cls.KIND}: {error}") from error

    def content(self) -> dict[str, Any]:
        """What its file holds."""
        return {"format": FORMAT, **asdict(self)}

    @classmethod
    def _entries(cls, content: Mapping[str, Any]) -> dict[str, Any]:
        """What a card's file holds, as the values of the fields."""
        known = {one.name: one for one in fields(cls)}
        if stray := [name for name in content if name not in known]:
            raise ValueError(f"it has the unexpected entry {stray[0]!r}.")
        for name, one in known.items():
            if name not in content and one.default is one.default_factory is MISSING:
                raise ValueError(f"it lacks {name!r}.")
        entries = {
            name: tuple(value)
            if isinstance(value, list) and get_origin(known[name].type) is tuple
            else value
            for name, value in content.items()
        }
        return entries | {"units": tuple(Units(**units) for units in entries["units"])}


@dataclass(frozen=True, kw_only=True)
class TrainedCard(Card, ABC):
    """Where a model comes from that other methods decode with.

    Args:
        seed: of every random draw.
        parameters: how many were trained.
        train_seconds: wall-clock time of the training, sampling and scoring included, measuring
            not.
        cpu_seconds: of the process, for the same.
        prompts: digests of what it was trained on (see `prompts.digest`).
        settings: every option that decides what comes out.
        measured: on held-out prompts, rewards in standard units and KL in nats.
    """

    seed: int = 0
    parameters: int = 0
    train_seconds: float = 0.0
    cpu_seconds: float = 0.0
    prompts: tuple[str, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)
    measured: Any

    def save(self, folder: Path) -> None:
        """Write the card into a folder that is otherwise whole; people get it as README.md."""
        (folder / "README.md").write_text(self.for_people(), encoding="utf-8")
        write_json(folder / self.FILE, self.content())

    @abstractmethod
    def for_people(self) -> str:
        """The card as text."""

    @classmethod
    def _entries(cls, content: Mapping[str, Any]) -> dict[str, Any]:
        """The same; cards of earlier versions have some entries among their settings only."""
        settings = content.get("settings") or {}
        names = ("template_args", "reference_weights", "rewards")
        shared = {n: settings[n] for n in names if n in settings and not content.get(n)}
        entries = super()._entries({**content, **shared})
        if "measured" in entries:
            entries["measured"] = _numbers(entries["measured"])
        return entries


def _listed(words: Any) -> str:
    *most, last = map(str, words)
    return f"{', '.join(most)} and {last}"


def _numbers(value: Any) -> Any:
    """What was measured, with NaN again where JSON has null."""
    if isinstance(value, dict):
        return {name: _numbers(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_numbers(each) for each in value]
    return math.nan if value is None else value
