"""The bar of a training: what a person can read, and out of the way of what is printed."""

from collections.abc import Iterator
from contextlib import contextmanager

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar


class Bar(RichProgressBar):
    """Lightning's bar without the tracker's number of the run."""

    def get_metrics(
        self, trainer: Trainer, pl_module: LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """What stands beside the bar."""
        found = super().get_metrics(trainer, pl_module)
        found.pop("v_num", None)
        return found


@contextmanager
def aside(trainer: Trainer) -> Iterator[None]:
    """Put the bar aside within this block.

    While it is drawn, what is printed on stdout goes through it to stderr: results would be missing
    from a file or a pipe.
    """
    bar = trainer.progress_bar_callback
    live = bar.progress if isinstance(bar, RichProgressBar) else None
    if live is None or not live.live.is_started:
        yield
        return
    live.stop()
    try:
        yield
    finally:
        live.start()
