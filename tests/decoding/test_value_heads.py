"""Heads, against loops over their formulas."""

import math
from pathlib import Path

import pytest
import torch

from mavis.decoding.model_card import ModelCard
from mavis.decoding.reference import ReferencePolicy
from mavis.decoding.value_heads import ActionHead, Residual, StateHead
from mavis.decoding.value_model import ValueModel, build_network
from mavis.reward import Units


def test_the_action_head_against_a_loop() -> None:
    head, table = ActionHead(hidden=4, embedding=3, vocabulary=6, outputs=2), torch.randn(6, 3)
    for parameter in (*head.parameters(), head.centre):
        torch.nn.init.normal_(parameter)
    hidden, tokens = torch.randn(2, 4), torch.tensor([[1, 5, 0], [2, 2, 3]])
    found = head(hidden, tokens, table)
    mix = head.mix.weight.reshape(2, 3, 4)  # [M, E, H]
    for b in range(2):
        for k in range(3):
            a = int(tokens[b, k])
            for m in range(2):
                q = head.state.bias[m] + head.token[a, m]
                for h in range(4):
                    q = q + head.state.weight[m, h] * hidden[b, h]
                    for e in range(3):
                        q = q + (table[a, e] - head.centre[e]) * mix[m, e, h] * hidden[b, h]
                assert found[b, k, m].item() == pytest.approx(q.item(), abs=1e-5)


@pytest.mark.parametrize("width", [0, 5])
def test_heads_take_any_leading_shape_and_half_precision_states(width: int) -> None:
    action, plain = ActionHead(4, 3, 6, 2, width), StateHead(4, 2)
    for parameter in (*action.parameters(), *plain.parameters()):
        torch.nn.init.normal_(parameter)
    hidden, tokens, table = torch.randn(2, 5, 4), torch.randint(6, (2, 5, 3)), torch.randn(6, 3)
    flat = action(hidden.flatten(0, 1), tokens.flatten(0, 1), table)
    assert torch.allclose(action(hidden, tokens, table).flatten(0, 1), flat, atol=1e-6)
    assert action(hidden.half(), tokens, table.half()).dtype == torch.float32
    assert plain(hidden.half()).dtype == torch.float32


def test_the_residual_against_its_formula() -> None:
    layer = Residual(3, 2)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter)
    state = [1.0, -2.0, 4.0]
    mean = sum(state) / 3
    spread = math.sqrt(sum((x - mean) ** 2 for x in state) / 3 + 1e-5)
    parts = {name: part.tolist() for name, part in layer.state_dict().items()}
    normed = zip(state, parts["norm.weight"], parts["norm.bias"], strict=True)
    level = [(x - mean) / spread * weight + bias for x, weight, bias in normed]
    inner = []
    for weights, bias in zip(parts["up.weight"], parts["up.bias"], strict=True):
        z = sum(w * x for w, x in zip(weights, level, strict=True)) + bias
        inner.append(z * (1 + math.erf(z / math.sqrt(2))) / 2)
    found = layer(torch.tensor(state)).tolist()
    outer = zip(state, parts["down.weight"], parts["down.bias"], strict=True)
    for at, (x, weights, bias) in enumerate(outer):
        expected = x + sum(w * one for w, one in zip(weights, inner, strict=True)) + bias
        assert found[at] == pytest.approx(expected, abs=1e-5)


def test_a_hidden_layer_changes_nothing_at_first() -> None:
    table, hidden, tokens = torch.randn(6, 3), torch.randn(2, 4), torch.randint(6, (2, 5))
    plain, bent = ActionHead(4, 3, 6, 2), ActionHead(4, 3, 6, 2, 8)
    for parameter in plain.parameters():
        torch.nn.init.normal_(parameter)
    bent.load_state_dict(plain.state_dict(), strict=False)
    torch.testing.assert_close(bent(hidden, tokens, table), plain(hidden, tokens, table))
    torch.nn.init.normal_(bent.residual.down.weight)  # type: ignore[union-attr]
    assert not torch.allclose(bent(hidden, tokens, table), plain(hidden, tokens, table))


def test_a_folder_gives_back_its_hidden_layer(
    tiny_reference: ReferencePolicy, tmp_path: Path
) -> None:
    """And one of before there were any has none."""
    for width in (0, 7):
        card = ModelCard(
            source="shared",
            objectives=("humor",),
            units=(Units(0.0, 1.0),),
            reference=tiny_reference.name,
            fingerprint=tiny_reference.fingerprint,
            head_width=width,
        )
        network = build_network(card, tiny_reference)
        for parameter in network.head.parameters():
            torch.nn.init.normal_(parameter)
        network.save_pretrained(tmp_path / str(width))
        again = ValueModel.from_pretrained(tmp_path / str(width), tiny_reference)
        hidden, tokens = torch.randn(2, 32), torch.randint(40, (2, 5))
        assert torch.equal(
            again.action_values(hidden, tokens), network.action_values(hidden, tokens)
        )
        assert again.card.head_width == width
