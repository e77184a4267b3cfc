"""Reading curves at a KL, against hand-made numbers and brute force."""

import itertools
import math

import numpy as np
import pytest

from mavis.evaluation.bootstrap import resamples
from mavis.evaluation.kl_matching import PerPrompt, at_kl, best_of_n, per_prompt

COUNTS = resamples(4, 50)


def level(rewards, kl, prompts=4):
    """A point that is the same for every prompt."""
    return PerPrompt(np.tile(np.asarray(rewards, float), (prompts, 1)), np.full(prompts, float(kl)))


def test_between_two_points_reward_is_linear_in_root_kl():
    curve = [level([0, 0], 0), level([2, -1], 4), level([3, -2], 9)]
    reading = at_kl(curve, 1.0, COUNTS)  # √1 is half way to √4
    np.testing.assert_allclose(reading.rewards, [1, -0.5])
    np.testing.assert_allclose(reading.samples, np.tile([1, -0.5], (50, 1)))
    np.testing.assert_allclose(at_kl(curve, 6.25, COUNTS).rewards, [2.5, -1.5])
    np.testing.assert_allclose(at_kl(curve[::-1], 4.0, COUNTS).rewards, [2, -1])


def test_beyond_its_ends_a_curve_says_nothing():
    curve = [level([0], 0.1), level([1], 1)]
    assert at_kl(curve, 1.01, COUNTS) is None
    assert at_kl(curve, 0.05, COUNTS) is None
    assert at_kl(curve, 0.1, COUNTS).rewards.tolist() == [0]


def test_a_tilt_of_a_gaussian_is_read_exactly():
    """Reward σ√(2·KL) is linear in √KL: any two points give every other one."""
    curve = [level([math.sqrt(2 * kl)], kl) for kl in (0.5, 3.0)]
    assert at_kl(curve, 1.7, COUNTS).rewards[0] == pytest.approx(math.sqrt(3.4))


def test_resamples_move_rewards_and_kl_together():
    """With reward = √KL for each prompt the same, no resample leaves the line much."""
    kl = np.array([1.0, 1.0, 4.0, 4.0])
    low, high = PerPrompt(np.sqrt(kl)[:, None], kl), PerPrompt(2 * np.sqrt(kl)[:, None], 4 * kl)
    reading = at_kl([low, high], 4.0, COUNTS)
    assert reading.samples.std() < 0.05
    alone = (COUNTS @ high.rewards) / 4
    assert alone.std() > 0.2


def test_a_stand_averages_answers_and_leaves_out_what_abstained():
    rewards = np.array([[[1.0, np.nan], [3.0, 5.0]], [[np.nan, 2.0], [np.nan, 4.0]]])
    found = per_prompt(rewards, np.array([[1.0, 3.0], [2.0, 2.0]]))
    np.testing.assert_equal(found.rewards, [[2, 5], [np.nan, 3]])
    np.testing.assert_equal(found.kl, [2, 2])


def test_best_of_n_is_the_mean_over_all_draws():
    rng = np.random.default_rng(0)
    rewards, weights = rng.normal(size=(3, 5, 2)), (0.7, -0.3)
    curve = best_of_n(rewards, weights)
    assert len(curve) == 5
    for draws, point in enumerate(curve, 1):
        picks = []
        for prompt in range(3):
            best = [
                max(some, key=lambda i: rewards[prompt, i] @ weights)
                for some in itertools.combinations(range(5), draws)
            ]
            picks.append(rewards[prompt][best].mean(0))
        np.testing.assert_allclose(point.rewards, picks)
        np.testing.assert_allclose(point.kl, math.log(draws) - (draws - 1) / draws)


def test_without_resamples_every_prompt_counts_once():
    curve = [level([0], 0), level([2], 4)]
    reading = at_kl(curve, 1.0)
    assert reading.rewards.tolist() == [1.0]
    assert reading.samples.tolist() == [[1.0]]


GOLDEN = np.array(  # [P, n, M]: the first objective abstains now and then, the second once
    [
        [[4.0, 0.0], [np.nan, 8.0], [1.0, 2.0]],
        [[-2.0, 1.0], [0.0, np.nan], [1.0, 4.0]],
        [[np.nan, 5.0], [np.nan, 6.0], [np.nan, 7.0]],
    ]
)


def test_best_of_n_where_answers_abstain_by_hand_for_one_objective():
    """Rewards 4 ? 1 and −2 0 1 and ? ? ?: the second answer counts 1, the third prompt nothing.

    N = 1: (4 + 1 + 1) / 3 = 2 and (−2 + 0 + 1) / 3 = −1/3. N = 2: of the pairs 4, 4 and 1 are the
    best, mean 3; and 0, 1 and 1, mean 2/3. N = 3: 4 and 1.
    """
    curve = best_of_n(GOLDEN[..., :1], [1.0])
    by_prompt = [[2.0, -1 / 3, np.nan], [3.0, 2 / 3, np.nan], [4.0, 1.0, np.nan]]
    for point, want in zip(curve, by_prompt, strict=True):
        np.testing.assert_allclose(point.rewards[:, 0], want)
    np.testing.assert_allclose([p.mean_rewards[0] for p in curve], [5 / 6, 11 / 6, 2.5])
    # The third prompt, which is left out, has no KL either.
    np.testing.assert_allclose(curve[0].kl, [0, 0, np.nan])
    assert curve[2].mean_kl == pytest.approx(math.log(3) - 2 / 3)


def test_best_of_n_where_answers_abstain_by_hand_for_two_objectives():
    """Half and half: sums 4 ? 3 and −1 ? 5, and all of the third prompt's are unknown.

    The second answer counts as (1, 2), the worst to the first prompt, and as (−2, 1).
    """
    curve = best_of_n(GOLDEN, [0.5, 0.5])
    np.testing.assert_allclose(curve[0].rewards, [[2, 4 / 3], [-1, 2], [np.nan, np.nan]])
    np.testing.assert_allclose(curve[1].rewards[:2], [[3, 2 / 3], [0, 3]])
    np.testing.assert_allclose(curve[2].rewards[:2], [[4, 0], [1, 4]])
    np.testing.assert_allclose(curve[0].mean_rewards, [0.5, 5 / 3])
    assert curve[0].mean_kl == 0


def test_an_answer_abstains_by_any_of_its_rewards():
    """Even by one without a weight: the answers that can win are the same for all weights."""
    curve = best_of_n(GOLDEN, [0.0, 1.0])
    np.testing.assert_allclose(curve[2].rewards, [[1, 2], [1, 4], [np.nan, np.nan]])


def test_the_worst_answer_under_a_negative_weight_has_the_highest_reward():
    rewards = np.array([[[1.0], [np.nan], [3.0]]])
    curve = best_of_n(rewards, [-1.0])
    np.testing.assert_allclose([p.rewards[0, 0] for p in curve], [7 / 3, 5 / 3, 1])
