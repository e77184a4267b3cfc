"""Names of models and data: shipped with the package, a local path, or a name on the hub.

`locate` only looks at the disk; `reachable` asks the hub once, because a loader left to itself
retries for half a minute before it reports that there is no network. Neither loads anything.
"""

import os
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

from mavis.error_text import message

_ASSETS = Path(__file__).parent / "sandbox" / "assets"
_SANDBOX = "sandbox/"
_SECONDS = 5.0  # how long the hub may take to answer


class MavisWarning(UserWarning):
    """What mavis itself warns of: shown, whatever libraries' warnings are silenced."""


def locate(name: str, what: str = "model") -> str:
    """Turn a name of the user's into a path, or leave it as a name on the hub.

    Args:
        name: `sandbox/NAME`, a local path (it exists, starts with `.`, `/` or `~`, or is too
            deep to be a hub name), or `NAME` or `OWNER/NAME` on the hub.
        what: What it is the name of, for errors.

    Returns:
        An existing path, or the name unchanged.

    Raises:
        FileNotFoundError: A local path that is not there, or an unknown sandbox name.
        ValueError: An empty name.

    >>> locate("some-owner/some-model")
    'some-owner/some-model'
    """
    if not name.strip():
        raise ValueError(f"{what} must be a name or a path, got {name!r}.")
    if name.startswith(_SANDBOX):
        return _shipped(name, what)
    path = existing(name)
    if path is not None:
        return str(path)
    if "://" in name:
        raise FileNotFoundError(
            f"{what} {name!r} is a web address: give the name on the hub, NAME or OWNER/NAME."
        )
    if is_local(name):
        place = Path(os.path.expanduser(name)).absolute()  # noqa: PTH111 (for unknown users, too)
        raise FileNotFoundError(
            f"{what} {name!r} is missing (looked at {place}{_near(place)}): say where it is now."
        )
    return name


def existing(name: str) -> Path | None:
    """The path that a name stands for, None if nothing is there or the name can be no path."""
    try:
        path = Path(name).expanduser()
        return path if path.exists() else None
    except (OSError, RuntimeError, ValueError):  # too long, an unknown user's home, a NUL character
        return None


def lasting(name: str) -> str:
    """A name that means the same in every working directory: paths are made absolute."""
    path = None if name.startswith(_SANDBOX) else existing(name)
    return name if path is None else str(path.absolute())


def _near(place: Path) -> str:
    """What lies beside a missing path under nearly its name."""
    try:
        there = [path.name for path in place.parent.iterdir()]
    except OSError:
        return ""
    near = get_close_matches(place.name, there, n=1)
    return f", where {near[0]!r} is" if near else ""


def is_local(name: str) -> bool:
    """Whether a name can only be meant as a path: hub names are `NAME` or `OWNER/NAME`."""
    starts = (".", "/", "~", os.sep)
    return name.startswith(starts) or name.endswith("/") or name.count("/") > 1 or "\\" in name


def _shipped(name: str, what: str) -> str:
    there = sorted(path.name for path in _ASSETS.iterdir()) if _ASSETS.is_dir() else []
    asset = name.removeprefix(_SANDBOX).rstrip("/")
    if asset not in there:
        names = ", ".join(_SANDBOX + other for other in there) or "nothing"
        raise FileNotFoundError(f"{what} {name!r} is not in the sandbox, which holds {names}.")
    return str(_ASSETS / asset)


def reachable(name: str, what: str = "model", kind: Literal["model", "dataset"] = "model") -> str:
    """Find out within seconds whether a name can be loaded.

    Args:
        name: As for `locate`.
        what: What it is the name of, for errors.
        kind: Which part of the hub to ask.

    Returns:
        What to give to a loader: an existing path, the hub name, or, where the hub does not
        answer, the folder of an earlier download of a model.

    Raises:
        FileNotFoundError: A missing path, a name that the hub does not have, or a hub that
            does not answer for something never downloaded.
        ValueError: An empty name, or one that cannot be a hub name.
    """
    place = locate(name, what)
    if existing(place):
        return place
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

    try:
        HfApi().repo_info(place, repo_type=kind, timeout=_SECONDS)
    except HFValidationError as error:
        raise ValueError(
            f"{what} {name!r} is neither a path nor a hub name: {message(error)}"
        ) from error
    except RepositoryNotFoundError as error:
        raise FileNotFoundError(
            f"{what} {name!r} is no local file or folder, and the hub has none of that name"
            " (or it is private: log in first)."
        ) from error
    except Exception as error:  # the client's network errors have no common class
        return _downloaded(name, what, kind, error)
    return place


def _downloaded(name: str, what: str, kind: str, error: Exception) -> str:
    """The folder of an earlier download, for when the hub does not answer."""
    from huggingface_hub import try_to_load_from_cache

    file = "README.md" if kind == "dataset" else "config.json"
    cached = try_to_load_from_cache(name, file, repo_type=kind)
    if isinstance(cached, str):  # `datasets` finds the tables that it prepared by the name
        return name if kind == "dataset" else str(Path(cached).parent)
    raise FileNotFoundError(
        f"{what} {name!r} is no local file or folder, was never downloaded,"
        f" and the hub does not answer ({message(error)})."
    ) from error
