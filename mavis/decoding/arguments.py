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
Stop = str | Collection[str] | Collection[Collection[str]]


def numbers(name: str, told: Any, count: int) -> list[float]:
    """One number for all prompts, or one for each, as a list of one for each.

    >>> numbers("beta", 2, 2), numbers("beta", range(2), 2)
    ([2.0, 2.0], [0.0, 1.0])

    Raises:
        ValueError: a wrong length, or what is no number.
    """
    return [_float(one) for one in _column(name, told, count)]


def whole_numbers(name: str, told: Any, count: int) -> list[int]:
    """As `numbers`, for what is counted.

    Raises:
        ValueError: a wrong length, or what is no whole number.
    """
    column = _column(name, told, count)
    for at, one in enumerate(column):
        if one % 1:
            where = f" for prompt {at}" if _entries(name, told) is not None else ""
            raise ValueError(f"{name} must be a whole number, got {one}{where}.")
    return [int(one) for one in column]


def whole_number(name: str, told: Any) -> int:
    """A number that is one for all prompts.

    Raises:
        ValueError: no whole number, or several.
    """
    if _entries(name, told) is not None:
        raise ValueError(f"{name} must be one whole number for all prompts, got {_brief(told)}.")
    return whole_numbers(name, told, 1)[0]


def vectors(told: Any, objectives: Sequence[str], count: int) -> list[tuple[float, ...]]:
    """Weights as a vector [M] per prompt; an objective that is not named weighs nothing.

    Args:
        told: numbers by objective, each one for all prompts or one per prompt; a list of such
            mappings, or an array [P, M], one per prompt; a number, where there is one objective;
            None for 1 each.
        objectives: their names, the M axis.
        count: P, how many prompts there are.

    >>> vectors({"humor": [1.0, 2.0], "kind": 0.5}, ("humor", "kind"), 2)
    [(1.0, 0.5), (2.0, 0.5)]

    Raises:
        ValueError: a wrong length or shape, an objective that is not there, or no number.
    """
    if told is None:
        told = dict.fromkeys(objectives, 1.0)
    if isinstance(told, Mapping):
        return _by_name(told, objectives, count)
    entries = _entries("weights", told)
    alone = len(objectives) == 1
    if alone and (entries is None or (len(entries) == 1 and not isinstance(entries[0], Mapping))):
        told = told if entries is None else entries[0]
        return [_vector(told, objectives, "")] * count
    if entries is None:
        raise _no_weights(objectives, told, "")
    if len(entries) != count:
        raise ValueError(
            f"weights must be one or one per prompt ({count}), got {len(entries)}: one is "
            f"{_example(objectives)}."
        )
    return [_vector(one, objectives, f" for prompt {at}") for at, one in enumerate(entries)]


def stops(told: Any, count: int) -> list[tuple[str, ...]]:
    """Stop strings as a tuple per prompt, from one list for all, or one list for each.

    >>> stops(["a", "b"], 2), stops([["a"], []], 2)
    ([('a', 'b'), ('a', 'b')], [('a',), ()])

    Raises:
        ValueError: a wrong length, an empty string, or what is no string.
    """
    if told is None:
        return [()] * count
    entries = _entries("stop", [told] if isinstance(told, str) else told)
    if entries is None:
        raise ValueError(f"stop must be strings that end a reply, got {_brief(told)}.")
    if all(isinstance(one, str) for one in entries):
        return [_strings(entries, "")] * count
    if len(entries) != count:
        raise ValueError(
            "stop must be strings that end a reply: one list for all prompts, or a list of one "
            f"list per prompt ({count}), got {_brief(told)}."
        )
    found = []
    for at, one in enumerate(entries):
        mine = None if isinstance(one, str) else _entries("stop", [] if one is None else one)
        if mine is None:
            raise ValueError(
                f"stop must be one list per prompt, got {_brief(one)} for prompt {at}."
            )
        found.append(_strings(mine, f" for prompt {at}"))
    return found


def _strings(told: Sequence[Any], where: str) -> tuple[str, ...]:
    for one in told:
        if not isinstance(one, str) or not one:
            raise ValueError(f"stop must be strings that are not empty, got {_brief(one)}{where}.")
    return tuple(map(str, told))


def _by_name(weights: Weights, objectives: Sequence[str], count: int) -> list[tuple[float, ...]]:
    _known(weights, objectives)
    nothing = [0.0] * count
    named = {name: numbers(f"weights.{name}", one, count) for name, one in weights.items()}
    columns = [named.get(name, nothing) for name in objectives]
    return [tuple(column[at] for column in columns) for at in range(count)]


def _vector(told: Any, objectives: Sequence[str], where: str) -> tuple[float, ...]:
    """One prompt's weights [M]."""
    if isinstance(told, Mapping):
        _known(told, objectives)
        return tuple(
            _float(_number(f"weights.{name}", told[name], where)) if name in told else 0.0
            for name in objectives
        )
    entries = _entries("weights", told)
    if entries is None and len(objectives) == 1 and _is_number(told):
        entries = [told]
    if entries is None or len(entries) != len(objectives):
        raise _no_weights(objectives, told, where)
    return tuple(
        _float(_number(f"weights.{name}", one, where))
        for name, one in zip(objectives, entries, strict=True)
    )


def _known(weights: Mapping[Any, Any], objectives: Sequence[str]) -> None:
    unknown = [name for name in weights if name not in objectives]
    if unknown:
        loaded = ", ".join(objectives) or "none"
        raise ValueError(
            f"weights must be for objectives with a value model (loaded: {loaded}), "
            f"got {unknown[0]!r}. `mavis fit --objective {unknown[0]}` makes one."
        )


def _no_weights(objectives: Sequence[str], told: Any, where: str) -> ValueError:
    if not objectives:
        return ValueError(
            f"weights need a value model, and none is loaded, got {_brief(told)}{where}."
        )
    return ValueError(
        f"weights must be by objective, such as {_example(objectives)}, or a list of one such per "
        f"prompt, got {_brief(told)}{where}."
    )


def _example(objectives: Sequence[str]) -> str:
    return "{" + ", ".join(f'"{name}": 1.0' for name in objectives) + "}"


def _column(name: str, told: Any, count: int) -> list[float]:
    """Checked numbers, one for each prompt; whole ones stay whole, of any size."""
    entries = _entries(name, told)
    if entries is None:
        return [_number(name, told, "")] * count
    if len(entries) != count:
        raise ValueError(f"{name} must be one or one per prompt ({count}), got {len(entries)}.")
    return [_number(name, one, f" for prompt {at}") for at, one in enumerate(entries)]


def _entries(name: str, told: Any) -> list[Any] | None:
    """What a setting holds for each prompt; None where it is a single thing."""
    told = plain_value(told)
    if isinstance(told, str | bytes | Mapping):
        return None
    if isinstance(told, Set):
        raise ValueError(f"{name} must be a list of one per prompt, got a set: it has no order.")
    if not isinstance(told, Iterable):
        return None
    if not hasattr(told, "__len__"):
        kind = type(told).__name__
        raise ValueError(
            f"{name} must be one or a list of one per prompt, got a {kind}: make it a list first."
        )
    return list(told)


def plain_value(told: Any) -> Any:
    """NumPy's, torch's and tables' own as Python's."""
    return told.tolist() if hasattr(told, "tolist") else told


def _is_number(told: Any) -> bool:
    told = plain_value(told)
    if told is None or isinstance(told, bool | str | bytes):  # float() would read "1.5"
        return False
    try:
        float(told)
    except OverflowError:  # a number, though one that no float holds
        return True
    except (TypeError, ValueError):
        return False
    return True


def _number(name: str, told: Any, where: str) -> float:
    if not _is_number(told):
        rule = "a number" if where else "a number, or a list of one per prompt"
        raise ValueError(f"{name} must be {rule}, got {_brief(told)}{where}.")
    told = plain_value(told)
    try:
        return operator.index(told)  # any whole number, exactly
    except TypeError:
        return float(told)


def _float(number: float) -> float:
    try:
        return float(number)
    except OverflowError:  # what is refused as not finite later on
        return math.inf if number > 0 else -math.inf


def _brief(told: Any) -> str:
    """What came instead, in a few words of one line."""
    said = " ".join(repr(told).split())
    return said if len(said) <= SHOWN else f"{said[: SHOWN - 1]}…"
