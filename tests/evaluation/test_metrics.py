"""Measurements against brute force."""

import math
from itertools import combinations

import numpy as np
import pytest

from mavis.evaluation.metrics import (
    Sample,
    at_kl,
    best_of_n,
    distinct,
    repetition,
    sibling_rank_correlation,
    summary,
)


def test_best_of_n_by_enumeration():
    rewards, cut = np.random.default_rng(0).normal(size=(2, 5, 8))
    points = best_of_n(rewards, cut)
    assert [n for n, _, _ in points] == list(range(1, 9))
    for n, kl, reward in points:
        best = [np.mean([max(some) for some in combinations(row, n)]) for row in rewards]
        assert reward == pytest.approx(np.mean(best))
        spent = [
            np.mean(
                [
                    cost[max(some, key=lambda i, row=row: row[i])]
                    for some in combinations(range(8), n)
                ]
            )
            for row, cost in zip(rewards, cut, strict=True)
        ]
        assert kl == pytest.approx(math.log(n) - (n - 1) / n + np.mean(spent))


def test_best_of_n_never_picks_what_abstained():
    """An abstained answer counts as the worst of *its* prompt."""
    rewards = np.array([[5.0, np.nan, 7.0, 6.0], [-3.0, -1.0, -2.0, -4.0]])
    filled = np.array([[5.0, 5.0, 7.0, 6.0], [-3.0, -1.0, -2.0, -4.0]])
    cut = np.zeros((2, 4))
    assert best_of_n(rewards, cut) == best_of_n(filled, cut)
    nothing = np.full((1, 4), np.nan)
    more = np.concatenate([nothing, rewards])
    assert best_of_n(more, np.ones((3, 4))) == best_of_n(filled, np.ones((2, 4)))


def test_at_kl():
    curve = [(1, 0.0, 0.0), (2, 0.2, 1.0), (4, 0.6, 2.0)]
    assert at_kl(curve, 0.4) == pytest.approx(1.5)
    assert at_kl(curve, 0.0) == 0.0
    assert at_kl(curve, 0.61) is None
    assert at_kl(curve, -0.1) is None
    assert at_kl([], 0.1) is None


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


def make(reward, tokens=(1, 2, 3), kl=1.0):
    return Sample("p", "r", list(tokens), reward, kl, kl + 0.5, 0.1)


def test_summary():
    samples = [make(1.0), make(3.0, (1, 2, 3, 4), 2.0), make(math.nan, (1, 2, 3, 1, 2, 3), 3.0)]
    found = summary(samples)
    assert found["reward"] == 2.0
    assert found["reward_se"] == pytest.approx(1.0)  # std √2 over √2
    assert found["kl"] == 2.0
    assert found["kl_sampled"] == 2.5
    assert found["kl_truncation"] == pytest.approx(0.1)
    assert found["length"] == pytest.approx(13 / 3)
    # 123, 123 234, 123 231 312 123: four different of seven; one of four said before.
    assert found["distinct_3"] == pytest.approx(4 / 7)
    assert found["repetition"] == pytest.approx(0.25 / 3)
    assert math.isnan(summary(samples[:1])["reward_se"])


def test_short_answers_repeat_nothing():
    assert distinct([[1], []], 3) == 1.0
    assert repetition([[1], []], 3) == 0.0
