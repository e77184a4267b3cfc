"""`-q` and `-v`, with every command: what is said beside the results."""

import warnings

import pytest

from mavis.cli.main import main
from mavis.cli.parsing import manner
from mavis.loudness import loudness, quiet, verbose
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
