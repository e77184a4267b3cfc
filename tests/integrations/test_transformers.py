"""`ValueGuidance` in `generate()`, against our own decoder."""

import pytest
import torch

from mavis.decoding.policy import GuidedPolicy
from mavis.integrations.transformers import ValueGuidance

PROMPTS = ["a um is tum", "um", "tum a a is"]
PLAIN = {"top_k": 0, "pad_token_id": 0}


@pytest.fixture(scope="module")
def policy_of(build_reference, tiny_network):
    """`policy_of(source)`: a policy whose reference nobody else has hooks on."""

    def build(source, layers=()):
        reference = build_reference()
        network = tiny_network(reference, source, ("humor", "kind"), seed=3, layers=layers)
        return GuidedPolicy(reference, (network,))

    return build


def inputs(policy, prompts):
    """Prompts padded on the left."""
    rows = [policy.reference.encode(prompt).tokens for prompt in prompts]
    longest = max(map(len, rows))
    ids = torch.tensor([[0] * (longest - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
    return {"input_ids": ids, "attention_mask": mask}


def written(policy, found, begin, ends=True):
    """The new tokens of each row, up to and with its end token."""
    rows = []
    for row in found[:, begin:].tolist():
        end = next((at for at, token in enumerate(row) if token in policy.reference.ends), len(row))
        rows.append(row[: end + 1] if ends else row)
    return rows


WEIGHTS = [{"humor": 1.0, "kind": -0.5}, {"humor": -2.0}, {"kind": 1.5}]


@pytest.mark.parametrize(
    ("source", "layers"), [("action", ()), ("state", ()), ("shared", ()), ("shared", (0, 1, 2))]
)
def test_greedy_tokens_are_the_decoders(policy_of, source, layers):
    """With padding, weights of its own for each row, and a second call by the same processor."""
    policy = policy_of(source, layers)
    wanted = policy.generate(PROMPTS, WEIGHTS, beta=2.0, top_k=12, temperature=0, max_tokens=10)
    with ValueGuidance(policy, WEIGHTS, beta=2.0, top_k=12) as guidance:
        for _ in range(2):
            asked = inputs(policy, PROMPTS)
            how = PLAIN | {"max_new_tokens": 10, "do_sample": False}
            found = policy.reference.model.generate(**asked, **how, logits_processor=[guidance])
            begin = asked["input_ids"].shape[1]
            assert written(policy, found, begin) == [one.tokens for one in wanted]


@pytest.mark.parametrize("source", ["action", "state", "shared"])
def test_what_is_sampled_has_the_decoders_log_probabilities(policy_of, source):
    policy = policy_of(source)
    how = PLAIN | {"max_new_tokens": 6, "do_sample": True, "num_return_sequences": 3}
    how |= {"output_logits": True, "output_scores": True, "return_dict_in_generate": True}
    with ValueGuidance(policy, WEIGHTS[:2], beta=1.5, top_k=12, temperature=0.8) as guidance:
        torch.manual_seed(0)
        asked = inputs(policy, PROMPTS[:2])
        found = policy.reference.model.generate(**asked, **how, logits_processor=[guidance])
    begin = asked["input_ids"].shape[1]
    tokens = written(policy, found.sequences, begin)
    prompts = [prompt for prompt in PROMPTS[:2] for _ in range(3)]
    weights = [one for one in WEIGHTS[:2] for _ in range(3)]
    scores = policy.score(prompts, tokens, weights, beta=1.5, top_k=12, temperature=0.8)
    for at, (row, score) in enumerate(zip(tokens, scores, strict=True)):
        own = [float(found.scores[step][at, token]) for step, token in enumerate(row)]
        assert own == pytest.approx(score.log_prob, abs=1e-4)
        for step in range(len(row)):  # nothing outside of the candidates, and all sums to 1
            line = found.scores[step][at]
            assert int((line > -torch.inf).sum()) == 12
            assert float(line.logsumexp(0)) == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("source", ["action", "state", "shared"])
def test_beams_may_change_places(policy_of, source):
    """The log-probability of the best beam is that of its tokens under the policy."""
    policy = policy_of(source)
    how = PLAIN | {"max_new_tokens": 6, "do_sample": False, "num_beams": 4, "length_penalty": 0.0}
    how |= {"output_scores": True, "return_dict_in_generate": True, "num_return_sequences": 4}
    with ValueGuidance(policy, {"humor": 1.0}, beta=3.0, top_k=12) as guidance:
        asked = inputs(policy, PROMPTS[:2])
        found = policy.reference.model.generate(**asked, **how, logits_processor=[guidance])
    tokens = written(policy, found.sequences, asked["input_ids"].shape[1])
    prompts = [prompt for prompt in PROMPTS[:2] for _ in range(4)]
    scores = policy.score(prompts, tokens, {"humor": 1.0}, beta=3.0, top_k=12)
    sums = [sum(score.log_prob) for score in scores]
    assert found.sequences_scores.tolist() == pytest.approx(sums, abs=1e-3)


def test_a_call_that_breaks_off_leaves_nothing_behind(policy_of):
    policy = policy_of("action")

    def stop(*_, **__):
        raise KeyboardInterrupt

    how = PLAIN | {"max_new_tokens": 5, "do_sample": False}
    asked = inputs(policy, PROMPTS)
    with ValueGuidance(policy, {"humor": 1.0}) as guidance:
        generate = policy.reference.model.generate
        with pytest.raises(KeyboardInterrupt):
            generate(**asked, **how, logits_processor=[guidance], stopping_criteria=[stop])
        found = generate(**asked, **how, logits_processor=[guidance])
        alone = policy.generate(PROMPTS, {"humor": 1.0}, temperature=0, max_tokens=5)
        assert written(policy, found, asked["input_ids"].shape[1]) == [one.tokens for one in alone]
    assert not policy.reference.model._forward_pre_hooks
    assert not policy.reference.model.base_model._forward_hooks
    with pytest.raises(RuntimeError, match="do not close it before"):
        generate(**asked, **how, logits_processor=[guidance])


def test_what_does_not_fit_is_said_at_once(policy_of, build_reference):
    policy = policy_of("action")
    with pytest.raises(ValueError, match="humour"):
        ValueGuidance(policy, {"humour": 1.0})
    other = build_reference(vocab=24)
    with pytest.raises(ValueError, match="the model has 24 tokens"):
        ValueGuidance(policy, {"humor": 1.0}, model=other.model)
    with ValueGuidance(policy, WEIGHTS[:2]) as guidance:
        asked = inputs(policy, PROMPTS)
        with pytest.raises(ValueError, match="3 rows for 2 weightings"):
            policy.reference.model.generate(
                **asked, **PLAIN, max_new_tokens=2, do_sample=False, logits_processor=[guidance]
            )


def test_prompts_of_a_token_after_padded_ones(policy_of):
    policy = policy_of("action")
    how = PLAIN | {"max_new_tokens": 4, "do_sample": False}
    with ValueGuidance(policy, {"humor": 1.0}) as guidance:
        for prompts in (PROMPTS, ["um"], PROMPTS):
            asked = inputs(policy, prompts)
            found = policy.reference.model.generate(**asked, **how, logits_processor=[guidance])
            wanted = policy.generate(prompts, {"humor": 1.0}, temperature=0, max_tokens=4)
            new = written(policy, found, asked["input_ids"].shape[1])
            assert new == [one.tokens for one in wanted]


def test_a_script_that_masks_nothing(policy_of):
    """Without a mask there is no padding."""
    policy = policy_of("shared")
    ids = inputs(policy, PROMPTS[:1])["input_ids"]
    (wanted,) = policy.generate(PROMPTS[:1], {"kind": 1.0}, temperature=0, max_tokens=6)
    with ValueGuidance(policy, {"kind": 1.0}) as guidance:
        found = policy.reference.model.generate(
            ids, **PLAIN, max_new_tokens=6, do_sample=False, logits_processor=[guidance]
        )
    assert written(policy, found, ids.shape[1]) == [wanted.tokens]
