"""Names of models and data: shipped with the package, a local path, or a name on the hub.

`locate` only looks at the disk; `reachable` asks the hub once, because a loader left to itself
retries for half a minute before it says that there is no network. Neither loads anything.
"""

import os
from pathlib import Path
from typing import Literal

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
        what: What the name stands for, for the error.

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
    path = Path(name).expanduser()
    if path.exists():
        return str(path)
    if is_local(name):
        raise FileNotFoundError(
            f"{what} {name!r} is a missing folder (looked at {path.absolute()})."
        )
    return name


def lasting(name: str) -> str:
    """A name that means the same in every working directory: paths are made absolute."""
    path = Path(name).expanduser()
    return name if name.startswith(_SANDBOX) or not path.exists() else str(path.absolute())


def is_local(name: str) -> bool:
    """Whether a name can only be meant as a path: hub names are `NAME` or `OWNER/NAME`."""
    marks = (".", "/", "~", os.sep)
    return name.startswith(marks) or name.endswith("/") or name.count("/") > 1 or "\\" in name


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
        what: What the name stands for, for the error.
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
    if Path(place).exists():
        return place
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

    try:
        HfApi().repo_info(place, repo_type=kind, timeout=_SECONDS)
    except HFValidationError as error:
        raise ValueError(f"{what} {name!r} is neither a path nor a hub name: {error}") from error
    except RepositoryNotFoundError as error:
        raise FileNotFoundError(
            f"{what} {name!r} is no local folder, and the hub has none of that name"
            " (or it is private: log in first)."
        ) from error
    except Exception as error:  # the client's network errors have no common class
        return _downloaded(name, what, kind, error)
    return place


def _downloaded(name: str, what: str, kind: str, error: Exception) -> str:
    """The folder of an earlier download, for when the hub does not answer."""
    from huggingface_hub import try_to_load_from_cache

    if kind == "dataset":  # `datasets` keeps prepared tables of its own and finds them again
        config = try_to_load_from_cache(name, "README.md", repo_type=kind)
        if isinstance(config, str):
            return name
    else:
        config = try_to_load_from_cache(name, "config.json")
        if isinstance(config, str):
            return str(Path(config).parent)
    raise FileNotFoundError(
        f"{what} {name!r} is no local folder, was never downloaded,"
        f" and the hub does not answer ({error})."
    ) from error
