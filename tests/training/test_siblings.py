"""What is settled at the last branching: simulated trees, and figures worked out by hand."""

import math

import numpy as np
import pytest

from mavis.training import siblings
from mavis.training.tree import Segment, build_tree


def tree_of(rewards):
    """A tree with leaves at these paths, scored so."""
    paths = {path[:n] for path in rewards for n in range(len(path) + 1)}
    inner = {path: Segment([1, 2], [0.0, 0.0]) for path in paths}
    leaves = {path: Segment([1, 2], [0.0, 0.0], "x", "end") for path in rewards}
    tree = build_tree("p", inner | leaves)
    assert len(tree.leaves) == len(rewards)
    column = np.array([rewards[path] for path in sorted(rewards)], np.float32)
    return tree.__class__(**{**vars(tree), "rewards": column[:, None]})


def found_in(trees):
    return siblings.explainable(trees, [tree.rewards[:, 0] for tree in trees])


def drawn(rng, count, deviations, branching=(4, 2, 2), ends=0.0):
    """Trees whose rewards are sums of normal draws: one of the prompt, and one of each segment.

    A reply ends before its last segment with a probability: it then has no draw of it.
    """
    trees = []
    for _ in range(count):
        rewards, level = {}, {(): 100 + 5 * rng.normal()}
        for depth, (children, deviation) in enumerate(zip(branching, deviations, strict=True)):
            grown = {
                (*path, child): value + deviation * rng.normal()
                for path, value in level.items()
                for child in range(children)
            }
            last = depth + 1 == len(branching)
            over = {path for path in grown if last or (depth and rng.random() < ends)}
            rewards |= {path: grown[path] for path in over}
            level = {path: value for path, value in grown.items() if path not in over}
        trees.append(tree_of(rewards))
    return trees


@pytest.mark.parametrize(
    ("deviations", "branching", "share"),
    [
        ((1.0, 1.0, 1.0), (4, 2, 2), 2 / 3),
        ((0.5, 0.0, 2.0), (4, 2, 2), 0.25 / 4.25),
        ((1.0, 0.5, 0.0), (3, 2, 3), 1.0),
        ((1.0, 2.0), (4, 4), 1 / 5),
    ],
)
def test_a_known_share_is_found(deviations, branching, share):
    """Differences between prompts, five times as large, are of no account."""
    trees = drawn(np.random.default_rng(0), 600, deviations, branching)
    found = found_in(trees)
    assert found.value == pytest.approx(share, abs=0.05)
    assert found.low - 1e-4 <= share <= found.high + 1e-4
    assert found.high - found.low < 0.15


def test_replies_that_end_early_are_settled():
    """A third of them ends after the second of three segments, and has no third draw."""
    trees = drawn(np.random.default_rng(1), 1500, (1.0, 1.0, 2.0), ends=1 / 3)
    left = 2 / 3 * 4
    assert found_in(trees).value == pytest.approx(1 - left / (2 + left), abs=0.04)


def test_noise_leaves_nothing_to_explain():
    """Nineteen of twenty intervals hold 0, whatever the draws."""
    rng = np.random.default_rng(2)
    found = [found_in(drawn(rng, 60, (0.0, 0.0, 1.0))) for _ in range(40)]
    assert np.mean([one.value for one in found]) == pytest.approx(0.0, abs=0.03)
    assert sum(one.low <= 0 <= one.high for one in found) >= 34


def test_figures_by_hand():
    """Of branches (0, 2) and (4, 6): within 2, in all 1/4 · 56 − 1 · 5."""
    tree = tree_of({(0, 0): 0.0, (0, 1): 2.0, (1, 0): 4.0, (1, 1): 6.0})
    assert found_in([tree]).value == pytest.approx(1 - 2 / 9)
    # An abstention leaves its sibling without a comparison.
    holed = {(2, 0): math.nan, (2, 1): 9.0, (3, 0): math.nan, (3, 1): math.nan}
    more = tree_of({(0, 0): 0.0, (0, 1): 2.0, (1, 0): 4.0, (1, 1): 6.0, **holed})
    assert found_in([more]).value == pytest.approx(1 - 2 / 9)
    assert siblings.facts([tree], [tree.rewards[:, 0]])["reward_explainable"] == pytest.approx(
        1 - 2 / 9
    )


def test_a_reply_that_is_cut_in_two_has_no_sibling():
    """One that ends on the first level: it has a node on the second, and no variance there."""
    segments = {(): Segment([1], [0.0])} | {(0,): Segment([1, 2, 3], [0.0] * 3, "x", "end")}
    segments |= {(1,): Segment([1], [0.0])}
    segments |= {(1, n): Segment([1], [0.0], "x", "end") for n in range(2)}
    tree = build_tree("p", segments)
    tree = tree.__class__(**{**vars(tree), "rewards": np.array([[1.0], [2.0], [4.0]], np.float32)})
    # Within: (0 + 2) / 2. In all: (1 + (4 + 16) / 2) / 2 − 1 · 3.
    assert found_in([tree]).value == pytest.approx(1 - 1 / 2.5)


@pytest.mark.parametrize(
    "rewards",
    [
        {(0, 0): 1.0, (1, 0): 2.0, (2, 0): 3.0},  # branches at the root alone
        {(0, 0): 1.0, (0, 1): 2.0},  # does not branch at the root
        {(0, 0): 3.0, (0, 1): 3.0, (1, 0): 3.0, (1, 1): 3.0},
        {(0, 0): math.nan, (0, 1): math.nan, (1, 0): math.nan, (1, 1): math.nan},
    ],
    ids=["one branching", "one branch", "constant", "abstained"],
)
def test_nothing_is_known(rewards):
    found = found_in([tree_of(rewards)] * 3)
    assert all(map(math.isnan, (found.value, found.low, found.high)))
    assert math.isnan(found_in([]).value)
