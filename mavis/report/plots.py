"""Plot a sweep: fronts at equal KL, reward against KL, and bars of the indicators.

All are drawn from the contents of `results.json` alone. Unknown numbers are left out, and a sweep
with few points gives a sparse picture, not an error.
"""

import re
from collections.abc import Sequence
from itertools import combinations, pairwise
from pathlib import Path
from textwrap import fill

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from mavis.comparison.result_format import Estimate, Results
from mavis.comparison.results import AHEAD, three
from mavis.evaluation.pareto import nondominated
from mavis.plot_style import BLACK, GREY, UNITS, WIDTH, name_axes, save
from mavis.report.style import (
    Look,
    fixed,
    is_compared,
    is_single,
    look,
    main_indicator,
    measured,
    nats,
    number,
    ordered,
    shares,
)

FLAT = 1e-6  # standard units; an axis with a smaller range is widened
STEPS = 24  # line segments between two points of a curve that is linear in √KL

Array = npt.NDArray[np.float64]


def front_figure(results: Results, x: int, y: int) -> Figure:
    """Draw mean rewards of two objectives at equal KL, a point per method and weighting.

    Crosses are 95 % intervals; a line joins the points that no other point of the method beats in
    both objectives.

    `x` and `y` are the indices of the objectives on the horizontal and the vertical axis.
    """
    figure = Figure(figsize=(WIDTH, 6.4), layout="constrained")
    axes = figure.subplots()
    names = [_text(name) for name in results["objectives"]]
    both = f"{names[x]} and {names[y]} at {nats(results['kl'])} of KL"
    name_axes(axes, f"{both}\n{_legend_of_weights(results)}", size=11)
    axes.set_xlabel(f"mean reward of {names[x]} ({UNITS}, 95 % interval)")
    axes.set_ylabel(f"mean reward of {names[y]} ({UNITS}, 95 % interval)")
    for method in ordered(results):
        cells = [cell for cell in results["methods"][method]["rewards"] if cell is not None]
        rows = [[_interval(cell[x]), _interval(cell[y])] for cell in cells]
        _draw_front(axes, look(method), np.array(rows).reshape(-1, 2, 3))
    start = _numbers(results["reference"]["rewards"])
    axes.plot(start[x], start[y], "s", color=BLACK, markersize=7, label="reference", zorder=6)
    if results["reference_point"] is not None:
        corner = _numbers(results["reference_point"])
        axes.plot(corner[x], corner[y], "+", color=GREY, markersize=11, markeredgewidth=2,
                  label="hypervolume's reference point")  # fmt: skip
        for draw, at in ((axes.axvline, corner[x]), (axes.axhline, corner[y])):
            draw(at, color=GREY, linewidth=0.8, linestyle=(0, (2, 3)), zorder=1)
    _label_ends(axes, results, x, y)
    axes.margins(0.09)
    # Where an objective is constant, do not magnify rounding errors.
    for low, high, limit in (
        (*axes.get_xlim(), axes.set_xlim),
        (*axes.get_ylim(), axes.set_ylim),
    ):
        if high - low < FLAT:
            limit((low + high) / 2 - 1, (low + high) / 2 + 1)
    figure.legend(loc="outside lower center", ncols=4, frameon=False)
    return figure


def curves_figure(results: Results) -> Figure:
    """Draw weighted reward against KL, a panel for each of three weightings.

    Every curve starts at the reference and is interpolated linearly in √KL between its points.
    """
    panels = three(len(results["weightings"]))
    figure = Figure(figsize=(WIDTH, 4.4), layout="constrained")
    single = is_single(results)
    weighted = f"weighted reward against KL\n{_legend_of_weights(results)}"
    title = f"reward of {_text(results['objectives'][0])} against KL" if single else weighted
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    every = figure.subplots(1, len(panels), squeeze=False, sharex=True, sharey=True).ravel()
    start = results["reference"]
    for axes, at in zip(every, panels, strict=True):
        weights = np.array(results["weightings"][at])
        name_axes(axes, "" if single else f"λ = {shares(results['weightings'][at])}", size=10)
        axes.set_xlabel("KL to the reference (nats)")
        axes.axvline(results["kl"], color=GREY, linestyle=(0, (2, 3)), label="compared here")
        origin = np.array([number(start["kl"]), _numbers(start["rewards"]) @ weights])
        for method in ordered(results):
            points = results["methods"][method]["points"][at]
            rows = [(number(p["kl"]), _numbers(p["rewards"]) @ weights) for p in points]
            first = [] if method == "best_of" else [origin]  # its N = 1 is the reference
            _draw_curve(axes, look(method), np.array([*first, *rows]).reshape(-1, 2))
        axes.plot(*origin, "s", color=BLACK, markersize=6, label="reference", zorder=6)
        axes.margins(0.06)
    every[0].set_ylabel(f"{'reward' if single else 'weighted reward Σλr'} ({UNITS})")
    handles, labels = every[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    return figure


def bar_kinds(results: Results) -> list[str]:
    """Choose the bars: the main indicator, and the weighted gain beside a hypervolume."""
    name = main_indicator(results).name
    return [name, "weighted gain"] if name == "hypervolume" else [name]


def bar(results: Results, method: str, kind: str) -> Estimate:
    """Return the value of one bar of a method that can be compared."""
    gain = results["methods"][method]["indicators"]["weighted_gain"]
    if gain is None or kind == main_indicator(results).name:
        return measured(results, method)
    return gain


def bars_figure(results: Results) -> Figure:
    """Draw hypervolume and weighted gain of the compared methods, with 95 % intervals.

    With one objective, draw its reward instead.
    """
    kinds = bar_kinds(results)
    known = [method for method in ordered(results) if is_compared(results["methods"][method])]
    methods = sorted(known, key=lambda m: number(bar(results, m, kinds[0])["value"]))
    figure = Figure(figsize=(WIDTH, 1.5 + 0.42 * max(1, len(methods))), layout="constrained")
    room = {"wspace": 0.08}
    every = figure.subplots(1, len(kinds), sharey=True, squeeze=False, gridspec_kw=room).ravel()
    left = every[0]
    for axes, name in zip(every, kinds, strict=True):
        unit = "product of standard units" if name == "hypervolume" else UNITS
        name_axes(axes, name, size=12)
        axes.set_xlabel(f"{unit}, 95 % interval")
        axes.grid(visible=False, axis="y")
        values = np.array([_interval(bar(results, m, name)) for m in methods]).reshape(-1, 3)
        axes.barh(range(len(methods)), values[:, 0], 0.62, alpha=0.8,
                  color=[look(m).colour for m in methods])  # fmt: skip
        axes.errorbar(values[:, 0], range(len(methods)), xerr=_arms(values), fmt="none",
                      ecolor=BLACK, capsize=3, elinewidth=1.2)  # fmt: skip
        axes.axvline(0, color=BLACK, linewidth=0.8)
        for row, (value, _, high) in enumerate(values):
            end = np.nanmax([value, high, 0.0])
            axes.annotate(fixed(value), (end, row), (5, 0), textcoords="offset points",
                          va="center", fontsize=9)  # fmt: skip
        axes.margins(x=0.16)
    left.set_yticks(range(len(methods)), [_text(look(m).name) for m in methods])
    if not methods:
        left.text(0.5, 0.5, "no method reaches this KL at every weighting", ha="center",
                  transform=left.transAxes)  # fmt: skip
    return figure


def pictures(folder: Path, results: Results) -> dict[str, Path]:
    """Save all pictures of a sweep: a front for each pair of objectives, curves and bars.

    Returns:
        the files by name: `front 0 1`, …, `curves`, `bars`.
    """
    saved = {}
    for x, y in combinations(range(len(results["objectives"])), 2):
        both = "_".join(re.sub(r"[^\w-]", "_", results["objectives"][m]) for m in (x, y))
        saved[f"front {x} {y}"] = save(folder / f"front_{both}.png", front_figure(results, x, y))
    saved["curves"] = save(folder / "curves.png", curves_figure(results))
    saved["bars"] = save(folder / "bars.png", bars_figure(results))
    return saved


def _draw_front(axes: Axes, style: Look, points: Array) -> None:
    """Draw a method's points [W, 2, 3]: value, low and high end on both axes."""
    known = points[np.isfinite(points[..., 0]).all(1)]
    if not len(known):
        return
    across, up = known[:, 0], known[:, 1]
    axes.errorbar(across[:, 0], up[:, 0], _arms(up), _arms(across), fmt="none",
                  ecolor=style.colour, elinewidth=0.9, alpha=0.35, zorder=2)  # fmt: skip
    best = known[nondominated(known[..., 0])]
    best = best[np.argsort(best[:, 0, 0])]
    axes.plot(best[:, 0, 0], best[:, 1, 0], linestyle=style.line, color=style.colour, zorder=3)
    axes.plot(across[:, 0], up[:, 0], style.marker, color=style.colour, markersize=6,
              markeredgecolor="white", markeredgewidth=0.5, zorder=5)  # fmt: skip
    axes.plot([], [], linestyle=style.line, marker=style.marker, color=style.colour,
              label=_text(style.name))  # fmt: skip


def _draw_curve(axes: Axes, style: Look, points: Array) -> None:
    """Draw a method's points [P, 2], KL and reward, joined linearly in √KL."""
    known = points[np.isfinite(points).all(1)]
    known = known[np.argsort(known[:, 0], kind="stable")]
    roots = np.sqrt(known[:, 0].clip(min=0))  # the reference's is 0, but for rounding
    fine = [np.linspace(a, b, STEPS) for a, b in pairwise(roots)]
    path = np.concatenate([roots[:1], *fine])
    axes.plot(path**2, np.interp(path, roots, known[:, 1]) if len(known) else path,
              linestyle=style.line, color=style.colour, linewidth=1.4)  # fmt: skip
    axes.plot(known[:, 0], known[:, 1], style.marker, color=style.colour, markersize=5,
              markeredgecolor="white", markeredgewidth=0.4)  # fmt: skip
    axes.plot([], [], linestyle=style.line, marker=style.marker, color=style.colour,
              label=_text(style.name))  # fmt: skip


def _legend_of_weights(results: Results) -> str:
    return fill(f"λ = {' : '.join(map(_text, results['objectives']))}", 90)


def _label_ends(axes: Axes, results: Results, x: int, y: int) -> None:
    """Write λ beside one method's points with the largest weight on x, and on y."""
    methods = sorted(ordered(results), key=lambda m: m != AHEAD)
    method = next((m for m in methods if all(results["methods"][m]["rewards"])), None)
    if method is None:
        return
    weights = np.array(results["weightings"])
    halo = [withStroke(linewidth=3, foreground="white")]
    ends = ((x, y, (0, -24), "center"), (y, x, (-9, 9), "right"))
    for m, n, away, side in ends[: len(weights)]:
        at = int((weights[:, m] - weights[:, n]).argmax())
        cell = results["methods"][method]["rewards"][at] or []
        place = (number(cell[x]["value"]), number(cell[y]["value"]))
        if np.isfinite(place).all():
            axes.annotate(f"λ = {shares(results['weightings'][at])}", place, away,
                          textcoords="offset points", ha=side, fontsize=9, zorder=7,
                          color=look(method).colour, path_effects=halo)  # fmt: skip


def _interval(cell: Estimate) -> Array:
    """Return value, low and high end."""
    return _numbers([cell["value"], cell["low"], cell["high"]])


def _arms(values: Array) -> Array:
    """Return error-bar lengths [2, N] from value, low and high [N, 3]; 0 where unknown."""
    value, low, high = values.T
    arms = np.stack([value - low, high - value])
    # A percentile interval may lie beside its value; an arm cannot be negative.
    return np.where(np.isfinite(arms), np.maximum(arms, 0.0), 0.0)


def _numbers(values: Sequence[float | None]) -> Array:
    return np.array(values, dtype=np.float64)  # None becomes NaN


def _text(words: str) -> str:
    """Escape dollar signs, so that matplotlib does not parse a formula."""
    return words.replace("$", r"\$")
