import subprocess
import sys
from importlib.metadata import EntryPoint

import pytest

from mavis import objective
from mavis.objective import (
    Objective,
    ObjectiveClash,
    ObjectiveNotFound,
    available,
    find,
    listing,
)


def reward(_prompts, responses):
    return [float(len(response)) for response in responses]


class Distribution:
    def __init__(self, name):
        self.name, self.version = name, "1.0"


@pytest.fixture
def installed(monkeypatch):
    """Pretend that exactly these (name, target, distribution) are installed."""

    def install(*rows):
        points = []
        for name, target, distribution in rows:
            point = EntryPoint(name, target, "mavis.objectives")
            vars(point)["dist"] = Distribution(distribution)
            points.append(point)
        monkeypatch.setattr(objective, "entry_points", lambda group: points if group else [])

    return install


@pytest.fixture
def plugins(monkeypatch, tmp_path):
    """Modules on the path: name -> source."""

    def write(**sources):
        for name, source in sources.items():
            (tmp_path / f"{name}.py").write_text(source)
        monkeypatch.syspath_prepend(tmp_path)

    yield write
    for name in ("plugin_good", "plugin_broken", "plugin_exits"):
        sys.modules.pop(name, None)


GOOD = """
from mavis import Objective
good = Objective(name="good", reward=lambda prompts, responses: [0.0])
other = Objective(name="else", reward=lambda prompts, responses: [0.0])
none = 7
"""


def test_an_objective_has_defaults_for_all_but_name_and_reward():
    made = Objective("x", reward)

    assert made.value == "mavis.training.module.ValueModule"
    assert (made.value_args, made.prompts, made.examples) == ({}, "sandbox/prompts", ())
    assert hash(made) == hash(Objective("x", reward))


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"name": ""}, ValueError, "name must be"),
        ({"reward": 5}, TypeError, "objective 'x': reward must be callable, got 5"),
        ({"value": 5}, TypeError, "value must be a class or dotted path"),
        ({"value_args": [1]}, TypeError, "value_args must be a mapping"),
        ({"prompts": ""}, ValueError, "prompts must be"),
        ({"examples": (("a", "b"),)}, ValueError, "examples must be"),
    ],
)
def test_a_wrong_field_is_refused(fields, error, message):
    with pytest.raises(error, match=message):
        Objective(**{"name": "x", "reward": reward, **fields})


def test_the_shipped_objectives_are_plugins_like_any_other():
    assert {"humor", "helpfulness", "harmlessness"} <= set(available())


def test_names_come_from_metadata_without_importing(installed):
    installed(("b", "no_such_module:b", "d1"), ("a", "no_such_module:a", "d1"))

    assert available() == ["a", "b"]


def test_find_loads_by_name(installed, plugins):
    plugins(plugin_good=GOOD)
    installed(("good", "plugin_good:good", "d1"), ("bad", "no_such_module:b", "d2"))

    assert find("good").name == "good"


def test_an_unknown_name_is_answered_with_the_nearest_and_all(installed):
    installed(("humor", "m:a", "d1"), ("harmless", "m:b", "d1"))

    with pytest.raises(ObjectiveNotFound) as caught:
        find("humr")
    assert str(caught.value) == (
        "no objective 'humr' (did you mean 'humor'?); installed: harmless, humor."
        " `mavis objectives new humr` starts one."
    )


def test_with_nothing_installed_it_says_none(installed):
    installed()

    with pytest.raises(ObjectiveNotFound, match="'x'; installed: none"):
        find("x")


def test_a_name_from_two_distributions_names_both(installed, plugins):
    plugins(plugin_good=GOOD)
    installed(("good", "plugin_good:good", "one"), ("good", "plugin_good:good", "two"))

    assert available() == ["good"]
    with pytest.raises(ObjectiveClash, match="'good' comes from one and two: uninstall one"):
        find("good")


@pytest.mark.parametrize(
    ("target", "error", "message"),
    [
        ("plugin_broken:x", ImportError, r"'x' \(plugin_broken:x of d1\) .*RuntimeError: oh no"),
        ("plugin_exits:x", ImportError, "SystemExit: 3"),
        ("no_such_module:x", ImportError, "No module named 'no_such_module'"),
        ("plugin_good:missing", ImportError, "has no attribute 'missing'"),
        ("plugin_good:none", TypeError, "must be an Objective, got int"),
        ("plugin_good:other", ValueError, "calls itself 'else'"),
    ],
)
def test_a_broken_plugin_is_reported_and_breaks_no_other(
    installed, plugins, target, error, message
):
    plugins(
        plugin_good=GOOD,
        plugin_broken="raise RuntimeError('oh\\nno')",
        plugin_exits="raise SystemExit(3)",
    )
    installed(("x", target, "d1"), ("good", "plugin_good:good", "d2"))

    with pytest.raises(error, match=message):
        find("x")
    good, broken = listing()
    assert (good.name, good.target, good.distribution, good.version, good.error) == (
        "good",
        "plugin_good:good",
        "d2",
        "1.0",
        None,
    )
    assert "plugin_" in str(broken.error) or "no_such_module" in str(broken.error)


def test_a_plugin_costs_no_heavy_import():
    code = (
        "import sys; import mavis.cli.objectives; from mavis import ClassifierReward, Objective;"
        "ClassifierReward('sandbox/humor');"
        "heavy = {'torch', 'transformers', 'lightning', 'datasets', 'mlflow', 'matplotlib'};"
        "sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
