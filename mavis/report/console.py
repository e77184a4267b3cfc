"""Format the results of a sweep for the terminal, as `mavis pareto` prints them."""

import math
from collections.abc import Iterator, Mapping, Sequence

from mavis.comparison.result_format import Estimate, Lead, Results
from mavis.comparison.results import AHEAD
from mavis.report.style import (
    fixed,
    is_compared,
    is_single,
    main_indicator,
    nats,
    number,
    ratio,
    weightings,
)

NAMES, INTERVALS, NUMBERS = 10, 23, 18  # widths of columns
SHOWN_TRUNCATION = 0.1  # nats an answer that truncation may cost without a word
UNKNOWN = "-"


def table(results: Results) -> Iterator[str]:
    """Yield the results line by line."""
    names, start = results["objectives"], results["reference"]
    what = names[0] if is_single(results) else f"{weightings(results)} of {', '.join(names)}"
    yield f"at {nats(results['kl'])}, {what}"
    known = zip(names, results["units"], strict=True)
    rewards = ", ".join(f"{n} {u['mean']:.3g} ± {u['std']:.3g}" for n, u in known)
    yield f"reference: {rewards}; {start['length']:.1f} tokens"
    if (cut := number(start.get("kl_truncation"))) >= SHOWN_TRUNCATION:
        yield f"beside these nats, top-k and top-p cost every method about {fixed(cut)}"
    if not results["methods"]:
        return
    yield from _volume(results)
    yield ""
    yield from _methods(results)
    yield from _leads(results)
    for warning in results["warnings"]:
        yield f"warning: {warning}"


def _volume(results: Results) -> Iterator[str]:
    """Yield the unit of all numbers, and the reference point or why there is none."""
    if results["reference_point"] is not None:
        corner = ", ".join(map(fixed, results["reference_point"]))
        yield f"hypervolume above ({corner}), in standard units; intervals are 95 % over prompts"
        return
    if results.get("hypervolume_undefined") and len(results["objectives"]) > 1:
        yield f"hypervolume is undefined: {results['hypervolume_undefined']}"
    yield "in standard units (0 is the reference's mean); intervals are 95 % over prompts"


def _methods(results: Results) -> Iterator[str]:
    """Yield a table with a row for each method."""
    heads = {"hypervolume": INTERVALS} if len(results["objectives"]) > 1 else {}
    heads |= {"reward": INTERVALS} if is_single(results) else {"weighted gain": INTERVALS}
    heads |= {"training CPU s": NUMBERS, "tokens / CPU s": NUMBERS}
    yield f"{'method':<{NAMES}}" + "".join(f"{head:>{width}}" for head, width in heads.items())
    for name, method in results["methods"].items():
        seconds, speed = method["training_cpu_seconds"], method["tokens_per_cpu_second"]
        rewards = method["rewards"][0]
        cells = {
            "hypervolume": _cell(method["indicators"]["hypervolume"]),
            "weighted gain": _cell(method["indicators"]["weighted_gain"]),
            "reward": _cell(rewards[0] if rewards else None),
            "training CPU s": "?" if seconds is None else f"{seconds:.0f}",
            "tokens / CPU s": "" if speed is None else f"{speed:.0f}",
        }
        if is_compared(method) and results.get("hypervolume_undefined"):
            cells["hypervolume"] = "undefined"
        yield f"{name:<{NAMES}}" + "".join(f"{cells[h]:>{width}}" for h, width in heads.items())


def _leads(results: Results) -> Iterator[str]:
    """Yield the comparison of MAVIS with each baseline."""
    main = main_indicator(results)
    kinds = {main.key: main.name}
    if not is_single(results):
        kinds["weighted_gain"] = "weighted gain"
    for baseline, lead in results["ahead"].items():
        ratios = ", ".join(f"{name} {_lead(lead, kind)}" for kind, name in kinds.items())
        yield f"mavis / {baseline}: {ratios}"
        seeds = [seed for seed in results["by_seed"] if {AHEAD, baseline} <= set(seed)]
        if seeds:
            each = (f"{name} {_ratios(seeds, baseline, kind)}" for kind, name in kinds.items())
            yield f"    seed by seed: {'; '.join(each)}"


def _lead(lead: Lead, indicator: str) -> str:
    """Format the ratio of two indicators, or the difference of gains if there is no ratio."""
    if indicator == "hypervolume":
        return _cell(lead["hypervolume_ratio"])
    ratio = _cell(lead["gain_ratio"])
    difference = f"has no ratio, difference {_cell(lead['gain_difference'])}"
    return difference if ratio == UNKNOWN else ratio


def _ratios(
    seeds: Sequence[Mapping[str, Mapping[str, float]]], baseline: str, indicator: str
) -> str:
    """Format the ratio of MAVIS's indicator to a baseline's, for each seed."""
    values = [[number(seed[m].get(indicator)) for m in (AHEAD, baseline)] for seed in seeds]
    ratios = [ratio(*both) for both in values]
    return ", ".join(UNKNOWN if math.isnan(value) else fixed(value) for value in ratios)


def _cell(numbers: Estimate | None) -> str:
    """Format a number and its interval; an unknown number is a dash."""
    if numbers is None or math.isnan(number(numbers["value"])):
        return UNKNOWN
    value, low, high = map(number, (numbers["value"], numbers["low"], numbers["high"]))
    if math.isnan(low) or math.isnan(high):
        return fixed(value)
    return f"{fixed(value)} [{fixed(low)}, {fixed(high)}]"
