from importlib import import_module
from pathlib import Path

import pytest

from mavis.cli.objectives import check_objective
from mavis.objective import find
from mavis.reward import score

NAMES = ("humor", "helpfulness", "harmlessness")


@pytest.mark.parametrize("name", NAMES)
def test_each_is_a_short_file_found_by_its_name(name):
    objective = find(name)

    assert objective is getattr(import_module(f"mavis_objectives.{name}"), name)
    assert len(Path(str(import_module(f"mavis_objectives.{name}").__file__)).read_text()) < 1500


@pytest.mark.parametrize("name", NAMES)
def test_each_prefers_its_good_replies_clearly(name):
    """By at least half a unit: the classifiers are trained on standard units."""
    objective = find(name)
    prompts, good, bad = zip(*objective.examples, strict=True)
    scores = score(name, objective.reward, prompts * 2, good + bad)

    assert (scores[: len(good)] > scores[len(good) :] + 0.5).all()


@pytest.mark.parametrize("name", NAMES)
def test_each_passes_its_check(name, capsys):
    check_objective(name)

    assert "looks wrong" not in capsys.readouterr().out
