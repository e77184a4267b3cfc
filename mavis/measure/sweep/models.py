"""Where the trained models of each method lie, what they cost, and what they have seen.

Nothing is loaded here but cards, so that a sweep can be refused before minutes are spent.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import safe_open

from mavis.learn.rounds import SEEN
from mavis.measure.rivals.divergence import mixture
from mavis.measure.rivals.parm import CARD as PARM
from mavis.measure.rivals.parm import preferences, read_parm
from mavis.measure.tuning.tuned import CARD as TUNED
from mavis.measure.tuning.tuned import DEFAULT_METHOD, read_tuned, tuned_folder
from mavis.measure.weightings import Weighting, told

TUNED_UNDER = ("reverse_kl", "forward_kl", "jsd", "alpha")  # what `mavis tune` can
METHODS = ("reference", "best_of", "mavis", "mod", "soup", "morlhf", "parm")


@dataclass(frozen=True)
class Models:
    """Where to look.

    Args:
        runs: the folder of all runs; `{seed}` in it stands for the number of the replicate.
        tuned: how the policies of mod, soup and morlhf were tuned.
        divergence: that they were tuned under, and MOD mixes them under.
        alpha: of the α-divergence.
        lora: whether they are adapters.
        values: folders of value models, by objective, where they lie elsewhere.
        policies: folders of single-objective policies, by objective, where they lie elsewhere.
    """

    runs: str = "runs"
    tuned: str = DEFAULT_METHOD
    divergence: str = "reverse_kl"
    alpha: float | None = None
    lora: bool = False
    values: Mapping[str, str] = field(default_factory=dict)
    policies: Mapping[str, str] = field(default_factory=dict)

    def folders(
        self, method: str, objectives: Sequence[str], weightings: Sequence[Weighting], seed: int
    ) -> dict[str, Path]:
        """The folders that a method needs, by objective, or by weighting for morlhf.

        Raises:
            FileNotFoundError: one is missing; the command that makes it is named.
        """
        runs = Path(self.runs.format(seed=seed))
        names = ",".join(objectives)
        if method == "mavis":
            found = {n: self.values.get(n, str(runs / n / "value")) for n in objectives}
            make = {n: f"mavis fit --objective {n} --out {runs / n}" for n in objectives}
        elif method in ("mod", "soup"):
            found = {n: self.policies.get(n, self._tuned(runs, [n], (1.0,))) for n in objectives}
            make = {n: f"{self._tune(runs)} --objectives {n}" for n in objectives}
        elif method == "morlhf":
            keys = {told(w, objectives): w for w in weightings}
            found = {key: self._tuned(runs, objectives, w) for key, w in keys.items()}
            make = {k: f"{self._tune(runs)} --objectives {names} --weights {k}" for k in keys}
        elif method == "parm":
            found = {names: str(runs / "tuned" / f"parm-{'+'.join(objectives)}")}
            make = {names: f"mavis parm --objectives {names} --out {found[names]}"}
        else:
            return {}
        for name, place in found.items():
            if not Path(place).is_dir():
                raise FileNotFoundError(
                    f"{method} needs a model of {name} at {place}: `{make[name]}` makes it."
                )
        return {name: Path(place) for name, place in found.items()}

    def check(self) -> None:
        """Raise ValueError for policies that cannot be.

        A policy is mixed under the divergence that it was tuned under.
        """
        mixture(self.divergence, self.alpha)
        if self.divergence not in {"reverse_kl", *(TUNED_UNDER if self.tuned == "dpo" else ())}:
            raise ValueError(
                f"divergence {self.divergence} is none that {self.tuned} tunes under: dpo does "
                f"under {', '.join(TUNED_UNDER)} (--tuned dpo), and the others have reverse_kl."
            )

    def check_weights(self, methods: Sequence[str], weightings: Sequence[Weighting]) -> None:
        """Raise ValueError for weights that a method cannot have."""
        weights = torch.tensor(weightings)  # [W, M]
        nothing = torch.zeros(len(weights), 1)  # states with one candidate
        if "mod" in methods:
            rule = mixture(self.divergence, self.alpha)
            rule(nothing, torch.zeros_like(weights)[:, None], weights, torch.ones(len(weights)))
        if "parm" in methods:
            preferences(weights)

    def _tuned(self, runs: Path, objectives: Sequence[str], weights: Weighting) -> str:
        kind = (self.tuned, self.divergence, self.lora)
        return str(tuned_folder(runs / "tuned", objectives, weights, *kind))

    def _tune(self, runs: Path) -> str:
        more = "" if self.divergence == "reverse_kl" else f" --divergence {self.divergence}"
        more += "" if self.alpha is None else f" --alpha {self.alpha:g}"
        more += " --lora" if self.lora else ""
        return f"mavis tune --method {self.tuned}{more} --out {runs / 'tuned'}"


@dataclass(frozen=True)
class Cost:
    """What the models of a method took.

    Args:
        seconds: of CPU in training, rollouts and rewards included, measuring not; None: not known.
        parameters: in all model files.
        seen: digests of the prompts they were trained on; None: not known.
    """

    seconds: float | None
    parameters: int
    seen: frozenset[str] | None


def cost(folders: Sequence[Mapping[str, Path]]) -> Cost:
    """Read what a method's models took, from their cards: the mean over seeds, all they saw."""
    parts = [[_cost(place) for place in dict.fromkeys(mine.values())] for mine in folders]
    seconds = [part.seconds for mine in parts for part in mine]
    seen = [part.seen for mine in parts for part in mine]
    return Cost(
        seconds=None if None in seconds else sum(s or 0.0 for s in seconds) / len(folders),
        parameters=sum(part.parameters for part in parts[0]),
        seen=None if None in seen else frozenset().union(*(s or () for s in seen)),
    )


def _cost(place: Path) -> Cost:
    seconds: float | None = None
    seen: frozenset[str] | None = None
    if (place / TUNED).is_file():
        tuned = read_tuned(place)
        seconds, seen = tuned.cpu_seconds, frozenset(tuned.prompts)
    elif (place / PARM).is_file():
        arm = read_parm(place)
        seconds, seen = arm.cpu_seconds, frozenset(arm.prompts)
    elif (place / SEEN).is_file():
        seen = frozenset(json.loads((place / SEEN).read_text()))
    metrics = place.parent / "metrics.json"
    if (place / "value.json").is_file() and metrics.is_file():
        rounds = json.loads(metrics.read_text())
        if all("seconds_cpu" in entry for entry in rounds):
            seconds = sum(float(entry["seconds_cpu"]) for entry in rounds)
    return Cost(seconds, sum(map(_parameters, _weights(place))), seen)


def tokenizer(place: Path) -> str | None:
    """The fingerprint of a model's tokenizer, if a card says it."""
    cards = [place / name for name in (TUNED, PARM, "value.json")]
    told = [json.loads(card.read_text())["fingerprint"] for card in cards if card.is_file()]
    return str(told[0]) if told else None


def _weights(place: Path) -> list[Path]:
    files = place.rglob("*.safetensors")
    return sorted(file for file in files if "checkpoints" not in file.parts)


def _parameters(file: Path) -> int:
    total = 0
    with safe_open(file, "pt") as tensors:
        for name in tensors.keys():  # noqa: SIM118 - not a dict
            size = 1
            for length in tensors.get_slice(name).get_shape():
                size *= length
            total += size
    return total


def identity(place: Path) -> str:
    """A digest of a model's weights: another one in the same folder is another model."""
    digest = hashlib.blake2b(digest_size=8)
    for file in _weights(place):
        digest.update(file.relative_to(place).as_posix().encode())
        with file.open("rb") as content:
            while block := content.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
