"""The points of a sweep in standard units: best-of-N beside everything else."""

from dataclasses import replace

import numpy as np

from mavis.comparison.analysis import replicates
from mavis.comparison.contamination import Checks
from mavis.comparison.results import results
from mavis.evaluation.kl_matching import analytic_kl
from mavis.reward import Units

LUCK = np.array([0.7, -0.3])


def test_everything_starts_at_all_the_answers_of_the_reference_there_are(analysis):
    """Whatever the luck of its first ones: N = 1 is where the curves of all methods start."""
    given = analysis(("best_of", "mavis"))
    given = replace(given, best_of=replace(given.best_of, rewards=given.best_of.rewards + LUCK))
    start = given.per_prompt(given.best_of).rewards
    np.testing.assert_allclose(given.best_curve((0.5, 0.5))[0].rewards, start)
    np.testing.assert_allclose(start.mean(0), 0.0, atol=1e-12)
    np.testing.assert_allclose(given.at_equal_kl(1).reference.rewards, 0.0, atol=1e-12)
    assert given.units == [
        Units.measure(given.best_of.rewards[..., m].ravel().tolist(), "x") for m in (0, 1)
    ]
    alone = replace(given, best_of=None)
    assert alone.units != given.units
    np.testing.assert_allclose(alone.at_equal_kl(1).reference.rewards, 0.0, atol=1e-12)
    found = results(given, {}, {}, {}, Checks({}, {}, []))
    np.testing.assert_allclose(found["reference"]["rewards"], 0.0, atol=1e-12)


def test_a_seed_is_held_against_the_same_start(analysis):
    given = analysis(("best_of", "mavis"))
    twice = {
        m: [[replace(p, rewards=np.repeat(p.rewards, 2, 1),
                     numbers={n: np.repeat(v, 2, 1) for n, v in p.numbers.items()},
                     responses=[said * 2 for said in p.responses],
                     tokens=[said * 2 for said in p.tokens]) for p in c] for c in curves]
        for m, curves in given.curves.items()
    }  # fmt: skip
    start = given.reference
    lucky = replace(start, rewards=np.concatenate([start.rewards, start.rewards + 3.0], axis=1))
    first, second = replicates(replace(given, reference=lucky, curves=twice), (-3.0, -3.0))
    assert first == second
    assert first.keys() == {"mavis"}


def test_a_best_answer_for_every_seed(analysis):
    given = analysis(("best_of",))
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
