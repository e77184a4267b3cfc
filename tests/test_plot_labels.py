"""Names beside points do not cover each other, and unknown points have none."""

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from mavis.plot_labels import name_point, name_points


@pytest.fixture
def axes():
    axes = Figure(figsize=(7.2, 4.0)).subplots()
    axes.set(xlim=(0, 1), ylim=(0, 1))
    axes.figure.draw_without_rendering()
    return axes


def boxes(axes):
    axes.figure.draw_without_rendering()
    return [Text.get_window_extent(text) for text in axes.texts]  # without the arrows


def test_a_point_alone_is_named_beside_it(axes):
    name_point(axes, "low", (0.5, 0.5), below=True, color="black")
    name_point(axes, "high", (0.5, 0.5), below=False, color="black")
    name_point(axes, "nowhere", (np.nan, 0.5), below=True, color="black")
    (x, y), (low, high) = axes.transData.transform((0.5, 0.5)), boxes(axes)
    assert low.y1 < y < high.y0 + high.height
    assert high.x1 <= x < low.x0


@pytest.mark.parametrize("below", [True, False])
@pytest.mark.parametrize("count", [2, 5, 9])
def test_names_of_points_that_meet_are_stacked(axes, below, count):
    points = np.array([(0.5 + 0.004 * at, 0.5 + 0.003 * at) for at in range(count)])
    name_points(axes, [f"name {n}" for n in range(count)], points, below=below, color="black")
    found = boxes(axes)
    assert [text.get_text() for text in axes.texts] == [f"name {n}" for n in range(count)]
    for at, one in enumerate(found):
        assert not any(one.y0 < other.y1 - 1 and other.y0 < one.y1 - 1 for other in found[at + 1 :])
    assert all(text.arrow_patch is not None for text in axes.texts)  # tied to their points


def test_points_far_apart_are_named_one_by_one(axes):
    points = np.array([(0.1, 0.1), (np.nan, 0.5), (0.9, 0.9)])
    name_points(axes, ["a", "b", "c"], points, below=True, color="black")
    assert [text.get_text() for text in axes.texts] == ["a", "c"]
    assert all(text.arrow_patch is None for text in axes.texts)
