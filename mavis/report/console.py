"""Format the results of a sweep for the terminal, as `mavis pareto` prints them."""

import math
from collections.abc import Iterator, Mapping, Sequence

from mavis.comparison.result_format import Estimate, Lead, Results
from mavis.comparison.results import AHEAD
from mavis.report.style import (
    fixed,
    is_compared,
    is_single,
    number,
    ratio,
    weightings,
    yardstick,
)

NAMES, INTERVALS, NUMBERS = 10, 23, 18  # widths of columns
UNKNOWN = "-"

Seed = Mapping[str, Mapping[str, float]]  # method -> indicator -> value


def table(found: Results) -> Iterator[str]:
    """Yield the results line by line.

    Args:
        found: the results of the sweep.
    """
    names, start = found["objectives"], found["reference"]
    what = names[0] if is_single(found) else f"{weightings(found)} of {', '.join(names)}"
    yield f"at {found['kl']:g} nats, {what}"
    known = zip(names, found["units"], strict=True)
    rewards = ", ".join(f"{n} {u['mean']:.3g} ± {u['std']:.3g}" for n, u in known)
    kl = fixed(number(start["kl"]))
    yield f"reference: {rewards}; KL {kl} nats, {start['length']:.1f} tokens"
    if not found["methods"]:
        return
    yield from _volume(found)
    yield ""
    yield from _methods(found)
    yield from _leads(found)
    for warning in found["warnings"]:
        yield f"warning: {warning}"


def _volume(found: Results) -> Iterator[str]:
    """Yield the unit of all numbers, and the reference point or why there is none."""
    if found["reference_point"] is not None:
        corner = ", ".join(map(fixed, found["reference_point"]))
        yield f"hypervolume above ({corner}), in standard units; intervals are 95 % over prompts"
        return
    if found.get("hypervolume_undefined") and len(found["objectives"]) > 1:
        yield f"hypervolume is undefined: {found['hypervolume_undefined']}"
    yield "in standard units (0 is the reference's mean); intervals are 95 % over prompts"


def _methods(found: Results) -> Iterator[str]:
    """Yield a table with a row for each method."""
    heads = {"hypervolume": INTERVALS} if len(found["objectives"]) > 1 else {}
    heads |= {"reward": INTERVALS} if is_single(found) else {"weighted gain": INTERVALS}
    heads |= {"training CPU s": NUMBERS, "tokens / CPU s": NUMBERS}
    yield f"{'method':<{NAMES}}" + "".join(f"{head:>{width}}" for head, width in heads.items())
    for name, method in found["methods"].items():
        seconds, speed = method["training_cpu_seconds"], method["tokens_per_cpu_second"]
        rewards = method["rewards"][0]
        cells = {
            "hypervolume": _cell(method["indicators"]["hypervolume"]),
            "weighted gain": _cell(method["indicators"]["weighted_gain"]),
            "reward": _cell(rewards[0] if rewards else None),
            "training CPU s": "?" if seconds is None else f"{seconds:.0f}",
            "tokens / CPU s": "" if speed is None else f"{speed:.0f}",
        }
        if is_compared(method) and found.get("hypervolume_undefined"):
            cells["hypervolume"] = "undefined"
        yield f"{name:<{NAMES}}" + "".join(f"{cells[h]:>{width}}" for h, width in heads.items())


def _leads(found: Results) -> Iterator[str]:
    """Yield the comparison of MAVIS with each baseline."""
    kinds = {"hypervolume": "hypervolume"} if yardstick(found).name == "hypervolume" else {}
    kinds["weighted_gain"] = yardstick(found).name if is_single(found) else "weighted gain"
    for baseline, lead in found["ahead"].items():
        said = ", ".join(f"{name} {_lead(lead, n)}" for n, name in kinds.items())
        yield f"mavis / {baseline}: {said}"
        both = [seed for seed in found["by_seed"] if {AHEAD, baseline} <= set(seed)]
        if both:
            each = (f"{name} {', '.join(_ratios(both, baseline, n))}" for n, name in kinds.items())
            yield f"    seed by seed: {'; '.join(each)}"


def _lead(lead: Lead, indicator: str) -> str:
    """Format the ratio of two indicators, or the difference of gains if there is no ratio."""
    volume = indicator == "hypervolume"
    told = _cell(lead["hypervolume_ratio"] if volume else lead["gain_ratio"])
    if told == UNKNOWN and indicator == "weighted_gain":
        return f"has no ratio, difference {_cell(lead['gain_difference'])}"
    return told


def _ratios(
    seeds: Sequence[Mapping[str, Mapping[str, float]]], baseline: str, indicator: str
) -> Iterator[str]:
    """Yield the ratio of MAVIS's indicator to a baseline's, for each seed."""
    for seed in seeds:
        mine, theirs = (number(seed[method].get(indicator)) for method in (AHEAD, baseline))
        found = ratio(mine, theirs)
        yield UNKNOWN if math.isnan(found) else fixed(found)


def _cell(numbers: Estimate | None) -> str:
    """Format a number and its interval; an unknown number is a dash."""
    if numbers is None or math.isnan(number(numbers["value"])):
        return UNKNOWN
    value, low, high = map(number, (numbers["value"], numbers["low"], numbers["high"]))
    if math.isnan(low) or math.isnan(high):
        return fixed(value)
    return f"{fixed(value)} [{fixed(low)}, {fixed(high)}]"
