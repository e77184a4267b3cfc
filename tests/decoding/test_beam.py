"""Beam search against full forwards: exhaustive where that is possible, by hand elsewhere."""

import itertools
import math

import pytest

from mavis.baselines.mod_divergences import mixture
from mavis.baselines.policy_guides import guide
from mavis.decoding.policy import GuidedPolicy
from mavis.decoding.request import SamplingParams

PROMPTS = ["an um", "the sun is", "a", [{"role": "user", "content": "mis tub"}]]
SOURCES = ("action", "state", "shared")


def beam_search(policy, prompts, sampling, beams=4, max_tokens=64):
    """The most likely answers under the settings of a request."""
    weights = dict(zip(policy.objectives, sampling.weights, strict=True))
    settings = {name: getattr(sampling, name) for name in ("beta", "temperature", "top_k", "top_p")}
    return policy.beam_search(prompts, weights, max_tokens=max_tokens, beams=beams, **settings)


def plain_beams(slow, reference, prompt, sampling, width, limit):
    """The same search by whole sequences: (score, tokens), best first."""
    start = reference.encode(prompt).tokens
    alive, ended = [(0.0, [])], []
    for _ in range(limit):
        grown = []
        for score, tokens in alive:
            log_pi = slow.step([*start, *tokens], sampling).log_pi
            grown += [(score + p, [*tokens, a]) for a, p in log_pi.items()]
        grown.sort(key=lambda one: -one[0])
        alive = []
        for one in grown:
            if len(alive) == width:
                break
            (ended if one[1][-1] in reference.ends else alive).append(one)
        ended = sorted(ended, key=lambda one: -one[0])[:width]
    return sorted([*ended, *alive], key=lambda one: -one[0])[:width]


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("width", [1, 3])
def test_beams_are_those_of_whole_sequences(tiny_reference, tiny_network, naive, source, width):
    policy = GuidedPolicy(tiny_reference, (tiny_network(tiny_reference, source),))
    sampling = SamplingParams((1.0,), 1.5, top_k=6)
    found = beam_search(policy, PROMPTS, sampling, width, max_tokens=6)
    slow = naive(tiny_reference, policy.guides)
    for prompt, answers in zip(PROMPTS, found, strict=True):
        want = plain_beams(slow, tiny_reference, prompt, sampling, width, 6)
        assert [a.tokens for a in answers] == [tokens for _, tokens in want]
        for answer, (score, _) in zip(answers, want, strict=True):
            assert answer.kl_sampled + answer.log_ref == pytest.approx(score, abs=1e-4)
            assert answer.prompt == prompt


def test_wide_enough_it_finds_the_most_likely_answers_of_all(build_reference, naive):
    """Every answer of up to three tokens over a vocabulary of six, enumerated."""
    policy = GuidedPolicy(build_reference(vocab=6))
    sampling = SamplingParams((), top_k=0)
    slow = naive(policy.reference)
    start = policy.reference.encode("an").tokens
    odds = {}
    for tokens in itertools.product(range(6), repeat=3):
        kept, total = [], 0.0
        for token in tokens:
            total += slow.step([*start, *kept], sampling).log_pi[token]
            kept.append(token)
            if token in policy.reference.ends:
                break
        odds[tuple(kept)] = total
    assert sum(math.exp(p) for p in odds.values()) == pytest.approx(1, abs=1e-6)
    (answers,) = beam_search(policy, ["an"], sampling, beams=40, max_tokens=3)
    best = sorted(odds, key=lambda tokens: -odds[tokens])[:40]
    assert [tuple(answer.tokens) for answer in answers] == best


def test_one_beam_is_greedy(tiny_reference, tiny_network, naive):
    policy = GuidedPolicy(tiny_reference, (tiny_network(tiny_reference),))
    sampling = SamplingParams((1.0,), 2.0, top_k=9)
    ((answer,),) = beam_search(policy, ["the"], sampling, beams=1, max_tokens=8)
    tokens, slow = list(tiny_reference.encode("the").tokens), naive(tiny_reference, policy.guides)
    for token in answer.tokens:
        log_pi = slow.step(tokens, sampling).log_pi
        assert token == max(log_pi, key=log_pi.get)
        tokens.append(token)


def test_a_prompt_s_beams_do_not_depend_on_the_others(tiny_reference, tiny_network):
    networks = (
        tiny_network(tiny_reference, "state", ("humor",)),
        tiny_network(tiny_reference, "action", ("kind",), seed=2),
    )
    policy, sampling = GuidedPolicy(tiny_reference, networks), SamplingParams((1.0, -0.5), top_k=8)
    together = beam_search(policy, PROMPTS, sampling, 3, 7)
    alone = [beam_search(policy, [prompt], sampling, 3, 7)[0] for prompt in PROMPTS]
    for ours, theirs in zip(together, alone, strict=True):
        assert [a.tokens for a in ours] == [a.tokens for a in theirs]


def test_beams_of_a_mixture_of_policies(tiny_reference, tiny_lm, naive):
    """MOD with another divergence than reverse KL, by its formula on whole sequences."""
    import torch

    models = [tiny_lm(seed=3), tiny_lm("gpt2", layers=1, seed=4)]
    guides = tuple(guide(tiny_reference, name, m) for name, m in zip("ab", models, strict=True))
    rule = mixture("jsd")
    policy = GuidedPolicy(tiny_reference, guides, rule)
    (answers,) = beam_search(policy, ["an"], SamplingParams((0.6, 0.4), 1.0, top_k=0), 2, 4)
    slow = naive(tiny_reference)
    for answer in answers:
        tokens, score = list(tiny_reference.encode("an").tokens), 0.0
        for token in answer.tokens:
            rows = [torch.log_softmax(torch.tensor(slow.logits(tokens)), -1)]
            for model in models:
                with torch.no_grad():
                    logits = model(input_ids=torch.tensor([tokens]), use_cache=False).logits
                rows.append(torch.log_softmax(logits[0, -1], -1))
            ratios = torch.stack(rows[1:], -1) - rows[0][:, None]
            weights = torch.tensor([[0.6, 0.4]])
            log_pi = rule(rows[0][None], ratios[None], weights, torch.ones(1))[0]
            score += float(log_pi[token])
            tokens.append(token)
        assert answer.kl_sampled + answer.log_ref == pytest.approx(score, abs=1e-3)
    assert answers[0].kl_sampled + answers[0].log_ref > answers[1].kl_sampled + answers[1].log_ref


def test_stop_strings_end_a_beam(build_reference):
    reference = build_reference(template=f"{__name__}.dialogue")
    policy = GuidedPolicy(reference)
    for answers in beam_search(policy, ["um"], SamplingParams((), top_k=5), 3, 12):
        for answer in answers:
            assert "\n\nHuman:" not in answer.text


def dialogue(prompt):
    return f"\n\nHuman: {prompt}\n\nAssistant:"


def test_bad_input_is_said(tiny_reference):
    policy = GuidedPolicy(tiny_reference)
    with pytest.raises(ValueError, match=r"beams must be at least 1, got 0\."):
        beam_search(policy, ["a"], SamplingParams(()), 0, 4)
    with pytest.raises(ValueError, match=r"max_tokens must be at least 1, got 0 for prompt 0\."):
        beam_search(policy, ["a"], SamplingParams(()), 2, 0)
    with pytest.raises(ValueError, match="must fit into the context"):
        beam_search(policy, ["a"], SamplingParams(()), 2, 1000)
    assert beam_search(policy, [], SamplingParams(())) == []
