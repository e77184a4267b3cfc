"""The bar of a training: on a terminal only, and never in the way of results."""

from collections.abc import Callable

import pytest
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.loggers import CSVLogger

from mavis.cli import main
from mavis.learn.bar import Bar, aside


class Says(Callback):
    """Prints a result while the bar is drawn."""

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        del pl_module
        with aside(trainer):
            print("a result")


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


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated")
def test_results_go_to_stdout_past_the_bar(fit, capsys):
    fit()
    said = capsys.readouterr()
    assert said.out == "a result\n"
    assert "Epoch 0/0" in said.err
    assert "v_num" not in said.err


def test_without_a_terminal_there_is_no_bar(fit_words, tmp_path, capsys):
    assert main([*fit_words(tmp_path / "trial"), "--data.rounds", "1"]) == 0
    said = capsys.readouterr()
    assert "round 0: reward" in said.out
    assert "Epoch" not in said.out + said.err
