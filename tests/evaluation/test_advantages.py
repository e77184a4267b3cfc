"""Summed advantages: against whole sequences, exact values, and figures worked out by hand."""

import math
from itertools import pairwise

import numpy as np
import pytest

from mavis.decoding.policy import GuidedPolicy
from mavis.decoding.request import SamplingParams
from mavis.evaluation.advantages import agreement, reply_advantages


@pytest.mark.parametrize("source", ["action", "state", "shared"])
def test_sums_are_those_of_whole_sequences(tiny_reference, tiny_network, naive, source):
    network = tiny_network(tiny_reference, source, ("humor", "kind"))
    policy, slow = GuidedPolicy(tiny_reference, (network,)), naive(tiny_reference, [network])
    sampling = SamplingParams((0.2, 0.7), beta=3.0, temperature=0.8, top_k=0)
    replies = [[[5, 9, 2], [7]], [[33, 6], []]]
    sums = reply_advantages(policy, ["an um", "hats"], replies, sampling)
    assert sums.shape == (2, 2, 2)
    assert np.isnan(sums[1, 1]).all()  # an empty reply chose nothing
    for p, prompt in enumerate(("an um", "hats")):
        for s, reply in enumerate(replies[p]):
            seen, total = list(tiny_reference.encode(prompt).tokens), np.zeros(2)
            for token in reply:
                step = slow.step(seen, SamplingParams((0.0, 0.0), temperature=0.8, top_k=0))
                every = list(step.log_ref)
                values = np.array(slow.values(seen, every))  # [V, 2]
                shares = np.exp([step.log_ref[a] + step.truncation for a in every])
                total += values[every.index(token)] - shares @ values
                seen = [*seen, token]
            if reply:
                assert sums[p, s] == pytest.approx(total, abs=1e-4)


def test_exact_advantages_add_up_to_the_reward():
    """Three coin flips a reply: with the true values, nothing is left to explain."""
    rng = np.random.default_rng(0)
    worth = rng.normal(size=(2, 2, 2))  # the reward of each of the eight replies
    flips = rng.integers(0, 2, size=(6, 40, 3))
    rewards = worth[flips[..., 0], flips[..., 1], flips[..., 2]]
    values = [worth.mean(), worth.mean((1, 2)), worth.mean(2), worth]  # after 0 … 3 flips
    after = [values[0], *(values[n][tuple(flips[..., :n].T)].T for n in (1, 2, 3))]
    advantages = sum(b - a for a, b in pairwise(after))
    exact = agreement(advantages, rewards)
    assert exact.correlation.value == pytest.approx(1)
    assert exact.correlation.low == pytest.approx(1)
    assert exact.slope == pytest.approx(1)
    assert exact.r2 == pytest.approx(1)
    # Twice as large: as well correlated, but half the size would be right, and R² says so.
    twice = agreement(2 * advantages + 7, rewards)
    assert (twice.correlation.value, twice.slope) == pytest.approx((1, 0.5))
    assert twice.r2 == pytest.approx(0)
    assert agreement(-advantages, rewards).correlation.high == pytest.approx(-1)


def test_prompts_and_unknown_replies_are_left_out_of_account():
    rng = np.random.default_rng(1)
    advantages = rng.normal(size=(30, 5))
    rewards = 0.5 * advantages + rng.normal(size=(30, 5))
    plain = agreement(advantages, rewards)
    shifted = agreement(advantages + rng.normal(size=(30, 1)), rewards - rng.normal(size=(30, 1)))
    assert shifted.correlation.value == pytest.approx(plain.correlation.value)
    wanted = np.corrcoef(
        (advantages - advantages.mean(1, keepdims=True)).ravel(),
        (rewards - rewards.mean(1, keepdims=True)).ravel(),
    )[0, 1]
    assert plain.correlation.value == pytest.approx(wanted)
    assert plain.correlation.low < wanted < plain.correlation.high
    holes = np.concatenate([rewards, np.full((30, 1), np.nan)], axis=1)
    wider = np.concatenate([advantages, np.full((30, 1), 9.0)], axis=1)
    assert agreement(wider, holes) == plain


def test_noise_is_not_taken_for_values():
    rng = np.random.default_rng(2)
    for _ in range(5):
        noise = agreement(rng.normal(size=(60, 4)), rng.normal(size=(60, 4)))
        assert noise.correlation.low < 0.05
        assert abs(noise.correlation.value) < 0.25


def test_nothing_differs():
    flat = agreement(np.zeros((3, 2)), np.arange(6.0).reshape(3, 2))
    assert math.isnan(flat.correlation.value)
    assert math.isnan(flat.correlation.low)


def test_shapes_must_agree():
    with pytest.raises(ValueError, match=r"shape of advantages \[P, S\] \(\(2, 3\)\), got \(3,\)"):
        agreement(np.zeros((2, 3)), np.zeros(3))
