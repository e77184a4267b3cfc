"""Parse the preference vectors λ of a sweep from the command line or from a file."""

import itertools
import math
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

from mavis.data_files import splits

Weighting = tuple[float, ...]  # λ [M], in the order of the objectives

MOST = 10_000  # weightings; each is decoded at several strengths
FORMS = "grid:STEP, dirichlet:N, NAME=X,NAME=X or a file with a column for each objective"


def weightings(spec: str, objectives: Sequence[str], seed: int = 0) -> list[Weighting]:
    """Parse weightings.

    Args:
        spec: `grid:0.1` (all multiples of 0.1 that sum to 1), `dirichlet:20` (so many uniform draws
            from the simplex), `humor=0.5,helpfulness=0.5`, or a .csv, .json, .jsonl or .parquet
            file whose columns are the objectives; or several of these with `;` between.
        objectives: names of the M columns, in order.
        seed: seed of the draws.

    Returns:
        the distinct weightings, in the order given.

    Raises:
        FileNotFoundError: the file is missing.
        ValueError: the text has none of these forms, the columns are wrong, or a number is not
            finite.

    >>> weightings("grid:0.5", ["humor", "helpfulness"])
    [(1.0, 0.0), (0.5, 0.5), (0.0, 1.0)]
    """
    if ";" in spec:
        several = [part.strip() for part in spec.split(";") if part.strip()]
        parsed = [w for part in several for w in weightings(part, objectives, seed)]
    elif spec.startswith("grid:"):
        parsed = _grid(spec.removeprefix("grid:"), len(objectives))
    elif spec.startswith("dirichlet:"):
        parsed = _draws(spec.removeprefix("dirichlet:"), len(objectives), seed)
    elif "=" in spec and not Path(spec).exists():
        parts = [_assignment(part) for part in spec.split(",")]
        if len({name for name, _ in parts}) < len(parts):
            raise ValueError(f"weights must name each objective once, got {spec!r}.")
        parsed = [_named(dict(parts), objectives, spec)]
    else:
        parsed = _file(spec, objectives)
    names: dict[str, Weighting] = {}
    for weighting in dict.fromkeys(parsed):
        name = label(weighting, objectives)
        if name in names:
            raise ValueError(
                f"weights {weighting} and {names[name]} are the same to six digits: leave one out."
            )
        names[name] = weighting
    return list(names.values())


def label(weighting: Weighting, objectives: Sequence[str]) -> str:
    """Format a weighting for messages and file names.

    >>> label((0.25, 0.75), ["humor", "helpfulness"])
    'humor0.25_helpfulness0.75'
    """
    return "_".join(f"{n}{w:g}" for n, w in zip(objectives, weighting, strict=True))


def as_option(weighting: Weighting, objectives: Sequence[str]) -> str:
    """Format a weighting so that `weightings` can parse it.

    >>> as_option((0.25, 0.75), ["humor", "helpfulness"])
    'humor=0.25,helpfulness=0.75'
    """
    return ",".join(f"{n}={w:g}" for n, w in zip(objectives, weighting, strict=True))


def _grid(step: str, count: int) -> list[Weighting]:
    try:
        share = 1 / Fraction(step)
    except (ValueError, ZeroDivisionError) as error:
        raise ValueError(f"weights: a grid needs a step, as in grid:0.1, got {step!r}.") from error
    if share.denominator != 1 or share < 1:
        raise ValueError(f"weights: the step of a grid must divide 1, as 0.1 does, got {step}.")
    parts = int(share)
    _check_many(math.comb(parts + count - 1, count - 1), f"grid:{step}")
    counts = itertools.product(range(parts, -1, -1), repeat=count)
    return [tuple(n / parts for n in c) for c in counts if sum(c) == parts]


def _draws(number: str, count: int, seed: int) -> list[Weighting]:
    import numpy as np

    if not number.isdecimal() or int(number) < 1:
        raise ValueError(f"weights: dirichlet needs a number of draws, got {number!r}.")
    _check_many(int(number), f"dirichlet:{number}")
    random = np.random.Generator(np.random.Philox(seed))
    draws = random.dirichlet(np.ones(count), int(number)).round(4)
    return [tuple(float(x) for x in draw) for draw in draws]


def _check_many(count: int, spec: str) -> None:
    if count > MOST:
        raise ValueError(
            f"weights: {spec} makes {count:,} weightings of these objectives, more than {MOST:,}: "
            "take a coarser grid, or fewer draws."
        )


def _assignment(part: str) -> tuple[str, str]:
    name, equals, number = part.partition("=")
    if not equals:
        raise ValueError(f"weights must be {FORMS}; got {part!r}.")
    return name.strip(), number


def _file(spec: str, objectives: Sequence[str]) -> list[Weighting]:
    if not Path(spec).expanduser().is_file():
        raise FileNotFoundError(f"weights must be {FORMS}; there is no file {spec!r}.")
    rows = [row for read in splits(spec).values() for row in read()]
    if not rows:
        raise ValueError(f"weights: {spec} has no rows.")
    return [
        _named(row, objectives, f"row {number} of {spec}") for number, row in enumerate(rows, 1)
    ]


def _named(row: object, objectives: Sequence[str], where: str) -> Weighting:
    if not isinstance(row, dict) or set(row) != set(objectives):
        names = ", ".join(map(str, row)) if isinstance(row, dict) else repr(row)
        raise ValueError(
            f"weights must have the columns {', '.join(objectives)}; {where} has {names}."
        )
    try:
        numbers = tuple(float(row[name]) + 0.0 for name in objectives)  # -0 becomes 0
    except (TypeError, ValueError):
        numbers = (math.nan,)
    if not all(map(math.isfinite, numbers)):
        raise ValueError(f"weights must be finite numbers, got {dict(row)} in {where}.")
    if not any(numbers):
        raise ValueError(f"weights must not all be 0, as they are in {where}.")
    return numbers
