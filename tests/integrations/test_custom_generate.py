"""`GuidedGenerate` in `generate()`, against the policy itself."""

import pytest
import torch
from transformers import StoppingCriteriaList

from mavis.decoding.policy import GuidedPolicy
from mavis.integrations.custom_generate import GuidedGenerate

PROMPTS = ["a um is tum", "um", "tum a a is"]
WEIGHTS = [{"humor": 1.0, "kind": -0.5}, {"humor": -2.0}, {"kind": 1.5}]


@pytest.fixture(scope="module")
def policy(build_reference, tiny_network):
    reference = build_reference()
    return GuidedPolicy(reference, (tiny_network(reference, "state", ("humor", "kind"), seed=3),))


@pytest.fixture
def asked(policy):
    """Prompts padded on the left."""
    rows = [policy.reference.encode(prompt).tokens for prompt in PROMPTS]
    longest = max(map(len, rows))
    ids = torch.tensor([[0] * (longest - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
    return {"input_ids": ids, "attention_mask": mask, "pad_token_id": 0}


def written(policy, found, begin):
    """The new tokens of each row, up to and with its end token."""
    rows = []
    for row in found[:, begin:].tolist():
        end = next((at for at, token in enumerate(row) if token in policy.reference.ends), len(row))
        rows.append(row[: end + 1])
    return rows


def test_greedy_replies_are_those_of_the_policy(policy, asked):
    wanted = policy.generate(PROMPTS, WEIGHTS, beta=2.0, top_k=12, temperature=0, max_tokens=10)
    found = policy.reference.model.generate(
        **asked,
        custom_generate=GuidedGenerate(policy),
        weights=WEIGHTS,
        beta=2.0,
        top_k=12,
        do_sample=False,
        max_new_tokens=10,
    )
    begin = asked["input_ids"].shape[1]
    assert torch.equal(found[:, :begin], asked["input_ids"])
    assert written(policy, found, begin) == [one.tokens for one in wanted]


def test_samples_follow_torchs_seed_and_are_guided(policy, asked):
    """As many as asked for; likely where guidance says so."""
    guided = GuidedGenerate(policy, rows=5)
    how = {"do_sample": True, "max_new_tokens": 8, "num_return_sequences": 40, "top_k": 12}

    def sampled(seed, weights):
        torch.manual_seed(seed)
        found = policy.reference.model.generate(
            **asked, **how, custom_generate=guided, weights=weights, beta=2.0
        )
        return written(policy, found, asked["input_ids"].shape[1])

    one, again, other = (sampled(seed, WEIGHTS) for seed in (0, 0, 1))
    assert one == again != other
    assert len(one) == 3 * 40
    prompts = [prompt for prompt in PROMPTS for _ in range(40)]
    weights = [each for each in WEIGHTS for _ in range(40)]
    scores = policy.score(prompts, one, weights, beta=2.0, top_k=12)
    log_prob = sum(sum(score.log_prob) for score in scores)
    kl = sum(sum(score.kl) for score in scores)
    log_ref = sum(sum(score.log_ref) for score in scores)
    assert log_prob > log_ref  # the mean log-ratio is the KL, to the noise of sampling
    assert log_prob - log_ref == pytest.approx(kl, rel=0.2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_beams": 2}, "cannot honour num_beams"),
        ({"repetition_penalty": 1.2}, "cannot honour RepetitionPenaltyLogitsProcessor"),
        ({"return_dict_in_generate": True}, "cannot honour return_dict_in_generate"),
        ({"stopping_criteria": StoppingCriteriaList([lambda *_, **__: False])}, "cannot honour"),
        ({"eos_token_id": 7}, "eos_token_id must be among those of the reference"),
        ({"weights": [{"humor": 1.0}]}, "3 prompts for 1 weightings"),
        ({"weights": {"humour": 1.0}}, "humour"),
        ({"beta": float("nan")}, "beta must be a finite number"),
    ],
)
def test_what_it_cannot_honour_is_named(policy, asked, options, message):
    how = {"max_new_tokens": 4, "do_sample": False} | options
    with pytest.raises(ValueError, match=message):
        policy.reference.model.generate(**asked, **how, custom_generate=GuidedGenerate(policy))


def test_another_model_is_refused(policy, asked, build_reference):
    other = build_reference().model
    with pytest.raises(ValueError, match=r"goes with the model of policy\.reference"):
        other.generate(**asked, max_new_tokens=2, custom_generate=GuidedGenerate(policy))
