"""What other versions of mavis wrote: their names are understood, folders of newer ones refused."""

import sys
from collections.abc import Mapping, Sequence
from functools import partial
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

FORMAT = 1  # of the folders that this version writes; those from before the number have none
# Modules with classes that plugins and stored configurations name: where they were, and are now.
MOVED = {
    "mavis.learn.bar": "mavis.training.progress_bar",
    "mavis.learn.module": "mavis.training.module",
    "mavis.learn.rounds": "mavis.training.callbacks",
    "mavis.learn.tracking": "mavis.tracking.mlflow_logger",
}


def check_format(file: Path, content: Mapping[str, Any]) -> None:
    """Refuse what a newer version wrote in another way, before anything of it is read.

    Args:
        file: where the number of the format stands.
        content: what it holds.

    Raises:
        RuntimeError: the number is higher than that of this version.
    """
    found = content.get("format", FORMAT)
    if not isinstance(found, int) or found > FORMAT:
        raise RuntimeError(
            f"{file} was written by a newer version of mavis (format {found}; this version reads "
            f"{FORMAT}): update mavis (`pip install --upgrade mavis`), or take another folder."
        )


def same_class(path: str, other: str) -> bool:
    """Whether two dotted paths, old ones and short ones included, lead to one class."""
    from pydoc import locate

    return path == other or (locate(path) is not None and locate(path) is locate(other))


class _OldPlaces(MetaPathFinder, Loader):
    """Lets a module be imported from where it was: it hands on what is asked of it."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The module, if it moved, or a package that held one."""
        del path, target
        if fullname in MOVED:
            now = find_spec(MOVED[fullname])
            return ModuleSpec(fullname, self, origin=now.origin if now else None)
        was_package = any(old.startswith(f"{fullname}.") for old in MOVED)
        return ModuleSpec(fullname, self, is_package=True) if was_package else None

    def exec_module(self, module: ModuleType) -> None:
        """Fill it with a way to the module as it is now."""
        if module.__name__ in MOVED:
            now = import_module(MOVED[module.__name__])
            module.__getattr__ = partial(getattr, now)  # type: ignore[method-assign]


def understand_old_names() -> None:
    """Let Python find moved modules; those that are where they are said to be come first."""
    if not any(isinstance(finder, _OldPlaces) for finder in sys.meta_path):
        sys.meta_path.append(_OldPlaces())
