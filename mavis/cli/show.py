"""Print the answers of `mavis generate` as text, or as one JSON object per line."""

import json as jsonlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from math import isnan
from typing import TYPE_CHECKING, Any, NamedTuple

from mavis.prompts import Prompt, plain

if TYPE_CHECKING:
    from mavis.decoding.prompt_requests import Completion


class Shown(NamedTuple):
    """An answer and what is printed with it."""

    answer: "Completion"
    rewards: Mapping[str, float]  # by objective, in standard units; NaN where one abstained
    other: "Completion | None"  # the reference policy's answer
    theirs: Mapping[str, float]  # the rewards of that answer


class Refused(NamedTuple):
    """A prompt that cannot be answered, and the reason."""

    prompt: Prompt
    error: str


def show_json(one: Shown | Refused) -> None:
    """Print an answer, or the reason why there is none, as one line of JSON."""

    def known(scores: Mapping[str, float]) -> dict[str, float | None]:
        return {name: None if isnan(value) else value for name, value in scores.items()}

    if isinstance(one, Refused):
        _print_json({"prompt": one.prompt, "error": one.error})
        return
    answer, other = one.answer, one.other
    line: dict[str, Any] = {
        "prompt": answer.prompt,
        "text": answer.text,
        "tokens": answer.tokens,
        "rewards": known(one.rewards),  # null where the reward abstained
        "kl": answer.kl,
        "kl_sampled": answer.kl_sampled,
        "kl_truncation": answer.kl_truncation,
        "reason": answer.reason,
    }
    if other is not None:
        rewards = known(one.theirs)
        line["reference"] = {"text": other.text, "tokens": other.tokens, "rewards": rewards}
    _print_json(line)


def _print_json(line: dict[str, Any]) -> None:
    """Print one line of JSON; characters that the terminal cannot show are escaped."""
    try:
        text = jsonlib.dumps(line, ensure_ascii=False, allow_nan=False)
    except ValueError as error:
        short = repr(plain(line["prompt"]))[:60]
        raise ValueError(
            f"the answer to {short} has a number that is not finite, which JSON cannot hold: "
            f"{ {n: v for n, v in line.items() if isinstance(v, float)} }."
        ) from error
    if _printable(text) != text:
        text = jsonlib.dumps(line)
    print(text, flush=True)


def show_text(one: Shown | Refused) -> None:
    """Print an answer as text."""
    if isinstance(one, Refused):
        return
    answer, other = one.answer, one.other
    text, notes = answer.text.strip(), _notes(one.rewards)
    if other is None:
        _print(text, *notes, sep="   ")
        return
    _print("prompt    ", plain(answer.prompt).strip())
    _print("reference ", other.text.strip(), *_notes(one.theirs))
    _print("guided    ", text, *notes, f"[KL {answer.kl - answer.kl_truncation:z.1f} nats]")
    _print()


def _notes(rewards: Mapping[str, float]) -> Iterator[str]:
    if rewards:
        notes = [f"{n} abstains" if isnan(x) else f"{n} {x:+.2f}" for n, x in rewards.items()]
        yield f"[{', '.join(notes)}]"


def _print(*words: str, sep: str = " ") -> None:
    """Print and flush; characters that the terminal cannot show are replaced."""
    print(_printable(sep.join(words)), flush=True)


def _printable(text: str) -> str:
    encoding = sys.stdout.encoding or "utf-8"
    return text.encode(encoding, "replace").decode(encoding)


@dataclass
class Problems:
    """Prompts that are not answered, or not as often as was asked for; reported on stderr."""

    strict: bool  # whether the first one stops the command
    refused: dict[int, str] = field(default_factory=dict)  # why, by the number of the prompt
    short: dict[int, int] = field(default_factory=dict)  # how many answers there are, likewise
    status: int = 1  # exit status where a prompt was refused: 2 once one was not just too long

    def refuse(self, at: int, error: ValueError) -> None:
        """Report a prompt that cannot be answered."""
        from mavis.decoding.reference import PromptTooLong

        self.status = self.status if isinstance(error, PromptTooLong) else 2
        self.refused[at] = " ".join(str(error).split())
        print(f"mavis: {self.refused[at]}", file=sys.stderr)

    def few(self, at: int, count: int, n: int) -> None:
        """Note a prompt to which beam search found fewer than n answers."""
        if self.strict:
            raise ValueError(
                f"beam search found only {count} answers to prompt {at}, counted from 0: lower --n "
                f"({n}), or leave out --strict."
            )
        self.short[at] = count

    def report(self, prompts: int, n: int) -> None:
        """Report the numbers of such prompts; exit if some were refused."""
        if self.short:
            at, count = next(iter(self.short.items()))
            few = (
                f"{len(self.short)} of {prompts} prompts, the first of them {count} to prompt {at}"
            )
            text = f"beam search found fewer than n = {n} answers to {few}."
            print(f"mavis: warning: {text}", file=sys.stderr)
        if self.refused and prompts > 1:
            text = f"{len(self.refused)} of {prompts} prompts were not answered (counted from 0)."
            print(f"mavis: {text}", file=sys.stderr)
        if self.refused:
            raise SystemExit(self.status)


def in_turn(
    asked: Sequence[Prompt], problems: Problems, answered: Iterator[Shown | None], n: int
) -> Iterator[Shown | Refused]:
    """Yield the answers, or n refusals, of each prompt, in the order of the prompts."""
    for at, prompt in enumerate(asked):
        if at in problems.refused:
            yield from [Refused(prompt, problems.refused[at])] * n
            continue
        count = 0
        for one in filter(None, islice(answered, n)):
            count += 1
            yield one
        if count < n:
            problems.few(at, count, n)
