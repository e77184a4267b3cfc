"""What is not finite: forbidden tokens have one right answer, broken models stop by name."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from mavis.baselines.policy_guides import guide
from mavis.decoding.decode import decode
from mavis.decoding.model_card import Source
from mavis.decoding.policy import GuidedPolicy
from mavis.decoding.reference import ReferencePolicy
from mavis.decoding.request import Request, SamplingParams
from mavis.decoding.value_model import ValueModel
from mavis.training.rollout import Shape, grow

SOURCES: tuple[Source, ...] = ("action", "state", "shared")
PROMPTS = ["a bun", "a bit"]
ALLOWED = 30  # tokens of 40
WAYS = ("sampled", "greedy", "beams", "trees")


@pytest.fixture(scope="module")
def masked(
    build_reference: Callable[..., ReferencePolicy],
) -> Callable[..., ReferencePolicy]:
    """`masked(seed)`: a reference that forbids its last ten tokens by the bias of its head."""

    def build(seed: int = 0) -> ReferencePolicy:
        reference = build_reference("phi", seed=seed)
        with torch.no_grad():
            reference.model.lm_head.bias[ALLOWED:] = -torch.inf
        return reference

    return build


def ask(policy: GuidedPolicy, way: str, top_k: int = 0, beta: float = 1.5) -> Any:
    weights = (1.0,) * len(policy.objectives)
    if way == "beams":
        return policy.beam_search(PROMPTS, beta=beta, top_k=top_k, beams=3, max_tokens=6)
    if way == "trees":
        sampling = [SamplingParams(weights, beta, top_k=top_k)] * len(PROMPTS)
        return list(grow(policy, PROMPTS, Shape((2, 2), 6), sampling, (0, 0)))
    temperature = 0.0 if way == "greedy" else 0.7
    return policy.generate(PROMPTS, beta=beta, temperature=temperature, top_k=top_k, max_tokens=8)


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("setting", [{}, {"temperature": 0.5}, {"top_p": 0.9}, {"beta": -2.0}])
def test_a_forbidden_token_is_no_candidate(
    masked: Callable[..., ReferencePolicy],
    tiny_network: Callable[..., ValueModel],
    naive: Any,
    source: Source,
    setting: dict[str, float],
) -> None:
    reference = masked()
    policy = GuidedPolicy(reference, (tiny_network(reference, source),))
    (whole, some) = (
        policy.generate(PROMPTS, max_tokens=8, top_k=top_k, **setting) for top_k in (0, ALLOWED)
    )
    assert [a.tokens for a in whole] == [a.tokens for a in some]
    sampling = SamplingParams((1.0,), **{"beta": policy.beta, "top_k": ALLOWED} | setting)
    slow = naive(reference, policy.guides)
    for answer, other in zip(whole, some, strict=True):
        tokens, kl = list(reference.encode(answer.prompt).tokens), 0.0
        for token in answer.tokens:
            assert token < ALLOWED
            kl += slow.step(tokens, sampling).kl
            tokens.append(token)
        assert (answer.kl, other.kl) == pytest.approx((kl, kl), abs=1e-3)
        assert abs(answer.kl_truncation) < 1e-4 or "top_p" in setting


@pytest.mark.parametrize("way", WAYS)
def test_forbidden_tokens_are_never_said(masked: Callable[..., ReferencePolicy], way: str) -> None:
    """Nor by trees and beams, and no number that is reported is anything but finite."""
    found = ask(GuidedPolicy(masked()), way)
    if way == "trees":
        assert all(max(tree.tokens) < ALLOWED for _, tree in found)
        return
    for answer in found if way != "beams" else [a for answers in found for a in answers]:
        assert max(answer.tokens) < ALLOWED
        numbers = (answer.kl, answer.kl_sampled, answer.kl_truncation, answer.log_ref)
        assert torch.tensor(numbers).isfinite().all()


@pytest.mark.parametrize("weights", [{"a": 0.6, "b": 0.4}, {"a": 1.0, "b": 0.0}, {"b": 1.0}])
def test_policies_may_forbid_what_the_reference_forbids(
    masked: Callable[..., ReferencePolicy], weights: dict[str, float]
) -> None:
    reference, a, b = masked(0), masked(1), masked(2)
    policies = (guide(reference, "a", a.model), guide(reference, "b", b.model))
    mixed = GuidedPolicy(reference, policies)
    (answer,) = mixed.generate(PROMPTS[:1], weights=weights, top_k=0, max_tokens=1)
    ids = torch.tensor([reference.encode(PROMPTS[0]).tokens])
    with torch.no_grad():
        lone, *others = (
            r.model(ids).logits[0, -1, :ALLOWED].log_softmax(-1) for r in (reference, a, b)
        )
    total = sum(weights.get(name, 0.0) for name in "ab")
    mix = (1 - total) * lone
    for name, log_pi in zip("ab", others, strict=True):
        mix = mix + weights.get(name, 0.0) * log_pi
    mix = mix.log_softmax(-1)
    assert answer.kl == pytest.approx(float((mix.exp() * (mix - lone)).sum()), abs=1e-4)


def test_a_policy_that_weighs_nothing_forbids_nothing(
    build_reference: Callable[..., ReferencePolicy], masked: Callable[..., ReferencePolicy]
) -> None:
    reference = build_reference("phi")
    mixed = GuidedPolicy(reference, (guide(reference, "a", masked(1).model),))
    for top_k in (0, 12):
        for off in ({"weights": {"a": 0.0}}, {"beta": 0.0}):
            found = mixed.generate(PROMPTS, top_k=top_k, **off)
            plain = GuidedPolicy(reference).generate(PROMPTS, top_k=top_k)
            assert [a.tokens for a in found] == [a.tokens for a in plain]
        for answer in mixed.generate(PROMPTS, weights={"a": 1.0}, top_k=top_k, n=5):
            assert max(answer.tokens) < ALLOWED  # and one that weighs something does


def test_a_negative_weight_does_not_ask_for_what_is_forbidden(
    build_reference: Callable[..., ReferencePolicy], masked: Callable[..., ReferencePolicy]
) -> None:
    """It would without bound: there is no such distribution."""
    reference = build_reference("phi")
    mixed = GuidedPolicy(reference, (guide(reference, "a", masked(1).model),))
    with pytest.raises(ValueError, match=r"policies of a leave no distribution .* 'a bun'"):
        mixed.generate(PROMPTS[:1], weights={"a": -1.0}, top_k=0)


@pytest.mark.parametrize(
    ("way", "broken", "top_k"),
    [(way, "nan", 6) for way in WAYS]
    + [("sampled", "nan", 0), ("sampled", "inf", 0), ("beams", "nowhere", 6), ("trees", "one", 0)],
)
def test_a_broken_reference_stops_with_its_name(
    build_reference: Callable[..., ReferencePolicy], way: str, broken: str, top_k: int
) -> None:
    reference = build_reference("phi")
    with torch.no_grad():
        if broken == "one":  # NaN for one token only
            reference.model.lm_head.bias[7] = torch.nan
        elif broken == "nowhere":  # all are forbidden
            reference.model.lm_head.bias[:] = -torch.inf
        else:
            reference.model.lm_head.bias[3:9] = float(broken)
    with pytest.raises(ValueError, match=r"reference tiny phi gave NaN .* after 'an? \w+'") as told:
        ask(GuidedPolicy(reference), way, top_k)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("way", "source", "number"),
    [("sampled", source, number) for source in SOURCES for number in (torch.nan, -torch.inf)]
    + [(way, "action", torch.inf) for way in WAYS],
)
def test_a_broken_value_model_stops_with_its_name(
    tiny_reference: ReferencePolicy,
    tiny_network: Callable[..., ValueModel],
    way: str,
    source: Source,
    number: float,
) -> None:
    whole = tiny_network(tiny_reference, source, ("kind",))
    network = tiny_network(tiny_reference, source, ("humor",))
    with torch.no_grad():
        network.head.state.bias[:] = number
    policy = GuidedPolicy(tiny_reference, (whole, network))
    for beta in (1.5, -1.5):
        with pytest.raises(ValueError, match=r"value model of humor gave NaN .* after 'an? \w+'"):
            ask(policy, way, beta=beta)


def test_a_broken_policy_stops_with_its_name(
    build_reference: Callable[..., ReferencePolicy], tiny_reference: ReferencePolicy
) -> None:
    other = build_reference(seed=1).model
    with torch.no_grad():
        other.lm_head.weight[4] = torch.nan
    mixed = GuidedPolicy(tiny_reference, (guide(tiny_reference, "humor", other),))
    for way in WAYS:
        with pytest.raises(ValueError, match=r"the policy of humor gave NaN"):
            ask(mixed, way)


def test_only_the_rows_that_meet_it_matter(
    tiny_reference: ReferencePolicy, tiny_network: Callable[..., ValueModel]
) -> None:
    """What is finished before a model breaks has been given out; what comes after says so."""
    network = tiny_network(tiny_reference)
    with torch.no_grad():
        network.head.state.bias[:] = torch.nan
    jobs = [
        Request([3], 2, SamplingParams((weight,)), (at,)) for at, weight in enumerate((0.0, 1.0))
    ]
    spans = decode(tiny_reference, (network,), jobs, rows=1)
    assert next(spans).tokens
    with pytest.raises(ValueError, match=r"value model of humor gave NaN .* after 'a'"):
        next(spans)
