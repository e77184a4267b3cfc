"""Draws are named by keys, and settings that no row can have are refused by name."""

import numpy as np
import pytest

from mavis.decoding.request import Request, SamplingParams, stream

KNOWN = [0.563369, 0.134547, 0.733573, 0.078749]


def draws(key):
    return stream(key).random(4).tolist()


def test_a_key_names_its_draws():
    assert draws((0, "tree", 3)) == draws((np.int64(0), "tree", np.int32(3)))
    others = [(1, "tree", 3), (0, "tree", 4), (0, "tree"), (0, "tree", "3"), (0, "sample", 3)]
    assert all(draws(other) != draws((0, "tree", 3)) for other in others)


def test_draws_are_the_same_on_every_machine():
    assert draws((0, "tree", 3)) == pytest.approx(KNOWN, abs=1e-6)


@pytest.mark.parametrize("stop", ["end", ("",), ("a", "\ud800")])
def test_stop_strings_that_cannot_be(stop):
    with pytest.raises(ValueError, match="stop"):
        Request([1], 1, SamplingParams(()), (0,), stop)
