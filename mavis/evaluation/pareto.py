"""How good a set of trade-offs is: dominance, fronts, and one number for a set of points.

Everything is maximised. A point [M] is the mean reward of one setting of one method, in standard
units. A method is a set of `points` [P, M]; where each belongs to a weighting, they are `rewards`
and `weights` [W, M], and the rewards of another policy are its `baseline` [M]. A `front` [F, M] is
what `union_front` returns.

Every function raises a ValueError if a set has no point, an entry is not finite, or two arguments
have different objectives: an indicator of a set with a hole in it is a number about nothing.

Sources:
    Zitzler, Thiele (1998): hypervolume.
    Zitzler, Thiele, Laumanns, Fonseca, da Fonseca (2003): additive epsilon.
    Ishibuchi, Masuda, Tanigaki, Nojima (2015): IGD+.
    Balling (2003): maximin fitness.
    Lin, Jiang, Xu, Chen, Chen (2025, PARM, arXiv 2505.06274): mean inner product.
    Son, Bankes, Yoon, Ramesh, Tang, Bogunovic (2025, RMOD, arXiv 2503.08796): worst case.
"""

from collections.abc import Sequence

import moocore
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def matrix(name: str, values: npt.ArrayLike) -> Array:
    """Check that values are rows of finite numbers [P, M], P ≥ 1 and M ≥ 1."""
    rows = np.asarray(values, dtype=np.float64)
    if rows.ndim != 2 or rows.size == 0:
        raise ValueError(f"{name} must be a matrix [rows, objectives], got shape {rows.shape}.")
    holes = np.flatnonzero(~np.isfinite(rows).all(axis=1))
    if len(holes):
        raise ValueError(f"{name} must be finite, got {rows[holes[0]].tolist()} in row {holes[0]}.")
    return rows


def vector(name: str, values: npt.ArrayLike) -> Array:
    """Check that values are one finite number per objective [M]."""
    entries = np.asarray(values, dtype=np.float64)
    if entries.ndim != 1 or entries.size == 0 or not np.isfinite(entries).all():
        raise ValueError(f"{name} must be one finite number per objective, got {entries.tolist()}.")
    return entries


def _agree(name: str, mine: Array, other: str, theirs: Array) -> None:
    """Both are of the same objectives."""
    if mine.shape[-1] != theirs.shape[-1]:
        raise ValueError(
            f"{name} must have the objectives of {other} (M = {theirs.shape[-1]}), "
            f"got {mine.shape[-1]}."
        )


def _pair(name: str, mine: npt.ArrayLike, other: str, theirs: npt.ArrayLike) -> tuple[Array, Array]:
    left, right = matrix(name, mine), matrix(other, theirs)
    _agree(name, left, other, right)
    return left, right


def _union(sets: Sequence[npt.ArrayLike]) -> Array:
    if not len(sets):
        raise ValueError("sets must hold at least one set of points, got none.")
    checked = [matrix(f"set {i}", points) for i, points in enumerate(sets)]
    for i, points in enumerate(checked):
        _agree(f"set {i}", points, "set 0", checked[0])
    return np.concatenate(checked)


def nondominated(points: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    """Which points [P] no other point dominates: as good in every objective and better in one.

    Equal points do not dominate each other: all copies of a nondominated point count.

    >>> nondominated([[0, 2], [1, 1], [1, 1], [0, 1]]).tolist()
    [True, True, True, False]
    """
    mask = moocore.is_nondominated(matrix("points", points), maximise=True, keep_weakly=True)
    return np.asarray(mask, dtype=np.bool_)


def union_front(sets: Sequence[npt.ArrayLike]) -> Array:
    """The nondominated points [F, M] of several sets together, each once, sorted by objective.

    >>> union_front([[[0, 2], [1, 0]], [[1, 1], [0, 2]]]).tolist()
    [[0.0, 2.0], [1.0, 1.0]]
    """
    points = _union(sets)
    return np.unique(points[nondominated(points)], axis=0)


def reference_point(sets: Sequence[npt.ArrayLike], margin: float = 0.1) -> Array:
    """A reference point for `hypervolume` that is the same for all methods compared.

    Each objective's worst value over all points of all sets, less margin × its range. It depends on
    what is compared, so a hypervolume means nothing without it: state both.

    >>> reference_point([[[0, 2], [1, 0]], [[2, 1]]]).tolist()
    [-0.2, -0.2]

    Args:
        sets: each [P, M].
        margin: share of the range; with 0 the extreme points of a front count for nothing.

    Returns:
        [M].

    Raises:
        ValueError: as `union_front`, or if margin is negative.
    """
    if not 0 <= margin < np.inf:
        raise ValueError(f"margin must be a share of the range, at least 0, got {margin}.")
    points = _union(sets)
    worst: Array = points.min(axis=0)
    # A margin in shares of the range is the same for rewards of any scale.
    span: Array = points.max(axis=0) - worst
    return worst - margin * span


def hypervolume(points: npt.ArrayLike, reference: npt.ArrayLike) -> float:
    """The volume that the points dominate above a reference point [M]. More is better.

    It is in the product of the objectives' units. Points that do not exceed the reference in every
    objective add nothing.

    >>> hypervolume([[1, 3], [2, 2], [3, 1]], reference=[0, 0])
    6.0
    """
    mine, corner = matrix("points", points), vector("reference", reference)
    _agree("reference", corner, "points", mine)
    return float(moocore.hypervolume(mine, ref=corner, maximise=True))


def igd_plus(points: npt.ArrayLike, front: npt.ArrayLike) -> float:
    """How far the set falls short of a front: IGD+, the mean over the front. Less is better.

    For each point of the front the distance to the nearest point of the set, counting only the
    objectives in which that one is worse. 0 if the set weakly dominates the front.

    >>> igd_plus([[0, 2], [2, 0]], front=[[0, 3], [3, 0]])
    1.0
    """
    mine, best = _pair("points", points, "front", front)
    return float(moocore.igd_plus(mine, ref=best, maximise=True))


def epsilon_dominance(points: npt.ArrayLike, front: npt.ArrayLike) -> float:
    """The least e so that the set, raised by e in every objective, weakly dominates a front.

    Less is better; 0 for the front itself, negative for a set that beats all of it.

    >>> epsilon_dominance([[0, 2], [2, 0]], front=[[0, 3], [2.5, 0]])
    1.0
    """
    mine, best = _pair("points", points, "front", front)
    return float(moocore.epsilon_additive(mine, ref=best, maximise=True))


def maximin(points: npt.ArrayLike, front: npt.ArrayLike) -> float:
    """Balling's maximin fitness of the set against a front, mean over the set. Less is better.

    Of one point: max over the *other* points of the front of min over objectives of (front −
    point), which is Balling's max_j min_m (f_m^i − f_m^j) for minimisation with the signs turned.
    Positive: dominated, by so much in every objective; 0: weakly dominated; negative: nondominated,
    and the more so the further its neighbours on the front are. "Other" is by value, so a point
    that two methods share is not held against either.

    >>> maximin([[0, 2], [0, 0]], front=[[0, 2], [1, 1]])  # −1 and +1
    0.0

    Returns:
        NaN if the front is one point that is in the set: it has no other to be held against.
    """
    mine, best = _pair("points", points, "front", front)
    gaps = best[None, :, :] - mine[:, None, :]  # [P, F, M]
    # A point does not compete with itself: where it is on the front, that column is left out.
    same = (gaps == 0).all(axis=2)
    fitness = np.where(same, -np.inf, gaps.min(axis=2)).max(axis=1)
    return float(fitness.mean()) if np.isfinite(fitness).all() else np.nan


def inner_product(rewards: npt.ArrayLike, weights: npt.ArrayLike) -> float:
    """The mean over weightings of Σ_m λ_m r_m: does each weighting get what it asks for (PARM)?

    >>> inner_product([[1, 0], [0, 2]], weights=[[1, 0], [0.5, 0.5]])
    1.0
    """
    mine, asked = matrix("rewards", rewards), matrix("weights", weights)
    if mine.shape != asked.shape:
        raise ValueError(
            f"weights must have the shape of rewards (W, M = {mine.shape}), got {asked.shape}."
        )
    return float((mine * asked).sum(axis=1).mean())


def weighted_gain(rewards: npt.ArrayLike, baseline: npt.ArrayLike, weights: npt.ArrayLike) -> float:
    """`inner_product` of the gain over a baseline, e.g. the reference policy: Σ_m λ_m (r_m − b_m).

    >>> weighted_gain([[1, 0], [0, 2]], baseline=[0.5, 0.5], weights=[[1, 0], [0.5, 0.5]])
    0.5
    """
    mine, start = matrix("rewards", rewards), vector("baseline", baseline)
    _agree("baseline", start, "rewards", mine)
    return inner_product(mine - start, weights)


def worst_case(rewards: npt.ArrayLike) -> float:
    """The mean over weightings of the smallest of the M rewards (the worst case of RMOD).

    It compares rewards of different objectives, so they must be in standard units. Rows are mean
    rewards here: with one row per prompt instead it is the mean worst case of a prompt, which is
    never larger.

    >>> worst_case([[1, 0], [3, 2]])
    1.0
    """
    return float(matrix("rewards", rewards).min(axis=1).mean())
