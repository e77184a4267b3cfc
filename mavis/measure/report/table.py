"""The results of a sweep as `mavis pareto` prints them."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mavis.measure.front.results import AHEAD
from mavis.measure.report.looks import Found, number, ratio, weightings

WIDTHS = (22, 22, 18, 18)  # of the columns


def table(found: Found) -> Iterator[str]:
    """The results in lines.

    Args:
        found: what is known of the sweep.
    """
    names, start = found["objectives"], found["reference"]
    yield f"at {found['kl']:g} nats, {weightings(found)} of {', '.join(names)}"
    known = zip(names, found["units"], strict=True)
    rewards = ", ".join(f"{n} {u['mean']:.3g} ± {u['std']:.3g}" for n, u in known)
    yield f"reference: {rewards}; KL {start['kl']:.2f} nats, {start['length']:.1f} tokens"
    if not found["methods"]:
        return
    if found["reference_point"] is not None:
        corner = ", ".join(f"{x:.2f}" for x in found["reference_point"])
        yield f"hypervolume above ({corner}), in standard units; intervals are 95 % over prompts"
    yield ""
    heads = ("hypervolume", "weighted gain", "training CPU s", "tokens / CPU s")
    yield "method    " + "".join(
        f"{head:>{width}}" for head, width in zip(heads, WIDTHS, strict=True)
    )
    for name, method in found["methods"].items():
        volume, gain = (_cell(method["indicators"][n]) for n in ("hypervolume", "weighted_gain"))
        seconds, speed = method["training_cpu_seconds"], method["tokens_per_cpu_second"]
        cost = "?" if seconds is None else f"{seconds:.0f}"
        fast = "" if speed is None else f"{speed:.0f}"
        cells = zip((volume, gain, cost, fast), WIDTHS, strict=True)
        yield f"{name:<10}" + "".join(f"{cell:>{width}}" for cell, width in cells)
    for rival, lead in found["ahead"].items():
        ratio, gain = _cell(lead["hypervolume_ratio"]), _cell(lead["gain_ratio"])
        yield f"mavis / {rival}: hypervolume {ratio}, weighted gain {gain}"
        both = [seed for seed in found["by_seed"] if {AHEAD, rival} <= set(seed)]
        if both:
            each = [", ".join(_ratios(both, rival, n)) for n in ("hypervolume", "weighted_gain")]
            yield f"    seed by seed: hypervolume {each[0]}; weighted gain {each[1]}"
    for warning in found["warnings"]:
        yield f"warning: {warning}"


def _ratios(seeds: Sequence[Mapping[str, Any]], rival: str, indicator: str) -> Iterator[str]:
    """MAVIS's indicator in that of a rival, for each seed."""
    for seed in seeds:
        mine, theirs = (number(seed[method][indicator]) for method in (AHEAD, rival))
        found = ratio(mine, theirs)
        yield "-" if math.isnan(found) else f"{found:.2f}"


def _cell(numbers: Mapping[str, Any] | None) -> str:
    if numbers is None:
        return "-"
    value, low, high = (number(numbers[name]) for name in ("value", "low", "high"))
    if value != value:
        return "-"
    return f"{value:.2f} [{low:.2f}, {high:.2f}]"
