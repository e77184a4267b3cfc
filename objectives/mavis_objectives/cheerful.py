"""The objective 'cheerful': replies in good spirits, by VADER's lexicon and rules.

The scorer is the package vaderSentiment (Hutto and Gilbert, 2014), an extra: `mavis[real]`.
"""

from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from typing import Any

from mavis import Objective
from mavis_objectives import INSTRUCTIONS

if find_spec("vaderSentiment") is None:  # asked now, not after minutes of rollouts
    raise ImportError("the package vaderSentiment is missing: pip install 'mavis[real]'")


@cache
def _analyzer() -> Any:
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    return SentimentIntensityAnalyzer()


def reward(prompts: Sequence[str], responses: Sequence[str]) -> list[float]:  # noqa: ARG001
    """VADER's compound score of each reply: from -1, very negative, to 1; 0 if it is empty."""
    return [float(_analyzer().polarity_scores(response)["compound"]) for response in responses]


cheerful = Objective(
    name="cheerful",
    reward=reward,
    prompts=INSTRUCTIONS,
    examples=(
        (
            "How was your day?",
            "Wonderful! I met good friends, and we laughed a lot.",
            "Terrible. I lost my keys, and everybody was rude.",
        ),
        (
            "How do I sleep well?",
            "Relax with a good book, and enjoy the calm of the evening!",
            "Bad sleep is a curse; worry and pain will ruin your nights.",
        ),
    ),
)
