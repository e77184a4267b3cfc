"""Settings per prompt, in every form that people write them, against plain lists."""

import array
import re
from collections import deque
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from mavis.decoding.arguments import numbers, stops, vectors, whole_numbers
from mavis.decoding.policy import GuidedPolicy
from mavis.decoding.reference import ReferencePolicy
from mavis.decoding.value_model import ValueModel

NAMES = ("humor", "kind")
PROMPTS = ["had a bun?", "um"]


@pytest.mark.parametrize(
    "told",
    [
        [0.5, 2],
        (0.5, 2.0),
        np.array([0.5, 2.0]),
        np.array([0.5, 2.0], dtype=np.float16),
        np.array([0.5, 2], dtype=object),
        [np.float32(0.5), np.array(2.0)],
        torch.tensor([0.5, 2.0]),
        torch.tensor([0.5, 2.0], requires_grad=True),
        torch.tensor([0.5, 2.0], dtype=torch.bfloat16),
        [torch.tensor(0.5), torch.tensor(2)],
        pd.Series([0.5, 2.0], index=[7, 3]),
        deque([0.5, 2.0]),
        array.array("d", [0.5, 2.0]),
        {"a": 0.5, "b": 2.0}.values(),
        [Decimal("0.5"), 2],
    ],
    ids=lambda told: type(told).__name__,
)
def test_what_has_a_length_is_a_list(told: Any) -> None:
    assert numbers("beta", told, 2) == [0.5, 2.0]


@pytest.mark.parametrize("told", [3, np.int64(3), np.array(3), torch.tensor(3), np.float32(3), 3.0])
def test_a_single_number_is_for_all(told: Any) -> None:
    assert numbers("beta", told, 2) == [3.0, 3.0]
    found = whole_numbers("seed", told, 2)
    assert found == [3, 3]
    assert all(type(one) is int for one in found)


def test_whole_numbers_are_exact() -> None:
    assert whole_numbers("seed", range(2), 2) == [0, 1]
    assert whole_numbers("seed", np.array([1.0, 2.0]), 2) == [1, 2]
    assert whole_numbers("seed", 2**70 + 1, 1) == [2**70 + 1]


@pytest.mark.parametrize(
    ("told", "error"),
    [
        ("0.5", "beta must be a number, or a list of one per prompt, got '0.5'"),
        (None, "beta must be a number, or a list of one per prompt, got None"),
        (True, "got True"),
        ({"a": 1.0}, "got {'a': 1.0}"),
        ({1.0, 2.0}, "beta must be a list of one per prompt, got a set"),
        ((one for one in [1.0, 2.0]), "beta must be one or a list of one per prompt, got a gen"),
        ([1.0], r"beta must be one or one per prompt \(2\), got 1"),
        (np.ones(3), r"beta must be one or one per prompt \(2\), got 3"),
        (torch.ones(0), r"beta must be one or one per prompt \(2\), got 0"),
        ([1.0, None], "beta must be a number, got None for prompt 1"),
        ([1.0, "2"], "beta must be a number, got '2' for prompt 1"),
        (["1", 2], "beta must be a number, got '1' for prompt 0"),
        (np.ones((2, 1)), r"beta must be a number, got \[1.0\] for prompt 0"),
        (np.array([1.0, 1j]), r"beta must be a number, got \(1\+0j\) for prompt 0"),
        (np.array([True, False]), "beta must be a number, got True for prompt 0"),
    ],
)
def test_what_is_no_number_is_named(told: Any, error: str) -> None:
    with pytest.raises(ValueError, match=error):
        numbers("beta", told, 2)


def test_what_is_no_whole_number_is_named() -> None:
    with pytest.raises(ValueError, match=r"seed must be a whole number, got 1.5 for prompt 1"):
        whole_numbers("seed", np.array([1.0, 1.5]), 2)
    with pytest.raises(ValueError, match=r"seed must be a whole number, got nan"):
        whole_numbers("seed", float("nan"), 2)


@pytest.mark.parametrize(
    "told",
    [
        [{"humor": 1.0, "kind": -0.5}, {"humor": 2.0}],
        {"humor": [1.0, 2.0], "kind": (-0.5, 0.0)},
        {"humor": np.array([1.0, 2.0]), "kind": torch.tensor([-0.5, 0.0])},
        np.array([[1.0, -0.5], [2.0, 0.0]]),
        torch.tensor([[1.0, -0.5], [2.0, 0.0]]),
        [[1.0, -0.5], np.array([2.0, 0.0])],
        pd.Series([{"humor": 1.0, "kind": -0.5}, {"humor": np.float32(2)}]),
    ],
    ids=lambda told: type(told).__name__,
)
def test_weights_per_prompt(told: Any) -> None:
    assert vectors(told, NAMES, 2) == [(1.0, -0.5), (2.0, 0.0)]


@pytest.mark.parametrize(
    "told", [0.5, np.float64(0.5), torch.tensor(0.5), [0.5], [[0.5]], {"humor": 0.5}]
)
def test_the_weight_of_the_only_objective(told: Any) -> None:
    assert vectors(told, ("humor",), 3) == [(0.5,)] * 3


def test_weights_of_one_objective_per_prompt() -> None:
    assert vectors([1.0, 2.0], ("humor",), 2) == [(1.0,), (2.0,)]
    assert vectors(np.array([[1.0], [2.0]]), ("humor",), 2) == [(1.0,), (2.0,)]


@pytest.mark.parametrize(
    ("told", "error"),
    [
        (1.0, 'weights must be by objective, such as {"humor": 1.0, "kind": 1.0}, .* got 1.0'),
        ("humor", "weights must be by objective, .* got 'humor'"),
        ([1.0, 2.0], "weights must be by objective, .* got 1.0 for prompt 0"),
        ([{"humor": 1.0}, None], "weights must be by objective, .* got None for prompt 1"),
        ([{"humor": 1.0}], r"weights must be one or one per prompt \(2\), got 1"),
        ([[1.0, 2.0], [1.0]], r"weights must be by objective, .* got \[1.0\] for prompt 1"),
        (np.ones((2, 3)), r"weights must be by objective, .* got \[1.0, 1.0, 1.0\] for prompt 0"),
        (np.ones((3, 2)), r"weights must be one or one per prompt \(2\), got 3"),
        ({"humor": [1.0]}, r"weights.humor must be one or one per prompt \(2\), got 1"),
        ({"humor": [1.0, None]}, "weights.humor must be a number, got None for prompt 1"),
        ({"humor": "1"}, "weights.humor must be a number, or a list .* got '1'"),
        ([{"humor": 1.0}, {"kind": "x"}], "weights.kind must be a number, got 'x' for prompt 1"),
        ([{"humor": 1.0}, {"sad": 1.0}], r"loaded: humor, kind\), got 'sad'"),
        ({0: 1.0}, r"loaded: humor, kind\), got 0"),
        ({"humor", "kind"}, "weights must be a list of one per prompt, got a set"),
    ],
)
def test_weights_that_cannot_be(told: Any, error: str) -> None:
    with pytest.raises(ValueError, match=error) as raised:
        vectors(told, NAMES, 2)
    assert "\n" not in str(raised.value)


def test_weights_without_value_models() -> None:
    with pytest.raises(
        ValueError, match=r"weights need a value model, and none is loaded, got 1.0"
    ):
        vectors(1.0, (), 2)
    assert vectors(None, (), 2) == [(), ()]


@pytest.mark.parametrize(
    ("told", "found"),
    [
        (None, [(), ()]),
        ("a", [("a",), ("a",)]),
        (["a", "b"], [("a", "b")] * 2),
        (("a",), [("a",)] * 2),
        (np.array(["a", "b"]), [("a", "b")] * 2),
        ([["a"], ["b", "c"]], [("a",), ("b", "c")]),
        ([None, ("b",)], [(), ("b",)]),
        ([], [(), ()]),
    ],
)
def test_stop_strings(told: Any, found: list[tuple[str, ...]]) -> None:
    assert stops(told, 2) == found


@pytest.mark.parametrize(
    ("told", "error"),
    [
        ("", "stop must be strings that are not empty, got ''"),
        (["a", ""], "stop must be strings that are not empty, got ''"),
        (3, "stop must be strings that end a reply, got 3"),
        ([["a"]], r"a list of one list per prompt \(2\), got"),
        ([["a"], "b"], "stop must be one list per prompt, got 'b' for prompt 1"),
        ([["a"], [""]], "stop must be strings that are not empty, got '' for prompt 1"),
        ([["a"], [3]], "stop must be strings that are not empty, got 3 for prompt 1"),
    ],
)
def test_stop_strings_that_cannot_be(told: Any, error: str) -> None:
    with pytest.raises(ValueError, match=error):
        stops(told, 2)


def test_every_setting_may_be_an_array(
    tiny_reference: ReferencePolicy, tiny_network: Callable[..., ValueModel]
) -> None:
    policy = GuidedPolicy(tiny_reference, (tiny_network(tiny_reference, "action", NAMES),))
    lists: dict[str, Any] = {
        "weights": [[1.0, -2.0], [0.5, 0.0]],
        "beta": [0.5, 2.0],
        "temperature": [0.5, 1.5],
        "top_k": [3, 20],
        "top_p": [1.0, 0.5],
        "max_tokens": [3, 5],
        "seed": [1, 2],
    }
    wanted = policy.generate(PROMPTS, **lists)
    for make in (np.array, torch.tensor):
        found = policy.generate(PROMPTS, **{name: make(one) for name, one in lists.items()})
        assert [answer.tokens for answer in found] == [answer.tokens for answer in wanted]


@pytest.mark.parametrize(
    ("setting", "error"),
    [
        ({"temperature": np.array([1.0, np.nan])}, "prompt 1: temperature must be a finite number"),
        ({"weights": {"humor": [np.inf, 1]}}, "prompt 0: weights.humor must be a finite number"),
        ({"beta": 10**400}, "beta must be a finite number, got inf"),
        ({"top_k": [1, -5]}, "prompt 1: top_k must be at least 0"),
        ({"max_tokens": np.array([3.5, 1])}, "max_tokens must be a whole number, got 3.5 for pr"),
        ({"n": 1.5}, "n must be a whole number, got 1.5"),
        ({"n": [1]}, "n must be one whole number for all prompts"),
        ({"rows": [8]}, "rows must be one whole number for all prompts"),
        ({"max_tokens": 160}, r"max_tokens \(160\) must fit into the context of 160 tokens"),
    ],
    ids=lambda told: str(told)[:60],
)
def test_settings_that_no_prompt_can_have(
    tiny_reference: ReferencePolicy,
    tiny_network: Callable[..., ValueModel],
    setting: dict[str, Any],
    error: str,
) -> None:
    policy = GuidedPolicy(tiny_reference, (tiny_network(tiny_reference, "action", NAMES),))
    with pytest.raises(ValueError, match=re.compile(error)):
        policy.generate(PROMPTS, **setting)
