"""The reference of the commands says what the commands say."""

import re
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

from mavis.cli.main import TRAINING, commands

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def made():
    """What `make docs` would write now."""
    spec = spec_from_file_location("make_cli", ROOT / "docs" / "make_cli.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.reference()


def test_the_reference_of_the_commands_is_that_of_today(made):
    # Where lines break is a matter of the Python version.
    written = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    now, then = ("".join(text.split()) for text in (made, written))
    assert now == then, "docs/cli.md is not what the commands say: run `make docs`."


def test_every_command_is_in_it(made):
    told = re.findall("^## mavis (.*)$", made, re.MULTILINE)
    assert told == [*TRAINING, *(" ".join(name) for name in commands())]


def test_it_is_the_same_on_every_machine(made, monkeypatch):
    assert "\x1b" not in made
    assert str(ROOT) not in made
    assert str(Path.home()) not in made
    assert max(map(len, made.splitlines())) <= 110
    monkeypatch.setenv("COLUMNS", "40")
    spec = spec_from_file_location("make_cli", ROOT / "docs" / "make_cli.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.reference() == made
