"""Answers of a policy with their rewards and their KL, from which all measurements are computed.

They are saved as one Parquet file with a row per answer; a file that exists is complete.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa  # type: ignore[import-untyped]
from pyarrow import parquet

from mavis.evaluation.kl_matching import PerPrompt, best_of_n
from mavis.evaluation.metrics import distinct, mean_reward, repetition
from mavis.reward import Units, standardised
from mavis.storage import write_whole

T = TypeVar("T")
Array = npt.NDArray[np.float64]

NUMBERS = ("kl", "kl_sampled", "kl_truncation", "log_ref")  # of `Completion`: nats, per answer


@dataclass(frozen=True)
class ScoredSamples:
    """S answers to each of P prompts under one setting, scored by M objectives.

    Args:
        objectives: names of the M axis.
        responses: texts [P][S].
        tokens: [P][S], each a list.
        rewards: [P, S, M] in the rewards' own units; NaN where a reward abstained.
        numbers: KL and log-probabilities by name, nats [P, S]; see `NUMBERS`.
        seconds: wall-clock time of the decoding.
        weights: λ, one per objective of the policy.
        strength: the factor of λ: β, or its counterpart.
        method: name of the method, in a comparison.
    """

    objectives: tuple[str, ...]
    responses: list[list[str]]
    tokens: list[list[list[int]]]
    rewards: Array
    numbers: dict[str, Array]
    # The origin of the samples; nothing is computed from it.
    seconds: float = 0.0
    weights: tuple[float, ...] = ()
    strength: float = 0.0
    method: str = ""

    @property
    def kl(self) -> Array:
        """KL to the reference on the same candidates, exact, nats per answer [P, S].

        That to the whole reference is larger by `kl_truncation`, which top-k and top-p cost every
        policy, the reference itself included, and which differs from answer to answer.
        """
        found: Array = self.numbers["kl"] - self.numbers["kl_truncation"]
        return np.maximum(found, 0.0)  # of the reference itself it is 0, but for rounding

    @cached_property
    def summary(self) -> dict[str, float]:
        """Means: each KL, length, distinct-3 and repetition, and the perplexity under π_ref.

        `kl` and `kl_sampled` are to the reference on the same candidates; see `kl`.
        """
        nats = {name: float(self.numbers[name].mean()) for name in NUMBERS[:3]}
        nats["kl"] = float(np.maximum(0.0, nats["kl"] - nats["kl_truncation"]))
        nats["kl_sampled"] -= nats["kl_truncation"]
        flat = [tokens for answers in self.tokens for tokens in answers]
        # Of one answer to each prompt at a time: distinct-3 falls with the number of answers.
        each = [distinct(column, 3) for column in zip(*self.tokens, strict=True)]
        length = sum(map(len, flat))
        return nats | {
            "length": length / len(flat),
            "distinct_3": sum(each) / len(each),
            "repetition": repetition(flat, 3),
            "perplexity": float(np.exp(-self.numbers["log_ref"].sum() / max(1, length))),
            "seconds": self.seconds,
            "tokens": float(length),
        }

    @cached_property
    def units(self) -> list[Units]:
        """The mean and standard deviation of each objective's rewards, abstentions left out.

        Raises:
            ValueError: the rewards of an objective are constant, or all abstained.
        """
        columns = np.moveaxis(self.rewards, -1, 0)
        return [
            Units.measure(column.ravel().tolist(), name)
            for name, column in zip(self.objectives, columns, strict=True)
        ]

    def standard(self, units: Sequence[Units]) -> Array:
        """The rewards in the standard units of each objective [P, S, M]."""
        rewards: Array = standardised(self.rewards, units)
        return rewards

    def mean_rewards(self, units: Sequence[Units]) -> dict[str, float]:
        """Each objective's mean reward in standard units, by its name; abstentions left out."""
        columns = np.moveaxis(self.standard(units), -1, 0)
        means = [mean_reward(column)["reward"] for column in columns]
        return dict(zip(self.objectives, means, strict=True))

    def best_of_n(self, units: Sequence[Units], weights: Sequence[float]) -> list[PerPrompt]:
        """The curve of best-of-N on these answers, in standard units, for N = 1 … S."""
        return best_of_n(self.standard(units), weights)

    def only(self, answer: int) -> "ScoredSamples":
        """The answers at one index of the S axis, as samples with S = 1."""
        return replace(
            self,
            responses=[[texts[answer]] for texts in self.responses],
            tokens=[[tokens[answer]] for tokens in self.tokens],
            rewards=self.rewards[:, [answer]],
            numbers={name: column[:, [answer]] for name, column in self.numbers.items()},
        )

    def save(self, file: Path) -> None:
        """Write the samples as Parquet, one row an answer."""
        prompts, answers = self.rewards.shape[:2]
        columns: dict[str, Any] = {
            "prompt": np.repeat(np.arange(prompts), answers),
            "seed": np.tile(np.arange(answers), prompts),
            "response": [text for texts in self.responses for text in texts],
            "tokens": [tokens for several in self.tokens for tokens in several],
        }
        columns |= {name: self.numbers[name].ravel() for name in NUMBERS}
        columns |= {
            f"reward_{name}": self.rewards[..., m].ravel() for m, name in enumerate(self.objectives)
        }
        about = {"method": self.method, "weights": self.weights, "strength": self.strength}
        about |= {"seconds": self.seconds, "objectives": list(self.objectives), "seeds": answers}
        table = pa.table(columns).replace_schema_metadata({"mavis": json.dumps(about)})
        write_whole(file, lambda draft: parquet.write_table(table, draft, write_page_checksum=True))

    @classmethod
    def load(cls, file: Path) -> "ScoredSamples":
        """Read samples back.

        Raises:
            ValueError: the file is not what was written; it is named.
        """
        try:
            return cls._read(file)
        except (pa.ArrowException, OSError, ValueError, LookupError, TypeError) as error:
            raise ValueError(f"{file} is damaged, or no point of a sweep: {error}") from error

    @classmethod
    def _read(cls, file: Path) -> "ScoredSamples":
        # Arrow checks the pages, so a flipped bit is an error here and no wrong number later.
        table = parquet.read_table(file, page_checksum_verification=True)
        about = json.loads((table.schema.metadata or {})[b"mavis"])
        answers = about["seeds"]

        def fold(name: str) -> Array:
            column = table.column(name).to_numpy().astype(np.float64)
            return np.reshape(column, (-1, answers))

        def nest(name: str) -> list[list[Any]]:
            flat = table.column(name).to_pylist()
            return [flat[at : at + answers] for at in range(0, len(flat), answers)]

        return cls(
            objectives=tuple(about["objectives"]),
            responses=nest("response"),
            tokens=nest("tokens"),
            rewards=np.stack([fold(f"reward_{name}") for name in about["objectives"]], -1),
            numbers={name: fold(name) for name in NUMBERS},
            seconds=about["seconds"],
            weights=tuple(about["weights"]),
            strength=about["strength"],
            method=about["method"],
        )


def side_by_side(parts: Sequence[ScoredSamples]) -> ScoredSamples:
    """Join answers to the same prompts along the S axis; the settings are those of the first."""
    return replace(
        parts[0],
        responses=_joined([part.responses for part in parts]),
        tokens=_joined([part.tokens for part in parts]),
        rewards=np.concatenate([part.rewards for part in parts], axis=1),
        numbers={n: np.concatenate([p.numbers[n] for p in parts], axis=1) for n in NUMBERS},
        seconds=sum(part.seconds for part in parts),
    )


def _joined(grids: Sequence[list[list[T]]]) -> list[list[T]]:
    """Lists [P][S] of several parts, side by side."""
    return [list(chain.from_iterable(rows)) for rows in zip(*grids, strict=True)]
