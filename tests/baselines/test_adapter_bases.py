"""Which model an adapter is put on: a given one, the named one, or the reference if it fits."""

import pytest
import torch

from mavis import MavisWarning, ReferencePolicy
from mavis.baselines.adapter_bases import base_of, find_base, same_model


def never():
    raise AssertionError("there was no need to ask")


def misfit():
    raise ValueError("other shapes")


@pytest.fixture
def reference(tiny_folder):
    return ReferencePolicy.load(str(tiny_folder / "reference"), device="cpu")


def test_names_of_one_folder_are_one_model(tiny_folder, monkeypatch):
    monkeypatch.chdir(tiny_folder)
    assert same_model("./reference", str(tiny_folder / "reference"))
    assert not same_model("./reference", "./prompts")
    assert same_model("./gone", "./gone")
    assert not same_model("./gone", "./reference")
    assert not same_model("owner/one", "owner/other")


def test_what_is_said_or_known_needs_no_fit(reference, tiny_folder):
    there = str(tiny_folder / "reference")
    assert find_base(reference, "owner/gone", "it", there, never) == there
    assert find_base(reference, there, "it", None, never) == reference.name


def test_the_reference_stands_in_with_a_warning(reference):
    with pytest.warns(MavisWarning, match=r"'\./gone', which is not on this machine: it is put on"):
        assert find_base(reference, "./gone", "it", None, lambda: None) == reference.name
    with pytest.warns(MavisWarning, match="it does not say which model it is for"):
        assert find_base(reference, "", "it", None, lambda: None) == reference.name


def test_nothing_fits(reference):
    with pytest.raises(ValueError, match=r"does not fit .* \(other shapes\): say by `base`"):
        find_base(reference, "./gone", "it", None, misfit)


def test_the_reference_lends_its_weights(reference):
    lent, own = base_of(reference, reference.name), base_of(reference, reference.name, copied=True)
    table = reference.model.get_input_embeddings().weight
    assert lent is not reference.model
    assert lent.get_input_embeddings().weight is table
    assert own.get_input_embeddings().weight is not table
    assert torch.equal(own.get_input_embeddings().weight, table)
