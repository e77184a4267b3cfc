"""One line for any error: what is wrong, and no riddles of a library's."""

import errno
import json
import shutil

import pytest
import torch

from mavis.cli.main import main
from mavis.objective import find


def said(error_of, monkeypatch, capsys):
    """What `main` says of an error that a command meets."""
    monkeypatch.setattr("mavis.cli.main.commands", lambda: {("generate",): error_of})
    status = main(["generate"])
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("mavis: error: ")
    assert len(line) < 600
    return line.removeprefix("mavis: error: "), status


def raising(error):
    def command():
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "message", "status"),
    [
        (EOFError(), "EOFError, without a message; --debug shows where.", 1),
        (OSError(), "OSError, without a message; --debug shows where.", 1),
        (OSError("a disk is broken"), "a disk is broken", 1),
        (OSError(errno.ENOSPC, "No space left on device", "a/b"),
         "a/b: no space left on device.", 1),
        (PermissionError(errno.EACCES, "Permission denied", "/out"),
         "/out: permission denied.", 2),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory", "a.txt/x"),
         "a.txt/x: not a directory.", 2),
        (OSError(errno.EXDEV, "Invalid cross-device link", "a", None, "b"),
         "a -> b: invalid cross-device link.", 1),
        (KeyError("x"), "KeyError: 'x'; --debug shows where.", 1),
        (IndexError(), "IndexError, without a message; --debug shows where.", 1),
        (ZeroDivisionError("division by zero"), "ZeroDivisionError: division by zero; --debug", 1),
        (RuntimeError("one\ntwo\n\n  three\nfour\nfive"),
         "RuntimeError: one two three four; --debug shows where.", 1),
        (RuntimeError("x" * 9000), "RuntimeError: xxx", 1),
        (RuntimeError("a\x1b[31mred\tone"), "RuntimeError: a [31mred one; --debug", 1),
        (MemoryError(), "out of memory (lower --rows", 1),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "out of memory (lower --rows", 1),
        (torch.OutOfMemoryError("CUDA out of memory. Tried 2 GiB."), "out of memory (lower --r", 1),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "out of memory (lower --r", 1),
        (ConnectionError("no route"), "no route", 1),
    ],
    ids=repr,
)  # fmt: skip
def test_what_is_raised_elsewhere(error, message, status, monkeypatch, capsys):
    line, code = said(raising(error), monkeypatch, capsys)
    assert line.startswith(message)
    assert code == status


def test_text_that_is_no_utf8(monkeypatch, capsys):
    line, code = said(lambda: b"\xff".decode(), monkeypatch, capsys)
    assert line.startswith("a text is not UTF-8: ")
    assert code == 2


def test_a_library_s_refusal_keeps_its_words(monkeypatch, capsys):
    line, code = said(lambda: json.loads("{"), monkeypatch, capsys)
    assert line.startswith("JSONDecodeError: Expecting property name")
    assert code == 2


def test_what_mavis_raises_is_a_whole_sentence(monkeypatch, capsys):
    line, code = said(lambda: find("humour"), monkeypatch, capsys)
    assert line.startswith("no objective 'humour' (did you mean 'humor'?)")
    assert "debug" not in line
    assert code == 2


def test_debug_shows_all_of_it(monkeypatch):
    monkeypatch.setattr("mavis.cli.main.commands", lambda: {("generate",): raising(EOFError())})
    with pytest.raises(EOFError):
        main(["generate", "--debug"])


def test_a_full_disk_names_the_file(tmp_path, monkeypatch, capsys):
    """By the system itself: a folder that is a file."""
    (tmp_path / "file").write_text("x")
    line, code = said(lambda: (tmp_path / "file" / "x").mkdir(), monkeypatch, capsys)
    assert line == f"{tmp_path}/file/x: not a directory."
    assert code == 2
    line, code = said(lambda: shutil.copy(tmp_path / "no", tmp_path), monkeypatch, capsys)
    assert line == f"{tmp_path}/no: no such file or directory."
