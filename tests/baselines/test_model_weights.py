"""Weights that can be summed: made apart, put back, and tied again where they are equal."""

import pytest
import torch
from transformers import GPT2Config, LlamaConfig

from mavis.baselines.model_weights import differing, fill, fitted, untie


@pytest.fixture
def tied(tiny_lm):
    return tiny_lm(layers=1, tie_word_embeddings=True)


def copy_of(tiny_lm, model):
    other = tiny_lm(layers=1, seed=5, tie_word_embeddings=True)
    untie(other)
    return other, {name: tensor.clone() for name, tensor in model.state_dict().items()}


def test_untied_parts_have_the_same_numbers_and_are_apart(tied):
    table, head = tied.get_input_embeddings(), tied.get_output_embeddings()
    assert table.weight is head.weight
    untie(tied)
    assert table.weight is not head.weight
    assert torch.equal(table.weight, head.weight)


def test_equal_parts_are_tied_again(tied, tiny_lm):
    other, weights = copy_of(tiny_lm, tied)
    fill(other, tied, weights)
    assert other.get_input_embeddings().weight is other.get_output_embeddings().weight
    assert torch.equal(other.get_input_embeddings().weight, tied.get_input_embeddings().weight)
    assert not any(p.requires_grad for p in other.parameters())


def test_a_head_that_came_apart_stays_apart(tied, tiny_lm):
    other, weights = copy_of(tiny_lm, tied)
    weights["lm_head.weight"] += 1.0
    fill(other, tied, weights)
    assert other.config.tie_word_embeddings is False
    gap = other.get_output_embeddings().weight - other.get_input_embeddings().weight
    torch.testing.assert_close(gap, torch.ones_like(gap))


def test_weights_of_more_tokens_are_cut_and_others_do_not_fit(tiny_lm):
    small, large = tiny_lm(vocab=30, layers=1), tiny_lm(vocab=35, layers=1)
    found = fitted(large.state_dict(), small)
    assert found is not None
    assert found["lm_head.weight"].shape == (30, 32)
    assert torch.equal(found["lm_head.weight"], large.state_dict()["lm_head.weight"][:30])
    assert fitted(tiny_lm(vocab=30, layers=2).state_dict(), small) is None


def test_options_that_matter():
    assert differing(LlamaConfig(), LlamaConfig(vocab_size=5, use_cache=False)) is None
    assert differing(LlamaConfig(), LlamaConfig(hidden_act="gelu")) == "hidden_act (silu and gelu)"
    assert differing(LlamaConfig(), GPT2Config()) == "model_type (llama and gpt2)"
