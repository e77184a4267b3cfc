"""Bilinear adapters against matrices merged by hand."""

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from mavis.baselines.pblora import PBLoRA, Preference, adapt, adapters, set_adapters

ALPHA = torch.tensor([[0.2, 0.5, 0.3], [1.0, 0.0, 0.0], [0.0, 0.25, 0.75]])
IDS = torch.tensor([[3, 4, 5, 6], [7, 3, 9, 5], [6, 6, 4, 3]])


def shake(model, seed=1):
    noise = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, part in adapters(model):
            part += 0.2 * torch.randn(part.shape, generator=noise)


@pytest.mark.parametrize("base", [nn.Linear(6, 5), nn.Linear(6, 5, bias=False), Conv1D(5, 6)])
def test_a_layer_is_its_merged_matrix(base):
    preference = Preference()
    layer = PBLoRA(base, preference, 3, (2, 4), 1.5, torch.Generator().manual_seed(0))
    shake(layer)
    preference.rows = ALPHA
    states = torch.randn(3, 7, 6)
    a1, a2 = layer.down[:2], layer.down[2:]
    b1, b2 = layer.up[:, :2], layer.up[:, 2:]
    ours = layer(states)
    plain = base.weight.T if isinstance(base, Conv1D) else base.weight
    bias = 0 if base.bias is None else base.bias
    for row, alpha in enumerate(ALPHA):
        steered = sum(share * phi for share, phi in zip(alpha, layer.mix, strict=True))
        merged = plain + 1.5 * (b1 @ layer.core @ a1 + b2 @ steered @ a2)
        torch.testing.assert_close(ours[row], states[row] @ merged.T + bias)


def adapted(tiny_lm, family="llama", ranks=(2, 3), seed=0, shaken=True):
    model = tiny_lm(family).requires_grad_(False)
    preference = adapt(model, 3, ranks, seed)
    if shaken:
        shake(model)
    return model, preference


def test_it_begins_as_the_model_that_it_adapts(tiny_lm, family):
    model, preference = adapted(tiny_lm, family, shaken=False)
    preference.rows = ALPHA
    with torch.no_grad():
        assert torch.equal(model(IDS).logits, tiny_lm(family)(IDS).logits)
    layers = [m for m in model.modules() if isinstance(m, nn.Linear | Conv1D)]
    kept = [m for m in model.modules() if isinstance(m, PBLoRA)]
    assert len(layers) == len(kept) + 1  # all but the output layer
    assert model.get_output_embeddings() in layers
    assert all(part.dtype == torch.float32 for _, part in adapters(model))


@pytest.mark.parametrize("ranks", [(2, 3), (0, 3)])
def test_rows_have_preferences_of_their_own(tiny_lm, ranks):
    model, preference = adapted(tiny_lm, ranks=ranks)
    with torch.no_grad():
        preference.rows = ALPHA
        together = model(IDS).logits
        for row, alpha in enumerate(ALPHA):
            preference.rows = alpha[None]
            torch.testing.assert_close(together[row : row + 1], model(IDS[row : row + 1]).logits)
        preference.rows = ALPHA.flip(0)
        assert not torch.allclose(together, model(IDS).logits, atol=1e-2)


def test_all_parts_learn_and_the_base_does_not(tiny_lm):
    model, preference = adapted(tiny_lm)
    for _, part in adapters(model):
        part.requires_grad_(True)
    preference.rows = ALPHA
    model(IDS).logits.logsumexp(-1).sum().backward()
    own = {id(part) for _, part in adapters(model)}
    for name, parameter in model.named_parameters():
        if id(parameter) in own:
            assert parameter.grad is not None, name
            assert parameter.grad.abs().sum() > 0, name
            if name.endswith("mix"):  # every objective's Φ
                assert (parameter.grad.abs().sum((1, 2)) > 0).all(), name
        else:
            assert parameter.grad is None, name


def test_seeds_and_what_is_saved(tiny_lm):
    model, _ = adapted(tiny_lm, seed=1)
    same, _ = adapted(tiny_lm, seed=1)
    other, _ = adapted(tiny_lm, seed=2)
    parts = dict(adapters(model))
    assert len(parts) == 4 * 7 * 2
    assert all(torch.equal(part, parts[name]) for name, part in adapters(same))
    assert not all(torch.equal(part, parts[name]) for name, part in adapters(other))
    set_adapters(other, parts)
    assert all(torch.equal(part, parts[name]) for name, part in adapters(other))


def test_adapters_of_another_model_are_refused(tiny_lm):
    model, _ = adapted(tiny_lm)
    wider, _ = adapted(tiny_lm, ranks=(2, 5))
    with pytest.raises(ValueError, match=r"down must be \[5, 32\], got \[7, 32\]"):
        set_adapters(model, dict(adapters(wider)))
    other, _ = adapted(tiny_lm, "gpt2")
    with pytest.raises(ValueError, match=r"for another model: .* is in one only"):
        set_adapters(model, dict(adapters(other)))
    model, _ = adapted(tiny_lm)
    with pytest.raises(ValueError, match="no linear layers"):
        adapt(bare(), 2, (1, 1))


def bare():
    from transformers import LlamaConfig, LlamaForCausalLM

    tiny = LlamaConfig(
        vocab_size=8, hidden_size=4, intermediate_size=4, num_hidden_layers=0, num_attention_heads=1
    )
    return LlamaForCausalLM(tiny)
