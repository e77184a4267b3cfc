"""What the options of the measuring commands have in common: lists and sizes."""

from collections.abc import Sequence


def listed(what: str, told: str | Sequence[str]) -> list[str]:
    """A list, from YAML or from words with commas between them.

    >>> listed("objectives", "humor, kind"), listed("objectives", ["humor"])
    (['humor', 'kind'], ['humor'])

    Raises:
        ValueError: an entry comes twice.
    """
    words = told.strip("[] ").split(",") if isinstance(told, str) else told
    found = [str(word).strip() for word in words if str(word).strip()]
    if len(set(found)) < len(found):
        raise ValueError(f"{what} must be different ones, got {', '.join(found)}.")
    return found


def at_least(least: float, **numbers: float) -> None:
    """Raise ValueError for an option below a number.

    >>> at_least(1, rows=0)
    Traceback (most recent call last):
    ValueError: rows must be at least 1, got 0.
    """
    for name, number in numbers.items():
        if not number >= least:
            raise ValueError(f"{name} must be at least {least:g}, got {number}.")


def positive(**numbers: float | None) -> None:
    """Raise ValueError for an option that is given and no positive, finite number."""
    for name, number in numbers.items():
        if number is not None and not 0 < number < float("inf"):
            raise ValueError(f"{name} must be a positive number, got {number}.")
