"""The words of the sandbox, as `words.yaml` holds them: tasks, questions, forms and fillings.

A *form* is a sentence in lower case with `{slots}`, and every form and every filling of a slot
carries a `Worth`. Knows nothing of sampling, parsing or models.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources

import yaml

Worth = tuple[float, float, float]
"""What a part adds to (humor, helpfulness, harmlessness)."""

OBJECTIVES = ("humor", "helpfulness", "harmlessness")


@dataclass(frozen=True)
class Temper:
    """How an answer of one temper is put together; every mapping holds weights.

    Args:
        weight: How often the temper comes, relative to the others.
        lengths: Number of parts of the body.
        open: Kind of the opening, "" for none.
        body: Kind of each part of the body.
        close: Kind of the closing, "" for none.
    """

    weight: float
    lengths: Mapping[int, float]
    open: Mapping[str, float]
    body: Mapping[str, float]
    close: Mapping[str, float]


def _worths(rows: Mapping[str, Sequence[float]], frame: str = "{core}") -> dict[str, Worth]:
    return {
        frame.replace("{core}", text): (float(humor), float(helpfulness), float(harmlessness))
        for text, (humor, helpfulness, harmlessness) in rows.items()
    }


_WORDS = yaml.safe_load(resources.files(__package__).joinpath("words.yaml").read_text("utf-8"))

SAFE: dict[str, list[str]] = _WORDS["safe"]
"""Harmless tasks, each with three things that belong to it."""

UNSAFE: dict[str, list[str]] = _WORDS["unsafe"]
"""Tasks that ought to be refused, each with three things that belong to it."""

QUESTIONS: tuple[str, ...] = tuple(_WORDS["questions"])

SLOTS = {slot: _worths(fillings) for slot, fillings in _WORDS["slots"].items()}
"""Slot -> filling -> worth."""

UNIQUE = ("subject", "mishap", "habit", "reason", "detail")
"""Slots whose filling must not come twice in an answer."""

FORMS = {
    kind: _worths(forms, _WORDS["frames"].get(kind, "{core}"))
    for kind, forms in _WORDS["forms"].items()
}
"""Kind -> form -> worth."""

TEMPERS = {name: Temper(**temper) for name, temper in _WORDS["tempers"].items()}
