"""Measurements against brute force."""

import math
from itertools import combinations

import numpy as np
import pytest

from mavis.evaluation.metrics import (
    distinct,
    mean_reward,
    repetition,
    sibling_rank_correlation,
)


def tau(predicted, target, family):
    """Concordant minus discordant pairs of siblings with different targets, over all of them."""
    signs = []
    for i, j in combinations(range(len(target)), 2):
        if family[i] == family[j] and target[i] != target[j]:
            signs.append(np.sign(predicted[i] - predicted[j]) * np.sign(target[i] - target[j]))
    return np.mean(signs) if signs else math.nan


def test_sibling_rank_correlation():
    random = np.random.default_rng(1)
    family = random.integers(0, 12, 60)
    target, predicted = random.normal(size=60).round(1), random.normal(size=60).round(1)
    found = sibling_rank_correlation(predicted, target, family)
    assert found == pytest.approx(tau(predicted, target, family))
    assert sibling_rank_correlation(target, target, family) == 1
    assert sibling_rank_correlation(-target, target, family) == -1
    assert math.isnan(sibling_rank_correlation(target, target, np.arange(60)))


def test_a_mean_reward_leaves_out_what_abstained():
    assert mean_reward([[1.0], [3.0], [math.nan]]) == {"reward": 2.0, "reward_se": 1.0}  # √2 / √2
    assert math.isnan(mean_reward([1.0])["reward_se"])
    assert math.isnan(mean_reward([math.nan])["reward"])


def test_short_answers_repeat_nothing():
    assert distinct([[1], []], 3) == 1.0
    assert repetition([[1], []], 3) == 0.0
