"""The strength for a KL budget: against a search by brute force, and against decoding itself."""

import numpy as np
import pytest

from mavis.decoding.policy import GuidedPolicy
from mavis.evaluation import strength
from mavis.evaluation.strength import CLOSE, ExpectedKL, strength_at_kl

PROMPTS = ["an um", "hats", "the sun is"]


def expected_kl(policy, written, weights, beta, **settings):
    prompts, replies = [one.prompt for one in written], [one.tokens for one in written]
    return ExpectedKL(policy.rule, policy.walk(prompts, replies, weights, 1.0, **settings))(beta)


@pytest.fixture
def policy(tiny_reference, tiny_network):
    return GuidedPolicy(tiny_reference, (tiny_network(tiny_reference, "action", ("humor",)),))


@pytest.fixture
def written(tiny_reference):
    return GuidedPolicy(tiny_reference).generate(PROMPTS, n=8, max_tokens=8, top_k=12)


def test_expected_kl_is_that_of_whole_sequences(policy, written, naive):
    slow = naive(policy.reference, policy.guides)
    from mavis.decoding.request import SamplingParams

    sampling, total = SamplingParams((0.5,), beta=2.0, top_k=12), 0.0
    for one in written[:4]:
        seen = list(policy.reference.encode(one.prompt).tokens)
        for token in one.tokens:
            step = slow.step(seen, sampling)
            total += step.kl - step.truncation
            seen = [*seen, token]
    kl = expected_kl(policy, written[:4], {"humor": 0.5}, 2.0, top_k=12)
    assert kl == pytest.approx(total / 4, abs=1e-3)


def test_expected_kl_is_a_sum_over_states(policy, written, monkeypatch):
    """However many of them are tilted together; and without a tilt there is none."""
    found = [expected_kl(policy, written, {"humor": 1.0}, beta, top_k=12) for beta in (0.0, 1.0)]
    assert found[0] == pytest.approx(0.0, abs=1e-5)
    monkeypatch.setattr(strength, "AT_ONCE", 7)
    assert expected_kl(policy, written, {"humor": 1.0}, 1.0, top_k=12) == pytest.approx(found[1])
    assert found[1] > 0.01


def test_the_covariance_is_that_of_a_weak_tilt(tiny_reference, tiny_network, written):
    """For any weights: KL is β² λᵀCλ / 2 to first order, whatever a forbidden token's value is."""
    network = tiny_network(tiny_reference, "action", ("humor", "kind"))
    policy = GuidedPolicy(tiny_reference, (network,))
    prompts, replies = [one.prompt for one in written], [one.tokens for one in written]
    steps = policy.walk(prompts, replies, None, 1.0, top_k=12, top_p=0.9)
    expected = ExpectedKL(policy.rule, steps)
    covariance = expected.covariance()
    np.testing.assert_allclose(covariance, covariance.T)
    for weights in ((1.0, 0.0), (0.0, 1.0), (0.5, 0.5), (1.0, -1.0)):
        λ, beta = np.array(weights), 0.02
        found = expected.of(weights)(beta)
        assert found == pytest.approx(beta**2 * λ @ covariance @ λ / 2, rel=0.05, abs=2e-6)


@pytest.mark.parametrize("kl", [0.05, 0.5, 2.0])
@pytest.mark.parametrize("weight", [1.0, -0.3])
def test_the_strength_spends_the_budget(policy, written, kl, weight):
    beta = strength_at_kl(policy, written, {"humor": weight}, kl, top_k=12)
    spent = [
        expected_kl(policy, written, {"humor": weight}, b, top_k=12)
        for b in (0.9 * beta, beta, 1.1 * beta)
    ]
    assert spent[1] == pytest.approx(kl, rel=CLOSE)
    assert spent[0] < kl < spent[2]
    # Twice the weight at half the strength is the same policy.
    half = strength_at_kl(policy, written, {"humor": 2 * weight}, kl, top_k=12)
    assert half == pytest.approx(beta / 2, rel=2 * CLOSE)


def test_what_is_expected_is_what_decoding_spends(policy, tiny_reference):
    """On other prompts and draws than the budget was measured on, within the noise of both."""
    plain = GuidedPolicy(tiny_reference)
    written = plain.generate(PROMPTS, n=80, max_tokens=8, top_k=12)
    beta = strength_at_kl(policy, written, {"humor": 1.0}, 0.3, top_k=12)
    answers = policy.generate(PROMPTS, beta=beta, n=80, max_tokens=8, top_k=12, seed=1)
    spent = np.array([one.kl - one.kl_truncation for one in answers])
    error = spent.std() / np.sqrt(len(spent))
    assert spent.mean() == pytest.approx(0.3, abs=4 * error + 0.03)


def test_budgets_that_cannot_be_spent(policy, written):
    with pytest.raises(ValueError, match="no strength reaches a KL of 1 nats"):
        strength_at_kl(policy, written, {"humor": 0.0}, 1.0, top_k=12)
    with pytest.raises(ValueError, match="no strength reaches a KL of 1000 nats"):
        strength_at_kl(policy, written, {"humor": 1.0}, 1000.0, top_k=12)
    for kl in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="kl must be above 0"):
            strength_at_kl(policy, written, {"humor": 1.0}, kl, top_k=12)
    with pytest.raises(ValueError, match="at least one of the reference"):
        strength_at_kl(policy, [], {"humor": 1.0}, 1.0, top_k=12)
