"""Soft targets: a tree worked out by hand, and a naive recursion on random ones.

The tree of tests/data/tree.json, eta = 0.5 (so that a log-ratio of .2 costs .1):

    P 10 11 ─┬─ A 5 6 ─┬─ B 7 0   reward 1    log-ratios A .1 .2, B .3 −.1, C .5, D −.4
             │         └─ C 8     reward 2
             └─ D 0               reward −1

    after B's last token 1; before it 1 + .05 = 1.05; ahead of all of B 1.05 − .15 = .9
    after C 2; ahead of it 2 − .25 = 1.75
    after A's second token (.9 + 1.75) / 2 = 1.325; after its first 1.325 − .1 = 1.225; ahead 1.175
    after D −1; ahead of it −1 + .2 = −.8
    after P, over three leaves: (2 · 1.175 − .8) / 3 = .51667

Had C abstained: after A's second token .9, its first .8, ahead .75; after P (.75 − .8) / 2 = −.025.
"""

import json
from pathlib import Path

import numpy as np
import pytest

from mavis.training.targets import soft_targets
from mavis.training.tree import NO_PARENT, Segment, build_tree

GOLDEN = json.loads((Path(__file__).parents[1] / "data" / "tree.json").read_text())


@pytest.fixture
def tree():
    paths = {tuple(map(int, p.split())): Segment(**s) for p, s in GOLDEN["segments"].items()}
    return build_tree("p", paths)


def targets_of(tree, rewards, eta):
    return soft_targets(tree, np.array(rewards, np.float32)[:, None], eta)[:, 0]


def paths(tree):
    """Each leaf's tokens, as their places in the tree, from the prompt on."""
    previous = tree.previous()
    for leaf in tree.leaves:
        place, path = tree.start[leaf + 1] - 1, []
        while place >= 0:
            path.append(place)
            place = previous[place]
        yield path[::-1]


def by_definition(tree, rewards, eta, whole_path=False):
    """The mean, over the leaves below each token, of reward − eta · (log-ratios to be paid)."""
    sums = [[] for _ in tree.tokens]
    for path, reward in zip(paths(tree), rewards, strict=True):
        if np.isnan(reward):
            continue
        for step, place in enumerate(path):
            charged = path if whole_path else path[step + 1 :]
            sums[place].append(reward - eta * sum(float(tree.log_ratio[p]) for p in charged))
    return np.array([np.mean(s) if s else np.nan for s in sums])


def random_tree(seed):
    """A tree of random shape, lengths, tokens and log-ratios; rewards, some abstained."""
    random = np.random.default_rng(seed)
    segments = {(): Segment(random.integers(0, 9, 3).tolist(), [0.0] * 3)}

    def add(path):
        size = int(random.integers(1, 4))
        tokens = random.integers(0, 9, size).tolist()
        ratio = random.normal(size=size).tolist()
        if len(path) > 1 and (len(path) == 4 or random.random() < 0.3):
            segments[path] = Segment(tokens, ratio, "text", "end")
            return
        segments[path] = Segment(tokens, ratio)
        for child in range(random.integers(1, 4)):
            add((*path, child))

    for child in range(3):
        add((child,))
    tree = build_tree("p", segments)
    rewards = random.normal(size=len(tree.leaves))
    rewards[random.random(len(rewards)) < 0.2] = np.nan
    return tree, rewards


def test_by_hand(tree):
    targets = targets_of(tree, GOLDEN["rewards"], GOLDEN["eta"])
    assert targets.tolist() == pytest.approx(GOLDEN["targets"], abs=1e-6)


def test_a_leaf_that_abstained_is_left_out(tree):
    targets = targets_of(tree, [1.0, np.nan, -1.0], 0.5)
    expected = [np.nan if t is None else t for t in GOLDEN["targets_without_c"]]
    assert targets.tolist() == pytest.approx(expected, abs=1e-6, nan_ok=True)


def test_all_leaves_abstained(tree):
    assert np.isnan(targets_of(tree, [np.nan] * 3, 0.5)).all()


def test_without_a_price_it_is_the_mean_reward(tree):
    expected = [2 / 3, 2 / 3, 1.5, 1.5, 1, 1, 2, -1]
    assert targets_of(tree, GOLDEN["rewards"], 0.0).tolist() == pytest.approx(expected)


def test_only_the_future_is_charged(tree):
    """What stands before a state does not change its target; what comes after does."""
    before = targets_of(tree, GOLDEN["rewards"], 0.5)
    past = tree.log_ratio.copy()
    past[[2, 3]] += 1.0  # A's own tokens
    changed = build_tree_with(tree, past)
    after = targets_of(changed, GOLDEN["rewards"], 0.5)
    np.testing.assert_allclose(after[4:], before[4:], atol=1e-6)  # B, C, D and their inside
    assert after[3] == pytest.approx(before[3])
    assert after[2] == pytest.approx(before[2] - 0.5)
    assert after[1] == pytest.approx(before[1] - 0.5 * 2.0 * 2 / 3)
    whole = by_definition(tree, GOLDEN["rewards"], 0.5, whole_path=True)
    assert np.abs(whole - before)[2:].max() > 0.1


def build_tree_with(tree, log_ratio):
    return type(tree)(**{**vars(tree), "log_ratio": log_ratio})


@pytest.mark.parametrize("seed", range(20))
def test_against_the_definition(seed):
    tree, rewards = random_tree(seed)
    assert tree.parent[0] == NO_PARENT
    found = targets_of(tree, rewards, 0.7)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, by_definition(tree, rewards, 0.7), atol=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_each_objective_is_as_it_would_be_alone(seed):
    """Also where others abstained; a mix of weights that sum to 1 is that of the mixed reward."""
    tree, one = random_tree(seed)
    other = np.random.default_rng(seed + 100).normal(size=len(one))
    other[0] = np.nan
    both = soft_targets(tree, np.stack([one, other], 1).astype(np.float32), 0.7)
    np.testing.assert_array_equal(both[:, 0], targets_of(tree, one, 0.7))
    np.testing.assert_array_equal(both[:, 1], targets_of(tree, other, 0.7))
    known = np.nan_to_num(np.stack([one, other], 1)).astype(np.float32)
    mixed = soft_targets(tree, known @ np.array([[1.5], [-0.5]], np.float32), 0.7)
    np.testing.assert_allclose(soft_targets(tree, known, 0.7) @ [1.5, -0.5], mixed[:, 0], atol=1e-5)
