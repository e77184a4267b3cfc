"""The setting of a comparison: the same for every method."""

import numpy as np

from mavis.decoding.policy import GuidedPolicy
from mavis.decoding.request import SamplingParams
from mavis.prompts import plain


def test_every_method_is_the_reference_at_strength_nothing(sweep):
    """Common random numbers: at strength 0 all methods say word for word the same."""
    start = sweep.reference()
    folders = sweep.open(["mavis", "mod", "soup", "morlhf", "parm"])
    for method, places in folders.items():
        choose = sweep.load(method, places).weighted((0.5, 0.5))
        point = sweep.setting.point(method, (0.5, 0.5), 0.0, choose)
        assert point.tokens == start.tokens
        np.testing.assert_allclose(point.kl, start.kl, atol=1e-5)
        np.testing.assert_array_equal(point.rewards, start.rewards)


def test_a_point_s_answers_are_those_of_its_policy_seed_by_seed(sweep, setting):
    folders = sweep.open(["mod"])["mod"]
    choose = sweep.load("mod", folders).weighted((0.5, 0.5))
    point = setting.point("mod", (0.5, 0.5), 1.3, choose)
    policy, vector = choose(0)
    for seed in range(2):
        sampling = SamplingParams(vector, 1.3, 1.0, 20)
        answers = policy.sample(setting.prompts, [sampling] * 4, [6] * 4, [seed] * 4)
        assert [row[seed] for row in point.responses] == [a.text for a in answers]
        wanted = [a.kl - a.kl_truncation for a in answers]
        np.testing.assert_allclose(point.kl[:, seed], wanted, atol=1e-5)
    texts = [text for row in point.responses for text in row]
    for m, objective in enumerate(setting.objectives):
        want = objective.reward([plain(p) for p in setting.prompts for _ in range(2)], texts)
        np.testing.assert_allclose(point.rewards[..., m].ravel(), want, atol=1e-6)


def test_best_of_is_many_answers_of_the_reference(sweep, disk_reference):
    point, prompts = sweep.best_of(), sweep.setting.prompts
    assert point.rewards.shape == (4, 3, 2)
    answers = GuidedPolicy(disk_reference).generate(prompts, n=3, top_k=20, max_tokens=6)
    assert [text for row in point.responses for text in row] == [a.text for a in answers]
