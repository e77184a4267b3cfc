"""The guard tells rounding from another model."""

import math

import pytest
import torch

from mavis.decoding.probe import log_probs, probe_tokens, same_policy


@pytest.mark.parametrize("vocabulary", [43, 1000, 32000])
def test_tokens_are_different_and_known(vocabulary):
    tokens = probe_tokens(vocabulary)
    assert len(set(tokens)) == len(tokens) == 24
    assert all(0 <= token < vocabulary for token in tokens)


def test_it_says_what_a_plain_forward_says(tiny_lm):
    model = tiny_lm()
    logits = model(input_ids=torch.tensor([[3, 4, 5]])).logits[0, :, :30]
    torch.testing.assert_close(log_probs(model, [3, 4, 5], 30), logits.log_softmax(-1))


def test_rounding_is_alike_and_other_numbers_are_not():
    one = torch.log(torch.tensor([[0.7, 0.3 - 1e-8, 1e-8]]))
    assert same_policy(one, one + 1e-3, torch.float32)
    assert not same_policy(one, one + 1e-2, torch.float32)
    assert same_policy(one, one + 1e-2, torch.bfloat16)
    unlikely = torch.tensor([[0.0, 0.0, 3.0]])  # on a token that nobody says
    assert same_policy(one, one + unlikely, torch.float32)
    assert not same_policy(torch.full_like(one, math.nan), one, torch.float32)


def test_a_forbidden_token_is_as_forbidden():
    one = torch.tensor([[0.0, -math.inf]])
    assert same_policy(one, one.clone(), torch.float32)
    assert not same_policy(one, torch.log(torch.tensor([[0.5, 0.5]])), torch.float32)
