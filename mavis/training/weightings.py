"""Weights λ of several objectives in a fit: those that trees are grown under, and those measured.

All of them are on the simplex: not negative, with the sum 1. One objective has the weight 1.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from mavis.decoding.request import Key, stream

Weighting = tuple[float, ...]

CORNERS = 0.25  # share of the trees that one objective alone guides


def measured(outputs: int) -> list[Weighting]:
    """What a round is measured at: every objective alone, and all of them equally.

    >>> measured(2)
    [(1.0, 0.0), (0.0, 1.0), (0.5, 0.5)]
    """
    corners = [tuple(float(m == n) for m in range(outputs)) for n in range(outputs)]
    return corners if outputs == 1 else [*corners, (1.0 / outputs,) * outputs]


def drawn(key: Key, outputs: int) -> Weighting:
    """The weights that guide a tree.

    A quarter of the trees are at corners, where the front ends. The others mix two objectives or
    more, each number of them as often, uniformly on that edge or face: of many objectives, uniform
    weights would hardly ever come near an edge.

    Args:
        key: names the random stream.
        outputs: M.
    """
    if outputs == 1:
        return (1.0,)
    random = stream((*key, "weights"))
    several = 1 if random.random() < CORNERS else int(random.integers(2, outputs + 1))
    chosen = random.permutation(outputs)[:several]
    weights = np.zeros(outputs)
    weights[chosen] = random.dirichlet(np.ones(several))
    return tuple(float(weight) for weight in weights)


def guiding(rows: Sequence[Sequence[float]]) -> list[Weighting]:
    """The weights of trees' policies; equal ones where a row is 0, as none guided the tree.

    >>> guiding([[0.25, 0.75], [0.0, 0.0]])
    [(0.25, 0.75), (0.5, 0.5)]
    """
    return [tuple(row) if any(row) else measured(len(row))[-1] for row in rows]


def label(names: Sequence[str], weights: Weighting) -> str:
    """A weighting for people.

    >>> label(["humor", "helpfulness"], (0.0, 1.0)), label(["a", "b"], (0.5, 0.5))
    ('helpfulness', '0.5 a + 0.5 b')
    """
    parts = [(name, weight) for name, weight in zip(names, weights, strict=True) if weight]
    if len(parts) == 1 and parts[0][1] == 1:
        return parts[0][0]
    return " + ".join(f"{weight:.2g} {name}" for name, weight in parts)


def mixed(rewards: npt.NDArray[np.float64], weights: Weighting) -> npt.NDArray[np.float64]:
    """The weighted sum of rewards [..., M] -> [...]; NaN where one that counts abstained."""
    chosen = [at for at, weight in enumerate(weights) if weight]
    found: npt.NDArray[np.float64] = rewards[..., chosen] @ np.array(weights)[chosen]
    return found
