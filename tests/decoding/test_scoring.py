"""Scoring given replies, against decoding's own report and against whole sequences."""

import math

import pytest

from mavis.baselines.policy_guides import guide
from mavis.decoding.policy import GuidedPolicy

PROMPTS = ["an um", "the sun is", [{"role": "user", "content": "mis tub"}]]
SETTINGS = {"beta": 1.5, "temperature": 0.8, "top_k": 9, "top_p": 0.95}
WEIGHTS = {"humor": 1.0, "kind": -0.5}


def policy_of(reference, tiny_network, tiny_lm, sources):
    made = {
        "mod": lambda name: guide(reference, name, tiny_lm(seed=3)),
        "rows": lambda name: guide(reference, name, tiny_lm("gpt2", layers=1, seed=4)),
    }
    guides = [
        made[source](name) if source in made else tiny_network(reference, source, (name,))
        for source, name in zip(sources, WEIGHTS, strict=True)
    ]
    return GuidedPolicy(reference, tuple(guides))


@pytest.mark.parametrize(
    "sources",
    [("action", "shared"), ("state", "action"), ("mod", "rows"), ("action", "mod")],
)
def test_a_policys_own_replies_score_as_they_were_reported(
    tiny_reference, tiny_network, tiny_lm, sources
):
    policy = policy_of(tiny_reference, tiny_network, tiny_lm, sources)
    said = policy.generate(PROMPTS, WEIGHTS, max_tokens=9, **SETTINGS)
    scores = policy.score(PROMPTS, said, WEIGHTS, **SETTINGS)
    for answer, score in zip(said, scores, strict=True):
        assert (score.prompt, score.tokens) == (answer.prompt, answer.tokens)
        assert sum(score.kl) == pytest.approx(answer.kl, abs=1e-5, rel=2e-6)
        assert sum(score.log_ref) == pytest.approx(answer.log_ref, abs=1e-5, rel=2e-6)
        assert sum(score.truncation) == pytest.approx(answer.kl_truncation, abs=1e-5)
        ratio = sum(score.log_prob) - sum(score.log_ref)
        assert ratio == pytest.approx(answer.kl_sampled, abs=1e-5, rel=2e-6)


@pytest.mark.parametrize("source", ["action", "state", "shared"])
def test_scores_are_those_of_whole_sequences(tiny_reference, tiny_network, naive, source):
    from mavis.decoding.request import SamplingParams

    network = tiny_network(tiny_reference, source, ("humor", "kind"))
    policy, slow = GuidedPolicy(tiny_reference, (network,)), naive(tiny_reference, [network])
    given = [5, 9, 2, 7, 33, 6, 14, 21]
    settings = SETTINGS | {"top_k": 25, "top_p": 0.99}  # leaves some of the tokens out
    (score,) = policy.score("an um", [given], WEIGHTS, **settings)
    sampling, seen = (
        SamplingParams((1.0, -0.5), **settings),
        policy.reference.encode("an um").tokens,
    )
    left_out = 0
    for at, token in enumerate(given):
        step = slow.step(seen, sampling)
        assert score.log_ref[at] == pytest.approx(step.log_ref[token], abs=1e-4)
        assert score.kl[at] == pytest.approx(step.kl, abs=1e-4)
        assert score.truncation[at] == pytest.approx(step.truncation, abs=1e-4)
        inside = list(step.log_pi)
        if token in inside:
            assert score.log_prob[at] == pytest.approx(step.log_pi[token], abs=1e-4)
            shares = [math.exp(step.log_ref[a] + step.truncation) for a in inside]
            values = slow.values(seen, inside)
            for m, (name, weight) in enumerate(WEIGHTS.items()):
                mean = sum(p * v[m] for p, v in zip(shares, values, strict=True))
                part = 1.5 * weight * (values[inside.index(token)][m] - mean)
                assert score.parts[name][at] == pytest.approx(part, abs=1e-4)
        else:
            left_out += 1
            assert score.log_prob[at] == -math.inf
            assert all(math.isnan(column[at]) for column in score.parts.values())
        seen = [*seen, token]
    assert 0 < left_out < len(given)


def test_parts_add_up_to_the_tilt(tiny_reference, tiny_network, tiny_lm):
    """Two tokens of one state: what sets their log-ratios apart is the sum of their parts."""
    policy = policy_of(tiny_reference, tiny_network, tiny_lm, ("action", "state"))
    one, two = policy.score(["an um"] * 2, [[5], [9]], WEIGHTS, beta=1.5, top_k=0)
    gap = [s.log_prob[0] - s.log_ref[0] for s in (one, two)]
    parts = [sum(column[0] for column in s.parts.values()) for s in (one, two)]
    assert gap[0] - gap[1] == pytest.approx(parts[0] - parts[1], abs=1e-4)


def test_long_replies_are_scored_in_pieces(tiny_reference, tiny_network, monkeypatch):
    policy = GuidedPolicy(tiny_reference, (tiny_network(tiny_reference),))
    given = [[3 + at % 30 for at in range(50)]]
    (whole,) = policy.score(["a"], given)
    monkeypatch.setattr("mavis.decoding.scoring.AT_ONCE", 7)
    (pieces,) = policy.score(["a"], given)
    assert pieces.log_prob == pytest.approx(whole.log_prob, abs=1e-4)
    assert pieces.parts["humor"] == pytest.approx(whole.parts["humor"], abs=1e-4)


def test_texts_are_read_by_the_reference_s_tokenizer(tiny_reference):
    policy = GuidedPolicy(tiny_reference)
    tokens = tiny_reference.tokenizer("the sun", add_special_tokens=False).input_ids
    by_text, by_tokens = (policy.score("an", [one]) for one in ("the sun", tokens))
    assert by_text == by_tokens


@pytest.mark.parametrize(
    ("completions", "message"),
    [
        ([], r"completions must be one per prompt \(1\), got 0"),
        ([""], "completions must have tokens, got none for prompt 0"),
        ([[10_000]], "completions must be of tokens that tiny llama knows, got 10000"),
        ([[5] * 500], "must fit into the context"),
        ([None], "or lists of token ids, got None for prompt 0"),
        ([[1.5]], r"or lists of token ids, got \[1.5\] for prompt 0"),
    ],
)
def test_what_cannot_be_scored_is_said(tiny_reference, completions, message):
    with pytest.raises(ValueError, match=message):
        GuidedPolicy(tiny_reference).score(["an"], completions)


@pytest.mark.parametrize("sources", [("state", "state"), ("state", "mod"), ("action", "shared")])
def test_many_replies_score_as_each_alone(
    tiny_reference, tiny_network, tiny_lm, sources, monkeypatch
):
    """Of mixed lengths, to prompts of mixed lengths, one of them a single token; more than rows."""
    monkeypatch.setattr("mavis.decoding.policy.SIDE_BY_SIDE", 3)
    policy = policy_of(tiny_reference, tiny_network, tiny_lm, sources)
    assert len(tiny_reference.encode("a").tokens) == 1
    prompts = ["an um", "a", "the sun is", "hats", "a", "an um is tum", "mis"]
    replies = [
        [5, 9, 2, 7, 33, 6],
        [14],
        [21, 4],
        [8, 8, 8, 8, 8, 8, 8, 8],
        [3, 7],
        [11],
        [20, 5, 6],
    ]
    settings = SETTINGS | {"top_k": 30}
    together = policy.score(prompts, replies, WEIGHTS, **settings)
    seen = 0
    for prompt, reply, score in zip(prompts, replies, together, strict=True):
        (alone,) = policy.score(prompt, [reply], WEIGHTS, **settings)
        assert (score.prompt, score.tokens) == (prompt, reply)
        for name in ("log_prob", "log_ref", "kl", "truncation"):
            mine, its = getattr(score, name), getattr(alone, name)
            assert mine == pytest.approx(its, abs=1e-5), name
        for name, column in alone.parts.items():
            assert score.parts[name] == pytest.approx(column, abs=1e-5, nan_ok=True)
            seen += sum(abs(part) > 1e-3 for part in column)
    assert seen > 5


def test_steps_go_through_every_token_once(tiny_reference, tiny_network):
    """In the order of each reply; replies stand side by side where values need that."""
    prompts, replies = ["an um", "a", "hats"], [[5, 9, 2], [14], [21, 4]]
    for source, most in (("state", 3), ("action", 3)):
        policy = GuidedPolicy(tiny_reference, (tiny_network(tiny_reference, source, ("humor",)),))
        found, sizes = [[] for _ in replies], []
        for step in policy.walk(prompts, replies, {"humor": 1.0}, 1.0, top_k=9):
            rows = len(step.reply)
            sizes.append(rows)
            assert step.options.tokens.shape == step.log_pi.shape == (rows, 9)
            assert step.values.shape == (rows, 9, 1)
            for reply, token in zip(step.reply, step.tokens.tolist(), strict=True):
                found[reply].append(token)
        assert found == replies
        assert max(sizes) == most
        assert sizes == ([3, 2, 1] if source == "state" else [3, 1, 2])
