"""The pictures hold what the results say, and odd results make a plain picture, not an error."""

import json
import struct
from itertools import pairwise

import numpy as np
import pytest

from mavis.comparison.contamination import Checks
from mavis.comparison.results import results
from mavis.report import plots
from mavis.report.style import LOOKS, look
from mavis.storage import legal

NOTHING = Checks({}, {}, [])


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr("mavis.comparison.analysis.RESAMPLES", 40)


@pytest.fixture
def found(analysis):
    return results(analysis(), {}, {}, {}, NOTHING)


def png_size(path):
    content = path.read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", content[16:24])


def names(figure):
    return [handle.get_text() for legend in figure.legends for handle in legend.get_texts()]


def crosses(axes):
    return [c for c in axes.containers if c.has_xerr and c.has_yerr]


def segments(collection):
    return np.array(collection.get_segments())


def test_a_method_looks_like_no_other():
    looks = [*LOOKS.values(), look("a new one")]
    for kind in ("name", "colour", "marker"):
        assert len({getattr(each, kind) for each in looks}) == len(looks)
    lines = {str(each.line) for method, each in LOOKS.items() if method != "reference"}
    assert len(lines) == len(LOOKS) - 1  # the reference is a point and has none


def test_pictures_are_saved_as_wide_as_a_page(found, tmp_path):
    saved = plots.pictures(tmp_path / "new", found)
    assert list(saved) == ["front 0 1", "curves", "bars"]
    files = ["front_humor_helpfulness.png", "curves.png", "bars.png"]
    assert [path.name for path in saved.values()] == files
    assert {png_size(path)[0] for path in saved.values()} == {1080}


def test_a_front_has_a_cross_for_every_weighting_of_every_method(found):
    (axes,) = plots.front_figure(found, 0, 1).axes
    assert axes.get_title(loc="left").startswith("humor and helpfulness at 2 nats of KL")
    assert "humor (standard units" in axes.get_xlabel()
    assert "helpfulness (standard units" in axes.get_ylabel()
    assert len(crosses(axes)) == 3
    for method, cross in zip(("best_of", "mavis", "mod"), crosses(axes), strict=True):
        up, across = (segments(part) for part in cross.lines[2][::-1])
        for w, cell in enumerate(found["methods"][method]["rewards"]):
            x, y = cell
            np.testing.assert_allclose(across[w][:, 0], [x["low"], x["high"]])
            np.testing.assert_allclose(across[w][:, 1], y["value"])
            np.testing.assert_allclose(up[w][:, 1], [y["low"], y["high"]])


def test_a_front_shows_the_reference_and_the_point_that_volumes_are_measured_from(found):
    figure = plots.front_figure(found, 0, 1)
    (axes,) = figure.axes
    assert names(figure) == [
        "best of N",
        "MAVIS",
        "MOD",
        "reference",
        "hypervolume's reference point",
    ]
    marks = {line.get_label(): line.get_xydata().tolist() for line in axes.lines}
    assert marks["hypervolume's reference point"] == [found["reference_point"]]
    assert marks["reference"] == [pytest.approx([0.0, 0.0], abs=1e-12)]
    assert [text.get_text() for text in axes.texts] == ["λ = 1 : 0", "λ = 0 : 1"]
    ends = [[cell["value"] for cell in found["methods"]["mavis"]["rewards"][w]] for w in (0, -1)]
    assert [list(text.xy) for text in axes.texts] == ends


def test_the_line_of_a_front_leaves_out_what_is_dominated(found):
    rewards = found["methods"]["mod"]["rewards"]
    rewards[1] = [cell | {"value": -5.0, "low": -5.1, "high": -4.9} for cell in rewards[1]]
    (axes,) = plots.front_figure(found, 0, 1).axes
    green = [line for line in axes.lines if line.get_color() == look("mod").colour]
    front, points = (line.get_xydata() for line in green[:2])
    assert len(points) == 3
    assert len(front) == 2
    assert front[:, 0].tolist() == sorted(front[:, 0])
    assert front.min() > -5


def test_curves_start_at_the_reference_and_are_read_where_methods_are_compared(found):
    figure = plots.curves_figure(found)
    assert [a.get_title(loc="left") for a in figure.axes] == [
        "λ = 1 : 0",
        "λ = 0.5 : 0.5",
        "λ = 0 : 1",
    ]
    assert names(figure) == ["compared here", "best of N", "MAVIS", "MOD", "reference"]
    for w, axes in enumerate(figure.axes):
        assert "nats" in axes.get_xlabel()
        weights = np.array(found["weightings"][w])
        blue = [line for line in axes.lines if line.get_color() == look("mavis").colour]
        path, points = (line.get_xydata() for line in blue[:2])
        assert points[0] == pytest.approx([found["reference"]["kl"], 0.0], abs=1e-9)
        assert len(points) == 3
        cell = found["methods"]["mavis"]["rewards"][w]
        read = np.interp(2.0**0.5, path[:, 0] ** 0.5, path[:, 1])
        assert read == pytest.approx(weights @ [c["value"] for c in cell])
        assert 2.0 in axes.lines[0].get_xdata()
    assert "standard units" in figure.axes[0].get_ylabel()


def test_best_of_n_starts_at_one_and_rises(found):
    axes = plots.curves_figure(found).axes[0]
    red = [line for line in axes.lines if line.get_color() == look("best_of").colour]
    points = red[1].get_xydata()
    assert len(points) == 6  # N = 1, 2, … 32
    assert all(a[0] < b[0] and a[1] < b[1] for a, b in pairwise(points))


def test_bars_are_sorted_and_have_intervals(found):
    figure = plots.bars_figure(found)
    left, right = figure.axes
    assert [axes.get_title(loc="left") for axes in (left, right)] == [
        "hypervolume",
        "weighted gain",
    ]
    lengths = [bar.get_width() for bar in left.patches]
    assert lengths == sorted(lengths)
    assert len(lengths) == len(right.patches) == 3
    named = {look(m).name: found["methods"][m]["indicators"] for m in found["methods"]}
    order = [label.get_text() for label in left.get_yticklabels()]
    for axes, name in ((left, "hypervolume"), (right, "weighted_gain")):
        want = [[named[m][name][end] for end in ("low", "high")] for m in order]
        bars = next(c for c in axes.containers if getattr(c, "has_xerr", False))
        np.testing.assert_allclose(segments(bars.lines[2][0])[:, :, 0], want)
        assert [text.get_text() for text in axes.texts] == [
            f"{named[m][name]['value']:.2f}" for m in order
        ]


def test_three_objectives_have_three_fronts(analysis, tmp_path):
    names3 = ("humor", "helpfulness", "harmlessness")
    found = results(analysis(("mavis", "mod"), names3), {}, {}, {}, NOTHING)
    saved = plots.pictures(tmp_path, found)
    assert [name for name in saved if name.startswith("front")] == [
        "front 0 1",
        "front 0 2",
        "front 1 2",
    ]
    (axes,) = plots.front_figure(found, 1, 2).axes
    assert len(crosses(axes)) == 2
    assert {text.get_text() for text in axes.texts} == {"λ = 0 : 1 : 0", "λ = 0 : 0 : 1"}


@pytest.mark.parametrize("methods", [(), ("mavis",), ("best_of",)])
def test_few_methods_make_plain_pictures(analysis, methods, tmp_path):
    found = results(analysis(methods), {}, {}, {}, NOTHING)
    assert len(plots.pictures(tmp_path, found)) == 3
    (axes,) = plots.front_figure(found, 0, 1).axes
    assert len(crosses(axes)) == len(methods)


def test_a_method_that_does_not_get_so_far_is_left_out(analysis, tmp_path):
    found = results(analysis(("mavis", "mod"), reach=(0.5, 1.0)), {}, {}, {}, NOTHING)
    assert found["methods"]["mavis"]["rewards"] == [None] * 3
    assert len(plots.pictures(tmp_path, found)) == 3
    (axes,) = plots.front_figure(found, 0, 1).axes
    assert not crosses(axes)
    assert not axes.texts
    left, _ = plots.bars_figure(found).axes
    assert not left.patches
    assert "no method" in left.texts[0].get_text()


def test_unknown_numbers_are_left_out(found):
    mavis = found["methods"]["mavis"]
    mavis["rewards"][0][0] = dict.fromkeys(("value", "low", "high"), float("nan"))
    mavis["rewards"][1][1]["low"] = float("nan")
    mavis["points"][0][0]["rewards"][1] = float("nan")
    mavis["indicators"]["weighted_gain"] = dict.fromkeys(("value", "low", "high"), float("nan"))
    again = json.loads(json.dumps(legal(found)))  # null where there was NaN
    for known in (found, again):
        assert len(plots.bars_figure(known).axes) == 2
        (axes,) = plots.front_figure(known, 0, 1).axes
        cross = crosses(axes)[1]
        assert len(segments(cross.lines[2][0])) == 2
        curve = [
            ln for ln in plots.curves_figure(known).axes[0].lines if ln.get_color() == "#0072b2"
        ]
        assert len(curve[1].get_xydata()) == 2


def test_a_dollar_is_a_dollar(analysis, tmp_path):
    found = results(analysis(objectives=("$x^$", "a/../b c")), {}, {}, {}, NOTHING)
    saved = plots.pictures(tmp_path, found)
    assert saved["front 0 1"] == tmp_path / "front__x___a____b_c.png"
    (axes,) = plots.front_figure(found, 0, 1).axes
    assert r"\$x^\$" in axes.get_xlabel()
