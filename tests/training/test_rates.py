"""Learning rates: a first step moves values as far as it is told, whatever the width."""

import pytest
import torch

from mavis.decoding.model_card import ModelCard
from mavis.decoding.value_model import build_network
from mavis.reward import Units
from mavis.training import rates
from mavis.training.rates import parameter_groups

LORA = {"r": 2, "lora_alpha": 4, "target_modules": ["q_proj", "v_proj"]}
TOKENS = [[20, 9, 3, 7, 30, 12, 5, 16]]


def network_of(reference, source="action", lora=None, **more):
    names = {"reference": reference.name, "fingerprint": reference.fingerprint}
    card = ModelCard(source=source, objectives=("kind",), units=(Units(0.0, 1.0),), **names, **more)
    return build_network(card, reference, 1, lora)


def values(network, reference):
    """Of the token taken [T] at every state of a text but the first."""
    trunk = network.trunk or reference.model.base_model
    tokens = torch.tensor(TOKENS)
    hidden = trunk(input_ids=tokens, use_cache=False).last_hidden_state
    if network.card.source == "state":
        return network.state_values(hidden)[0, 1:, 0]
    return network.action_values(hidden[0, :-1], tokens[0, 1:, None])[:, 0, 0]


@pytest.mark.parametrize("source", ["action", "shared", "state"])
@pytest.mark.parametrize("width", [64, 512, 4096])
def test_the_first_step_moves_values_by_the_rate(build_reference, width, source):
    size = {"hidden_size": width, "intermediate_size": 32, "num_attention_heads": 4}
    reference = build_reference(layers=1, num_key_value_heads=1, head_dim=8, **size)
    network = network_of(reference, source)
    for rate in (1.0, 0.1):
        for part in network.head.parameters():
            torch.nn.init.zeros_(part)
        groups = parameter_groups(network, reference, rate, None, 0.0)
        optimizer = torch.optim.AdamW(groups[: 1 if source == "state" else 3], weight_decay=0.0)
        before = values(network, reference)
        optimizer.zero_grad()
        (before[3] - 1).square().backward()  # towards 1 at one token
        optimizer.step()
        moved = values(network, reference)[3].item() - before[3].item()
        assert rate / 3 < moved < 3 * rate


def test_what_is_trained_is_in_one_group_each(build_reference):
    reference = build_reference()
    for source, count in (("action", 4), ("shared", 3), ("state", 2)):
        network = network_of(reference, source)
        groups = parameter_groups(network, reference, 1.0, None, 0.3)
        parameters = [id(p) for group in groups for p in group["params"]]
        assert len(groups) == count
        assert sorted(parameters) == sorted(map(id, network.parameters()))
        # What decays is the trunk: the head starts at zero, which says nothing.
        decays = [group for group in groups if group.get("weight_decay")]
        trunk = [] if network.trunk is None else [[id(p) for p in network.trunk.parameters()]]
        assert [[id(p) for p in group["params"]] for group in decays] == trunk


def test_the_hidden_layer_learns_at_a_rate_of_its_own(build_reference):
    """Its inputs are normed: what a first step does to it depends on how many there are."""
    reference = build_reference()
    network = network_of(reference, "shared", head_width=6)
    *head, inner = parameter_groups(network, reference, 3.0, None, 0.3)
    assert [id(p) for p in inner["params"]] == [id(p) for p in network.head.residual.parameters()]
    assert inner["lr"] == pytest.approx(0.2 * 3.0 / reference.model.config.hidden_size)
    assert inner["weight_decay"] == 0.3
    parameters = [id(p) for group in (*head, inner) for p in group["params"]]
    assert sorted(parameters) == sorted(map(id, network.parameters()))


def test_the_rate_of_the_trunk(build_reference, monkeypatch):
    """By the number of parameters that are trained, unless it is given."""
    reference = build_reference()

    def rate(lora=None, given=None):
        network = network_of(reference, "action", lora)
        return parameter_groups(network, reference, 1.0, given, 0.0)[-1]["lr"]

    assert rate() == 1e-3
    assert rate(given=0.02) == 0.02
    monkeypatch.setattr(rates, "SMALL", 1000)
    assert rate() == 1e-4
    assert rate(LORA) == 1e-3
    assert rate(given=0.02) == 0.02


def test_frozen_parameters_are_in_no_group(build_reference):
    reference = build_reference()
    network = network_of(reference, "action", LORA)
    groups = parameter_groups(network, reference, 1.0, None, 0.0)
    trained = {id(p) for group in groups for p in group["params"]}
    assert trained == {id(p) for p in network.parameters() if p.requires_grad}
