"""Points of a sweep: a policy's answers to all prompts, scored by every objective, in one file.

All that is said of a method is worked out from these files, so nothing has to be decoded twice; a
file is there when it is whole.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa  # type: ignore[import-untyped]
from pyarrow import parquet

from mavis.comparison.preferences import Weighting, label
from mavis.evaluation.metrics import distinct, repetition
from mavis.storage import write_whole

Array = npt.NDArray[np.float64]

POINTS = "points"  # the folder of all
NUMBERS = ("kl", "kl_sampled", "kl_truncation", "log_ref")  # nats, of one answer each


@dataclass(frozen=True)
class ScoredSamples:
    """S answers to each of P prompts under one setting.

    Args:
        method: whose they are.
        weights: λ [M].
        strength: what multiplies λ: β, or its counterpart.
        responses: [P][S].
        tokens: [P][S], each a list.
        rewards: [P, S, M] in the rewards' own units; NaN where a reward abstained.
        numbers: KL and log-probabilities by name, nats [P, S]; see `NUMBERS`.
        seconds: wall-clock time of the decoding.
    """

    method: str
    weights: Weighting
    strength: float
    responses: list[list[str]]
    tokens: list[list[list[int]]]
    rewards: Array
    numbers: dict[str, Array]
    seconds: float

    @property
    def kl(self) -> Array:
        """KL to the untruncated reference, exact over the candidates, nats per answer [P, S]."""
        return self.numbers["kl"]

    @cached_property
    def summary(self) -> dict[str, float]:
        """Means: KL and its kinds, length, distinct-3, repetition, perplexity under π_ref."""
        said = [tokens for answers in self.tokens for tokens in answers]
        each = [distinct(one, 3) for one in zip(*self.tokens, strict=True)]
        length = sum(map(len, said))
        return {name: float(self.numbers[name].mean()) for name in NUMBERS[:3]} | {
            "length": length / len(said),
            "distinct_3": sum(each) / len(each),
            "repetition": repetition(said, 3),
            "perplexity": float(np.exp(-self.numbers["log_ref"].sum() / max(1, length))),
            "seconds": self.seconds,
            "tokens": float(length),
        }

    def save(self, file: Path, objectives: Sequence[str]) -> None:
        """Write the point as Parquet, one row an answer."""
        prompts, seeds = self.rewards.shape[:2]
        columns: dict[str, Any] = {
            "prompt": np.repeat(np.arange(prompts), seeds),
            "seed": np.tile(np.arange(seeds), prompts),
            "response": [text for answers in self.responses for text in answers],
            "tokens": [tokens for answers in self.tokens for tokens in answers],
        }
        columns |= {name: self.numbers[name].ravel() for name in NUMBERS}
        columns |= {f"reward_{n}": self.rewards[..., m].ravel() for m, n in enumerate(objectives)}
        about = {"method": self.method, "weights": self.weights, "strength": self.strength}
        about |= {"seconds": self.seconds, "objectives": list(objectives), "seeds": seeds}
        table = pa.table(columns).replace_schema_metadata({"mavis": json.dumps(about)})
        write_whole(file, lambda draft: parquet.write_table(table, draft, write_page_checksum=True))

    @classmethod
    def load(cls, file: Path) -> "ScoredSamples":
        """Read a point back.

        Raises:
            ValueError: the file is not what was written; it is named.
        """
        try:
            return cls._read(file)
        except (pa.ArrowException, OSError, ValueError, LookupError, TypeError) as error:
            raise ValueError(f"{file} is damaged, or no point of a sweep: {error}") from error

    @classmethod
    def _read(cls, file: Path) -> "ScoredSamples":
        table = parquet.read_table(file, page_checksum_verification=True)
        about = json.loads((table.schema.metadata or {})[b"mavis"])
        seeds = about["seeds"]

        def fold(name: str) -> Array:
            column = table.column(name).to_numpy().astype(np.float64)
            return np.reshape(column, (-1, seeds))

        def nest(name: str) -> list[list[Any]]:
            flat = table.column(name).to_pylist()
            return [flat[at : at + seeds] for at in range(0, len(flat), seeds)]

        return cls(
            method=about["method"],
            weights=tuple(about["weights"]),
            strength=about["strength"],
            responses=nest("response"),
            tokens=nest("tokens"),
            rewards=np.stack([fold(f"reward_{name}") for name in about["objectives"]], -1),
            numbers={name: fold(name) for name in NUMBERS},
            seconds=about["seconds"],
        )


def place(folder: Path, method: str, weights: Weighting, strength: float, names: list[str]) -> Path:
    """The file of a point."""
    return folder / POINTS / method / f"{label(weights, names)}@{strength:.4g}.parquet"
