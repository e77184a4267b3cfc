"""What other versions of mavis wrote: their names are understood, folders of newer ones refused."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

FORMAT = 1  # of the folders that this version writes; those from before the number have none
# Former and current names of modules whose classes plugins and stored configurations name; the
# package `mavis.learn` keeps the former ones alive.
MOVED = {
    "mavis.learn.bar": "mavis.training.progress_bar",
    "mavis.learn.module": "mavis.training.module",
    "mavis.learn.rounds": "mavis.training.callbacks",
    "mavis.learn.tracking": "mavis.tracking.mlflow_logger",
}


def check_format(file: Path, content: Mapping[str, Any]) -> None:
    """Refuse what a newer version wrote in another way, before anything of it is read.

    Args:
        file: that holds the number of the format.
        content: what it holds.

    Raises:
        RuntimeError: the number is higher than that of this version.
    """
    number = content.get("format", FORMAT)
    if not isinstance(number, int) or number > FORMAT:
        raise RuntimeError(
            f"{file} was written by a newer version of mavis (format {number}; this version reads "
            f"{FORMAT}): update mavis (`pip install --upgrade mavis`), or take another folder."
        )


def same_class(path: str, other: str) -> bool:
    """Whether two dotted paths, old ones and short ones included, lead to one class."""
    from pydoc import locate

    return path == other or (locate(path) is not None and locate(path) is locate(other))
