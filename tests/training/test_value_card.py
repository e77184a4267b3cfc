"""What stands beside a value model: the strengths that it was measured at."""

import json

import pytest

from mavis.decoding.model_card import read_card
from mavis.training.value_card import strengths


def test_strengths_and_what_they_cost():
    shares = {"kl_expected_0.25": 0.1, "kl_expected_0.5": 0.4, "kl_expected_1": 1.5}
    entry = {"beta": 2.0, **shares, "kl_expected_2": 5.0}
    assert strengths(entry) == ((0.5, 0.1), (1.0, 0.4), (2.0, 1.5), (4.0, 5.0))
    assert strengths({"beta": 2.0, "reward": 1.0}) == ()  # of an older run


def test_a_fit_writes_them_on_its_cards(tiny_fit):
    entry = json.loads((tiny_fit / "metrics.json").read_text())[-1]
    card = read_card(tiny_fit / "value")
    assert card.strengths == strengths(entry)
    betas, spent = zip(*card.strengths, strict=True)
    assert betas[2] == pytest.approx(entry["beta"])
    assert spent[2] == pytest.approx(entry["kl_expected"])
    assert list(spent) == sorted(spent)
    text = (tiny_fit / "value" / "README.md").read_text()
    assert text.count("nats is expected, beside truncation") == len(card.strengths)
    assert f"| at strength {entry['beta']:.3g} | a KL of" in text
