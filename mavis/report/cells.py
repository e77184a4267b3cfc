"""Compute the cells of the report's tables."""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Literal, NamedTuple

from mavis.comparison.analysis import BY_SEED
from mavis.comparison.indicators import INDICATORS
from mavis.comparison.result_format import Estimate, MethodResults, Results
from mavis.comparison.results import AHEAD
from mavis.report import text
from mavis.report.style import (
    is_compared,
    look,
    number,
    ordered,
    ordered_baselines,
    ratio,
    shares,
)
from mavis.report.text import decimal

HEADS = {"inner_product": "MIP", "igd_plus": "IGD+", "epsilon": "ε\N{NON-BREAKING HYPHEN}dominance"}
# The paired difference of inner products equals that of weighted gains.
PAIRED = [name for name in INDICATORS if name != "inner_product"]
LESS = ("igd_plus", "epsilon", "maximin")  # indicators where less is better
ANSWERS = {  # statistics of answers: the name shown, and its decimals
    "kl": ("KL, nats", 2),
    "kl_truncation": ("beside it truncation, nats", 3),
    "length": ("length, tokens", 1),
    "distinct_3": ("distinct\N{NON-BREAKING HYPHEN}3", 3),
    "repetition": ("repetition", 3),
    "perplexity": ("perplexity under the reference", 2),
}
CostName = Literal["training_cpu_seconds", "parameters", "tokens_per_cpu_second"]
LeadName = Literal["hypervolume_ratio", "gain_ratio", "gain_difference"]
COSTS: dict[CostName, str] = {
    "training_cpu_seconds": "training, CPU seconds",
    "parameters": "parameters added",
    "tokens_per_cpu_second": "tokens per CPU second",
}


class Cell(NamedTuple):
    """The text of a table cell: a value, and the interval around it."""

    value: str
    range: str = ""


class Table(NamedTuple):
    """A table with column heads and named rows."""

    heads: list[str]
    rows: list[tuple[str, list[Cell]]]


def shown_indicators(results: Results) -> list[str]:
    """Choose the indicators to show: with one objective, all of them amount to its reward."""
    return list(INDICATORS) if len(results["objectives"]) > 1 else ["weighted_gain"]


def head(name: str) -> str:
    """Return the column head of an indicator."""
    return HEADS.get(name, name.replace("_", " "))


def indicators(results: Results) -> Table:
    """Tabulate the indicators of every method."""
    names = shown_indicators(results)
    heads = [f"{head(name)}\N{NO-BREAK SPACE}{'↓' if name in LESS else '↑'}" for name in names]

    def cell(method: MethodResults, name: str) -> Cell:
        if name == "hypervolume" and results.get("hypervolume_undefined") and is_compared(method):
            return Cell("undefined")
        return _cell(method["indicators"][name])

    return Table(heads, _rows(results, lambda m: [cell(m, name) for name in names]))


def answers(results: Results) -> Table:
    """Tabulate the answer statistics of every method."""

    def row(numbers: Mapping[str, object]) -> list[Cell]:
        return [Cell(decimal(numbers.get(name), digits)) for name, (_, digits) in ANSWERS.items()]

    start = [("reference", row(results["reference"]))]
    rows = _rows(results, lambda method: row(method["answers"]))
    return Table([head for head, _ in ANSWERS.values()], start + rows)


def costs(results: Results) -> Table:
    """Tabulate the training and decoding cost of every method."""
    rows = _rows(results, lambda method: [Cell(decimal(method[name], 0)) for name in COSTS])
    return Table(list(COSTS.values()), rows)


def ahead(results: Results) -> Table:
    """Tabulate MAVIS against each baseline."""
    kinds: dict[LeadName, str] = {
        "hypervolume_ratio": "hypervolume, ratio",
        "gain_ratio": "weighted gain, ratio",
        "gain_difference": "weighted gain, difference",
    }
    if results.get("hypervolume_undefined"):
        del kinds["hypervolume_ratio"]
    rows = [
        (look(baseline).name, [_cell(results["ahead"][baseline][kind]) for kind in kinds])
        for baseline in ordered_baselines(results)
    ]
    return Table(list(kinds.values()), rows)


def paired(results: Results) -> Table:
    """Tabulate the paired differences between all pairs of methods."""
    undefined = {"hypervolume"} if results.get("hypervolume_undefined") else set()
    names = [name for name in shown_indicators(results) if name in PAIRED and name not in undefined]
    rows = [
        (
            " − ".join(look(method).name for method in pair["methods"]),
            [_cell(pair["differences"][name]) for name in names],
        )
        for pair in results.get("paired", ())
    ]
    return Table(list(map(head, names)), rows)


def by_seed(results: Results) -> Table:
    """Tabulate the indicators of each seed, and the ratio of MAVIS's to each baseline's."""
    seeds, methods = results["by_seed"], ordered(results)
    names = BY_SEED[1:] if results.get("hypervolume_undefined") else BY_SEED
    columns = [(name, at) for name in names for at in range(len(seeds))]

    def value(method: str, name: str, at: int) -> float:
        return number(seeds[at].get(method, {}).get(name))

    rows = [(look(m).name, [Cell(decimal(value(m, *c))) for c in columns]) for m in methods]
    for baseline in (m for m in methods if m != AHEAD and AHEAD in methods):
        ratios = [Cell(decimal(ratio(value(AHEAD, *c), value(baseline, *c)))) for c in columns]
        rows.append((f"{look(AHEAD).name} / {look(baseline).name}", ratios))
    known = [row for row in rows if any(cell.value != decimal(None) for cell in row[1])]
    return Table([f"{head(name)}, seed {at}" for name, at in columns], known if seeds else [])


def rewards(results: Results) -> list[tuple[str, Table]]:
    """Tabulate the rewards at equal KL: a table per objective, a row per weighting."""
    methods = ordered(results)

    def rows(m: int) -> Iterator[tuple[str, list[Cell]]]:
        for at, weights in enumerate(results["weightings"]):
            cells = [results["methods"][method]["rewards"][at] for method in methods]
            yield shares(weights), [_cell(cell[m] if cell else None) for cell in cells]

    heads = [look(method).name for method in methods]
    return [(name, Table(heads, list(rows(m)))) for m, name in enumerate(results["objectives"])]


def _rows(
    results: Results, cells: Callable[[MethodResults], list[Cell]]
) -> list[tuple[str, list[Cell]]]:
    return [(look(m).name, cells(results["methods"][m])) for m in ordered(results)]


def _cell(numbers: Estimate | None) -> Cell:
    if numbers is None or math.isnan(number(numbers["value"])):
        return Cell(decimal(None))
    return Cell(decimal(numbers["value"]), text.between(numbers))
