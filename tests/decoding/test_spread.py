"""The spread of weighted rewards, against draws of rewards, and the strengths that follow."""

import numpy as np
import pytest

from mavis.decoding.spread import (
    matching_equal_weights,
    mixed_spread,
    relative_strength,
    within_prompts,
)

CONFLICT = [[1.0, -0.5], [-0.5, 1.0]]


def test_the_spread_is_that_of_the_weighted_reward():
    rng = np.random.default_rng(0)
    rewards = rng.multivariate_normal([0, 0], CONFLICT, 100_000)
    for weights in ((1.0, 0.0), (0.25, 0.75), (0.5, 0.5), (1.0, -1.0)):
        found = mixed_spread(weights, CONFLICT)
        assert found == pytest.approx((rewards @ weights).std(), rel=0.02)


def test_weights_of_the_sum_one_spend_the_same():
    """KL goes by the square of the strength times the spread."""
    for weight in (0.0, 0.1, 0.25, 0.5, 0.9, 1.0):
        weights = (weight, 1 - weight)
        spent = relative_strength(weights, CONFLICT) * mixed_spread(weights, CONFLICT)
        assert spent == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("weights", "spent"),
    [((2, 0), 2), ((1, 1), 1), ((2, 2), 2), ((0.1, 0), 0.1), ((0.1, 0.1), 0.2), ((1, -1), 1)],
)
def test_larger_weights_spend_more_and_small_ones_less(weights, spent):
    found = relative_strength(weights, CONFLICT) * mixed_spread(weights, CONFLICT)
    assert found == pytest.approx(spent)


def test_nothing_is_divided_by_nothing():
    assert relative_strength((0.0, 0.0), CONFLICT) == 1.0
    opposite = [[1.0, -1.0], [-1.0, 1.0]]
    assert relative_strength((0.5, 0.5), opposite) == pytest.approx(10.0)


def test_covariance_is_within_prompts():
    """Differences between prompts are of no account, nor is an answer that was abstained from."""
    rng = np.random.default_rng(1)
    within = rng.multivariate_normal([0, 0], [[4.0, -1.0], [-1.0, 2.0]], (400, 8))
    rewards = within + 10 * rng.normal(size=(400, 1, 2))
    rewards[::3, 0, 1] = np.nan
    found = np.array(within_prompts(rewards))
    assert np.diag(found).mean() == pytest.approx(1.0)
    np.testing.assert_allclose(found, np.array([[4, -1], [-1, 2]]) / 3, atol=0.06)


def test_rewards_that_do_not_differ_have_no_covariance():
    assert within_prompts(np.ones((3, 2, 2))) == ((1.0, 0.0), (0.0, 1.0))
    assert within_prompts(np.full((3, 2, 1), np.nan)) == ((1.0,),)


@pytest.mark.parametrize("spread", [0.4, 0.5, 0.8])
def test_covariances_are_scaled_until_equal_weights_have_a_spread(spread):
    given = np.array([[1.0, -0.4], [-0.4, 0.6]])
    found = matching_equal_weights(given, spread)
    assert mixed_spread((0.5, 0.5), found) == pytest.approx(spread)
    assert np.diag(found).tolist() == np.diag(given).tolist()
    for weights in ((1.0, 0.0), (0.0, 1.0)):
        assert mixed_spread(weights, found) == mixed_spread(weights, given)


@pytest.mark.parametrize(("spread", "limit"), [(0.0, 0.0), (3.0, 1.0)])
def test_a_covariance_stays_one(spread, limit):
    """No two objectives are more than the same, or than opposites."""
    found = matching_equal_weights(np.array([[1.0, -0.5], [-0.5, 1.0]]), spread)
    assert np.linalg.eigvalsh(found)[0] == pytest.approx(0.0, abs=1e-6)
    assert mixed_spread((0.5, 0.5), found) == pytest.approx(limit, abs=1e-3)


def test_of_three_objectives_one_scale_serves_all_pairs():
    given = np.array([[1.0, -0.5, 0.1], [-0.5, 1.0, -0.2], [0.1, -0.2, 1.0]])
    found = matching_equal_weights(given, 0.45)
    assert mixed_spread((1 / 3,) * 3, found) == pytest.approx(0.45)
    assert found[0, 1] / found[0, 2] == pytest.approx(-5.0)


def test_objectives_without_covariance_stay_so():
    given = np.diag([1.0, 2.0])
    assert matching_equal_weights(given, 0.1).tolist() == given.tolist()
