"""Indicators against worked examples and brute force."""

import math
from itertools import combinations

import numpy as np
import pytest

from mavis.evaluation.pareto import (
    epsilon_dominance,
    hypervolume,
    igd_plus,
    inner_product,
    maximin,
    nondominated,
    reference_point,
    union_front,
    weighted_gain,
    worst_case,
)


def dominates(a, b):
    return all(a >= b) and any(a > b)


def grid(seed, objectives, points):
    """Few values in each objective, so that ties and copies are common."""
    return np.random.default_rng(seed).integers(0, 4, size=(points, objectives)).astype(float)


def boxes(points, reference):
    """The volume of a union of boxes by inclusion and exclusion, over all subsets."""
    points = [p for p in points if all(p > reference)]
    volume = 0.0
    for size in range(1, len(points) + 1):
        for some in combinations(points, size):
            volume -= (-1) ** size * np.prod(np.min(some, axis=0) - reference)
    return volume


@pytest.mark.parametrize("objectives", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("points", [1, 2, 12, 60])
def test_nondominated_by_brute_force(objectives, points):
    some = grid(points, objectives, points)
    expected = [not any(dominates(other, mine) for other in some) for mine in some]
    assert nondominated(some).tolist() == expected
    assert nondominated(np.concatenate([some, some])).tolist() == expected * 2


@pytest.mark.parametrize("objectives", [1, 2, 3, 4, 5, 6])
@pytest.mark.parametrize("points", [1, 2, 7])
def test_hypervolume_by_inclusion_and_exclusion(objectives, points):
    for seed in range(5):
        reference = np.full(objectives, 0.5)
        some = grid(seed, objectives, points)
        assert hypervolume(some, reference) == pytest.approx(boxes(some, reference), abs=1e-12)
        smooth = np.random.default_rng(seed).normal(size=(points, objectives))
        assert hypervolume(smooth, -reference) == pytest.approx(boxes(smooth, -reference))


def test_hypervolume_by_hand():
    assert hypervolume([[1, 3], [2, 2], [3, 1]], [0, 0]) == 6  # columns of 3, 2 and 1
    assert hypervolume([[1, 3], [2, 2], [3, 1]], [1, 1]) == 1
    assert hypervolume([[5]], [2]) == 3
    # Three boxes of 2; each two share the unit cube, and so do all three: 6 − 3 + 1.
    assert hypervolume([[1, 1, 2], [1, 2, 1], [2, 1, 1]], [0, 0, 0]) == 4


def test_what_adds_no_hypervolume():
    front = [[1.0, 3.0], [3.0, 1.0]]
    whole = hypervolume(front, [0, 0])
    dominated, copy, outside, on_the_edge = [1, 1], [1, 3], [-1, 9], [0, 9]
    for point in (dominated, copy, outside, on_the_edge):
        assert hypervolume([*front, point], [0, 0]) == whole
    assert hypervolume(front, [3, 3]) == 0
    assert hypervolume([[-1, -1]], [0, 0]) == 0


@pytest.mark.parametrize("objectives", [1, 2, 3, 4])
@pytest.mark.parametrize(("points", "size"), [(1, 1), (1, 5), (6, 4)])
def test_distances_to_a_front_by_brute_force(objectives, points, size):
    random = np.random.default_rng(size)
    mine, front = random.normal(size=(points, objectives)), random.normal(size=(size, objectives))
    short = [[math.hypot(*np.maximum(f - p, 0)) for p in mine] for f in front]
    assert igd_plus(mine, front) == pytest.approx(np.mean([min(row) for row in short]))
    raised = [[max(f - p) for p in mine] for f in front]
    assert epsilon_dominance(mine, front) == pytest.approx(max(min(row) for row in raised))


def test_distances_to_a_front_by_hand():
    front = [[0, 3], [3, 0]]
    # (1, 1) falls short of either by 2, in one objective; the objective it is ahead in is free.
    assert igd_plus([[1, 1]], front) == 2
    assert igd_plus([[1, 1], [0, 2]], front) == 1.5
    assert epsilon_dominance([[1, 1]], front) == 2
    assert igd_plus([[0, 1, 4]], [[2, 2, 2]]) == pytest.approx(math.sqrt(5))
    assert epsilon_dominance([[0, 1, 4]], [[2, 2, 2]]) == 2
    for better in (front, [[3, 3]], [*front, [-9, -9]]):
        assert igd_plus(better, front) == 0
    assert epsilon_dominance(front, front) == 0
    assert epsilon_dominance([[4, 5]], front) == -1


def test_epsilon_is_the_least_that_dominates():
    random = np.random.default_rng(7)
    mine, front = random.normal(size=(5, 3)), random.normal(size=(4, 3))
    least = epsilon_dominance(mine, front)
    assert all(any(all(p + least + 1e-9 >= f) for p in mine) for f in front)
    assert not all(any(all(p + least - 1e-9 >= f) for p in mine) for f in front)


def test_maximin_by_hand():
    front = [[0, 4], [3, 3], [4, 0]]
    # From (0, 4): (3, 3) is 1 behind in one objective; (4, 0) would be 4 behind.
    assert maximin([[0, 4]], front) == -1
    assert maximin([[3, 3]], front) == -3
    assert maximin(front, front) == pytest.approx((-1 - 3 - 1) / 3)
    assert maximin([[1, 1]], front) == 2  # dominated by (3, 3), by 2 in each
    assert maximin([[3, 2]], front) == 0  # weakly dominated
    assert maximin([[1, 1, 1]], [[2, 4, 1.5], [9, 9, 0]]) == 0.5
    # A dominated point of the set itself does not compete: the front does.
    assert maximin([[0, 4], [-5, -5]], front) == (-1 + 8) / 2


@pytest.mark.parametrize("objectives", [1, 2, 3])
def test_the_sign_of_maximin_is_dominance(objectives):
    some = grid(3, objectives, 25)
    front = union_front([some])
    for point in some:
        if len(front) == 1 and all(point == front[0]):
            assert math.isnan(maximin([point], front))
            continue
        others = [f for f in front if any(f != point)]
        assert maximin([point], front) == max(min(f - point) for f in others)
        assert (maximin([point], front) >= 0) == any(all(f >= point) for f in others)


def test_maximin_of_a_lone_point():
    assert math.isnan(maximin([[1, 2]], [[1, 2]]))
    assert math.isnan(maximin([[1, 2], [0, 0]], [[1, 2]]))
    assert maximin([[0, 0]], [[1, 2]]) == 1


def test_union_front():
    a, b = [[0, 2], [1, 1], [1, 1]], [[0, 2], [2, 0], [0, 1]]
    expected = [[0, 2], [1, 1], [2, 0]]
    assert union_front([a, b]).tolist() == union_front([b, a]).tolist() == expected
    assert union_front([[[1, 2]]]).tolist() == [[1, 2]]
    assert union_front([expected, [[3, 3]]]).tolist() == [[3, 3]]


def test_every_indicator_sees_a_better_set():
    """Move all points up: more volume, less distance."""
    random = np.random.default_rng(5)
    mine, front = random.normal(size=(6, 3)), random.normal(size=(6, 3)) + 1
    reference, better = reference_point([mine, front]), mine + 0.1
    assert hypervolume(better, reference) > hypervolume(mine, reference)
    for distance in (igd_plus, epsilon_dominance, maximin):
        assert distance(better, front) < distance(mine, front)


def test_reference_point():
    a, b = [[0.0, 10.0], [1.0, 5.0]], [[4.0, 30.0]]
    assert reference_point([a, b]) == pytest.approx([-0.4, 2.5])
    assert reference_point([b, a], margin=0.5) == pytest.approx([-2.0, -7.5])
    assert reference_point([a], margin=0.0).tolist() == [0.0, 5.0]
    assert reference_point([b]).tolist() == [4.0, 30.0]  # one point has no range


def test_rewards_under_weightings():
    rewards, weights = [[2.0, -1.0], [1.0, 1.0], [0.0, 4.0]], [[1, 0], [0.5, 0.5], [0.25, 0.75]]
    assert inner_product(rewards, weights) == pytest.approx((2 + 1 + 3) / 3)
    gains = (2 - 1) + (1 - 0.5) + (3 - 0.25)  # each less λ · (1, 0)
    assert weighted_gain(rewards, [1.0, 0.0], weights) == pytest.approx(gains / 3)
    assert worst_case(rewards) == pytest.approx((-1 + 1 + 0) / 3)


def test_the_worst_case_of_means_is_at_least_that_of_prompts():
    rewards = np.random.default_rng(0).normal(size=(20, 3))
    assert worst_case(rewards.mean(axis=0, keepdims=True)) > worst_case(rewards)


NAN = [[0.0, 1.0], [math.nan, 1.0]]
GOOD = [[0.0, 1.0], [1.0, 0.0]]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: nondominated(NAN), r"points must be finite, got \[nan, 1.0\] in row 1\."),
        (lambda: nondominated([[1, math.inf]]), r"points must be finite, got .* in row 0\."),
        (lambda: nondominated([1, 2]), r"points must be a matrix .* got shape \(2,\)\."),
        (lambda: nondominated(np.zeros((0, 2))), r"points must be a matrix .* \(0, 2\)\."),
        (lambda: hypervolume(NAN, [0, 0]), r"points must be finite"),
        (lambda: hypervolume(GOOD, [0, 0, 0]), r"reference .* of points \(M = 2\), got 3\."),
        (lambda: hypervolume(GOOD, 0), r"reference must be one finite number .* got 0\.0\."),
        (lambda: hypervolume(GOOD, [0, math.nan]), r"reference must be one finite number"),
        (lambda: hypervolume(GOOD, [[0, 0]]), r"reference must be one finite number"),
        (lambda: igd_plus(GOOD, [[1]]), r"points must have .* of front \(M = 1\), got 2\."),
        (lambda: igd_plus(GOOD, NAN), r"front must be finite"),
        (lambda: epsilon_dominance(NAN, GOOD), r"points must be finite"),
        (lambda: maximin(GOOD, [[1, 2, 3]]), r"points .* of front \(M = 3\), got 2\."),
        (lambda: union_front([]), r"sets must hold at least one set of points, got none\."),
        (lambda: union_front([GOOD, NAN]), r"set 1 must be finite"),
        (lambda: union_front([GOOD, [[1]]]), r"set 1 must have .* set 0 \(M = 2\), got 1\."),
        (lambda: reference_point([GOOD], -0.1), r"margin .* at least 0, got -0\.1\."),
        (lambda: reference_point([]), r"sets must hold at least one"),
        (lambda: inner_product(GOOD, [[1, 0]]), r"weights .* \(2, 2\)\), got \(1, 2\)\."),
        (lambda: inner_product(NAN, GOOD), r"rewards must be finite"),
        (lambda: weighted_gain(GOOD, [1], GOOD), r"baseline .* of rewards \(M = 2\), got 1\."),
        (lambda: weighted_gain(GOOD, [1, 1], [[1, 0]]), r"weights must have the shape"),
        (lambda: worst_case(NAN), r"rewards must be finite, got \[nan, 1.0\] in row 1\."),
    ],
)
def test_errors_say_what_is_wrong(call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_arguments_stay_as_they_were():
    points = np.random.default_rng(0).normal(size=(6, 3))
    points.flags.writeable = False
    hypervolume(points, reference_point([points]))
    for distance in (igd_plus, epsilon_dominance, maximin):
        distance(points, union_front([points]))
