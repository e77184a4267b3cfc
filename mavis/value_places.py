"""Where runs keep the value models of objectives: `NAME/value`, or `NAME+NAME/value` of several."""

from collections.abc import Sequence
from pathlib import Path

VARIABLE = "MAVIS_VALUES"  # in the environment of vLLM: their folders by objective, as JSON


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
    then one of these objectives and others. Where an objective has none of its own, one of several
    that has it stands for all of these that it has.
    """
    shared = together(runs, objectives) if len(objectives) > 1 else None
    own = {name: runs / name / "value" for name in objectives}
    missing = [name for name, place in own.items() if not place.is_dir()]
    if shared is None and missing:
        shared = together(runs, objectives, more=True)
    if shared is not None:
        return dict.fromkeys(objectives, shared)
    for name in missing:
        if (shared := together(runs, [name], more=True)) is not None:
            own |= {each: shared for each in shared.parent.name.split("+") if each in own}
    return own
