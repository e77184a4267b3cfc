"""The bar of a training: on a terminal only, and never in the way of results."""

import re
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO

import pytest
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.loggers import CSVLogger

from mavis.cli.main import main
from mavis.training.progress_bar import Bar, aside


class Says(Callback):
    """Prints a result while the bar is drawn."""

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        del pl_module
        bar = trainer.progress_bar_callback
        assert isinstance(bar, Bar)
        assert bar.progress is not None
        bar.progress.refresh()  # a frame now, whatever the time
        with aside(trainer):
            print("a result")
        bar.progress.refresh()


@pytest.fixture
def fit(tmp_path) -> Callable[[], None]:
    """A training of an epoch, its bar on what passes for a terminal."""
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=1,
        limit_train_batches=2,
        limit_val_batches=0,
        log_every_n_steps=1,
        enable_checkpointing=False,
        enable_model_summary=False,
        logger=CSVLogger(tmp_path),
        callbacks=[Says(), Bar(console_kwargs={"stderr": True, "force_terminal": True})],
    )
    return lambda: trainer.fit(BoringModel())


def screen(text: str) -> list[str]:
    """What is left on a terminal of what was written to it: lines, without blank ends."""
    lines, row, column = [""], 0, 0
    for part in re.findall(r"\x1b\[\??(?:\d|;)*[a-zA-Z]|[\r\n]|[^\x1b\r\n]+", text):
        if part == "\n":  # a terminal's driver puts a return in front
            row, column = row + 1, 0
            lines += [""] * (row == len(lines))
        elif part == "\r":
            column = 0
        elif part == "\x1b[2K":
            lines[row] = ""
        elif part.startswith("\x1b"):
            row -= int(part[2:-1]) if part.endswith("A") else 0
        else:
            lines[row] = lines[row][:column].ljust(column) + part + lines[row][column + len(part) :]
            column += len(part)
    return [line.rstrip() for line in lines if line.strip()]


def test_a_screen():
    assert screen("a\nbar\r\x1b[2Kbox\r\x1b[2K\x1b[1A\x1b[2Kc\x1b[?25h\nd") == ["c", "d"]
    assert screen("bar\rc") == ["car"]


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated")
def test_results_go_to_stdout_past_the_bar(fit, capsys):
    fit()
    said = capsys.readouterr()
    assert said.out == "a result\n"
    assert "Epoch 0/0" in said.err
    assert "v_num" not in said.err


@pytest.mark.parametrize("columns", ["120", "40"])  # a frame of one line, and of more
@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated")
def test_only_results_are_left_on_the_screen(fit, columns, monkeypatch):
    monkeypatch.setenv("COLUMNS", columns)
    written = StringIO()
    with redirect_stdout(written), redirect_stderr(written):
        print("before")
        fit()
        print("after")
    assert written.getvalue().count("Epoch 0/0") >= 3
    assert screen(written.getvalue()) == ["before", "a result", "after"]


def test_without_a_terminal_there_is_no_bar(fit_words, tmp_path, capsys):
    assert main([*fit_words(tmp_path / "trial"), "--data.rounds", "1"]) == 0
    said = capsys.readouterr()
    assert "round 0: reward" in said.out
    assert "Epoch" not in said.out + said.err
