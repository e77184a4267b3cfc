"""Plugins that are written by the scaffold and installed for real, sound and broken ones."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mavis.cli.objectives import new_objective
from mavis.scaffold import write_plugin

TUTORIAL = "asking"  # not "curious": whoever has followed the tutorial has that installed
NAMES = ("squirrel-tail", "raises", "twin", "other-twin", TUTORIAL)


def run(*arguments, path=None):
    """Run Python in a process of its own, with a folder in front of what is installed."""
    environment = {**os.environ, "PYTHONPATH": str(path or ""), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )


def tutorial(language):
    """The blocks of one language in docs/plugins.md, under a name that nobody has installed."""
    text = (Path(__file__).parents[1] / "docs" / "plugins.md").read_text(encoding="utf-8")
    text = text.replace("curious", TUTORIAL)
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def python(code, path):
    return run("-c", code, path=path)


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A sound plugin, one that raises on import, two of one name, and the tutorial's."""
    folder = tmp_path_factory.mktemp("plugins")
    plugins = [write_plugin(n, folder) for n in NAMES]
    edit(plugins[1] / "mavis_raises.py", "from mavis import Objective", "raise OSError('no disk')")
    edit(plugins[3] / "mavis_other_twin.py", 'name="other-twin"', 'name="twin"')
    edit(plugins[3] / "pyproject.toml", '"other-twin" =', '"twin" =')
    (plugins[4] / f"mavis_{TUTORIAL}.py").write_text(tutorial("python")[0])
    return plugins


@pytest.fixture(scope="module")
def installed(written, tmp_path_factory):
    target = tmp_path_factory.mktemp("installed")
    options = ("--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--target", target)
    done = run("-m", "pip", "install", *options, *written)
    assert done.returncode == 0, done.stderr
    return target


def test_a_plugin_is_a_handful_of_small_files(written):
    files = {str(p.relative_to(written[0])) for p in written[0].rglob("*") if p.is_file()}

    assert files >= {
        "README.md",
        "mavis_squirrel_tail.py",
        "pyproject.toml",
        "tests/test_squirrel_tail.py",
    }
    module = (written[0] / "mavis_squirrel_tail.py").read_text()
    assert "$" not in module
    assert len(module.splitlines()) < 40


def test_installed_plugins_are_available_and_pass_their_check(installed):
    """The scaffold's as it was written, and the tutorial's."""
    code = """
from mavis.cli.objectives import check_objective
from mavis.objective import available
assert {"squirrel-tail", "humor"} <= set(available()), available()
check_objective("squirrel-tail")
check_objective("asking")
"""
    done = python(code, installed)

    assert done.returncode == 0, done.stderr
    last = [line for line in done.stdout.splitlines() if "mavis fit" in line]
    assert last == [f"all well: mavis fit --objective {n}" for n in ("squirrel-tail", TUTORIAL)]


def test_their_own_tests_pass(installed, written):
    tests = [plugin / "tests" for plugin in (written[0], written[4])]
    done = run(
        *["-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir"],
        written[0].parent,
        *tests,
        path=installed,
    )

    assert done.returncode == 0, done.stdout
    assert "8 passed" in done.stdout


def test_the_tutorials_commands_are_those_that_new_prints(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    new_objective(TUTORIAL)
    printed = [line.strip() for line in capsys.readouterr().out.splitlines()]
    commands = "".join(tutorial("bash")).splitlines()

    assert commands[0] == f"mavis objectives new {TUTORIAL}"
    assert set(commands[1:-1]) <= set(printed)


def test_the_tutorials_other_python_block_runs():
    scope = {}
    exec(tutorial("python")[1], scope)

    assert scope["objective"].reward.template == "dialogue"


def test_broken_plugins_are_listed_with_the_reason_and_break_no_other(installed):
    code = "from mavis.cli.objectives import list_objectives as show; show()"
    lines = python(code, installed).stdout.splitlines()
    state = {line.split()[0]: line for line in lines}

    assert state["squirrel-tail"].endswith("loads")
    assert "mavis-raises" in state["raises"]
    assert state["raises"].endswith("cannot be imported: OSError: no disk")
    assert "comes from mavis-other-twin and mavis-twin" in state["twin"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("raises", "ImportError: objective 'raises' (mavis_raises:objective of mavis-raises)"),
        ("twin", "ObjectiveClash: objective 'twin' comes from mavis-other-twin and mavis-twin"),
        ("squirel-tail", "did you mean 'squirrel-tail'?"),
    ],
)
def test_asking_for_a_broken_plugin_says_why(installed, name, message):
    done = python(f"from mavis.objective import find; find({name!r})", installed)

    assert done.returncode == 1
    assert message in done.stderr.splitlines()[-1]


def test_a_second_plugin_of_an_installed_name_is_refused(installed, tmp_path):
    start = "from mavis.cli.objectives import new_objective as n"
    code = f"{start}; n('squirrel_tail', {str(tmp_path)!r})"
    done = python(code, installed)

    message = "name 'squirrel_tail' is taken: objective 'squirrel-tail' is installed already."
    assert message in done.stderr
    assert list(tmp_path.iterdir()) == []


# names and places


@pytest.mark.parametrize("name", ["", "Upper", "1st", "-x", "x-", "_x", "a b", "a.b", "é", "../x"])
def test_a_name_that_breaks_the_rule_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match="name must be lower-case letters"):
        write_plugin(name, tmp_path)


def test_an_objective_that_is_there_is_not_started_again(tmp_path):
    with pytest.raises(ValueError, match="'humor' is taken: objective 'humor' is installed"):
        write_plugin("humor", tmp_path)


def test_a_module_that_is_there_is_not_hidden(tmp_path):
    assert importlib.util.find_spec("mavis_objectives")
    with pytest.raises(ValueError, match="there is a module 'mavis_objectives' already"):
        write_plugin("objectives", tmp_path)


def test_a_folder_that_is_there_is_left_alone(tmp_path):
    (tmp_path / "mavis-mine").mkdir()

    with pytest.raises(FileExistsError, match="mavis-mine' is there already"):
        write_plugin("mine", tmp_path)


def test_out_is_made_and_must_not_be_a_file(tmp_path):
    assert write_plugin("mine", tmp_path / "new" / "folder").is_dir()
    (tmp_path / "file").write_text("x")
    with pytest.raises(NotADirectoryError, match="out must be a folder"):
        write_plugin("mine", tmp_path / "file")
