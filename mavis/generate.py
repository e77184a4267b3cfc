"""`mavis generate`: ask a guided policy from the command line."""

import json as jsonlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mavis.prompts import Prompt, plain, read_prompts

if TYPE_CHECKING:
    from mavis.guide.policy import Answer, GuidedPolicy

Scores = dict[str, list[float]]  # by objective, one per answer, in standard units


def generate(
    prompts: list[str],
    weights: dict[str, float] = {},  # noqa: B006 - a default that the parser can show; not changed
    values: dict[str, str] = {},  # noqa: B006
    runs: str = "runs",
    reference: str | None = None,
    file: str | None = None,
    column: str | None = None,
    beta: float | None = None,
    temperature: float = 1.0,
    top_k: int = 40,
    top_p: float = 1.0,
    max_tokens: int = 64,
    n: int = 1,
    seed: int = 0,
    compare: bool = False,
    score: bool = False,
    json: bool = False,
) -> None:
    """Answer prompts, guided by weights of your own.

    Args:
        prompts: what to answer; none here and no --file reads one prompt per line from stdin
        weights: how much an objective counts, as --weights.NAME X; any number, negative too
        values: folder of an objective's value model, by --values.NAME PATH (RUNS/NAME/value)
        runs: folder in which `mavis fit` keeps its runs
        reference: reference policy (default: the one that the value models were trained under)
        file: data set to read prompts from
        column: column of the data set that holds them
        beta: strength of the tilt (default: what the value models were trained for)
        temperature: of the reference policy
        top_k: candidates per token; 0 is the whole vocabulary
        top_p: probability mass of the candidates
        max_tokens: longest answer
        n: answers per prompt
        seed: of the random draws
        compare: show the reference policy's answer, too
        score: show the objectives' rewards, in standard units
        json: write one JSON object per answer and line
    """
    folders = {name: values.get(name, str(Path(runs) / name / "value")) for name in weights}
    stray = sorted(set(values) - set(weights))
    if stray:
        raise ValueError(f"values.{stray[0]} needs a weight: add --weights.{stray[0]} 1.")
    for name, folder in folders.items():
        if not Path(folder).is_dir():
            raise FileNotFoundError(
                f"no value model of {name} at {folder}: `mavis fit --objective {name}` makes one, "
                f"or say where it is by --values.{name} PATH."
            )
    if score and not weights:
        raise ValueError("score needs an objective: add --weights.NAME X (0 leaves it unguided).")
    asked = _asked(prompts, file, column)

    from mavis.guide.policy import GuidedPolicy, load

    policy = load(folders, reference)
    options: dict[str, Any] = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
    options |= {"max_tokens": max_tokens, "n": n, "seed": seed}
    guided = policy.generate(asked, weights=weights, beta=beta, **options)
    plainly: Sequence[Answer | None] = [None] * len(guided)
    if compare:
        plainly = GuidedPolicy(policy.reference).generate(asked, **options)
    rewards = _rewards(policy, guided) if score else {}
    rivals = _rewards(policy, [a for a in plainly if a]) if score and compare else {}
    for at, (answer, other) in enumerate(zip(guided, plainly, strict=True)):
        mine = {name: column[at] for name, column in rewards.items()}
        theirs = {name: column[at] for name, column in rivals.items()}
        show = _print_json if json else _print_text
        show(answer, mine, other, theirs)


def _asked(prompts: list[str], file: str | None, column: str | None) -> list[Prompt]:
    if column is not None and file is None:
        raise ValueError("column is one of a --file: name that, too.")
    if file is not None:
        if prompts:
            raise ValueError("prompts must come from the command line or from --file, not both.")
        return read_prompts(file, split=None, column=column)
    if prompts:
        return list(prompts)
    if sys.stdin.isatty():
        raise ValueError('no prompts: give some as "…", a --file, or lines on stdin.')
    lines = [line.strip() for line in sys.stdin]
    if not any(lines):
        raise ValueError("no prompts on stdin: give one per line.")
    return [line for line in lines if line]


def _rewards(policy: "GuidedPolicy", answers: "Sequence[Answer]") -> Scores:
    """Score answers with every loaded objective's reward."""
    from mavis.guide.network import ValueNetwork
    from mavis.objective import find
    from mavis.reward import score

    cards = [n.card for n in policy.networks if isinstance(n, ValueNetwork)]
    units = {n: u for card in cards for n, u in zip(card.objectives, card.units, strict=True)}
    prompts, texts = [plain(a.prompt) for a in answers], [a.text for a in answers]
    found = {name: find(name) for name in policy.objectives}
    return {
        name: units[name]
        .standard(score(name, one.reward, prompts, texts, one.scores_thoughts))
        .tolist()
        for name, one in found.items()
    }


def _print_json(
    answer: "Answer",
    rewards: Mapping[str, float],
    other: "Answer | None",
    theirs: Mapping[str, float],
) -> None:
    def known(scores: Mapping[str, float]) -> dict[str, float | None]:
        return {name: None if isnan(value) else value for name, value in scores.items()}

    line: dict[str, Any] = {
        "prompt": answer.prompt,
        "text": answer.text,
        "tokens": answer.tokens,
        "rewards": known(rewards),  # null where the reward abstained
        "kl": answer.kl,
        "kl_sampled": answer.kl_sampled,
        "kl_truncation": answer.kl_truncation,
        "reason": answer.reason,
    }
    if other is not None:
        line["reference"] = {"text": other.text, "tokens": other.tokens, "rewards": known(theirs)}
    print(jsonlib.dumps(line, ensure_ascii=False))


def _print_text(
    answer: "Answer",
    rewards: Mapping[str, float],
    other: "Answer | None",
    theirs: Mapping[str, float],
) -> None:
    if other is None:
        print(answer.text, *_notes(rewards), sep="   ")
        return
    print(f"prompt     {plain(answer.prompt).strip()}")
    print("reference ", other.text, *_notes(theirs), sep=" ")
    print("guided    ", answer.text, *_notes(rewards), f"[KL {answer.kl:.1f} nats]", sep=" ")
    print()


def _notes(rewards: Mapping[str, float]) -> Iterator[str]:
    if rewards:
        said = {n: "abstains" if isnan(value) else f"{value:+.2f}" for n, value in rewards.items()}
        yield "[" + ", ".join(f"{name} {value}" for name, value in said.items()) + "]"
