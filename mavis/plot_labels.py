"""Names beside the points of a picture, which do not cover each other however close these lie."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

Array = NDArray[np.float64]

SIZE, TALL, BROAD = 9, 12.0, 52.0  # of a label: the font's, and the room it takes in points
BELOW, ABOVE = (6.0, -12.0), (-7.0, 7.0)  # of the label, from its point
AWAY = 22.0  # from the points, for a stack of labels


def name_point(
    axes: Axes, text: str, point: tuple[float, float], *, below: bool, color: str
) -> None:
    """Name a point of a rising curve, below it on the right or above it on the left."""
    if np.isfinite(point).all():
        _write(axes, text, point, BELOW if below else ABOVE, below=below, color=color)


def name_points(
    axes: Axes, texts: Sequence[str], points: Array, *, below: bool, color: str
) -> None:
    """Name points whose labels may meet: those that would are stacked, and tied to their points.

    The layout of the figure must be known (`Figure.draw_without_rendering`).

    Args:
        axes: with the points.
        texts: P names.
        points: [P, 2]; those that are not finite are left out.
        below: on which side, as in `name_point`.
        color: of the labels.
    """
    shown = np.flatnonzero(np.isfinite(points).all(axis=1))
    scale = 72 / axes.figure.dpi
    places = axes.transData.transform(points[shown]) * scale  # [p, 2] in points of the page
    bottom, top = axes.get_window_extent().intervaly * scale
    for group in _groups(places):
        here = places[group]
        if len(group) == 1:
            offsets = np.array([BELOW if below else ABOVE])
        else:
            away = AWAY + 5 * (len(group) - 2)  # a tall stack needs room for its lines
            edge = here[:, 0].max() + away if below else here[:, 0].min() - away
            height = TALL * (len(group) - 1)
            first = here[:, 1].mean() - height * (0.7 if below else 0.3)  # away from the curve
            first = max(bottom + TALL / 2, min(first, top - height - TALL / 2))
            stack = first + TALL * np.arange(len(group))
            offsets = np.column_stack([np.full(len(group), edge), stack]) - here
        for at, offset in zip(group, offsets, strict=True):
            x, y = points[shown[at]]
            place = (float(offset[0]), float(offset[1]))
            tied = len(group) > 1
            _write(axes, texts[shown[at]], (x, y), place, below=below, color=color, tied=tied)


def _groups(places: Array) -> list[list[int]]:
    """Points whose labels would meet, each group from the lowest to the highest."""
    groups: list[list[int]] = []
    for at in np.lexsort(places.T):
        gaps = [np.abs(places[group] - places[at]) for group in groups]
        near = [bool(((gap[:, 0] < BROAD) & (gap[:, 1] < TALL)).any()) for gap in gaps]
        joined = [n for group, meets in zip(groups, near, strict=True) if meets for n in group]
        groups = [group for group, meets in zip(groups, near, strict=True) if not meets]
        groups.append([*joined, int(at)])
    return groups


def _write(
    axes: Axes,
    text: str,
    point: tuple[float, float],
    offset: tuple[float, float],
    *,
    below: bool,
    color: str,
    tied: bool = False,
) -> None:
    look: dict[str, Any] = {"ha": "left" if below else "right", "fontsize": SIZE, "color": color}
    if tied:
        look["arrowprops"] = {"arrowstyle": "-", "color": color, "lw": 0.6, "shrinkB": 0}
        look["arrowprops"]["relpos"] = (0.0 if below else 1.0, 0.5)
        look["va"] = "center"
    halo = [withStroke(linewidth=3, foreground="white")]
    axes.annotate(text, point, offset, textcoords="offset points", path_effects=halo, zorder=5,
                  **look)  # fmt: skip
