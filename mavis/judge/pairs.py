"""Pair two sets of answers to the same prompts, and count a judge's verdicts on them."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mavis.judge.verdicts import Question, Verdict
from mavis.prompts import plain

Both = tuple[Verdict | None, Verdict | None]  # verdicts on a pair, shown in both orders


@dataclass(frozen=True)
class Pair:
    """Two answers to the same prompt."""

    prompt: str
    first: str
    second: str

    @property
    def differ(self) -> bool:
        """Whether the texts differ; equal texts are a tie without a question."""
        return self.first != self.second

    def questions(self, model: str, criterion: str) -> tuple[Question, Question]:
        """Return the questions to the judge, with the answers in both orders."""
        return (
            Question(model, criterion, self.prompt, self.first, self.second),
            Question(model, criterion, self.prompt, self.second, self.first),
        )


@dataclass(frozen=True)
class Comparison:
    """How the first set of answers compares with the second.

    The interval is a 95 % percentile bootstrap over prompts; below some thirty prompts, it is too
    narrow. Each answer is shown first once, so a `shown_first` other than 0.5 is position bias.
    """

    pairs: int  # number of pairs of answers
    wins: int  # pairs where the first answer wins in both orders
    ties: int  # pairs that are neither a win nor a loss
    losses: int  # pairs where the first answer loses in both orders
    equal: int  # ties between equal texts, which the judge is not asked about
    unparseable: int  # verdicts that could not be read
    win_rate: float  # share of wins, with ties counted as half
    low: float  # lower end of its interval
    high: float  # upper end
    shown_first: float | None  # share of the verdicts for A or B that the answer shown first got


# From files to pairs


def read_pairs(first: Path, second: Path) -> list[Pair]:
    """Pair the n-th answer to a prompt in one file with the n-th in the other.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if a line is not an answer, or the files do not answer the same prompts.
    """
    ours, theirs = _answers(first), _answers(second)
    for name in [*ours, *theirs]:
        mine, others = len(ours.get(name, ())), len(theirs.get(name, ()))
        if mine != others:
            raise ValueError(
                f"both files must answer the same prompts: {name!r:.60} has answers "
                f"{mine} times in {first} and {others} times in {second}."
            )
    return [
        Pair(prompt, *both)
        for prompt, texts in ours.items()
        for both in zip(texts, theirs[prompt], strict=True)
    ]


def mean_kl(file: Path) -> float | None:
    """Return the mean KL of a file's answers in nats; None if any answer has no finite KL."""
    rows = [json.loads(line) for line in file.read_bytes().split(b"\n") if line.strip()]
    kls = [row.get("kl") for row in rows]
    if not all(isinstance(kl, int | float) and math.isfinite(kl) for kl in kls):
        return None
    return sum(map(float, kls)) / len(kls)


def _answers(file: Path) -> dict[str, list[str]]:
    """Read the answers in a file, by prompt."""
    if not file.exists():
        raise FileNotFoundError(f"answers {str(file)!r}: there is no such file.")
    if not file.is_file():
        raise ValueError(f"answers {str(file)!r}: this is a folder; give a file.")
    answers: dict[str, list[str]] = {}
    for number, line in enumerate(file.read_bytes().split(b"\n"), 1):
        if line.strip():
            prompt, text = _answer(line, f"line {number} of {file}")
            answers.setdefault(prompt, []).append(text)
    if not answers:
        raise ValueError(f"no answers in {file}.")
    return answers


def _answer(line: bytes, where: str) -> tuple[str, str]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        raise ValueError(f"{where} is not JSON.") from None
    if not isinstance(row, dict):
        raise ValueError(f"{where} must be an object with a prompt and a text, got {row!r:.60}.")
    for name in ("prompt", "text"):
        if name not in row:
            raise ValueError(f"{where} has no {name!r}, only {', '.join(row) or 'nothing'}.")
    prompt, text = row["prompt"], row["text"]
    if not (isinstance(prompt, str) or _is_chat(prompt)):
        raise ValueError(f"{where}: prompt must be a string or a chat, got {prompt!r:.60}.")
    if not isinstance(text, str):
        raise ValueError(f"{where}: text must be a string, got {text!r:.60}.")
    return plain(prompt), text


def _is_chat(prompt: Any) -> bool:
    def is_text(turn: Any, name: str) -> bool:
        return isinstance(turn, dict) and isinstance(turn.get(name), str)

    turns = prompt if isinstance(prompt, list) else []
    return bool(turns) and all(is_text(t, "role") and is_text(t, "content") for t in turns)


# From verdicts to the result


def count(pairs: Sequence[Pair], verdicts: Sequence[Both], seed: int = 0) -> Comparison:
    """Count wins, ties and losses of at least one pair, by the verdicts on its `questions`.

    Verdicts on equal texts are ignored. The seed is that of the bootstrap.
    """
    from mavis.evaluation.bootstrap import means, ratio, resamples

    points = [
        outcome(*both) if pair.differ else 0.5 for pair, both in zip(pairs, verdicts, strict=True)
    ]
    asked = [v for pair, both in zip(pairs, verdicts, strict=True) if pair.differ for v in both]
    decided = [verdict for verdict in asked if verdict in ("A", "B")]
    won: dict[str, list[float]] = {}
    for pair, point in zip(pairs, points, strict=True):
        won.setdefault(pair.prompt, []).append(point)
    sums, sizes = [sum(p) for p in won.values()], [len(p) for p in won.values()]
    draws = resamples(len(won), seed=seed)
    rate = ratio(sum(sums), means(sums, draws), sum(sizes), means(sizes, draws))
    return Comparison(
        pairs=len(pairs),
        wins=points.count(1.0),
        ties=points.count(0.5),
        losses=points.count(0.0),
        equal=sum(not pair.differ for pair in pairs),
        unparseable=asked.count(None),
        win_rate=rate.value,
        low=rate.low,
        high=rate.high,
        shown_first=decided.count("A") / len(decided) if decided else None,
    )


def outcome(forward: Verdict | None, backward: Verdict | None) -> float:
    """Score the first answer of a pair: 1 for a win, 0 for a loss, a half for anything else.

    >>> outcome("A", "B"), outcome("B", "A"), outcome("A", "A"), outcome("A", "tie")
    (1.0, 0.0, 0.5, 0.5)

    `forward` is the verdict when it was shown first, as A; `backward` when shown last, as B.
    """
    return {("A", "B"): 1.0, ("B", "A"): 0.0}.get((str(forward), str(backward)), 0.5)
