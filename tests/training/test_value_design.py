"""What is chosen for a reference of a size and width, where nothing is given."""

from types import SimpleNamespace

import pytest
import torch

from mavis.training.value_design import HEAD_WIDTH, HIDDEN, LAYERS, Design, begun, choose


def model(parameters, width=576, layers=30):
    config = SimpleNamespace(num_hidden_layers=layers, hidden_size=width)
    config.get_text_config = lambda: config
    return SimpleNamespace(config=config, num_parameters=lambda: parameters)


def chosen(of, source=None, credit=None, layers=None, trunk=None, lora=None, taught=False):
    return choose(of, source, credit, layers, trunk, lora, taught)


def test_a_small_model_takes_gradient_steps_on_its_last_state():
    assert chosen(model(10**6)) == Design("action", "token", (), None)


def test_a_large_model_reads_what_a_token_is_and_what_it_means():
    assert chosen(model(10**8)) == Design("state", "joint", (0, 1, 2), 2)
    assert chosen(model(10**8), trunk=6) == Design("state", "joint", (0, 3, 6), 6)
    assert chosen(model(10**8, layers=1)) == Design("state", "joint", (0, 1), 1)
    assert chosen(model(10**8), source="shared") == Design("shared", "joint", (12,), 2)


@pytest.mark.parametrize(("width", "layers"), [(1024, (0, 1, 2)), (4096, ())])
def test_a_wide_model_reads_as_much_as_least_squares_can_solve(width, layers):
    assert chosen(model(7 * 10**9, width)).layers == layers


def test_what_is_given_stays():
    assert chosen(model(10**8), layers=(2,)) == Design("state", "joint", (2,), 2)
    assert chosen(model(10**8), layers=()) == Design("state", "joint", (), 2)
    assert chosen(model(10**8), trunk="other") == Design("state", "joint", (), "other")
    assert chosen(model(10**8), credit="token") == Design("state", "token", (), None)


def test_values_of_frozen_states_have_a_hidden_layer():
    """By gradient steps alone: joint credit solves for what is linear in the states."""
    assert chosen(model(10**6), source="shared").head_width == HEAD_WIDTH
    assert chosen(model(10**6), taught=True).head_width == HEAD_WIDTH
    assert chosen(model(10**6)).head_width == 0
    assert chosen(model(10**8), source="shared").head_width == 0
    assert chosen(model(10**6), source="state").head_width == 0


def test_a_run_of_linear_heads_goes_on_with_them():
    now = chosen(model(10**6), source="shared")
    before = {"state_dict": {"network.head.state.weight": torch.zeros(1, 8)}, LAYERS: []}
    assert begun(now, before, 8, None, None).head_width == 0
    of_now = before | {"state_dict": before["state_dict"] | {HIDDEN: torch.zeros(4, 8)}}
    assert begun(now, of_now, 8, None, None).head_width == 4


def test_layers_are_of_states():
    assert chosen(model(10**6), credit="joint", layers=(1,)).layers == (1,)
    with pytest.raises(ValueError, match="layers are of `shared` or `state` values"):
        chosen(model(10**6), layers=(1,))
