"""Which weights trees are grown under, and rounds measured at."""

from collections import Counter

import numpy as np
import pytest

from mavis.training.weightings import drawn, label, measured, mixed


@pytest.mark.parametrize("outputs", [1, 2, 3, 5])
def test_all_are_on_the_simplex(outputs):
    for weights in [*measured(outputs), *(drawn((at,), outputs) for at in range(50))]:
        assert len(weights) == outputs
        assert min(weights) >= 0
        assert sum(weights) == pytest.approx(1)


def test_corners_edges_and_the_middle_are_visited():
    weights = np.array([drawn((at, "a prompt"), 3) for at in range(4000)])
    several = Counter((weights > 0).sum(1).tolist())
    assert several[1] / 4000 == pytest.approx(0.25, abs=0.03)
    assert several[2] / 4000 == pytest.approx(0.375, abs=0.03)
    assert several[3] / 4000 == pytest.approx(0.375, abs=0.03)
    np.testing.assert_allclose(weights.mean(0), 1 / 3, atol=0.02)
    assert ((np.abs(weights - 1 / 3) < 0.1).all(1)).mean() > 0.02


def test_a_prompt_has_its_own_weights_in_each_round():
    keys = [(seed, round_, prompt) for seed in (0, 1) for round_ in (1, 2) for prompt in "ab"]
    assert len({drawn(key, 2) for key in keys}) > 4
    assert all(drawn(key, 2) == drawn(key, 2) for key in keys)


def test_every_objective_alone_and_all_equally():
    assert measured(1) == [(1.0,)]
    assert measured(3)[:3] == [(1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)]
    assert measured(3)[3] == pytest.approx((1 / 3,) * 3)
    names = [label(["a", "b", "c"], weights) for weights in measured(3)]
    assert names == ["a", "b", "c", "0.33 a + 0.33 b + 0.33 c"]


def test_a_reward_that_weighs_nothing_may_abstain():
    rewards = np.array([[1.0, np.nan], [2.0, 4.0]])
    np.testing.assert_array_equal(mixed(rewards, (1.0, 0.0)), [1.0, 2.0])
    np.testing.assert_array_equal(mixed(rewards, (0.5, 0.5)), [np.nan, 3.0])
