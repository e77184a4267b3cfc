"""What a value model is of: the card beside its weights."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mavis.checksums import check
from mavis.reward import Units

Source = Literal["action", "state", "shared"]
REMEDY = "restore it from a copy, or let the `mavis fit` that made it write it again."


@dataclass(frozen=True)
class ModelCard:
    """What a value network is of: stored beside the weights, and shown to people."""

    source: Source
    objectives: tuple[str, ...]  # the M outputs, in order
    units: tuple[Units, ...]  # per objective: the reward's mean and standard deviation
    reference: str  # the reference policy it was trained under
    fingerprint: str  # of the tokenizer
    template: str | None = None
    eta: float | None = None  # the KL price of its training targets
    rounds: int = 0
    rewards: tuple[str, ...] = ()  # per objective: a digest of the reward it learned from
    template_args: dict[str, Any] | None = None  # of the reference's chat template
    reference_weights: str | None = None  # a digest of the weights it was trained under


def read_card(folder: Path) -> ModelCard:
    """Read what the value model in a folder is of.

    Raises:
        FileNotFoundError: there is no value model.
        ValueError: the file is broken.
    """
    file = folder / "value.json"
    if not file.is_file():
        raise FileNotFoundError(f"{folder} holds no value model: {file.name} is missing.")
    check(file, REMEDY)
    try:
        fields = json.loads(file.read_text())
        units = tuple(Units(**unit) for unit in fields.pop("units"))
        names, rewards = tuple(fields.pop("objectives")), tuple(fields.pop("rewards", ()))
        card = ModelCard(objectives=names, units=units, rewards=rewards, **fields)
    except KeyError as error:
        raise ValueError(f"{file} is no card of a value model: it lacks {error}.") from error
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{file} is no card of a value model: {error}") from error
    return card
