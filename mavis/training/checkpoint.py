"""The state of a fit on disk: written all or nothing, and looked at before it is opened."""

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
    """Find out whether a checkpoint is what was written.

    Raises:
        ValueError: it is damaged, and is named.
    """
    remedy = "`mavis fit` with the same options makes it again."
    check(file, remedy)
    try:  # one from before there were checksums beside it: its format has some inside
        with ZipFile(file) as parts:
            broken = parts.testzip()
    except BadZipFile as error:
        raise ValueError(f"{file} is damaged ({error}): {remedy}") from error
    if broken is not None:
        raise ValueError(f"{file} is damaged ({broken}): {remedy}")
