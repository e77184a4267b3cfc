"""The objective 'plain-words': replies in short words."""

import re
from collections.abc import Sequence

from mavis import Objective
from mavis_objectives import INSTRUCTIONS

WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")  # "don't" is one word, of four letters


def reward(prompts: Sequence[str], responses: Sequence[str]) -> list[float | None]:  # noqa: ARG001
    """Minus the mean number of letters per word; abstains from replies without a word."""
    return [_plainness(response) for response in responses]


def _plainness(text: str) -> float | None:
    words = WORD.findall(text)
    return -sum(map(str.isalpha, "".join(words))) / len(words) if words else None


plain_words = Objective(
    name="plain-words",
    reward=reward,
    prompts=INSTRUCTIONS,
    examples=(
        (
            "Why is the sky blue?",
            "Air bends blue light more than red, so blue comes at us from all sides.",
            "Atmospheric molecules preferentially scatter shorter electromagnetic wavelengths.",
        ),
        (
            "How do I sleep well?",
            "Go to bed at the same time each day, and keep the room dark and cool.",
            "Establish consistent bedtimes; minimise environmental illumination and temperature.",
        ),
    ),
)
