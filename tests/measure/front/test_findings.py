"""The points of a sweep in standard units: best-of-N beside everything else."""

from dataclasses import replace

import numpy as np

from mavis.learn.evaluate import analytic_kl
from mavis.measure.front.equal_kl import best_of_n


def test_best_of_n_starts_where_all_curves_do(findings):
    """Whatever the luck of its answers: N = 1 is the reference, on every prompt."""
    given = findings(("best_of", "mavis"))
    lucky = replace(given.best_of, rewards=given.best_of.rewards + np.array([0.7, -0.3]))
    given = replace(given, best_of=lucky)
    curve = given.best_curve((0.5, 0.5))
    np.testing.assert_allclose(curve[0].rewards, given.stand(given.reference).rewards)
    plain = best_of_n(given.standard(lucky), lucky.numbers["kl_truncation"], (0.5, 0.5))
    for mine, other in zip(curve, plain, strict=True):
        np.testing.assert_allclose(
            mine.rewards - curve[0].rewards, other.rewards - plain[0].rewards
        )
        np.testing.assert_array_equal(mine.kl, other.kl)


def test_a_best_answer_for_every_seed(findings):
    given = findings(("best_of",))
    start = given.reference
    three = replace(start, rewards=np.repeat(start.rewards, 3, axis=1))
    (chosen, *_) = replace(given, reference=three).nearest("best_of")
    n, size = int(chosen.strength), given.best_of.rewards.shape[1]
    assert 1 < n < size
    assert abs(analytic_kl(n) + 0.05 - given.kl) <= abs(analytic_kl(n + 1) + 0.05 - given.kl)
    assert chosen.rewards.shape[:2] == (24, 3)
    for prompt in range(24):
        for seed in range(3):
            among = [(seed * size // 3 + step) % size for step in range(n)]
            best = max(among, key=lambda at: given.best_of.rewards[prompt, at, 0])
            assert chosen.responses[prompt][seed] == given.best_of.responses[prompt][best]
            assert chosen.tokens[prompt][seed] == given.best_of.tokens[prompt][best]
            assert chosen.rewards[prompt, seed, 0] == given.best_of.rewards[prompt, best, 0]
