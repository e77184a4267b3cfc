"""Sources of rows: where a data set lies, and which splits it has.

Local files are read by `mavis.tables`; `datasets` is imported for what it saved itself, to say
which files of a folder belong to which split, and for the hub. Knows nothing of what rows mean.
"""

import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, cast

from mavis.error_text import message, reason
from mavis.hub import existing, locate, reachable
from mavis.tables import SUFFIXES, read, suffix, table

Rows = Iterable[Any]  # mappings of columns, or bare values

# One spelling for the splits that have several.
SPELLINGS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test",),
}
_SHARD = re.compile(r"-\d+-of-\d+$")
_ABOUT = {"config", "dataset_dict", "dataset_info", "dataset_infos", "state"}
_ABOUT |= {"readme", "license", "licence", "notice", "requirements"}


def splits(source: str) -> dict[str, Callable[[], Rows]]:
    """Find the splits of a source; none is read before it is called.

    Args:
        source: `sandbox/NAME`, a local file or folder, `MODULE:FUNCTION`, or a hub name; folders
            and hub names may end in `:CONFIGURATION`. A source without splits of its own is all
            "train".

    Raises:
        FileNotFoundError: A missing file, folder or data set.
        ValueError: A function that cannot be imported, or an unknown configuration.
    """
    whole = existing(source) or "://" in source
    head, colon, tail = (source, "", "") if whole else source.partition(":")
    if head.lower().endswith((*SUFFIXES, ".gz")) and not existing(head):
        raise FileNotFoundError(f"prompts {source!r}: there is no such file.")
    if colon and "/" not in source and not existing(head):
        return {"train": partial(_made, function(source, "prompts"), source)}
    place = existing(locate(head, "prompts"))
    if place and place.is_dir():
        return _folder(place, tail or None)
    if place and colon:
        raise ValueError(f"prompts {source!r}: a file has no configurations, leave out :{tail}.")
    if place:
        return {"train": partial(_rows, [place])}
    return _hub(reachable(head, "prompts", "dataset"), tail or None)


def usual(split: str) -> str:
    """One spelling for the splits that have several.

    >>> usual("dev")
    'validation'
    """
    return next((name for name, known in SPELLINGS.items() if split in known), split)


def _rows(paths: list[Path]) -> Iterator[Any]:
    return (row for path in paths for row in read(path))


# Folders


def _folder(place: Path, configuration: str | None) -> dict[str, Callable[[], Rows]]:
    if configuration is None and _saved(place):
        return _load_saved(place)
    files: dict[str, list[Path]] = {}
    for path in sorted(place.iterdir()):
        name = _SHARD.sub("", path.name.split(".")[0])
        if name and path.is_file() and suffix(path) and not _is_about(path):
            files.setdefault(name, []).append(path)
    declared = configuration is not None or _declares(place)
    if declared or not any(usual(name) in SPELLINGS for name in files):
        resolved = _resolved(place, configuration)
        if declared or set(resolved) - {"train"} or not files:
            files = resolved
        elif len(files) == 1:
            files = {"train": next(iter(files.values()))}  # else they are splits of their own
    if not files:
        raise FileNotFoundError(
            f"prompts folder {str(place)!r} holds no {', '.join(SUFFIXES)} file and no data set."
        )
    return {name: partial(_rows, paths) for name, paths in files.items()}


def _is_about(path: Path) -> bool:
    """Whether a file lies beside a data set, and holds none of its rows."""
    return path.suffix.lower() in (".json", ".txt") and path.stem.lower() in _ABOUT


def _saved(place: Path) -> bool:
    """Whether `datasets` saved this folder: Arrow files lie beside its state, or a level down."""
    states = (*place.glob("state.json"), *place.glob("*/state.json"))
    return any(any(state.parent.glob("*.arrow")) for state in states)


def _load_saved(place: Path) -> dict[str, Callable[[], Rows]]:
    from datasets import DatasetDict, load_from_disk

    try:
        saved = load_from_disk(str(place))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"prompts folder {str(place)!r} is a damaged data set of `datasets`: {message(error)}"
        ) from error
    parts = saved if isinstance(saved, DatasetDict) else {"train": saved}
    return {str(name): partial(iter, part) for name, part in parts.items()}


def _declares(place: Path) -> bool:
    """Whether the folder's README lists which files belong to which split."""
    from huggingface_hub import metadata_load
    from yaml import YAMLError

    card = place / "README.md"
    if not card.is_file() or "configs:" not in card.read_text(errors="replace"):
        return False
    try:
        return "configs" in (metadata_load(card) or {})
    except (ValueError, YAMLError, RecursionError):  # broken: `_resolved` names what is wrong
        return True


def _resolved(place: Path, configuration: str | None) -> dict[str, list[Path]]:
    """The files of every split, as `datasets` finds them for a data set on the hub."""
    import huggingface_hub.utils.logging as hub_logging
    from datasets import get_dataset_config_names, load_dataset_builder

    level = hub_logging.get_verbosity()
    hub_logging.set_verbosity(logging.ERROR)  # a README without a data card is none of its business
    names = []
    try:
        names = get_dataset_config_names(str(place))
        data = load_dataset_builder(str(place), configuration).config.data_files or {}
    except FileNotFoundError:
        return {}
    except Exception as error:  # parsers of cards raise TypeError, AttributeError, YAMLError, …
        if len(names) < 2 and configuration is None:
            raise ValueError(
                f"prompts folder {str(place)!r} is no data set ({message(error)})."
            ) from error
        raise ValueError(
            f"prompts folder {str(place)!r} has the configurations {', '.join(names)}:"
            f" write one of them after its name and a colon, got {configuration or 'none'}."
        ) from error
    finally:
        hub_logging.set_verbosity(level)
    files = {str(name): [Path(str(path)) for path in paths] for name, paths in data.items()}
    kept = {name: [path for path in paths if not _is_about(path)] for name, paths in files.items()}
    return {name: paths for name, paths in kept.items() if paths}


# The hub


def _hub(name: str, configuration: str | None) -> dict[str, Callable[[], Rows]]:
    from datasets import get_dataset_split_names

    try:
        names = get_dataset_split_names(name, configuration)
    except Exception as error:  # of the network, the parsers and `datasets`: no common class
        raise ValueError(
            f"prompts {name!r} cannot be read from the hub, :CONFIGURATION may be missing after"
            f" the name ({message(error)})."
        ) from error
    return {split: partial(_downloaded, name, configuration, split) for split in names}


def _downloaded(name: str, configuration: str | None, split: str) -> Rows:
    from datasets import load_dataset

    try:
        return cast(Rows, load_dataset(name, configuration, split=split))
    except Exception as error:
        raise ValueError(
            f"prompts {name!r} cannot be read from the hub ({message(error)})."
        ) from error


# Functions


def _made(make: Callable[[], Any], source: str) -> Iterator[Any]:
    """What a function returns, one by one; what it raises is named after it."""
    try:
        result = make()
        if hasattr(result, "to_dict") and hasattr(result, "columns"):  # a pandas.DataFrame
            result = result.to_dict("records")
        elif isinstance(result, Mapping):
            result = table(result)
        if isinstance(result, str | bytes) or not isinstance(result, Iterable):
            raise TypeError(
                f"it must return prompts or rows, in a list or the like, got {result!r}"
            )
        yield from result
    except Exception as error:
        raise ValueError(f"prompts function {source!r} failed ({reason(error)}).") from error


def function(path: str, what: str) -> Callable[..., Any]:
    """The function that `MODULE.FUNCTION` or `MODULE:FUNCTION` names."""
    module, _, name = path.replace(":", ".").rpartition(".")
    try:
        result = getattr(import_module(module), name)
    except (Exception, SystemExit) as error:  # a user's module may raise anything on import
        raise ValueError(
            f"{what} {path!r} cannot be imported ({message(error)}); is its folder on PYTHONPATH?"
        ) from error
    if not callable(result):
        raise ValueError(f"{what} must be a function, but {path!r} is {result!r}.")
    return result  # type: ignore[no-any-return]
