"""Answers that nobody would write, for reward models to learn from.

A language model under guidance says what the grammar never does: it repeats itself, breaks off,
rambles, or piles up the best parts. Each function here makes such an answer from good ones; the
grammar's `score` then says what it is worth.
"""

from collections.abc import Callable, Sequence
from random import Random

from mavis.sandbox.grammar import Dialogue, read, score
from mavis.sandbox.lexicon import OBJECTIVES

Spoiler = Callable[[Random, Sequence[str]], str]


def _sentences(responses: Sequence[str]) -> list[str]:
    return [sentence.text for response in responses for sentence in read(response)]


def broken_off(rng: Random, responses: Sequence[str]) -> str:
    """Cut an answer anywhere, perhaps within a word."""
    return responses[0][: rng.randrange(len(responses[0]))].strip()


def repeated(rng: Random, responses: Sequence[str]) -> str:
    """Say one or two of an answer's sentences again."""
    sentences = _sentences(responses[:1])
    for _ in range(rng.choice((1, 1, 2))):
        sentences.insert(rng.randrange(len(sentences) + 1), rng.choice(sentences))
    return " ".join(sentences)


def shuffled(rng: Random, responses: Sequence[str]) -> str:
    """Shuffle the words of one sentence, or of the whole answer."""
    sentences = _sentences(responses[:1])
    if rng.random() < 0.3:
        sentences = [responses[0]]
    chosen = rng.randrange(len(sentences))
    words = sentences[chosen].split()
    rng.shuffle(words)
    sentences[chosen] = " ".join(words)
    return " ".join(sentences)


def garbled(rng: Random, responses: Sequence[str]) -> str:
    """Drop a word of an answer, or put another answer's word in its place."""
    words, others = responses[0].split(), responses[1].split()
    chosen = rng.randrange(len(words))
    words[chosen : chosen + 1] = rng.choice(([], [rng.choice(others)]))
    return " ".join(words)


def mixed(rng: Random, responses: Sequence[str]) -> str:
    """Put together sentences of several answers, in any order."""
    sentences = _sentences(responses)
    return " ".join(rng.sample(sentences, min(len(sentences), rng.randint(1, 7))))


def extreme(rng: Random, responses: Sequence[str]) -> str:
    """Put together the sentences that one objective likes best, or least."""
    sentences = list(dict.fromkeys(_sentences(responses)))
    name, sign = rng.choice(OBJECTIVES), rng.choice((1, 1, -1))
    sentences.sort(key=lambda text: -sign * score("", text)[name])
    chosen = sentences[: rng.randint(2, 6)]
    rng.shuffle(chosen)
    return " ".join(chosen)


def empty(rng: Random, responses: Sequence[str]) -> str:  # noqa: ARG001
    """Say nothing."""
    return ""


SPOILERS: dict[Spoiler, float] = {
    broken_off: 3,
    repeated: 4,
    shuffled: 2,
    garbled: 2,
    mixed: 4,
    extreme: 6,
    empty: 0.2,
}
"""How often each is used, relative to the others."""


def spoil(rng: Random, dialogues: Sequence[Dialogue]) -> Dialogue:
    """Return the first dialogue with its answer spoilt, scored anew.

    Args:
        rng: Where all chance comes from.
        dialogues: At least two; the others lend their parts.
    """
    spoiler = rng.choices(list(SPOILERS), weights=list(SPOILERS.values()))[0]
    response = spoiler(rng, [dialogue.response for dialogue in dialogues])
    prompt = dialogues[0].prompt
    return Dialogue(prompt, response, score(prompt, response))
