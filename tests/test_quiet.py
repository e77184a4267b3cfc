"""What libraries say on the command line: nothing, unless somebody asks for it."""

import os
import subprocess
import sys

import pytest

from mavis.cli.main import main
from mavis.hub import MavisWarning
from mavis.quiet import settle

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
