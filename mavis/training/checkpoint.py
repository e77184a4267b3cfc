"""The checkpoint of a fit: written completely or not at all, and checked before it is opened."""

from pathlib import Path
from zipfile import BadZipFile, ZipFile

from lightning.pytorch import Trainer

from mavis.checksums import check, install


def save_checkpoint(trainer: Trainer, file: Path) -> None:
    """Save the state of the fit, all or nothing; every process must call this."""
    draft = file.with_name(file.name + ".part")
    trainer.save_checkpoint(draft, weights_only=False)
    if trainer.is_global_zero:
        install(draft, file)
    trainer.strategy.barrier()


def check_checkpoint(file: Path) -> None:
    """Check that a checkpoint is complete and unchanged.

    Raises:
        ValueError: it is damaged; the message names it.
    """
    remedy = "`mavis fit` with the same options makes it again."
    check(file, remedy)
    try:  # an older one has no checksum file, but its format holds some
        with ZipFile(file) as parts:
            broken = parts.testzip()
    except BadZipFile as error:
        raise ValueError(f"{file} is damaged ({error}): {remedy}") from error
    if broken is not None:
        raise ValueError(f"{file} is damaged ({broken}): {remedy}")
