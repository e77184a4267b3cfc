"""Names and styles of methods, the same in every picture and table of a sweep.

Every method has its own colour, marker and line style.
"""

from collections.abc import Sequence
from typing import NamedTuple

from mavis.comparison.result_format import Estimate, MethodResults, Results
from mavis.plot_style import BLACK, BLUE, GREY, ORANGE

Line = str | tuple[int, tuple[int, ...]]  # a line style of matplotlib


class Look(NamedTuple):
    """The name and plot style of a method."""

    name: str
    colour: str
    marker: str
    line: Line


LOOKS = {
    "reference": Look("reference", BLACK, "s", "-"),
    "best_of": Look("best of N", ORANGE, "X", "--"),
    "mavis": Look("MAVIS", BLUE, "o", "-"),
    "mavis_linear": Look("MAVIS, one by one", "#004f7a", "h", (0, (4, 1))),
    "mod": Look("MOD", "#009e73", "^", "-."),
    "soup": Look("rewarded soup", "#cc79a7", "D", ":"),
    "morlhf": Look("MORLHF", "#e69f00", "v", (0, (6, 1))),
    "parm": Look("PARM", "#56b4e9", "P", (0, (3, 1, 1, 1, 1, 1))),
}


def look(method: str) -> Look:
    """Return a method's name and plot style; an unknown method is drawn in grey."""
    return LOOKS.get(method, Look(method, GREY, "*", (0, (1, 2))))


def ordered(results: Results) -> list[str]:
    """Return the methods of a sweep in the order of all pictures and tables."""
    known = [method for method in LOOKS if method in results["methods"]]
    return known + [method for method in results["methods"] if method not in LOOKS]


def ordered_baselines(results: Results) -> list[str]:
    """Return the baselines that MAVIS is compared with, in the order of `ordered`."""
    return [method for method in ordered(results) if method in results["ahead"]]


def weightings(results: Results) -> str:
    """Format the number of weightings.

    >>> weightings({"weightings": [[1.0, 0.0]]})
    '1 weighting'
    """
    count = len(results["weightings"])
    return f"{count} weighting{'' if count == 1 else 's'}"


class MainIndicator(NamedTuple):
    """The main indicator of a comparison."""

    key: str  # among the indicators of `results.json`
    name: str  # for people


def main_indicator(results: Results) -> MainIndicator:
    """Choose the hypervolume; if undefined, the weighted gain, or the reward of one objective."""
    if results.get("hypervolume_undefined") is None:
        return MainIndicator("hypervolume", "hypervolume")
    return MainIndicator("weighted_gain", "reward" if is_single(results) else "weighted gain")


def is_single(results: Results) -> bool:
    """Whether the sweep has one objective at weight 1, so that there is nothing to weigh."""
    return [list(weights) for weights in results["weightings"]] == [[1.0]]


def is_compared(method: MethodResults) -> bool:
    """Whether a method reaches the KL at every weighting."""
    return method["indicators"]["weighted_gain"] is not None


def measured(results: Results, method: str) -> Estimate:
    """Return the main indicator of a method that can be compared."""
    this = results["methods"][method]
    rewards, cell = this["rewards"][0], this["indicators"][main_indicator(results).key]
    if main_indicator(results).name == "reward" and rewards:
        cell = rewards[0]
    assert cell is not None  # a compared method has every defined indicator
    return cell


def nats(kl: float) -> str:
    """A KL in words.

    >>> nats(1.0), nats(2.5)
    ('1 nat', '2.5 nats')
    """
    return f"{kl:g} {'nat' if kl == 1 else 'nats'}"


def fixed(value: float, digits: int = 2) -> str:
    """Format a number with a fixed number of decimals, and -0 as 0.

    >>> fixed(-0.001), fixed(-1.5), fixed(float("inf"))
    ('0.00', '-1.50', 'inf')
    """
    return f"{round(value, digits) + 0.0:.{digits}f}"


def shares(weights: Sequence[float]) -> str:
    """Format a weighting in short.

    >>> shares((1 / 3, 2 / 3))
    '0.333 : 0.667'
    """
    return " : ".join(f"{weight:.3g}" for weight in weights)


def named_weights(results: Results, weights: Sequence[float]) -> str:
    """Format a weighting with the names of its objectives.

    >>> named_weights({"objectives": ["humor", "kind"]}, (1 / 3, 2 / 3))
    'humor 0.333, kind 0.667'
    """
    pairs = zip(results["objectives"], weights, strict=True)
    return ", ".join(f"{name} {weight:.3g}" for name, weight in pairs)


def ratio(mine: float, theirs: float) -> float:
    """Divide two gains; NaN where one of them is not a gain and a ratio means nothing.

    >>> ratio(3.0, 2.0), ratio(1.0, -0.5), ratio(-1.0, 0.5)
    (1.5, nan, nan)
    """
    return mine / theirs if mine >= 0 < theirs else float("nan")


def number(value: float | None) -> float:
    """Read a number of `results.json`, where null stands for NaN."""
    return float("nan") if value is None else float(value)
