"""What rewards return: read where it is one number per reply, refused in a line elsewhere."""

import array
import collections
import decimal
import fractions

import numpy as np
import pandas as pd
import pytest
import torch

from mavis.reward import score

PROMPTS, REPLIES = ["p0", "p1", "p2"], ["r", "rr", "rrr"]


def returning(value):
    return score("mine", lambda *_: value, PROMPTS, REPLIES)


@pytest.mark.parametrize(
    "value",
    [
        (float(number) for number in (1, 2, 3)),
        map(float, (1, 2, 3)),
        {"a": 1, "b": 2, "c": 3}.values(),
        range(1, 4),
        collections.deque([1, 2, 3]),
        array.array("d", [1, 2, 3]),
        pd.Series([1, 2, 3], index=[9, 5, 7]),
        np.array([1, 2, 3], dtype=object),
        torch.tensor([1, 2, 3], dtype=torch.bfloat16).requires_grad_(False),
        [decimal.Decimal(1), fractions.Fraction(2), np.float16(3)],
        [np.array([1.0]), torch.tensor([2.0]), torch.tensor(3.0, requires_grad=True)],
    ],
)
def test_one_number_per_reply_is_read(value):
    assert returning(value).tolist() == [1.0, 2.0, 3.0]


@pytest.mark.parametrize(
    "value",
    [
        [1.0, decimal.Decimal("NaN"), 3.0],
        np.ma.masked_array([1.0, 2.0, 3.0], [False, True, False]),
        pd.Series([1, None, 3], dtype="Int64"),
        np.array([1, None, 3]),
    ],
)
def test_what_is_missing_abstains(value):
    assert returning(value).isnan().tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ((number for number in range(4)), "got 4"),
        (iter(int, 1), "got 4"),  # without an end
        ({1, 2, 3}, "got set"),
        ({1: 1, 2: 2, 3: 3}.keys(), "got dict_keys"),
        (b"abc", "got bytes"),
        ([b"1", b"2", b"3"], "got b'1' in it"),
        (np.array(["1", "2", "3"]), "got '1' in it"),
        (pd.DataFrame({"a": [1, 2, 3]}), r"got shape \[3, 1\]"),
        (np.float32(1), r"got shape \[\]"),
        (torch.zeros(3, device="meta"), "got a Tensor that cannot be read"),
        (np.array([1j, 2, 3]), "got 1j in it"),
        ([np.complex64(1), 2, 3], "in it"),
        ([{"label": "a", "score": 0.5}] * 3, "got {'label': 'a', 'score': 0.5} in it"),
        (([1, 2, 3], {"more": 1}), "got 2 "),
        ([decimal.Decimal("Infinity"), 2, 3], "must be finite, got inf"),
        ([10**5000, 2, 3], "got a value of type int in it"),
        ([fractions.Fraction(10**400), 2, 3], "got Fraction"),
        ([np.zeros((30, 30)), 2, 3], "in it"),
    ],
)
def test_anything_else_is_refused_in_a_line(value, message):
    with pytest.raises(ValueError, match=message) as caught:
        returning(value)
    assert "objective 'mine'" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 400


def test_a_generator_that_raises_is_traced_to_the_row():
    def reward(_prompts, responses):
        for response in responses:
            yield {"r": 1.0, "rrr": 3.0}[response]

    with pytest.raises(ValueError, match=r"raised KeyError: 'rr' \(prompt 'p1', response 'rr'\)"):
        score("mine", reward, PROMPTS, REPLIES)


def test_a_coroutine_is_refused_and_closed():
    async def later(prompts, responses):
        return [1.0] * len(prompts + responses)

    with pytest.raises(ValueError, match="no async function can be a reward"):
        score("mine", lambda *texts: later(*texts), PROMPTS, REPLIES)
