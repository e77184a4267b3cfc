"""MOD's mixtures against brute force: the optimum itself, found by a general-purpose optimiser."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from mavis.baselines.mod_divergences import (
    DIVERGENCES,
    JEFFREY,
    JENSEN_SHANNON,
    alpha_divergence,
    mixture,
)
from mavis.decoding.tilt import tilt

# f as DESIGN and the paper write it: not the f' that the code is made of.
F = {
    "reverse_kl": lambda x: x * np.log(x),
    "forward_kl": lambda x: -np.log(x),
    "jsd": lambda x: x * np.log(x) - (x + 1) * np.log((x + 1) / 2),
    "jeffrey": lambda x: x * np.log(x) - np.log(x),
}


def alpha_f(a):
    return lambda x: (x ** (1 - a) - (1 - a) * x - a) / (a * (a - 1))


CASES = [(name, None, f) for name, f in F.items()] + [
    ("alpha", a, alpha_f(a)) for a in (0.1, 0.3, 0.5, 0.9)
]
NAMES = [name if a is None else f"alpha {a}" for name, a, _ in CASES]


def policies(rng, vocabulary, count, sharpness=1.5):
    return torch.log_softmax(torch.tensor(rng.normal(size=(count, vocabulary)) * sharpness), -1)


def optimum(f, ref, others, weights):
    """argmax over the simplex of Σ w_i R_i − D_f, with R_i the reward that π_i is the optimum of.

    R_i = f'(π_i/π_ref) by finite differences of f; the simplex by its softmax, the optimum by BFGS.
    """

    def slope(x):
        step = 1e-6 * x
        return (f(x + step) - f(x - step)) / (2 * step)

    reward = sum(w * slope(other / ref) for w, other in zip(weights, others, strict=True))

    def loss(logits):
        pi = np.exp(logits - logits.max())
        pi /= pi.sum()
        gradient = slope(pi / ref) - reward
        return -(pi @ reward) + ref @ f(pi / ref), pi * (gradient - pi @ gradient)

    result = minimize(loss, np.log(ref), jac=True, method="BFGS", options={"gtol": 1e-11})
    pi = np.exp(result.x - result.x.max())
    return pi / pi.sum()


def mixed(name, alpha, log_ref, log_policies, weights, beta=1.0):
    """The rule on one state: log_ref [K], log_policies [N, K]."""
    ratios = (log_policies - log_ref).T[None]
    rule = mixture(name, alpha)
    strength = torch.tensor([weights]), torch.tensor([beta])
    return rule(log_ref[None].float(), ratios.float(), *strength)[0].double()


@pytest.mark.parametrize(("name", "alpha", "f"), CASES, ids=NAMES)
@pytest.mark.parametrize("weights", [(1.0,), (0.5, 0.5), (0.7, 0.2), (1.3, 0.9), (0.2, 0.3, 0.5)])
@pytest.mark.parametrize("vocabulary", [3, 6])
def test_a_mixture_is_the_optimum_of_its_objective(name, alpha, f, weights, vocabulary):
    rng = np.random.default_rng(len(weights) * 100 + vocabulary)
    for _ in range(3):
        log_ref, *others = policies(rng, vocabulary, len(weights) + 1)
        result = mixed(name, alpha, log_ref, torch.stack(others), weights).exp()
        best = optimum(f, log_ref.exp().numpy(), [o.exp().numpy() for o in others], weights)
        np.testing.assert_allclose(result.numpy(), best, atol=1e-6)


@pytest.mark.parametrize(("name", "f"), [("reverse_kl", F["reverse_kl"]), ("jsd", F["jsd"])])
def test_negative_weights_where_they_are_admitted(name, f):
    rng = np.random.default_rng(5)
    for weights in [(1.4, -0.4), (-0.8, 0.3), (-0.5, -0.5)]:
        log_ref, *others = policies(rng, 5, 3)
        result = mixed(name, None, log_ref, torch.stack(others), weights).exp()
        best = optimum(f, log_ref.exp().numpy(), [o.exp().numpy() for o in others], weights)
        np.testing.assert_allclose(result.numpy(), best, atol=1e-6)


@pytest.mark.parametrize(("name", "alpha", "f"), CASES, ids=NAMES)
def test_one_policy_with_weight_one_is_itself_and_no_weight_is_the_reference(name, alpha, f):  # noqa: ARG001
    log_ref, other = policies(np.random.default_rng(1), 50, 2, sharpness=4.0)
    torch.testing.assert_close(
        mixed(name, alpha, log_ref, other[None], (1.0,)), other, atol=2e-5, rtol=1e-5
    )
    torch.testing.assert_close(
        mixed(name, alpha, log_ref, other[None], (0.0,)), log_ref, atol=2e-5, rtol=1e-5
    )


@pytest.mark.parametrize(("name", "alpha", "f"), CASES, ids=NAMES)
def test_sharp_policies_and_large_weights_still_sum_to_one(name, alpha, f):  # noqa: ARG001
    rng = np.random.default_rng(2)
    for sharpness in (0.01, 5.0, 15.0):
        log_ref, *others = policies(rng, 200, 3, sharpness)
        for weights in [(0.0, 0.0), (1e-6, 0.0), (0.5, 0.5), (3.0, 10.0)]:
            log_pi = mixed(name, alpha, log_ref, torch.stack(others), weights)
            assert log_pi.isfinite().all()
            assert log_pi.exp().sum().item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(("name", "alpha", "f"), CASES, ids=NAMES)
def test_rows_are_independent_and_tokens_outside_count_for_nothing(name, alpha, f):  # noqa: ARG001
    """A batch with ragged candidates equals its rows alone, without the tokens that are none."""
    rng = np.random.default_rng(3)
    rule = mixture(name, alpha)
    log_ref, one, two = policies(rng, 8, 3)
    log_ref = torch.stack([log_ref, log_ref.flip(0)]).float()
    ratios = torch.stack([torch.stack([one, two], -1)] * 2).float() - log_ref[..., None]
    weights, beta = torch.tensor([[0.3, 0.7], [0.9, 0.4]]), torch.tensor([1.0, 2.0])
    cut = log_ref.clone()
    cut[1, 5:] = -torch.inf
    ragged = rule(cut, ratios, weights, beta)
    alone = rule(log_ref[:1], ratios[:1], weights[:1], beta[:1])
    short = rule(log_ref[1:, :5], ratios[1:, :5], weights[1:], beta[1:])
    torch.testing.assert_close(ragged[:1], alone, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(ragged[1:, :5], short, atol=1e-6, rtol=1e-6)
    assert (ragged[1, 5:] == -torch.inf).all()


def test_alpha_goes_from_reverse_to_forward_kl():
    log_ref, *others = policies(np.random.default_rng(4), 6, 3)
    both = torch.stack(others)
    for name, alpha in [("reverse_kl", 0.0), ("forward_kl", 1.0)]:
        end = mixed(name, None, log_ref, both, (0.6, 0.4))
        torch.testing.assert_close(mixed("alpha", alpha, log_ref, both, (0.6, 0.4)), end)
    near = mixed("alpha", 1e-4, log_ref, both, (0.6, 0.4))
    end = mixed("reverse_kl", None, log_ref, both, (0.6, 0.4))
    torch.testing.assert_close(near, end, atol=1e-3, rtol=1e-3)


def test_the_divergences_differ():
    """JSD that silently computes reverse KL is a known error of published code."""
    log_ref, *others = policies(np.random.default_rng(6), 6, 3)
    result = [
        mixed(name, 0.5 if name == "alpha" else None, log_ref, torch.stack(others), (0.5, 0.5))
        for name in DIVERGENCES
    ]
    for i, one in enumerate(result):
        for two in result[:i]:
            assert (one.exp() - two.exp()).abs().max() > 1e-3


def test_reverse_kl_is_the_tilt():
    """The identity with MAVIS: optimal policies π_i ∝ π_ref exp(Q_i/η) mix to the tilt of Q."""
    assert mixture("reverse_kl") is tilt
    rng, eta = np.random.default_rng(7), 0.5
    log_ref = policies(rng, 6, 1)
    values = torch.tensor(rng.normal(size=(1, 6, 2)))
    optimal = torch.log_softmax(log_ref[..., None] + values / eta, 1)
    weights = torch.tensor([[0.7, 0.6]])
    mod = tilt(log_ref, optimal - log_ref[..., None], weights, torch.ones(1))
    torch.testing.assert_close(mod, tilt(log_ref, values, weights, torch.tensor([1 / eta])))


@pytest.mark.parametrize(
    "divergence", [JEFFREY, JENSEN_SHANNON, alpha_divergence(0.3), alpha_divergence(1.0)]
)
def test_an_inverse_is_one(divergence):
    u = torch.tensor([-40.0, -5.0, -0.3, 0.0, 0.2, 4.0, 30.0], dtype=torch.float64)
    gap = divergence.gap(u)
    again, slope = divergence.inverse(gap)
    torch.testing.assert_close(again, u, atol=1e-9, rtol=1e-9)
    step = 1e-6
    torch.testing.assert_close(
        slope * (divergence.gap(u + step) - divergence.gap(u - step)) / (2 * step),
        torch.ones_like(u),
        atol=1e-4,
        rtol=1e-4,
    )


def test_jeffrey_s_inverse_is_lambert_s_w():
    gaps = torch.tensor([0.0, 1.0], dtype=torch.float64)
    result = (-JEFFREY.inverse(gaps)[0]).exp().tolist()
    assert result == pytest.approx([0.5671432904097838, 1.0], abs=1e-12)  # W(1), W(e)


def test_bad_input_is_said_in_a_line():
    ratios = torch.zeros(1, 3, 2)
    log_ref = torch.log_softmax(torch.zeros(1, 3), -1)
    for name, alpha in [("forward_kl", None), ("alpha", 0.5), ("jeffrey", None)]:
        with pytest.raises(ValueError, match=r"weights must not be negative, .*but reverse_kl"):
            mixture(name, alpha)(log_ref, ratios, torch.tensor([[0.5, -0.1]]), torch.ones(1))
    with pytest.raises(ValueError, match=r"divergence must be one of reverse_kl, .* got 'kl'"):
        mixture("kl")
    for alpha in (-0.1, 1.5, math.nan):
        with pytest.raises(ValueError, match=r"alpha must be in \[0, 1\]"):
            mixture("alpha", alpha)
    with pytest.raises(
        ValueError, match=r"the alpha divergence needs an alpha in \[0, 1\], got none"
    ):
        mixture("alpha")
    with pytest.raises(ValueError, match=r"alpha is only used with .*divergence=jsd, alpha=0\.5"):
        mixture("jsd", 0.5)


SLOPES = {  # f'
    "forward_kl": lambda x: -1 / x,
    "jsd": lambda x: np.log(2 * x / (1 + x)),
    "jeffrey": lambda x: np.log(x) - 1 / x,
    "alpha": lambda x: (1 - x**-0.4) / 0.4,
}


def solved(slope, ref, others, weights, allowed):
    """π on the allowed tokens: f'(π/π_ref) = c + Σ w f'(π_i/π_ref), by bisection."""
    ref, others = ref[allowed], [other[allowed] for other in others]
    want = sum(w * slope(o / ref) for w, o in zip(weights, others, strict=True) if w)
    low, high = -1e3, 1e3
    for _ in range(200):
        c = (low + high) / 2
        below, above = np.full(len(ref), 1e-12), np.full(len(ref), 1e12)
        for _ in range(200):
            middle = np.sqrt(below * above)
            under = slope(middle) < want + c
            below, above = np.where(under, middle, below), np.where(under, above, middle)
        pi = ref * middle
        low, high = (c, high) if pi.sum() < 1 else (low, c)
    return pi


@pytest.mark.parametrize("name", SLOPES)
@pytest.mark.parametrize("weights", [(0.7, 0.2), (0.5, 0.0), (0.01, 0.6)])
def test_what_a_policy_forbids_the_mixture_forbids_where_it_counts(name, weights):
    """Token 4 is forbidden by the second policy, 5 by all, 6 by the reference."""
    log_ref, *others = policies(np.random.default_rng(8), 7, 3)
    log_ref[[5, 6]], others[0][5], others[1][[4, 5]] = -torch.inf, -torch.inf, -torch.inf
    log_ref, *others = (one.log_softmax(-1) for one in (log_ref, *others))
    others[0][6] = -torch.inf
    others = [one.log_softmax(-1) for one in others]
    allowed = np.arange(4 if weights[1] else 5)
    ratios = torch.stack([one - log_ref for one in others], -1)
    ratios = torch.where((log_ref == -torch.inf)[:, None], 0.0, ratios)
    rule = mixture(name, 0.4 if name == "alpha" else None)
    given = log_ref[None].float(), ratios[None].float()
    result = rule(*given, torch.tensor([weights]), torch.ones(1))[0].double()
    assert result.exp()[[5, 6]].tolist() == [0, 0]
    within = [one.exp().numpy() for one in (log_ref, *others)]
    within[2] /= within[2][:5].sum()  # of its mass on the candidates, as the rule has it
    want = solved(SLOPES[name], within[0], within[1:], weights, allowed)
    np.testing.assert_allclose(result.exp()[allowed].numpy(), want, atol=1e-6)
    assert result.exp().sum().item() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("name", SLOPES)
def test_rows_without_a_mixture_are_not_numbers_and_touch_no_others(name):
    rule = mixture(name, 0.4 if name == "alpha" else None)
    log_ref = torch.full((3, 2), math.log(0.5))
    ratios = torch.zeros(3, 2, 1)
    ratios[0] = -torch.inf  # nothing is left
    ratios[1, 0] = torch.nan  # a broken policy
    ratios[2] = torch.tensor([[0.4], [-0.6]])
    result = rule(log_ref, ratios, torch.ones(3, 1), torch.ones(3))
    assert result[:2].isnan().all()
    alone = rule(log_ref[2:], ratios[2:], torch.ones(1, 1), torch.ones(1))
    torch.testing.assert_close(result[2:], alone)
    nothing = rule(log_ref, ratios, torch.zeros(3, 1), torch.ones(3))
    torch.testing.assert_close(nothing, log_ref)
    if name == "jsd":  # what a negative weight asks for is without bound
        ratios = torch.tensor([[[-torch.inf], [0.3]]])
        assert rule(log_ref[:1], ratios, -torch.ones(1, 1), torch.ones(1)).isnan().all()
