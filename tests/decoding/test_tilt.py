"""The tilt against plain Python floats, and draws against the distribution function."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from mavis.decoding.tilt import RowSettings, candidates, draw, exact_kl, tilt, truncation


def settings(temperature: Tensor, top_k: Tensor, top_p: Tensor) -> RowSettings:
    """Of rows that are not tilted."""
    none = torch.empty(len(top_k), 0)
    return RowSettings(none, torch.zeros(len(top_k)), temperature, top_k, top_p)


def options(
    logits: Tensor, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0
) -> tuple[Tensor, Tensor]:
    rows = len(logits)
    found = candidates(
        logits,
        settings(
            torch.full((rows,), temperature),
            torch.full((rows,), top_k or logits.shape[1]),
            torch.full((rows,), top_p),
        ),
    )
    return found.tokens, found.log_ref


def log_softmax(numbers: list[float]) -> list[float]:
    total = math.log(math.fsum(math.exp(n) for n in numbers))
    return [n - total for n in numbers]


def test_brute_force_on_five_tokens() -> None:
    logits = [0.3, -1.2, 2.0, 0.9, -0.4]
    values = [[0.5, -1.0], [2.0, 0.1], [-0.7, 0.4], [0.0, 1.5], [1.1, -2.0]]
    weights, beta, temperature, top_k = [0.8, -0.5], 1.7, 0.6, 3
    log_ref = log_softmax([z / temperature for z in logits])
    kept = sorted(range(5), key=lambda a: -log_ref[a])[:top_k]
    score = {
        a: log_ref[a] + beta * sum(w * q for w, q in zip(weights, values[a], strict=True))
        for a in kept
    }
    expected = dict(zip(kept, log_softmax(list(score.values())), strict=True))

    tokens, found = options(torch.tensor([logits]), temperature, top_k)
    q = torch.tensor(values)[tokens]
    log_pi = tilt(found, q, torch.tensor([weights]), torch.tensor([beta]))

    assert tokens[0].tolist() == kept
    assert found[0].tolist() == pytest.approx([log_ref[a] for a in kept], abs=1e-6)
    assert log_pi[0].tolist() == pytest.approx([expected[a] for a in kept], abs=1e-6)
    kl = sum(math.exp(expected[a]) * (expected[a] - log_ref[a]) for a in kept)
    assert exact_kl(log_pi, found).item() == pytest.approx(kl, abs=1e-6)
    mass = sum(math.exp(log_ref[a]) for a in kept)
    assert truncation(found).item() == pytest.approx(-math.log(mass), abs=1e-6)


def test_beta_zero_is_the_reference() -> None:
    logits = torch.randn(4, 11)
    _, log_ref = options(logits)
    values, weights = 5 * torch.randn(4, 11, 3), torch.randn(4, 3)
    log_pi = tilt(log_ref, values, weights, torch.zeros(4))
    assert torch.allclose(log_pi, torch.log_softmax(logits, -1).sort(descending=True).values)
    assert torch.allclose(exact_kl(log_pi, log_ref), torch.zeros(4), atol=1e-6)
    assert torch.allclose(truncation(log_ref), torch.zeros(4), atol=1e-6)


def test_beta_zero_with_top_k_is_the_renormalised_reference() -> None:
    _, log_ref = options(torch.randn(4, 11), top_k=5)
    log_pi = tilt(log_ref, torch.randn(4, 5, 1), torch.ones(4, 1), torch.zeros(4))
    assert torch.allclose(log_pi.exp(), log_ref.exp() / log_ref.exp().sum(-1, keepdim=True))
    # KL against the *untruncated* reference is then exactly what truncation costs.
    assert torch.allclose(exact_kl(log_pi, log_ref), truncation(log_ref), atol=1e-6)
    assert (truncation(log_ref) > 0.01).all()


def test_a_constant_added_to_all_values_changes_nothing() -> None:
    _, log_ref = options(torch.randn(4, 11), top_k=6)
    values, weights, beta = torch.randn(4, 6, 2), torch.randn(4, 2), torch.rand(4) * 3
    moved = values + torch.tensor([3.0, -2.0])
    same = tilt(log_ref, moved, weights, beta)
    assert torch.allclose(same, tilt(log_ref, values, weights, beta), atol=1e-5)


def test_one_hot_weights_are_that_objective_alone() -> None:
    _, log_ref = options(torch.randn(4, 11))
    values, beta = torch.randn(4, 11, 3), torch.rand(4)
    for m in range(3):
        weights = torch.zeros(4, 3)
        weights[:, m] = 1
        alone = tilt(log_ref, values[..., m : m + 1], torch.ones(4, 1), beta)
        assert torch.equal(tilt(log_ref, values, weights, beta), alone)


def test_only_beta_times_weights_counts() -> None:
    _, log_ref = options(torch.randn(4, 11))
    values, weights = torch.randn(4, 11, 2), torch.randn(4, 2)
    doubled = tilt(log_ref, values, 2 * weights, torch.ones(4))
    assert torch.allclose(doubled, tilt(log_ref, values, weights, torch.full((4,), 2.0)), atol=1e-6)


def test_without_objectives_nothing_is_tilted() -> None:
    _, log_ref = options(torch.randn(4, 11), top_k=5)
    log_pi = tilt(log_ref, torch.zeros(4, 5, 0), torch.zeros(4, 0), torch.ones(4))
    assert torch.allclose(log_pi, log_ref + truncation(log_ref)[:, None])


def test_top_k_and_top_p_differ_within_a_batch() -> None:
    logits = torch.log(torch.tensor([[0.4, 0.1, 0.3, 0.2]])).repeat(5, 1)
    found = candidates(
        logits,
        settings(
            torch.tensor([1.0, 1.0, 1.0, 1.0, 0.5]),
            torch.tensor([4, 2, 4, 1, 3]),
            torch.tensor([1.0, 1.0, 0.65, 0.9, 0.75]),
        ),
    )
    assert found.tokens.tolist() == [[0, 2, 3, 1]] * 5
    inside = (found.log_ref > -torch.inf).sum(-1)
    # Row 2: the mass before the third token is 0.7, past 0.65. Row 4: half the temperature squares
    # the odds, 16 : 9 : 4 : 1 of 30; 25/30 lies before the third.
    assert inside.tolist() == [4, 2, 2, 1, 2]
    assert found.log_ref[4, 0].exp().item() == pytest.approx(16 / 30)
    assert found.log_ref[1, :2].exp().tolist() == pytest.approx([0.4, 0.3])


def test_a_tiny_top_p_leaves_the_most_likely_token() -> None:
    _, log_ref = options(torch.randn(6, 11), top_p=1e-9)
    assert (log_ref > -torch.inf).sum(-1).tolist() == [1] * 6


def test_top_p_of_one_cuts_nothing_off() -> None:
    # In float32 the first token has all the mass; a value may still want one of the others.
    logits = torch.tensor([[30.0, 0.0, -1.0, -2.0, -3.0]])
    tokens, log_ref = options(logits)
    assert (log_ref > -torch.inf).all()
    value = torch.tensor([[[0.0], [0.0], [0.0], [50.0], [0.0]]])
    log_pi = tilt(log_ref, value, torch.ones(1, 1), torch.ones(1))
    assert tokens[0, log_pi[0].argmax()] == 3


def test_kl_and_truncation_are_explicit_sums_where_tokens_are_missing() -> None:
    logits, top_k = torch.randn(3, 9), torch.tensor([9, 4, 2])
    found = candidates(logits, settings(torch.ones(3), top_k, torch.ones(3)))
    log_pi = tilt(found.log_ref, torch.randn(3, 9, 1), torch.ones(3, 1), torch.full((3,), 2.0))
    for row in range(3):
        pairs = list(zip(log_pi[row].tolist(), found.log_ref[row].tolist(), strict=True))
        pairs = pairs[: int(top_k[row])]
        kl = sum(math.exp(p) * (p - r) for p, r in pairs)
        cut = -math.log(sum(math.exp(r) for _, r in pairs))
        assert exact_kl(log_pi, found.log_ref)[row].item() == pytest.approx(kl, abs=1e-6)
        assert truncation(found.log_ref)[row].item() == pytest.approx(cut, abs=1e-6)
        assert sum(math.exp(p) for p, _ in pairs) == pytest.approx(1, abs=1e-6)


def test_kl_of_a_token_that_is_tilted_away_is_finite() -> None:
    _, log_ref = options(torch.randn(2, 5))
    values = torch.zeros(2, 5, 1)
    values[:, 0] = -1e30
    log_pi = tilt(log_ref, values, torch.ones(2, 1), torch.ones(2))
    assert exact_kl(log_pi, log_ref).isfinite().all()
    assert log_pi[:, 1:].isfinite().all()


def test_draw_inverts_the_distribution_function_exactly_at_its_steps() -> None:
    log_pi = torch.log(torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64))
    assert log_pi.exp().tolist() == [0.5, 0.25, 0.25]
    steps = [0.0, 0.5, 0.75, 1.0]
    for token in range(3):
        low, high = steps[token], np.nextafter(steps[token + 1], 0)
        for uniform in (low, (low + high) / 2, high):
            found = draw(log_pi[None], torch.tensor([uniform], dtype=torch.float64))
            assert found.item() == token, f"{uniform} -> {found.item()}"


@pytest.mark.parametrize("width", [1, 2, 40, 4096])
def test_draw_never_leaves_the_candidates(width: int) -> None:
    log_pi = torch.log_softmax(torch.randn(50, width), -1)
    log_pi = torch.cat([log_pi, torch.full((50, 3), -torch.inf)], -1)
    for uniform in (0.0, 0.5, 1 - 2**-24, 1 - 2**-53, 1.0):
        found = draw(log_pi, torch.full((50,), uniform, dtype=torch.float64))
        assert (found < width).all()


def test_draw_never_takes_a_token_without_probability() -> None:
    log_pi = torch.log(torch.tensor([[0.0, 0.5, 0.0, 0.5, 0.0]]))
    for uniform, token in ((0.0, 1), (0.5, 3), (1 - 2**-53, 3)):
        assert draw(log_pi, torch.tensor([uniform], dtype=torch.float64)).item() == token


def test_draws_are_distributed_as_they_should_be() -> None:
    """Chi-square on 4 degrees of freedom: a right `draw` fails this with odds 1 in 10,000.

    (The draws are seeded, so it fails always or never.)
    """
    log_pi = torch.log_softmax(torch.tensor([1.0, 0.0, -1.0, 0.5, -2.0]), -1)
    count = 20_000
    uniform = torch.tensor(np.random.default_rng(0).random(count))
    found = draw(log_pi.expand(count, -1), uniform).bincount(minlength=5)
    expected = log_pi.double().exp() * count
    assert (((found - expected) ** 2) / expected).sum().item() < 23.51


def test_forbidden_tokens_are_no_candidates() -> None:
    """At −∞ they have no value either, whatever a model says of them."""
    logits = torch.tensor([[0.3, -torch.inf, 2.0, -torch.inf, 0.9]])
    allowed = torch.tensor([[2, 4, 0]])
    for temperature, top_p in ((1.0, 1.0), (0.5, 0.99)):
        tokens, log_ref = options(logits, temperature, top_p=top_p)
        assert tokens[0, :3].tolist() == allowed[0].tolist()
        some, log_some = options(logits[:, [0, 2, 4]], temperature, top_p=top_p)
        assert torch.equal(log_ref[:, :3], log_some)
        assert log_ref[0, 3:].tolist() == [-math.inf] * 2
        values = torch.tensor([0.5, -1.0, 2.0])[some][..., None]
        wild = torch.cat([values, torch.tensor([[[torch.nan], [torch.inf]]])], 1)
        weights, beta = torch.tensor([[-1.5]]), torch.tensor([2.0])
        want, found = tilt(log_some, values, weights, beta), tilt(log_ref, wild, weights, beta)
        assert torch.equal(found[:, :3], want)
        assert found[0, 3:].tolist() == [-math.inf] * 2
        assert torch.equal(exact_kl(found, log_ref), exact_kl(want, log_some))
        assert torch.equal(truncation(log_ref), truncation(log_some))
        for at in (0.0, 0.5, 1 - 1e-12):
            assert draw(found, torch.tensor([at], dtype=torch.float64)) < 3


def test_what_weighs_nothing_forbids_nothing() -> None:
    _, log_ref = options(torch.randn(2, 5))
    values = torch.randn(2, 5, 2)
    forbidding = values.clone()
    forbidding[:, 1, 1] = -torch.inf
    weights, beta = torch.tensor([[1.0, 0.0], [0.5, 0.7]]), torch.tensor([2.0, 0.0])
    plain = tilt(log_ref, values, weights, beta)
    assert torch.equal(tilt(log_ref, forbidding, weights, beta), plain)
    (found,) = tilt(log_ref[:1], forbidding[:1], torch.tensor([[1.0, 0.7]]), beta[:1])
    assert found[1] == -torch.inf
    assert found.logsumexp(-1).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_what_is_broken_breaks_the_whole_row_and_no_other(number: float) -> None:
    logits = torch.randn(2, 5)
    logits[0, 3] = number
    _, log_ref = options(logits, top_k=3)
    log_pi = tilt(log_ref, torch.randn(2, 3, 1), torch.ones(2, 1), torch.ones(2))
    for numbers in (exact_kl(log_pi, log_ref), truncation(log_ref), log_pi[:, 0]):
        assert numbers[0].isnan()
        assert numbers[1].isfinite()
