"""The bar of a training: what a person can read, and out of the way of what is printed."""

from collections.abc import Iterator
from contextlib import contextmanager

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar
from rich.progress import Progress, TaskID


class Bar(RichProgressBar):
    """Lightning's bar without the tracker's number of the run; it leaves nothing on the screen."""

    def get_metrics(
        self, trainer: Trainer, pl_module: LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """What stands beside the bar."""
        found = super().get_metrics(trainer, pl_module)
        found.pop("v_num", None)
        return found

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Clear the screen of the last frame when all is done."""
        _clear(self.progress)
        super().teardown(trainer, pl_module, stage)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Clear the screen of the last frame when it ends early."""
        _clear(self.progress)
        super().on_exception(trainer, pl_module, exception)


@contextmanager
def aside(trainer: Trainer) -> Iterator[None]:
    """Take the bar off the screen within this block.

    While it is drawn, what is printed on stdout goes through it to stderr: results would be missing
    from a file or a pipe. Another bar would be drawn over it, in turns.
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
    """Hide what a bar shows, and say what that was.

    A frame of no lines is the last one then: nothing of it is left, however many lines it had.
    """
    if progress is None:
        return []
    shown = [task.id for task in progress.tasks if task.visible]
    for task in shown:
        progress.update(task, visible=False)
    return shown
