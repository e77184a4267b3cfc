"""`-q` and `-v`, with every command: what is said beside the results."""

import os
import subprocess
import sys
import warnings

import pytest

from mavis.cli.main import main
from mavis.cli.parsing import manner
from mavis.hub import MavisWarning
from mavis.loudness import loudness, quiet, settle, verbose
from mavis.progress import track


@pytest.mark.parametrize(
    ("words", "kept", "level", "debug"),
    [
        (["generate", "hi"], ["generate", "hi"], "normal", False),
        (["-q", "generate", "hi"], ["generate", "hi"], "quiet", False),
        (["generate", "hi", "--quiet", "--debug"], ["generate", "hi"], "quiet", True),
        (["generate", "-v"], ["generate"], "verbose", False),
        (["generate", "--", "-v", "--debug"], ["generate", "--", "-v", "--debug"], "normal", False),
        (["test", "--verbose"], ["test"], "verbose", False),
        ([], [], "normal", False),
    ],
)
def test_they_are_taken_out_of_the_words(words, kept, level, debug):
    assert manner(words) == (kept, level, debug)


def test_a_command_knows_how_loud_it_may_be(monkeypatch, capsys):
    seen = []
    monkeypatch.setattr(
        "mavis.cli.main.commands",
        lambda: {("generate",): lambda: seen.append((quiet(), verbose()))},
    )
    for words in (["generate"], ["generate", "-q"], ["generate", "--verbose"]):
        assert main(words) == 0
    assert seen == [(False, False), (True, False), (False, True)]
    said = capsys.readouterr().err
    assert said.count("\n") == 1  # what is at work
    assert "torch" in said
    assert not quiet()


def test_verbose_lets_libraries_warn(monkeypatch, capsys):
    def command():
        warnings.warn("old", DeprecationWarning, stacklevel=1)

    monkeypatch.setattr("mavis.cli.main.commands", lambda: {("generate",): command})
    with warnings.catch_warnings(record=True) as came:
        warnings.simplefilter("ignore")
        assert main(["generate"]) == 0
        assert not came
        assert main(["generate", "-v"]) == 0
    assert [str(one.message) for one in came] == ["old"]
    assert "mavis: version " in capsys.readouterr().err


def test_quiet_shows_no_bar(monkeypatch):
    shown = []
    monkeypatch.setattr("mavis.progress.Progress.start", lambda self: shown.append(self.disable))
    monkeypatch.setattr("mavis.progress.Console.is_terminal", True)
    for level in ("normal", "quiet"):
        with loudness(level):
            assert list(track([1, 2], "x", "things", 2)) == [1, 2]
    assert shown == [False, True]


def test_a_quiet_fit_shows_no_bar(monkeypatch):
    asked = []
    monkeypatch.setattr("mavis.cli.fit.train", lambda words, _: asked.append(words))
    assert main(["fit", "--objective", "humor", "-q"]) == 0
    assert asked == [["fit", "--objective", "humor", "--trainer.enable_progress_bar", "false"]]


# What libraries print: nothing, unless somebody asks for it.

SPEAK = """
import logging, os, sys, warnings
import mavis.cli.main
from mavis.hub import MavisWarning

def speak() -> None:
    "Say something in every voice."
    warnings.simplefilter("always")  # as some libraries do when they are imported
    warnings.warn("a library's", FutureWarning)
    warnings.warn("another's", UserWarning)
    logging.getLogger("library").warning("a logger's")
    for _ in range(2):
        warnings.warn("ours", MavisWarning)
    print(os.environ.get("TRANSFORMERS_VERBOSITY"))

mavis.cli.main.commands = lambda: {("speak",): speak}
sys.argv = ["mavis", "speak", *sys.argv[1:]]
sys.exit(mavis.cli.main.main())
"""


def speak(*words, **env):
    usual = {k: v for k, v in os.environ.items() if "VERBOSITY" not in k and "WARNINGS" not in k}
    command = [sys.executable, "-c", SPEAK, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=usual | env)
    return done.stdout.strip(), done.stderr


def test_only_what_is_ours_shows():
    assert speak() == ("error", "mavis: warning: ours\n" * 2)
    assert speak("-q") == ("error", "mavis: warning: ours\n" * 2)


@pytest.mark.parametrize(
    ("words", "env"), [(["-v"], {}), ([], {"PYTHONWARNINGS": "default"})], ids=str
)
def test_whoever_asks_hears_all(words, env):
    _, err = speak(*words, **env)
    assert "FutureWarning: a library's" in err
    assert "UserWarning: another's" in err
    assert "MavisWarning: ours" in err
    assert ("a logger's" in err) == ("-v" in words)


def test_what_the_user_has_set_stays(monkeypatch):
    monkeypatch.setenv("TRANSFORMERS_VERBOSITY", "debug")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "false")
    settle()
    assert os.environ["TRANSFORMERS_VERBOSITY"] == "debug"
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "false"


def test_a_caller_in_python_keeps_his_filters(monkeypatch):
    def warn() -> None:
        """Warn."""
        import warnings

        warnings.warn("ours", MavisWarning, stacklevel=1)

    monkeypatch.setattr("mavis.cli.main.commands", lambda: {("warn",): warn})
    with pytest.warns(MavisWarning, match="ours"):
        assert main(["warn"]) == 0
