"""Sweeps without a hypervolume: of one objective, or with one that nothing changes."""

import json
from dataclasses import replace

import numpy as np
import pytest

from mavis.comparison.contamination import Checks
from mavis.comparison.provenance import Cost
from mavis.comparison.results import results
from mavis.report import plots
from mavis.report.cells import ahead, indicators, paired
from mavis.report.console import table
from mavis.report.html import page, write_report
from mavis.report.style import main_indicator
from mavis.report.text import headline, leads, title
from mavis.storage import legal, write_json
from mavis.tracking.sweep_run import _indicators, _points

NOTHING = Checks({}, {}, [])
METHODS = ("best_of", "mavis", "mod")


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr("mavis.comparison.analysis.RESAMPLES", 40)


def flatten(analysis):
    """Make the last reward one that depends on the prompt alone, as one of its length would."""
    points = [analysis.reference, analysis.best_of]
    points += [p for curves in analysis.curves.values() for curve in curves for p in curve]
    for point in points:
        prompts, answers = point.rewards.shape[:2]
        point.rewards[..., -1] = np.repeat(np.arange(prompts)[:, None] % 5, answers, axis=1)
    return analysis


@pytest.fixture
def flat(analysis):
    return results(
        flatten(analysis(METHODS)), {"mavis": Cost(1.0, 2, frozenset())}, {}, {}, NOTHING
    )


@pytest.fixture
def alone(analysis):
    return results(analysis(METHODS, ("humor",), steps=1), {}, {}, {}, NOTHING)


def strict(found, file):
    """The results as they are written: strict JSON, without NaN and infinities."""

    def refuse(name):
        raise AssertionError(f"{name} in results.json")

    write_json(file, found)
    return json.loads(file.read_text(), parse_constant=refuse)


def test_a_constant_objective_leaves_no_volume(flat, tmp_path):
    read = strict(flat, tmp_path / "results.json")
    assert "helpfulness is the same for the reference" in read["hypervolume_undefined"]
    assert read["reference_point"] is None
    for method in METHODS:
        assert read["methods"][method]["indicators"]["hypervolume"] is None
        assert read["methods"][method]["indicators"]["weighted_gain"]["value"] > 0
    for baseline in ("best_of", "mod"):
        assert read["ahead"][baseline]["hypervolume_ratio"] is None
        assert read["ahead"][baseline]["gain_difference"]["value"] is not None
    assert all(pair["differences"]["hypervolume"] is None for pair in read["paired"])


def test_a_reference_point_below_it_gives_one(analysis):
    given = replace(flatten(analysis(METHODS)), corner=[-1.0, -1.0])
    found = results(given, {}, {}, {}, NOTHING)
    assert found["hypervolume_undefined"] is None
    assert found["methods"]["mavis"]["indicators"]["hypervolume"]["value"] > 0


def test_the_console_says_why(flat):
    said = "\n".join(table(flat))
    assert "hypervolume is undefined: the reward of helpfulness is the same" in said
    assert sum(line.split()[:2] == ["mavis", "undefined"] for line in said.splitlines()) == 1
    assert "mavis / mod: weighted gain 1." in said
    assert "nan" not in said
    assert "None" not in said


def test_the_report_says_why(flat, tmp_path):
    files = write_report(tmp_path, flat)
    text = files[0].read_text(encoding="utf-8")
    assert "Hypervolume is undefined: the reward of helpfulness is the same" in text
    assert "nan" not in text.split("base64", 1)[0].lower()
    assert headline(flat).startswith("By weighted gain, MAVIS is ")
    assert [cells[0].value for _, cells in indicators(flat).rows] == ["undefined"] * 3
    assert ahead(flat).heads == ["weighted gain, ratio", "weighted gain, difference"]
    assert "hypervolume" not in paired(flat).heads
    assert len(plots.bars_figure(flat).axes) == 1
    assert plots.front_figure(flat, 0, 1)
    again = json.loads(json.dumps(legal(flat)))
    images = dict.fromkeys(["front 0 1", "curves", "bars"], b"png")
    assert page(again, images) == page(flat, images)


def test_tracking_leaves_it_out(flat):
    metrics = _indicators(flat)
    assert "mavis/weighted_gain" in metrics
    assert not [name for name in metrics if "hypervolume" in name]
    for _, values in _points(flat, "mod"):
        assert not [name for name in values if "hypervolume" in name]


def test_seeds_do_without_it(flat):
    seed = {"mavis": {"weighted_gain": 1.5}, "mod": {"weighted_gain": 1.2}}
    said = list(table(flat | {"by_seed": [seed, seed]}))
    assert "    seed by seed: weighted gain 1.25, 1.25" in said


def test_one_objective_is_compared_by_its_reward(alone, tmp_path):
    read = strict(alone, tmp_path / "results.json")
    assert "one objective" in read["hypervolume_undefined"]
    assert read["weightings"] == [[1.0]]
    assert main_indicator(alone).name == "reward"
    said = list(table(alone))
    assert said[0] == "at 2 nats, humor"
    assert not [line for line in said if "hypervolume" in line or "weight" in line]
    cell = alone["methods"]["mavis"]["rewards"][0][0]
    want = f"{cell['value']:.2f} [{cell['low']:.2f}, {cell['high']:.2f}]"
    assert any(line.startswith("mavis ") and want in line for line in said)
    (axes,) = plots.bars_figure(alone).axes  # the same number, and the same interval
    assert axes.get_title(loc="left") == "reward"
    at = [label.get_text() for label in axes.get_yticklabels()].index("MAVIS")
    whiskers = next(c for c in axes.containers if getattr(c, "has_xerr", False)).lines[2][0]
    assert axes.patches[at].get_width() == cell["value"]
    np.testing.assert_allclose(whiskers.get_segments()[at][:, 0], [cell["low"], cell["high"]])
    assert headline(alone).startswith("By reward, MAVIS is ")
    assert all("standard units" in line and "hypervolume" not in line for line in leads(alone))


def test_one_objective_has_a_report(alone, tmp_path):
    files = write_report(tmp_path, alone)
    assert [file.name for file in files] == ["report.html", "curves.png", "bars.png"]
    text = files[0].read_text(encoding="utf-8")
    assert title(alone).startswith("Reward of humor against KL")
    for line in ("Fronts", "Hypervolume", "hypervolume"):
        assert line not in text
    (axes,) = plots.curves_figure(alone).axes
    assert axes.get_ylabel().startswith("reward (")
    assert {line.get_label() for line in axes.lines} >= {"MAVIS", "MOD", "best of N", "reference"}


def test_one_objective_at_several_weights_is_weighed(analysis):
    one = analysis(("mavis",), ("humor",), steps=1)
    two = replace(one, weightings=[(1.0,), (-1.0,)], curves={"mavis": one.curves["mavis"] * 2})
    found = results(two, {}, {}, {}, NOTHING)
    assert main_indicator(found).name == "weighted gain"
    assert any("weighted gain" in line for line in table(found))
    assert "weighted gain of" in headline(found)
