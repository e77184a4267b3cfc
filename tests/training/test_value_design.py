"""What is chosen for a reference of a size and width, where nothing is given."""

from types import SimpleNamespace

import pytest

from mavis.training.value_design import Design, choose


def model(parameters, width=576, layers=30):
    config = SimpleNamespace(num_hidden_layers=layers, hidden_size=width)
    config.get_text_config = lambda: config
    return SimpleNamespace(config=config, num_parameters=lambda: parameters)


def chosen(of, source=None, credit=None, layers=None, trunk=None, lora=None):
    return choose(of, source, credit, layers, trunk, lora)


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


def test_layers_are_of_states():
    assert chosen(model(10**6), credit="joint", layers=(1,)).layers == (1,)
    with pytest.raises(ValueError, match="layers are of `shared` or `state` values"):
        chosen(model(10**6), layers=(1,))
