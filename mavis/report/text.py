"""Describe a sweep in sentences: which method is ahead, and the alternative texts of pictures."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from mavis.comparison.result_format import Estimate, Lead, Results
from mavis.comparison.results import AHEAD
from mavis.report.style import (
    is_compared,
    is_single,
    look,
    main_indicator,
    measured,
    nats,
    number,
    ordered,
    ordered_baselines,
    shares,
)

AHEAD_OF, BEHIND = "ahead of", "behind"
EVEN, UNKNOWN = "no different, as far as can be seen, from", "not comparable with"


def decimal(value: Any, digits: int = 2, *, sign: bool = False) -> str:
    """Format a number for the report.

    >>> decimal(-0.001), decimal(-1.5), decimal(float("inf"), sign=True), decimal(None)
    ('0.00', '−1.50', '+∞', '–')
    """
    if np.isnan(number(value)):
        return "–"
    rounded = round(float(value), digits) + 0.0  # −0 becomes 0
    return f"{rounded:{'+' if sign else ''},.{digits}f}".replace("-", "−").replace("inf", "∞")


def between(cell: Estimate, digits: int = 2) -> str:
    """Format the ends of an interval.

    >>> between({"value": 1.0, "low": 0.5, "high": 2.0})
    '[0.50, 2.00]'
    """
    return f"[{decimal(cell['low'], digits)}, {decimal(cell['high'], digits)}]"


def together(words: Sequence[str]) -> str:
    """Join words to a list in prose.

    >>> together(["a", "b", "c"])
    'a, b and c'
    """
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def headline(results: Results) -> str:
    """State which baselines MAVIS is ahead of, by the main indicator, in one sentence."""
    compared = [m for m in ordered(results) if is_compared(results["methods"][m])]
    if not compared:
        return f"No method reaches {nats(results['kl'])} at every weighting: none can be compared."
    measure = main_indicator(results).name
    if results["ahead"]:
        groups: dict[str, list[str]] = {AHEAD_OF: [], BEHIND: [], EVEN: [], UNKNOWN: []}
        for baseline in ordered_baselines(results):
            groups[_verdict(results["ahead"][baseline])].append(look(baseline).name)
        parts = [f"{verdict} {together(names)}" for verdict, names in groups.items() if names]
        return f"By {measure}, {look(AHEAD).name} is {'; '.join(parts)}."
    best = max(compared, key=lambda m: number(measured(results, m)["value"]))
    cell = measured(results, best)
    value = f"{decimal(cell['value'])} {between(cell)}"
    if len(compared) == 1:
        alone = "there is no other method to compare it with"
        return f"{look(best).name} has a {measure} of {value}; {alone}."
    return f"The largest {measure} is that of {look(best).name}, {value}."


def leads(results: Results) -> Iterator[str]:
    """Yield a line for each baseline on how far MAVIS is ahead or behind."""
    gain = main_indicator(results).name if is_single(results) else "weighted gain"
    for baseline in ordered_baselines(results):
        lead = results["ahead"][baseline]
        ratio, more = lead["hypervolume_ratio"], lead["gain_difference"]
        volume = (
            f"{decimal(ratio['value'])} {between(ratio)} times its hypervolume; " if ratio else ""
        )
        yield (
            f"MAVIS and {look(baseline).name}: {volume}{gain} "
            f"{decimal(more['value'], sign=True)} {between(more)} standard units."
        )


def title(results: Results) -> str:
    """Return the title of the report."""
    at = nats(results["kl"]).replace(" ", "\N{NO-BREAK SPACE}")
    if len(results["objectives"]) == 1:
        return f"Reward of {results['objectives'][0]} against KL, compared at {at}"
    return f"Trade-offs of {together(results['objectives'])} at {at}"


def describe_front(results: Results, x: int, y: int) -> str:
    """Describe a plot of a front, as its alternative text."""
    across, up = results["objectives"][x], results["objectives"][y]
    parts = []
    weights = np.array(results["weightings"])
    ends = [int((weights[:, m] - weights[:, n]).argmax()) for m, n in ((x, y), (y, x))]
    for method in ordered(results):
        cells = [results["methods"][method]["rewards"][at] for at in ends]
        spots = [
            f"({decimal(cell[x]['value'])}, {decimal(cell[y]['value'])})" for cell in cells if cell
        ]
        parts.append(f"{look(method).name} {' to '.join(spots) or 'does not reach this KL'}")
    return (
        f"Mean reward of {across} across and of {up} upwards at {nats(results['kl'])}, from "
        f"the weighting with most {across} to that with most {up}: {'; '.join(parts)}."
    )


def describe_curves(results: Results, panels: Sequence[int]) -> str:
    """Describe the plot of reward against KL, as its alternative text."""
    parts = []
    for at in panels:
        weights = np.array(results["weightings"][at])
        ends = []
        for method in ordered(results):
            cell = results["methods"][method]["rewards"][at]
            value = sum(w * number(c["value"]) for w, c in zip(weights, cell or (), strict=False))
            ends.append(f"{look(method).name} {decimal(value if cell else None)}")
        head = "" if is_single(results) else f"λ = {shares(results['weightings'][at])}: "
        parts.append(f"{head}{', '.join(ends)}")
    what = "Reward" if is_single(results) else "Weighted reward"
    return f"{what} at {nats(results['kl'])}. {'; '.join(parts)}."


def _verdict(lead: Lead) -> str:
    """Decide between ahead, behind and neither, by hypervolume or else by the gain."""
    cell, even = lead["hypervolume_ratio"], 1
    if cell is None:
        cell, even = lead["gain_difference"], 0
    low, high = number(cell["low"]), number(cell["high"])
    if np.isnan([low, high]).any():
        return UNKNOWN
    return AHEAD_OF if low > even else BEHIND if high < even else EVEN
