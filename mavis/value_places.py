"""Where runs keep the value models of objectives: `NAME/value`, or `NAME+NAME/value` of several."""

from collections.abc import Sequence
from pathlib import Path


def together(runs: Path, objectives: Sequence[str], more: bool = False) -> Path | None:
    """The value model of `mavis fit --objectives` of some objectives, in any order.

    Args:
        runs: the folder of all runs.
        objectives: their names.
        more: whether it may be of others besides; that of the fewest is taken.

    Returns:
        None if there is none.
    """
    wanted = set(objectives)
    found = []
    for place in sorted(runs.glob("*+*/value")):
        names = set(place.parent.name.split("+"))
        if names == wanted or (more and names > wanted):
            found.append((len(names), place))
    return min(found)[1] if found else None


def places(runs: Path, objectives: Sequence[str]) -> dict[str, Path]:
    """The value model of each objective, which need not exist.

    One of just these objectives comes first, for it knows how they vary together; then one of each;
    then one of these objectives and others.
    """
    shared = together(runs, objectives) if len(objectives) > 1 else None
    if shared is not None:
        return dict.fromkeys(objectives, shared)
    own = {name: runs / name / "value" for name in objectives}
    shared = together(runs, objectives, more=True)
    if shared is not None and not all(place.is_dir() for place in own.values()):
        return dict.fromkeys(objectives, shared)
    return own
