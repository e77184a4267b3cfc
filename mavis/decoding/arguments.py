"""Settings as people write them: one for all prompts, or one per prompt.

One per prompt comes in whatever has a length and an order: lists, ranges, NumPy arrays, torch
tensors, columns of tables.
"""

import math
import operator
from collections.abc import Collection, Iterable, Mapping, Sequence, Set
from typing import Any

SHOWN = 80  # letters of what was not understood

Numbers = float | Collection[float]
Whole = int | Collection[int]
Weights = Mapping[str, Numbers]
AllWeights = float | Weights | Collection[Weights | Numbers] | None
Stop = str | Collection[str] | Collection[Collection[str]]


def numbers(name: str, value: Any, count: int) -> list[float]:
    """One number for all prompts, or one for each, as a list of one for each.

    >>> numbers("beta", 2, 2), numbers("beta", range(2), 2)
    ([2.0, 2.0], [0.0, 1.0])

    Raises:
        ValueError: a wrong length, or what is no number.
    """
    return [_float(one) for one in _column(name, value, count)]


def whole_numbers(name: str, value: Any, count: int) -> list[int]:
    """As `numbers`, for what is counted.

    Raises:
        ValueError: a wrong length, or what is no whole number.
    """
    column = _column(name, value, count)
    for at, one in enumerate(column):
        if one % 1:
            where = f" for prompt {at}" if _entries(name, value) is not None else ""
            raise ValueError(f"{name} must be a whole number, got {one}{where}.")
    return [int(one) for one in column]


def whole_number(name: str, value: Any) -> int:
    """A number from 1 on that is one for all prompts.

    Raises:
        ValueError: no whole number, several, or less than 1.
    """
    if _entries(name, value) is not None:
        raise ValueError(f"{name} must be one whole number for all prompts, got {_brief(value)}.")
    (number,) = whole_numbers(name, value, 1)
    if number < 1:
        raise ValueError(f"{name} must be at least 1, got {number}.")
    return number


def vectors(weights: Any, objectives: Sequence[str], count: int) -> list[tuple[float, ...]]:
    """Weights as a vector [M] per prompt; an objective that is not named weighs nothing.

    Args:
        weights: numbers by objective, each one for all prompts or one per prompt; a list of such
            mappings, or an array [P, M], one per prompt; a number, where there is one objective;
            None for 1 each.
        objectives: their names, the M axis.
        count: P, how many prompts there are.

    >>> vectors({"humor": [1.0, 2.0], "kind": 0.5}, ("humor", "kind"), 2)
    [(1.0, 0.5), (2.0, 0.5)]

    Raises:
        ValueError: a wrong length or shape, an objective that is not there, or no number.
    """
    if weights is None:
        weights = dict.fromkeys(objectives, 1.0)
    if isinstance(weights, Mapping):
        _check_names(weights, objectives)
        columns = [numbers(f"weights.{n}", weights.get(n, 0.0), count) for n in objectives]
        return [tuple(column[at] for column in columns) for at in range(count)]
    entries = _entries("weights", weights)
    alone = len(objectives) == 1
    if alone and (entries is None or (len(entries) == 1 and not isinstance(entries[0], Mapping))):
        return [_vector(weights if entries is None else entries[0], objectives)] * count
    if entries is None:
        raise _not_by_objective(objectives, weights, "")
    if len(entries) != count:
        raise ValueError(
            f"weights must be one or one per prompt ({count}), got {len(entries)}: one is "
            f"{_example(objectives)}."
        )
    return [_vector(one, objectives, f" for prompt {at}") for at, one in enumerate(entries)]


def stops(value: Any, count: int) -> list[tuple[str, ...]]:
    """Stop strings as a tuple per prompt, from one list for all, or one list for each.

    >>> stops(["a", "b"], 2), stops([["a"], []], 2)
    ([('a', 'b'), ('a', 'b')], [('a',), ()])

    Raises:
        ValueError: a wrong length, an empty string, or what is no string.
    """
    if value is None:
        return [()] * count
    entries = _entries("stop", [value] if isinstance(value, str) else value)
    if entries is None:
        raise ValueError(f"stop must be strings that end a reply, got {_brief(value)}.")
    if all(isinstance(one, str) for one in entries):
        return [_strings(entries, "")] * count
    if len(entries) != count:
        raise ValueError(
            "stop must be strings that end a reply: one list for all prompts, or a list of one "
            f"list per prompt ({count}), got {_brief(value)}."
        )
    return [_strings(one, f" for prompt {at}") for at, one in enumerate(entries)]


def _strings(value: Any, where: str) -> tuple[str, ...]:
    entries = None if isinstance(value, str) else _entries("stop", [] if value is None else value)
    if entries is None:
        raise ValueError(f"stop must be one list per prompt, got {_brief(value)}{where}.")
    for one in entries:
        if not isinstance(one, str) or not one:
            raise ValueError(f"stop must be strings that are not empty, got {_brief(one)}{where}.")
    return tuple(map(str, entries))


def _vector(weights: Any, objectives: Sequence[str], where: str = "") -> tuple[float, ...]:
    """One prompt's weights [M]."""
    if isinstance(weights, Mapping):
        _check_names(weights, objectives)
        weights = [weights.get(name, 0.0) for name in objectives]
    entries = _entries("weights", weights)
    if entries is None and len(objectives) == 1 and _is_number(weights):
        entries = [weights]
    if entries is None or len(entries) != len(objectives):
        raise _not_by_objective(objectives, weights, where)
    named = zip(objectives, entries, strict=True)
    return tuple(_float(_number(f"weights.{name}", one, where)) for name, one in named)


def _check_names(weights: Mapping[Any, Any], objectives: Sequence[str]) -> None:
    unknown = [name for name in weights if name not in objectives]
    if unknown:
        loaded = ", ".join(objectives) or "none"
        raise ValueError(
            f"weights must be for objectives with a value model (loaded: {loaded}), "
            f"got {unknown[0]!r}. `mavis fit --objective {unknown[0]}` makes one."
        )


def _not_by_objective(objectives: Sequence[str], weights: Any, where: str) -> ValueError:
    if not objectives:
        return ValueError(
            f"weights need a value model, and none is loaded, got {_brief(weights)}{where}."
        )
    return ValueError(
        f"weights must be by objective, such as {_example(objectives)}, or a list of one such per "
        f"prompt, got {_brief(weights)}{where}."
    )


def _example(objectives: Sequence[str]) -> str:
    return "{" + ", ".join(f'"{name}": 1.0' for name in objectives) + "}"


def _column(name: str, value: Any, count: int) -> list[float]:
    """Checked numbers, one for each prompt; whole ones stay whole, of any size."""
    entries = _entries(name, value)
    if entries is None:
        return [_number(name, value, "")] * count
    if len(entries) != count:
        raise ValueError(f"{name} must be one or one per prompt ({count}), got {len(entries)}.")
    return [_number(name, one, f" for prompt {at}") for at, one in enumerate(entries)]


def _entries(name: str, value: Any) -> list[Any] | None:
    """What a setting holds for each prompt; None where it is a single thing."""
    value = plain_value(value)
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        return None
    if isinstance(value, Set):
        raise ValueError(f"{name} must be a list of one per prompt, got a set: it has no order.")
    if not hasattr(value, "__len__"):
        kind = type(value).__name__
        raise ValueError(
            f"{name} must be one or a list of one per prompt, got a {kind}: make it a list first."
        )
    return list(value)


def plain_value(value: Any) -> Any:
    """NumPy's, torch's and tables' own as Python's."""
    return value.tolist() if hasattr(value, "tolist") else value


def _is_number(value: Any) -> bool:
    value = plain_value(value)
    if value is None or isinstance(value, bool | str | bytes):  # float() would read "1.5"
        return False
    try:
        float(value)
    except OverflowError:  # a number, though one that no float holds
        return True
    except (TypeError, ValueError):
        return False
    return True


def _number(name: str, value: Any, where: str) -> float:
    if not _is_number(value):
        rule = "a number" if where else "a number, or a list of one per prompt"
        raise ValueError(f"{name} must be {rule}, got {_brief(value)}{where}.")
    value = plain_value(value)
    try:
        return operator.index(value)  # any whole number, exactly
    except TypeError:
        return float(value)


def _float(number: float) -> float:
    try:
        return float(number)
    except OverflowError:  # what is refused as not finite later on
        return math.inf if number > 0 else -math.inf


def _brief(value: Any) -> str:
    """A value in a few words of one line, for errors."""
    text = " ".join(repr(value).split())
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 1]}…"
