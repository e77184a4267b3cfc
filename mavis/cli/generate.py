"""`mavis generate`: ask a guided policy from the command line."""

import json as jsonlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice, repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mavis.cli.show import Refused, Shown, show_json, show_text
from mavis.prompts import Prompt, plain, read_prompts

if TYPE_CHECKING:
    from mavis.decoding.policy import GuidedPolicy, Refuse
    from mavis.decoding.prompt_requests import Completion

SCORED = 16  # answers that are scored together, and then shown


def generate(
    prompts: list[str],
    weights: dict[str, float] = {},  # noqa: B006 - a default that the parser can show; not changed
    values: dict[str, str] = {},  # noqa: B006
    runs: str = "runs",
    reference: str | None = None,
    template_args: dict[str, Any] | None = None,
    device: str | None = None,
    file: str | None = None,
    column: str | None = None,
    beta: float | None = None,
    temperature: float = 1.0,
    top_k: int = 40,
    top_p: float = 1.0,
    max_tokens: int = 64,
    stop: list[str] = [],  # noqa: B006
    n: int = 1,
    beams: int | None = None,
    seed: int = 0,
    compare: bool = False,
    score: bool = False,
    json: bool = False,
    strict: bool = False,
) -> None:
    """Answer prompts, guided by weights of your own.

    Answers come in the order of the prompts, each as soon as it is finished. A prompt that cannot
    be answered is reported on stderr by its number, counted from 0, and the others are answered.
    The exit status is then 1 where such prompts are too long, and 2 where one is bad input, such
    as one that the chat template refuses.

    Args:
        prompts: what to answer, as texts; for a data set, --file; without both, lines of stdin
        weights: how much an objective counts, as --weights.NAME X; any number, negative too
        values: folder of an objective's value model, by --values.NAME PATH (RUNS/NAME/value)
        runs: folder in which `mavis fit` keeps its runs
        reference: reference policy (default: the one that the value models were trained under)
        template_args: arguments of its chat template, such as '{enable_thinking: false}'
        device: where to run, such as cpu or cuda:1 (default: an accelerator if there is one)
        file: data set to read prompts from: every one of them, in order
        column: column of the data set that holds them
        beta: strength of the tilt (default: what the value models were trained for)
        temperature: of the reference policy; 0 takes the most likely token
        top_k: candidates per token; 0 is the whole vocabulary
        top_p: probability mass of the candidates
        max_tokens: longest answer
        stop: text that ends an answer and is no part of it; several by --stop A --stop B
        n: answers per prompt
        beams: search for the most likely answers with so many beams, in place of drawing them; the
            n likeliest are shown
        seed: of the random draws
        compare: show the reference policy's answer, too
        score: show the objectives' rewards, in standard units
        json: write one JSON object per answer and line; a prompt that cannot be answered has
            an "error"
        strict: stop at a prompt that cannot be answered, before any is
    """
    folders = _folders(weights, values, runs)
    if score and not weights:
        raise ValueError("score needs an objective: add --weights.NAME X (0 leaves it unguided).")
    for name, number in {"n": n, "beams": beams}.items():
        if number is not None and number < 1:
            raise ValueError(f"{name} must be at least 1, got {number}.")
    if beams is not None and not n <= beams:
        raise ValueError(f"n must be at most the number of beams ({beams}), got {n}.")
    asked = _asked(prompts, file, column)

    from mavis.decoding.loading import load
    from mavis.decoding.policy import GuidedPolicy
    from mavis.decoding.reference import PromptTooLong
    from mavis.progress import track

    policy = load(folders, reference, device, template_args)
    options: dict[str, Any] = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
    options |= {"max_tokens": max_tokens, "seed": seed, "stop": _stops(stop)}
    refused: dict[int, str] = {}
    status = 1

    def refuse(at: int, error: ValueError) -> None:
        nonlocal status
        status = status if isinstance(error, PromptTooLong) else 2
        refused[at] = " ".join(str(error).split())
        print(f"mavis: {refused[at]}", file=sys.stderr)

    guided = _answers(policy, asked, weights, beta, options, n, beams, None if strict else refuse)
    good = [prompt for at, prompt in enumerate(asked) if at not in refused]
    plainly: Iterator[Completion | None] = repeat(None)
    if compare:
        plainly = _answers(GuidedPolicy(policy.reference), good, {}, None, options, n, beams)
    answered = _scored(policy, zip(guided, plainly, strict=False), score)
    show = show_json if json else show_text
    every = _in_turn(asked, refused, answered, n)
    for one in track(every, "answers", "answers", len(asked) * n, printing=True):
        show(one)
    if refused:
        if len(asked) > 1:
            said = f"{len(refused)} of {len(asked)} prompts were not answered (counted from 0)."
            print(f"mavis: {said}", file=sys.stderr)
        raise SystemExit(status)


def _answers(
    policy: "GuidedPolicy",
    asked: Sequence[Prompt],
    weights: Mapping[str, float],
    beta: float | None,
    options: Mapping[str, Any],
    n: int,
    beams: int | None,
    refuse: "Refuse | None" = None,
) -> "Iterator[Completion]":
    """The n answers to each prompt, drawn or searched for; everything is checked first."""
    from mavis.decoding.prompt_requests import requests

    if beams is None:
        return policy.stream(asked, weights, beta, **options, n=n, refuse=refuse)
    beta = policy.beta if beta is None else beta
    spelled = requests(list(asked), policy.objectives, weights, beta, **options)
    found = policy.search(spelled, beams, refuse=refuse)
    return (answer for answers in found for answer in _likeliest(answers, n))


def _likeliest(answers: "Sequence[Completion]", n: int) -> "Sequence[Completion]":
    if len(answers) < n:
        short = repr(plain(answers[0].prompt))[:60]
        raise ValueError(f"beam search found {len(answers)} answers to {short}: lower --n ({n}).")
    return answers[:n]


def _folders(weights: Mapping[str, float], values: Mapping[str, str], runs: str) -> dict[str, str]:
    """The folder of each value model, by objective."""
    stray = sorted(set(values) - set(weights))
    if stray:
        raise ValueError(f"values.{stray[0]} needs a weight: add --weights.{stray[0]} 1.")
    folders = {name: values.get(name, str(Path(runs) / name / "value")) for name in weights}
    for name, folder in folders.items():
        if not Path(folder).expanduser().is_dir():
            there = sorted(path.parent.name for path in Path(runs).expanduser().glob("*/value"))
            others = f" ({runs} holds those of {', '.join(there)})" if there else ""
            fit = f"mavis fit --objective {name}"
            fit += f" --out {Path(runs) / name}" if Path(runs) != Path("runs") else ""
            raise FileNotFoundError(
                f"no value model of {name} at {folder}{others}: `{fit}` makes one, "
                f"or say where it is by --values.{name} PATH."
            )
    return folders


def _asked(prompts: list[str], file: str | None, column: str | None) -> list[Prompt]:
    if column is not None and file is None:
        raise ValueError("column is one of a --file: name that, too.")
    if file is not None:
        if prompts:
            raise ValueError("prompts must come from the command line or from --file, not both.")
        return read_prompts(file, split=None, column=column, unique=False)
    if prompts:
        return list(prompts)
    if sys.stdin.isatty():
        raise ValueError('no prompts: give some as "…", a --file, or lines on stdin.')
    try:
        lines = [line.removeprefix("\ufeff").strip() for line in sys.stdin]  # a byte order mark
    except UnicodeDecodeError as error:
        raise ValueError(f"prompts on stdin must be UTF-8 text: {error}.") from error
    if not any(lines):
        raise ValueError("no prompts on stdin: give one per line.")
    return [line for line in lines if line]


def _stops(told: Sequence[str]) -> list[str]:
    """Stop strings, some of which may be given as a JSON list of strings.

    >>> _stops(["END", '["a", "b"]', "[/INST]", "[1]"])
    ['END', 'a', 'b', '[/INST]', '[1]']
    """
    found: list[str] = []
    for one in told:
        try:
            several = jsonlib.loads(one)
        except ValueError:
            several = one
        is_list = isinstance(several, list) and all(isinstance(each, str) for each in several)
        found += several if is_list else [one]
    return found


def _scored(
    policy: "GuidedPolicy", pairs: "Iterator[tuple[Completion, Completion | None]]", score: bool
) -> Iterator[Shown]:
    """Answers with their rewards, some at a time."""
    if not score:
        yield from (Shown(answer, {}, other, {}) for answer, other in pairs)
        return
    while some := list(islice(pairs, SCORED)):
        mine = _rewards(policy, [answer for answer, _ in some])
        others = [other for _, other in some if other]
        theirs = _rewards(policy, others) if others else [{}] * len(some)
        for (answer, other), rewards, rivals in zip(some, mine, theirs, strict=True):
            yield Shown(answer, rewards, other, rivals)


def _rewards(policy: "GuidedPolicy", answers: "Sequence[Completion]") -> list[dict[str, float]]:
    """Each answer's rewards by every loaded objective, in standard units."""
    from mavis.objective import find
    from mavis.reward import score

    prompts, texts = [plain(a.prompt) for a in answers], [a.text for a in answers]
    found = {name: find(name) for name in policy.objectives}
    columns = {
        name: policy.units[name]
        .standard(score(name, one.reward, prompts, texts, one.scores_thoughts))
        .tolist()
        for name, one in found.items()
    }
    return [{name: column[at] for name, column in columns.items()} for at in range(len(answers))]


def _in_turn(
    asked: Sequence[Prompt], refused: Mapping[int, str], answered: Iterator[Shown], n: int
) -> Iterator[Shown | Refused]:
    """What is shown for each prompt, n times over, in the order of the prompts."""
    for at, prompt in enumerate(asked):
        if at in refused:
            yield from [Refused(prompt, refused[at])] * n
        else:
            yield from islice(answered, n)
