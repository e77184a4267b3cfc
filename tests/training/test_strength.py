"""The strength of a fit and its KL price: one follows from the other, unless both are given."""

import pytest

from mavis.training.strength import USUAL, Strength


@pytest.mark.parametrize(
    ("beta", "eta", "found"),
    [
        (None, None, (USUAL, 1 / USUAL)),
        (None, 0.25, (4.0, 0.25)),
        (4.0, None, (4.0, 0.25)),
        (1.0, 0.25, (1.0, 0.25)),
        (0.0, None, (0.0, 0.0)),  # an unguided policy pays nothing
    ],
)
def test_what_is_given_and_what_follows(beta, eta, found):
    strength = Strength(beta, eta)
    assert (strength.beta, strength.eta) == found


def test_a_new_strength_has_another_price():
    strength = Strength(None, None)
    strength.set(8.0)
    assert (strength.beta, strength.eta) == (8.0, 0.125)


def test_a_price_that_was_given_stays():
    strength = Strength(None, 0.5)
    strength.set(8.0)
    assert (strength.beta, strength.eta) == (8.0, 0.5)
