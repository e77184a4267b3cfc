"""`mavis generate`: generate answers with a guided policy from the command line."""

import json as jsonlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice, repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mavis.cli.show import Problems, Shown, in_turn, show_json, show_text
from mavis.prompts import Prompt, plain, read_prompts
from mavis.value_places import places

if TYPE_CHECKING:
    from mavis.decoding.policy import GuidedPolicy
    from mavis.decoding.prompt_requests import (
        CandidateSettings,
        Completion,
        Refuse,
        RequestSettings,
    )

SAMPLED = 24  # answers of the reference, by which --kl finds a strength
SCORED = 16  # answers are scored, then printed, in batches of this size


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
    kl: float | None = None,
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
    """Answer prompts with the reference policy, guided by weighted objectives.

    Answers are printed in the order of the prompts, each as soon as it is finished. A prompt that
    cannot be answered is reported on stderr by its number, counted from 0, and the others are
    still answered. The exit status is then 1 if all such prompts were too long, and 2 if one was
    invalid input, such as a prompt that the chat template rejects.

    Args:
        prompts: texts to answer; without prompts and --file, one prompt per line of stdin
        weights: weight of an objective, as --weights.NAME X; it may be negative
        values: folder of an objective's value model, as --values.NAME PATH (default:
            RUNS/NAME/value)
        runs: folder that holds the runs of `mavis fit`
        reference: reference policy (default: the one that the value models were trained under)
        template_args: arguments passed to its chat template, such as '{enable_thinking: false}'
        device: device to run on, such as cpu or cuda:1 (default: an accelerator if available)
        file: data set to read prompts from; all of its prompts are answered, in order
        column: name of the column of --file that holds the prompts
        beta: guidance strength β (default: the strength that the value models were trained for)
        kl: KL budget in nats per answer, in place of --beta: the strength at which the policy is
            expected to be so far from the reference, on top of what --top_k costs
        temperature: sampling temperature of the reference policy; 0 means greedy decoding
        top_k: number of candidates per token; 0 means the whole vocabulary
        top_p: probability mass that the candidates cover (nucleus sampling); 1 means no limit
        max_tokens: maximum answer length in tokens
        stop: stop string, which ends an answer and is left out of it; repeat --stop for several
        n: answers per prompt
        beams: number of beams; turns on beam search instead of sampling, and the n most likely
            answers are printed (with a warning where it finds fewer)
        seed: seed of all random draws
        compare: also print the answer of the reference policy
        score: also print the reward of every objective, in standard units
        json: print one JSON object per answer and line; a prompt that cannot be answered gets an
            "error" field
        strict: answer no prompt at all if one of them cannot be answered
    """
    folders = _folders(weights, values, runs)
    if score and not weights:
        raise ValueError("score needs an objective: add --weights.NAME X (0 for no guidance).")
    for name, number in {"n": n, "beams": beams}.items():
        if number is not None and number < 1:
            raise ValueError(f"{name} must be at least 1, got {number}.")
    if beams is not None and not n <= beams:
        raise ValueError(f"n must be at most the number of beams ({beams}), got {n}.")
    if kl is not None and (beta is not None or not weights):
        raise ValueError("kl takes the place of beta, and needs an objective: --weights.NAME X.")
    asked = _asked(prompts, file, column)

    from mavis.decoding.loading import load
    from mavis.decoding.policy import GuidedPolicy
    from mavis.progress import track

    policy = load(folders, reference, device, template_args)
    options: RequestSettings = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
    options |= {"max_tokens": max_tokens, "seed": seed, "stop": _stops(stop)}
    if kl is not None:
        beta = _strength(policy, asked, weights, kl, options)
    problems = Problems(strict)
    refuse = None if strict else problems.refuse
    guided = _answers(policy, asked, weights, beta, n, beams, options, refuse)
    others: Iterator[Completion | None] = repeat(None)
    if compare:
        good = [prompt for at, prompt in enumerate(asked) if at not in problems.refused]
        others = _answers(GuidedPolicy(policy.reference), good, {}, None, n, beams, options)
    answered = _scored(policy, zip(guided, others, strict=False), score)
    every = in_turn(asked, problems, answered, n)
    show = show_json if json else show_text
    for one in track(every, "answers", "answers", len(asked) * n, printing=True):
        show(one)
    problems.report(len(asked), n)


def _strength(
    policy: "GuidedPolicy",
    asked: Sequence[Prompt],
    weights: Mapping[str, float],
    kl: float,
    options: "RequestSettings",
) -> float | None:
    """The strength for a KL budget, by the reference's answers to the first prompts; reported."""
    from mavis.decoding.policy import GuidedPolicy
    from mavis.evaluation.strength import strength_at_kl

    some, plain = asked[:SAMPLED], GuidedPolicy(policy.reference)
    n = -(-SAMPLED // len(some))
    # Prompts that cannot be answered are reported later, with the others.
    written = list(plain.stream(some, n=n, refuse=lambda *_: None, **options))
    if not written:
        return None
    settings: CandidateSettings = {
        "temperature": options["temperature"],
        "top_k": options["top_k"],
        "top_p": options["top_p"],
    }
    beta = strength_at_kl(policy, written[:SAMPLED], weights, kl, **settings)
    print(f"mavis: a KL of {kl:g} nats is expected at --beta {beta:.3g}.", file=sys.stderr)
    return beta


def _answers(
    policy: "GuidedPolicy",
    asked: Sequence[Prompt],
    weights: Mapping[str, float],
    beta: float | None,
    n: int,
    beams: int | None,
    options: "RequestSettings",
    refuse: "Refuse | None" = None,
) -> "Iterator[Completion | None]":
    """Check all input; then yield n answers per prompt, None for each that beam search lacks."""
    if beams is None:
        return policy.stream(asked, weights, beta, n=n, refuse=refuse, **options)
    found = policy.search(policy.requests(asked, weights, beta, **options), beams, refuse=refuse)
    return (one for answers in found for one in [*answers[:n], *[None] * (n - len(answers))])


def _folders(weights: Mapping[str, float], values: Mapping[str, str], runs: str) -> dict[str, str]:
    """Return the folder of each objective's value model, which must exist."""
    stray = sorted(set(values) - set(weights))
    if stray:
        raise ValueError(f"values.{stray[0]} needs a weight: add --weights.{stray[0]} 1.")
    found = places(Path(runs).expanduser(), [name for name in weights if name not in values])
    folders = {name: values.get(name) or str(found[name]) for name in weights}
    for name, folder in folders.items():
        if not Path(folder).expanduser().is_dir():
            there = sorted(path.parent.name for path in Path(runs).expanduser().glob("*/value"))
            others = f" ({runs} holds those of {', '.join(there)})" if there else ""
            fit = f"mavis fit --objective {name}"
            fit += f" --out {Path(runs) / name}" if Path(runs) != Path("runs") else ""
            raise FileNotFoundError(
                f"no value model of {name} at {folder}{others}: train one with `{fit}`, "
                f"or give its folder as --values.{name} PATH."
            )
    return folders


def _asked(prompts: list[str], file: str | None, column: str | None) -> list[Prompt]:
    if column is not None and file is None:
        raise ValueError("column is only used with --file: add --file DATA.")
    if file is not None:
        if prompts:
            raise ValueError("prompts must come from the command line or from --file, not both.")
        return read_prompts(file, split=None, column=column, unique=False)
    if prompts:
        return list(prompts)
    if sys.stdin.isatty():
        raise ValueError('no prompts: give texts as "…", a --file, or lines on stdin.')
    try:
        lines = [line.removeprefix("\ufeff").strip() for line in sys.stdin]  # a byte order mark
    except UnicodeDecodeError as error:
        raise ValueError(f"prompts on stdin must be UTF-8 text: {error}.") from error
    if not any(lines):
        raise ValueError("no prompts on stdin: give one per line.")
    return [line for line in lines if line]


def _stops(given: Sequence[str]) -> list[str]:
    """Return the stop strings; each argument is one, or a JSON list of several.

    >>> _stops(["END", '["a", "b"]', "[/INST]", "[1]"])
    ['END', 'a', 'b', '[/INST]', '[1]']
    """
    strings: list[str] = []
    for one in given:
        try:
            several = jsonlib.loads(one)
        except ValueError:
            several = one
        is_list = isinstance(several, list) and all(isinstance(each, str) for each in several)
        strings += several if is_list else [one]
    return strings


def _scored(
    policy: "GuidedPolicy",
    pairs: "Iterator[tuple[Completion | None, Completion | None]]",
    score: bool,
) -> Iterator[Shown | None]:
    """Add the rewards to the answers, one batch at a time, if scores are wanted."""
    while some := list(islice(pairs, SCORED if score else 1)):
        mine = iter(_rewards(policy, [answer for answer, _ in some if answer], score))
        theirs = iter(
            _rewards(policy, [other for answer, other in some if answer and other], score)
        )
        for answer, other in some:
            rewards = next(mine) if answer else {}
            others = next(theirs) if answer and other else {}
            yield Shown(answer, rewards, other, others) if answer else None


def _rewards(
    policy: "GuidedPolicy", answers: "Sequence[Completion]", score_them: bool
) -> list[dict[str, float]]:
    """Score each answer with every loaded objective, in standard units, if scores are wanted."""
    if not (score_them and answers):
        return [{}] * len(answers)
    from mavis.objective import find
    from mavis.reward import score

    prompts, texts = [plain(a.prompt) for a in answers], [a.text for a in answers]
    objectives = {name: find(name) for name in policy.objectives}
    columns = {
        name: policy.units[name]
        .standard(score(name, one.reward, prompts, texts, one.scores_thoughts))
        .tolist()
        for name, one in objectives.items()
    }
    return [{name: column[at] for name, column in columns.items()} for at in range(len(answers))]
