"""A tree is put together from segments in any order, and keeps what they said."""

import json
from dataclasses import replace
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest

from mavis.decoding.request import Proposed
from mavis.training.tree import NO_PARENT, Segment, build_tree, read_tree, tree_row

GOLDEN = json.loads((Path(__file__).parents[1] / "data" / "tree.json").read_text())


def golden_segments():
    return {
        tuple(map(int, path.split())): Segment(**segment)
        for path, segment in GOLDEN["segments"].items()
    }


@pytest.fixture
def tree():
    return build_tree("p", golden_segments())


@pytest.mark.parametrize("name", ["tokens", "start", "parent", "leaves", "responses", "reasons"])
def test_golden_arrays(tree, name):
    assert list(getattr(tree, name)) == GOLDEN["tree"][name]


def test_golden_depth_and_previous(tree):
    assert tree.depth().tolist() == GOLDEN["tree"]["depth"]
    assert tree.previous().tolist() == GOLDEN["tree"]["previous"]
    assert tree.rewards.shape == (3, 0)  # nobody has scored it


def test_the_order_of_segments_is_no_matter(tree):
    for order in permutations(golden_segments().items()):
        other = build_tree("p", dict(order))
        assert other.tokens.tolist() == tree.tokens.tolist()
        assert other.parent.tolist() == tree.parent.tolist()
        assert other.log_ratio.tolist() == tree.log_ratio.tolist()


def test_children_stand_in_the_order_of_their_numbers():
    # Lexicographic order of texts would put child 10 before child 2.
    children = {(n, 0): Segment([n], [0.0], "x", "end") for n in range(11)}
    stems = {(n,): Segment([50 + n], [0.0]) for n in range(11)}
    tree = build_tree("p", {(): Segment([1], [0.0])} | stems | children)
    assert tree.tokens[tree.start[tree.leaves]].tolist() == list(range(11))


def test_a_response_that_ended_on_the_first_level_is_cut_in_two():
    leaf = Segment([5, 6, 7], [0.1, 0.2, 0.3], "all of it", "end")
    tree = build_tree("p", {(): Segment([1], [0.0]), (0,): leaf})
    assert tree.parent.tolist() == [NO_PARENT, 0, 1]
    assert tree.tokens.tolist() == [1, 5, 6, 7]
    assert tree.start.tolist() == [0, 1, 2, 4]
    assert tree.responses == ["all of it"]
    assert tree.leaves.tolist() == [2]
    assert tree.log_ratio.tolist() == pytest.approx([0.0, 0.1, 0.2, 0.3])
    known = [Proposed(np.array([n], np.int32), np.array([-n], np.float32)) for n in (5, 6, 7)]
    tree = build_tree("p", {(): Segment([1], [0.0]), (0,): replace(leaf, candidates=known)})
    assert tree.candidates.tokens.tolist() == [[5], [6], [7]]
    assert tree.candidates.log_ref.tolist() == [[-5], [-6], [-7]]


def test_a_tree_survives_its_table_row(tree):
    row = json.loads(json.dumps(tree_row(3, tree)))
    rewards = np.array([[1, 5], [2, 6], [np.nan, 7]], np.float32)
    again = read_tree(row, rewards)
    assert row["index"] == 3
    for name, value in vars(tree).items():
        if name == "rewards":
            np.testing.assert_array_equal(again.rewards, rewards)
        elif isinstance(value, np.ndarray):
            np.testing.assert_array_equal(getattr(again, name), value)
            assert getattr(again, name).dtype == value.dtype
        else:
            assert getattr(again, name) == value
