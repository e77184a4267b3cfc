"""The progress bar of a fit, which steps aside for what is printed."""

from collections.abc import Iterator
from contextlib import contextmanager

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar
from rich.progress import Progress, TaskID


class Bar(RichProgressBar):
    """Lightning's bar without the run number of the logger; it leaves nothing on the screen."""

    def get_metrics(
        self, trainer: Trainer, pl_module: LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """Return the numbers beside the bar."""
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        return metrics

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Clear the last frame at the end."""
        _clear(self.progress)
        super().teardown(trainer, pl_module, stage)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Clear the last frame after an error or an interrupt."""
        _clear(self.progress)
        super().on_exception(trainer, pl_module, exception)


@contextmanager
def aside(trainer: Trainer) -> Iterator[None]:
    """Take the bar off the screen within this block.

    While it is drawn, it redirects stdout to stderr, so that results would be missing from a file
    or a pipe; and a second bar would alternate with it.
    """
    bar = trainer.progress_bar_callback
    progress = bar.progress if isinstance(bar, RichProgressBar) else None
    if progress is None or not progress.live.is_started:
        yield
        return
    shown = _clear(progress)
    progress.live.stop()
    try:
        yield
    finally:
        progress.live.start()
        for task in shown:
            progress.update(task, visible=True)


def _clear(progress: Progress | None) -> list[TaskID]:
    """Hide the visible tasks of a bar, so that its last frame is empty; return them."""
    if progress is None:
        return []
    shown = [task.id for task in progress.tasks if task.visible]
    for task in shown:
        progress.update(task, visible=False)
    return shown
