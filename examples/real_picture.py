"""The picture and the table of `make real`, from the `results.json` of `mavis pareto`."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mavis.comparison.result_format import Estimate, Results
from mavis.plot_style import BLACK, GREY, UNITS, WIDTH, name_axes, save
from mavis.report.style import fixed, look, nats, number, ordered, shares

ENDS: tuple[Literal["value", "low", "high"], ...] = ("value", "low", "high")
STEPS = 24  # line segments between two points of a curve that is linear in √KL

Array = npt.NDArray[np.float64]


def draw(results: Results, file: Path) -> Path:
    """Save the picture: the reward of each objective alone against KL, and the front of both.

    Args:
        results: of a sweep of two objectives, with the weightings (1, 0) and (0, 1) among others.
        file: a PNG.
    """
    figure = Figure(figsize=(1.35 * WIDTH, 3.8), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    for m, axes in enumerate((left, middle)):
        name_axes(axes, results["objectives"][m], "KL to the reference (nats)", size=13)
        _draw_curves(axes, results, m)
    left.set_ylabel(f"reward ({UNITS})")
    _draw_front(right, results)
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=11)
    return save(file, figure)


def _draw_curves(axes: Axes, results: Results, m: int) -> None:
    """Draw the reward of one objective, at the weighting that wants it alone."""
    start, alone = results["reference"], _alone(results, m)
    origin = (number(start["kl"]), number(start["rewards"][m]))
    for method in ordered(results):
        style = look(method)
        points = results["methods"][method]["points"][alone]
        rows = [(number(point["kl"]), number(point["rewards"][m])) for point in points]
        known = np.array([*([] if method == "best_of" else [origin]), *rows]).reshape(-1, 2)
        known = known[np.isfinite(known).all(1)]
        known = known[np.argsort(known[:, 0], kind="stable")]
        path = _path(known)
        axes.plot(path[:, 0], path[:, 1], linestyle=style.line, color=style.colour)
        axes.plot(known[:, 0], known[:, 1], style.marker, color=style.colour, markersize=6)
        axes.plot([], [], linestyle=style.line, marker=style.marker, color=style.colour,
                  label=style.name)  # fmt: skip
    axes.plot(*origin, "s", color=BLACK, markersize=7, label="reference", zorder=6)
    axes.axvline(results["kl"], color=GREY, linestyle=(0, (2, 3)), label="compared here")


def _path(points: Array) -> Array:
    """A line through points [P, 2], KL and reward, linear in √KL between them."""
    if len(points) < 2:
        return points
    roots = np.sqrt(np.maximum(points[:, 0], 0.0))
    fine = np.concatenate([roots[:1], *(np.linspace(a, b, STEPS) for a, b in pairwise(roots))])
    return np.stack([fine**2, np.interp(fine, roots, points[:, 1])], 1)


def _draw_front(axes: Axes, results: Results) -> None:
    """Draw both rewards at the common KL, a point for each weighting of a method."""
    x, y = results["objectives"]
    name_axes(axes, f"both, at {nats(results['kl'])}", f"{x} ({UNITS})", size=13)
    axes.set_ylabel(f"{y} ({UNITS})")
    for method in ordered(results):
        style, every = look(method), results["methods"][method]["rewards"]
        cells = [cell for _, cell in sorted(zip(results["weightings"], every, strict=True)) if cell]
        rows = [[number(one[end]) for one in cell for end in ENDS] for cell in cells]
        across, up = np.moveaxis(np.array(rows).reshape(-1, 2, 3), 1, 0)  # [W, 3] each
        axes.errorbar(across[:, 0], up[:, 0], _arms(up), _arms(across), fmt="none",
                      ecolor=style.colour, elinewidth=0.9, alpha=0.35)  # fmt: skip
        axes.plot(across[:, 0], up[:, 0], linestyle=style.line, marker=style.marker,
                  color=style.colour, markersize=6)  # fmt: skip
    start = [number(reward) for reward in results["reference"]["rewards"]]
    axes.plot(*start, "s", color=BLACK, markersize=7, zorder=6)
    axes.margins(0.12)


def _arms(values: Array) -> Array:
    """Lengths of the bars [2, W] from values and their intervals [W, 3]; 0 where unknown."""
    arms = np.stack([values[:, 0] - values[:, 1], values[:, 2] - values[:, 0]])
    return np.where(np.isfinite(arms), np.maximum(arms, 0.0), 0.0)


def table(results: Results) -> str:
    """The figures as a table in Markdown: a row for each weighting, at the common KL."""
    methods = [m for m in ordered(results) if any(results["methods"][m]["rewards"])]
    names = [f"{look(m).name}: {name}" for m in methods for name in results["objectives"]]
    head = f"λ = {' : '.join(results['objectives'])}"
    lines = [_row([head, *names]), "|---" * (1 + len(names)) + "|"]
    for at, weights in enumerate(results["weightings"]):
        cells = [results["methods"][method]["rewards"][at] for method in methods]
        missing: list[Estimate | None] = [None] * len(results["objectives"])
        rewards = [reward for cell in cells for reward in (cell or missing)]
        lines.append(_row([shares(weights), *map(_cell, rewards)]))
    units = zip(results["objectives"], results["units"], strict=True)
    told = ", ".join(f"{name} {u['mean']:.3g} ± {u['std']:.3g}" for name, u in units)
    cut = fixed(number(results["reference"].get("kl_truncation", 0.0)))
    lines += [
        "",
        f"At {nats(results['kl'])}; 95 % intervals over {results['settings']['prompts']} prompts;"
        f" in standard units of the reference, which are: {told}. KL is to the reference on"
        f" the same candidates: leaving out the others costs all methods {cut} nats beside.",
        "",
        *(f"Warning: {warning}" for warning in results["warnings"]),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _alone(results: Results, m: int) -> int:
    """The weighting that wants the objective m most, compared with all others."""
    weights: Array = np.array(results["weightings"])
    return int((2 * weights[:, m] - weights.sum(1)).argmax())


def _cell(reward: Estimate | None) -> str:
    if reward is None:
        return "–"
    value, low, high = (number(reward[key]) for key in ENDS)
    return f"{fixed(value)} [{fixed(low)}, {fixed(high)}]"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
