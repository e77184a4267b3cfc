"""Weights by the names of models."""

import pytest

from mavis.serving.errors import Refused
from mavis.serving.presets import Presets

NAMES = ("humor", "kind")


def test_names_stand_for_weights():
    presets = Presets(NAMES, {"warm": {"kind": 2}})
    assert presets.weights("mavis") == {"humor": 0.5, "kind": 0.5}
    assert presets.weights("mavis:kind") == {"humor": 0.0, "kind": 1.0}
    assert presets.weights("mavis:warm") == {"humor": 0.0, "kind": 2.0}
    assert presets.weights("mavis:humor=-1, kind = .5") == {"humor": -1.0, "kind": 0.5}
    assert presets.weights("reference") == {"humor": 0.0, "kind": 0.0}


@pytest.mark.parametrize("name", ["gpt-4", "mavis:", "mavis:no", "mavis:humor=x", "x:humor=1"])
def test_other_names_are_no_models(name):
    with pytest.raises(Refused) as caught:
        Presets(NAMES, {}).weights(name)
    assert caught.value.status == 404


@pytest.mark.parametrize("weights", [{"humour": 1}, {"humor": "1"}, {"humor": float("nan")}])
def test_presets_that_cannot_be_are_errors_at_the_start(weights):
    with pytest.raises(ValueError, match=r"preset\.bad"):
        Presets(NAMES, {"bad": weights})


def test_without_value_models_there_is_the_reference():
    presets = Presets((), {})
    assert presets.weights("mavis") == presets.weights("reference") == {}
