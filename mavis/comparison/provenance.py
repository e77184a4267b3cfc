"""Read a model's training cost, training prompts and purpose from its folder without loading it."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors import safe_open
from transformers import AutoTokenizer

from mavis.baselines.parm_card import ParmCard
from mavis.baselines.policy_card import TunedCard
from mavis.cards import TrainedCard
from mavis.decoding.model_card import ModelCard
from mavis.decoding.model_folders import loading
from mavis.decoding.tokenizers import fingerprint
from mavis.storage import read_json
from mavis.training.callbacks import SEEN

ADAPTER = "adapter_config.json"  # PEFT's file

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
    needed = {"mavis": (ModelCard.FILE,), "parm": (ParmCard.FILE,)}.get(
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
