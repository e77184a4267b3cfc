"""What a method is called and looks like, the same in every picture and table of a sweep.

Every method has a colour, a marker and a line of its own.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from mavis.learn.canvas import BLACK, BLUE, GREY, ORANGE

Found = Mapping[str, Any]  # what `results.results` gives, or `results.json` holds
Line = str | tuple[int, tuple[int, ...]]  # as matplotlib has them


class Look(NamedTuple):
    """How a method is drawn, and called."""

    name: str
    colour: str
    marker: str
    line: Line


LOOKS = {
    "reference": Look("reference", BLACK, "s", "-"),
    "best_of": Look("best of N", ORANGE, "X", "--"),
    "mavis": Look("MAVIS", BLUE, "o", "-"),
    "mod": Look("MOD", "#009e73", "^", "-."),
    "soup": Look("rewarded soup", "#cc79a7", "D", ":"),
    "morlhf": Look("MORLHF", "#e69f00", "v", (0, (6, 1))),
    "parm": Look("PARM", "#56b4e9", "P", (0, (3, 1, 1, 1, 1, 1))),
}


def look(method: str) -> Look:
    """How a method is drawn, and called; one that is not known, by its own name in grey."""
    return LOOKS.get(method, Look(method, GREY, "*", (0, (1, 2))))


def ordered(found: Found) -> list[str]:
    """The methods of a sweep, in one order for all pictures and tables."""
    known = [method for method in LOOKS if method in found["methods"]]
    return known + [method for method in found["methods"] if method not in LOOKS]


def weightings(found: Found) -> str:
    """How many weightings there are.

    >>> weightings({"weightings": [[1.0, 0.0]]})
    '1 weighting'
    """
    count = len(found["weightings"])
    return f"{count} weighting{'' if count == 1 else 's'}"


def shares(weights: Sequence[float]) -> str:
    """A weighting in few letters.

    >>> shares((1 / 3, 2 / 3))
    '0.333 : 0.667'
    """
    return " : ".join(f"{weight:.3g}" for weight in weights)


def ratio(mine: float, theirs: float) -> float:
    """One number in another; NaN where that is no gain, and a ratio to it would say nothing.

    >>> ratio(3.0, 2.0), ratio(1.0, -0.5)
    (1.5, nan)
    """
    return mine / theirs if theirs > 0 else float("nan")


def number(value: Any) -> float:
    """A number of the results; what is null in `results.json` is NaN again."""
    return float("nan") if value is None else float(value)
