"""Plots of a fit: reward against KL, rewards before and after, values against their targets.

Points that are not finite are left out; few or constant ones make a plain plot, not an error.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from mavis import plot_labels
from mavis.plot_style import BLACK, BLUE, GREY, ORANGE, UNITS, WIDTH, name_axes

PANELS, BINS, CLOUD = 4, 8, 400  # calibration: depths, bins in each, single points shown

Array = NDArray[np.float64]


def reward_kl_figure(
    rounds: Sequence[Mapping[str, Any]],
    best_of_n: Sequence[tuple[int, float, float]],
    objective: str,
) -> Figure:
    """Reward against KL for the reference and every round, with the best-of-N curve.

    Args:
        rounds: Entries of `metrics.json`: round, kl, reward, reward_se, reward_reference, and
            reward_reference_se if it is known.
        best_of_n: N, KL in nats and mean reward in standard units, for each N from 1, which is
            the reference.
        objective: Its name, for the title.
    """
    figure = Figure(figsize=(WIDTH, 4.6), layout="constrained")
    axes = figure.subplots()
    name_axes(axes, f"{objective}: reward against KL, by round", "KL to the reference (nats)")
    axes.set_ylabel(f"mean reward ({UNITS}, ± standard error)")
    keys = ("kl", "reward", "reward_se", "reward_reference", "reward_reference_se")
    table = [[entry.get(key) for key in keys] for entry in rounds]  # None becomes NaN
    kl, reward, error, reference, reference_error = np.array(table, float).reshape(-1, 5).T
    curve = np.array(sorted(best_of_n), dtype=np.float64).reshape(-1, 3)
    curve = curve[np.isfinite(curve).all(1)]
    lead = reward - np.interp(kl, curve[:, 1], curve[:, 2]) if len(curve) else reward
    lagging = bool(np.nansum(lead) < 0)  # on which side of the curve there is room for labels

    named = np.log2(curve[:, 0]) % 1 == 0
    axes.plot(curve[:, 1], curve[:, 2], "--", marker=".", markevery=named.tolist(),
              color=ORANGE, label="best of N")  # fmt: skip
    for n, x, y in curve[named & (curve[:, 0] > 1)]:
        plot_labels.name_point(axes, f"N = {n:.0f}", (x, y), below=not lagging, color=ORANGE)
    bars: dict[str, Any] = {"capsize": 4, "linewidth": 1.2}
    last = np.flatnonzero(np.isfinite(reference))[-1:]  # measured anew in every round
    axes.errorbar([0.0] * len(last), reference[last], np.nan_to_num(reference_error[last]),
                  fmt="s", color=BLACK, label="reference", **bars)  # fmt: skip
    axes.errorbar(kl, reward, np.nan_to_num(error), fmt="-o", color=BLUE, zorder=5,
                  label="guided, after each round", **bars)  # fmt: skip
    axes.margins(0.1)
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    figure.draw_without_rendering()  # now it is known where the points lie
    texts = [f"round {entry.get('round', '?')}" for entry in rounds]
    plot_labels.name_points(axes, texts, np.column_stack([kl, reward]), below=lagging, color=BLUE)
    return figure


def reward_histograms_figure(
    before: Sequence[float], after: Sequence[float], objective: str
) -> Figure:
    """Histograms of single rewards, in standard units, of the reference and of the guided policy.

    Args:
        before: Rewards of the reference's replies.
        after: Rewards of the guided policy's replies.
        objective: Its name, for the title.
    """
    figure = Figure(figsize=(WIDTH, 4.0), layout="constrained")
    axes = figure.subplots()
    name_axes(axes, f"{objective}: rewards of single replies", f"reward ({UNITS})")
    axes.set_ylabel("share of the replies")
    kinds = (
        ("reference", _finite(before), GREY, "-", {"fill": True, "alpha": 0.45}),
        ("guided", _finite(after), BLUE, "--", {"fill": False, "hatch": "///"}),
    )
    edges = _edges(np.concatenate([kinds[0][1], kinds[1][1]]))
    for label, rewards, colour, line, look in kinds:
        if rewards.size:
            share = np.full(rewards.size, 1 / rewards.size)
            axes.hist(rewards, edges, weights=share, histtype="step", color=colour,
                      linewidth=1.4, label=f"{label} (n = {rewards.size})", **look)  # fmt: skip
            axes.axvline(rewards.mean(), color=colour, linestyle=line, linewidth=2.2,
                         label=f"its mean, {round(rewards.mean(), 2) + 0.0:.2f}")  # fmt: skip
    if axes.get_legend_handles_labels()[0]:
        figure.legend(loc="outside lower center", ncols=4, frameon=False, columnspacing=1.2)
    return figure


def calibration_figure(
    depth: ArrayLike, predicted: ArrayLike, target: ArrayLike, objective: str
) -> Figure:
    """Targets against predicted values, one panel for each stretch of the response.

    Dots are the means of groups of equal size, with the standard error of their targets; on the
    line, a value is what comes true on average.

    Args:
        depth: [P] position of the token in the response.
        predicted: [P] values, in standard units.
        target: [P] targets, in standard units.
        objective: Its name, for the title.
    """
    columns = (depth, predicted, target)
    points = np.stack([np.asarray(one, dtype=np.float64).ravel() for one in columns], 1)
    points = points[np.isfinite(points).all(1)]
    groups = _by_depth(points)
    figure = Figure(figsize=(WIDTH, 3.0 if len(groups) < 3 else 5.6), layout="constrained")
    figure.suptitle(f"{objective}: value calibration by depth", x=0.01, ha="left", fontsize=12)
    panels = figure.subplots(-(-len(groups) // 2), min(2, len(groups)), squeeze=False,
                             sharex=True, sharey=True).ravel()  # fmt: skip
    low, high = _limits(points[:, 1:])
    for axes in panels[len(groups) :]:
        axes.set_axis_off()
    for axes, group in zip(panels, groups, strict=False):
        axes.plot([low, high], [low, high], "--", color=ORANGE, label="predicted = target")
        cloud = group[:: max(1, len(group) // CLOUD)]
        axes.plot(cloud[:, 1], cloud[:, 2], ".", color=GREY, markersize=2.5, alpha=0.4,
                  label="single tokens")  # fmt: skip
        x, y, error = _means(group)
        axes.errorbar(x, y, error, fmt="o", color=BLUE, capsize=3, label="means of equal groups")
        name_axes(axes, _describe(group), size=10)
        axes.set(xlim=(low, high), ylim=(low, high))
    for axes in panels[max(0, len(groups) - 2) : len(groups)]:
        axes.set_xlabel(f"predicted value ({UNITS})")
        axes.tick_params(labelbottom=True)
    for axes in panels[::2]:
        axes.set_ylabel(f"target ({UNITS})")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    return figure


def _by_depth(points: Array) -> list[Array]:
    """The points [P, 3] cut by depth into at most `PANELS` parts of similar size."""
    if not len(points):
        return [points]
    cuts = np.unique(np.quantile(points[:, 0], np.linspace(0, 1, PANELS + 1)[1:-1], method="lower"))
    part = np.searchsorted(cuts, points[:, 0], side="left")
    return [points[part == i] for i in np.unique(part)]


def _means(group: Array) -> tuple[Array, Array, Array]:
    """Mean prediction, mean target and its standard error, in groups of equal size."""
    ordered = group[np.argsort(group[:, 1], kind="stable")]
    parts = [part for part in np.array_split(ordered, BINS) if len(part)]
    error = [part[:, 2].std(ddof=1) / len(part) ** 0.5 if len(part) > 1 else 0.0 for part in parts]
    mean = np.array([part.mean(0) for part in parts]).reshape(-1, 3)
    return mean[:, 1], mean[:, 2], np.array(error)


def _describe(group: Array) -> str:
    """The stretch of the response, the number of points, and R² where it means something."""
    if not len(group):
        return "no finite points"
    first, last = int(group[:, 0].min()), int(group[:, 0].max())
    where = f"token {first}" if first == last else f"tokens {first} to {last}"
    spread = ((group[:, 2] - group[:, 2].mean()) ** 2).sum()
    if spread <= 1e-12:
        return f"{where} (n = {len(group)})"
    r2 = 1 - ((group[:, 2] - group[:, 1]) ** 2).sum() / spread
    return f"{where}: R² = {r2:z.2f} (n = {len(group)})"


def _limits(values: Array) -> tuple[float, float]:
    """A common range that leaves out the outermost half per cent on either side."""
    if not values.size:
        return -1.0, 1.0
    low, high = np.quantile(values, [0.005, 0.995])
    margin = 0.06 * (high - low) or 0.5
    return float(low - margin), float(high + margin)


def _edges(values: Array) -> list[float]:
    """Edges of 10 to 40 bins that hold all values."""
    low, high = (values.min(), values.max()) if values.size else (0.0, 0.0)
    if high - low < 1e-9:
        low, high = low - 0.5, high + 0.5
    count = int(np.clip(np.sqrt(values.size), 10, 40))
    edges: list[float] = np.linspace(low, high, count + 1).tolist()
    return edges


def _finite(values: Sequence[float]) -> Array:
    array = np.array(values, dtype=np.float64)
    return array[np.isfinite(array)]
