"""How the benchmarks measure: CPU time of one thread, in turns, medians of ratios."""

import json
import sys
from collections.abc import Callable, Mapping
from statistics import median
from time import process_time
from typing import Any

import torch

# What a run does; it returns how many units (tokens, targets) it has made.
Run = Callable[[], int]


def take_turns(runs: Mapping[str, Run], repetitions: int) -> dict[str, list[float]]:
    """Units per CPU second of each run, measured in turns so that a busy machine disturbs all."""
    torch.set_num_threads(1)
    rates: dict[str, list[float]] = {name: [] for name in runs}
    for repetition in range(repetitions):
        for name, run in runs.items():
            begin = process_time()
            units = run()
            rates[name].append(units / (process_time() - begin))
            print(
                f"{repetition + 1}/{repetitions} {name:28} {rates[name][-1]:9.1f}/s",
                file=sys.stderr,
            )
    return rates


def compare(
    rates: Mapping[str, list[float]], pairs: Mapping[str, tuple[str, str, str, float]]
) -> dict[str, dict[str, Any]]:
    """Hold rates against each other.

    Args:
        rates: as `take_turns` gives them.
        pairs: by name, (run, other run, "at least" or "at most", target) of the ratio of their
            rates ("at least") or of their times ("at most").
    """
    found: dict[str, dict[str, Any]] = {}
    for name, (mine, other, rule, target) in pairs.items():
        if mine not in rates or other not in rates:
            continue
        ratios = [a / b for a, b in zip(rates[mine], rates[other], strict=True)]
        if rule == "at most":
            ratios = [1 / ratio for ratio in ratios]
        middle = median(ratios)
        found[name] = {
            "ratio": round(middle, 2),
            "least": round(min(ratios), 2),
            "most": round(max(ratios), 2),
            "target": f"{rule} {target}",
            "met": middle >= target if rule == "at least" else middle <= target,
        }
    return found


def report(result: dict[str, Any]) -> None:
    """A table for people on stderr, and the last line of stdout for programs."""
    for name, rate in result.get("per_cpu_second", {}).items():
        print(f"{name:36} {rate:10.1f} {result['unit']}/s", file=sys.stderr)
    for name, row in result.get("ratios", {}).items():
        verdict = "met" if row["met"] else "MISSED"
        spread = f"{row['least']:.2f} – {row['most']:.2f}"
        line = f"{name:36} {row['ratio']:8.2f}  ({spread})  {row['target']}: {verdict}"
        print(line, file=sys.stderr)
    print(json.dumps(result))


def medians(rates: Mapping[str, list[float]]) -> dict[str, float]:
    """The middle rate of each run."""
    return {name: round(median(rate), 2) for name, rate in rates.items()}
