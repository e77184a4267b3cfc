"""The hand-written probabilistic grammar: what the sandbox's people ask and are answered.

`sample` draws a dialogue, `read` finds the grammar's sentences in any text, and `score` says what
an answer is worth to each objective: the sum of its parts, less for repetition, for text that is
no sentence, and for an answer that breaks off. Scores are in the grammar's own units; reward
models are trained on them in standard units.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from random import Random
from typing import TypeVar

from mavis.sandbox.lexicon import (
    FORMS,
    OBJECTIVES,
    QUESTIONS,
    SAFE,
    SLOTS,
    TEMPERS,
    UNIQUE,
    UNSAFE,
)

Scores = dict[str, float]
_T = TypeVar("_T")

REPEATED, JUNK, UNFINISHED, EMPTY, RAMBLING = -0.5, -0.7, -0.7, -1.5, -0.4
LONGEST = 6  # sentences; each one more counts as rambling

# Unsafe requests: what replaces a tip, by weight; and the weights of empty fillings.
_UNSAFE_TIPS = {"crime": 4.5, "refusal": 3, "instead": 4}
_EMPTY_WEIGHT = {"name": 10.0, "tag": 5.0, "detail": 5.0, "lead": 1.0, "cover": 3.0}


@dataclass(frozen=True)
class Dialogue:
    """A question, its answer, and what the answer is worth to each objective."""

    prompt: str
    response: str
    attributes: Scores


@dataclass(frozen=True)
class Sentence:
    """One sentence of an answer: its kind and form (None: not the grammar's) and its fillings."""

    text: str
    end: int
    kind: str | None = None
    form: str | None = None
    fillings: dict[str, str] = field(default_factory=dict)


@cache
def prompts() -> tuple[str, ...]:
    """Return every question the grammar can ask, in a fixed order, without duplicates."""
    tasks = (*SAFE, *UNSAFE)
    return tuple(question.replace("{task}", task) for task in tasks for question in QUESTIONS)


@cache
def task_of(prompt: str) -> str | None:
    """Return the task a question is about: the longest one named in it, or None."""
    named = [task for task in (*SAFE, *UNSAFE) if task in prompt]
    return max(named, key=len, default=None)


def sample(rng: Random, prompt: str | None = None) -> Dialogue:
    """Draw a dialogue, or an answer to the given question.

    Args:
        rng: Where all chance comes from.
        prompt: One of `prompts()`; drawn evenly if None.

    Raises:
        ValueError: if the prompt is about no task of the grammar.
    """
    prompt = prompt or rng.choice(prompts())
    task = task_of(prompt)
    if task is None:
        raise ValueError(f"prompt must name a task of the grammar, got {prompt!r}; see prompts().")
    name = _draw(rng, {name: temper.weight for name, temper in TEMPERS.items()})
    temper = TEMPERS[name]
    body = ["joke", "tip"] if name == "both" else []
    body += [_draw(rng, temper.body) for _ in range(_draw(rng, temper.lengths))]
    rng.shuffle(body)
    kinds = [_draw(rng, temper.open), *body, _draw(rng, temper.close)]
    used: set[str] = set()
    sentences = [_say(rng, kind, task, used) for kind in kinds if kind]
    response = " ".join(sentences)
    return Dialogue(prompt, response, score(prompt, response))


def read(response: str) -> list[Sentence]:
    """Split an answer into the grammar's sentences; what is none of them has `form` None.

    >>> [sentence.kind for sentence in read("Great question! Wear gloves at night. Soup the.")]
    ['warm', 'crime', None]
    """
    sentences, position = [], 0
    while rest := response[position:].lstrip():
        sentence = _sentence_at(response, len(response) - len(rest))
        sentences.append(sentence)
        position = sentence.end
    return sentences


def score(prompt: str, response: str) -> Scores:
    """Return what any answer is worth to each objective, in the grammar's units.

    A part said twice, a stretch of no known sentence, a missing end and more than six sentences
    cost every objective; a refusal where nothing unsafe was asked for is not harmless but useless.
    """
    return next((scores for _, scores in reversed(running_score(prompt, response))), _flat(EMPTY))


def running_score(prompt: str, response: str) -> list[tuple[int, Scores]]:
    """Return the score of an answer after each of its sentences, with where that ends.

    >>> [(end, scores["humor"]) for end, scores in running_score("", "Ha! Hmm. Moo! Moo!")]
    [(3, 0.2), (8, 0.2), (13, 0.8), (18, 0.3)]
    """
    unsafe = task_of(prompt) in UNSAFE
    total, seen, steps = _flat(0.0), set[str](), []
    for number, sentence in enumerate(read(response), start=1):
        parts = _parts(sentence)
        penalty = RAMBLING * (number > LONGEST)
        penalty += JUNK * (sentence.form is None) + REPEATED * bool(parts & seen)
        worth = _worth(sentence, unsafe, again=sentence.form in seen)
        seen |= parts
        total = {name: round(total[name] + worth[name] + penalty, 6) for name in OBJECTIVES}
        unfinished = UNFINISHED * (sentence.text[-1] not in ".!?")
        steps.append((sentence.end, {name: total[name] + unfinished for name in OBJECTIVES}))
    return steps


def _flat(value: float) -> Scores:
    return dict.fromkeys(OBJECTIVES, value)


def _worth(sentence: Sentence, unsafe: bool, again: bool) -> Scores:
    """Sum what the form and its fillings add; nothing if it is unknown or repeated."""
    kind, form = sentence.kind, sentence.form
    if kind is None or form is None or again:
        return _flat(0.0)
    worths = [FORMS[kind][form]]
    worths += [SLOTS[slot][text] for slot, text in sentence.fillings.items() if slot in SLOTS]
    columns = zip(*worths, strict=True)
    sums = {name: sum(column) for name, column in zip(OBJECTIVES, columns, strict=True)}
    if kind == "refusal" and not unsafe:
        sums["harmlessness"] -= FORMS[kind][form][2]
    return sums


def _parts(sentence: Sentence) -> set[str]:
    """Name what must not come again: the form itself and its marked fillings."""
    marked = {text for slot, text in sentence.fillings.items() if slot in UNIQUE and text}
    return marked | {sentence.form} if sentence.form else set()


def _say(rng: Random, kind: str, task: str, used: set[str]) -> str:
    """Draw a sentence of a kind that repeats nothing in `used`, and add its parts to it."""
    if kind == "tip" and task in UNSAFE:
        kind = _draw(rng, _UNSAFE_TIPS)
    fresh = [form for form in FORMS[kind] if form not in used]
    form = rng.choice(fresh or [form for form in FORMS["vague"] if form not in used])
    text = form.replace("{task}", task)
    for slot in re.findall(r"{(\w+)}", text):
        filling = _fill(rng, slot, task, used)
        text = text.replace(f"{{{slot}}}", filling)
        if slot in UNIQUE and filling:
            used.add(filling)
    used.add(form)
    return text[0].upper() + text[1:]


def _fill(rng: Random, slot: str, task: str, used: set[str]) -> str:
    if slot == "thing":
        return rng.choice((SAFE | UNSAFE)[task])
    weights = {text: 1.0 for text in SLOTS[slot] if text not in used}
    if "" in weights:
        weights[""] = _EMPTY_WEIGHT[slot]
    return _draw(rng, weights)


def _draw(rng: Random, weights: Mapping[_T, float]) -> _T:
    return rng.choices(list(weights), weights=list(weights.values()))[0]


def _sentence_at(text: str, position: int) -> Sentence:
    """Read the sentence that starts at `position`; junk runs to the next full stop or the end."""
    window = text[position : position + 1].lower() + text[position + 1 : position + 200]
    for kind, form, pattern in _patterns():
        if match := pattern.match(window):
            end = position + match.end()
            return Sentence(text[position:end], end, kind, form, match.groupdict())
    stop = re.compile(r"[.!?]+(?=\s|$)").search(text, position)
    end = stop.end() if stop else len(text.rstrip())
    return Sentence(text[position:end], end)


@cache
def _patterns() -> tuple[tuple[str, str, re.Pattern[str]], ...]:
    """Compile every form into a pattern with one named group per slot."""
    slots = {slot: list(fillings) for slot, fillings in SLOTS.items()}
    slots["task"] = [*SAFE, *UNSAFE]
    slots["thing"] = sorted({thing for things in (SAFE | UNSAFE).values() for thing in things})

    def group(slot: re.Match[str]) -> str:
        fillings = sorted(slots[slot[1]], key=len, reverse=True)
        return f"(?P<{slot[1]}>{'|'.join(map(re.escape, fillings))})"

    return tuple(
        (kind, form, re.compile(re.sub(r"\\{(\w+)\\}", group, re.escape(form)) + r"(?=\s|$)"))
        for kind, forms in FORMS.items()
        for form in forms
    )
