"""A saved value network: what its folder holds, what comes back, and what is refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from safetensors.torch import load_file, save_file

from mavis.decoding.model_card import ModelCard, Source, read_card
from mavis.decoding.reference import ReferencePolicy
from mavis.decoding.value_model import ValueModel, build_network
from mavis.reward import Units

Build = Callable[..., ReferencePolicy]
Make = Callable[..., ValueModel]


@pytest.mark.parametrize("source", get_args(Source))
def test_what_is_saved_comes_back_exactly(
    tiny_reference: ReferencePolicy, tiny_network: Make, source: Source, tmp_path: Path, naive: Any
) -> None:
    network = tiny_network(tiny_reference, source, ("humor", "kind"))
    network.save_pretrained(tmp_path / "value", "A card for people.")
    again = ValueModel.from_pretrained(tmp_path / "value", tiny_reference)

    assert again.card == network.card
    assert not again.training
    assert (tmp_path / "value" / "README.md").read_text() == "A card for people."
    before, after = network.state_dict(), again.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert {tensor.dtype for tensor in after.values()} == {torch.float32}
    same = naive(tiny_reference, [again]).values([5, 3, 9, 20], [7, 30, 3])
    assert same == naive(tiny_reference, [network]).values([5, 3, 9, 20], [7, 30, 3])
    files = {str(f.relative_to(tmp_path / "value")) for f in tmp_path.rglob("*") if f.is_file()}
    trunk = {"trunk/config.json", "trunk/model.safetensors"} if source != "shared" else set()
    assert files == {"README.md", "SHA256SUMS", "head.safetensors", "value.json"} | trunk


def test_a_head_of_before_there_was_a_centre(
    tiny_reference: ReferencePolicy, tiny_network: Make, tmp_path: Path
) -> None:
    """Its values are Q = b(h) + ⟨W h, E_a⟩ + B_a, as they were."""
    network = tiny_network(tiny_reference, "action", ("humor", "kind"))
    network.save_pretrained(tmp_path / "value", "")
    file = tmp_path / "value" / "head.safetensors"
    head = load_file(file)
    assert head.pop("centre").abs().sum() > 0
    save_file(head, file)
    (tmp_path / "value" / "SHA256SUMS").unlink()
    again = ValueModel.from_pretrained(tmp_path / "value", tiny_reference)
    state, tokens = torch.randn(32), torch.tensor([7, 30, 3])
    mixed = (head["mix.weight"] @ state).reshape(2, -1)
    table = again.table
    old = table[tokens] @ mixed.T + head["state.weight"] @ state + head["state.bias"]
    found = again.action_values(state, tokens)
    torch.testing.assert_close(found, old + head["token"][tokens], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(found, network.action_values(state, tokens), atol=1e-2)


def test_a_card_of_before_there_were_layers(
    tiny_reference: ReferencePolicy, tiny_network: Make, tmp_path: Path
) -> None:
    """Its values read the last state, as they did."""
    tiny_network(tiny_reference, "shared").save_pretrained(tmp_path)
    file = tmp_path / "value.json"
    content = json.loads(file.read_text())
    assert content.pop("layers") == []
    file.write_text(json.dumps(content))
    (tmp_path / "SHA256SUMS").unlink()
    again = ValueModel.from_pretrained(tmp_path, tiny_reference)
    assert again.card.layers == ()
    assert again.start(1).layers == ()


@pytest.mark.parametrize("layer", [-1, 3])
def test_layers_that_the_reference_has_not(tiny_reference: ReferencePolicy, layer: int) -> None:
    card = ModelCard(
        source="shared",
        layers=(1, layer),
        objectives=("b",),
        units=(Units(0.0, 1.0),),
        reference="some/model",
        fingerprint=tiny_reference.fingerprint,
    )
    with pytest.raises(ValueError, match=f"layers must be 0 to 2 of the reference, got {layer}"):
        build_network(card, tiny_reference)


@pytest.mark.parametrize("source", ["shared", "state"])
def test_values_of_layers_that_another_reference_has_not(
    tiny_reference: ReferencePolicy, tiny_network: Make, tmp_path: Path, source: Source
) -> None:
    """It may be as wide, and know the same tokens."""
    tiny_network(tiny_reference, source).save_pretrained(tmp_path)
    file = tmp_path / "value.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"layers": [7]}))
    (tmp_path / "SHA256SUMS").unlink()
    with pytest.raises(ValueError, match=r"layers must be 0 to \d of .*, got 7"):
        ValueModel.from_pretrained(tmp_path, tiny_reference)


def test_a_card_with_everything_comes_back(tiny_reference: ReferencePolicy, tmp_path: Path) -> None:
    units = (Units(0.1, 2.5), Units(-3.0, 0.125))
    full = ModelCard(
        source="shared",
        layers=(2, 0),
        objectives=("b", "a"),
        units=units,
        reference="some/model",
        fingerprint="0" * 16,
        template="m.f",
        eta=0.5,
        rounds=3,
    )
    build_network(full, tiny_reference).save_pretrained(tmp_path)
    assert read_card(tmp_path) == full


@pytest.fixture
def saved(tiny_reference: ReferencePolicy, tiny_network: Make, tmp_path: Path) -> Path:
    tiny_network(tiny_reference).save_pretrained(tmp_path / "value")
    return tmp_path / "value"


def test_another_tokenizer_is_refused(build_reference: Build, saved: Path) -> None:
    with pytest.raises(ValueError, match=r"different tokenizers: it was trained under tiny llama"):
        ValueModel.from_pretrained(saved, build_reference(vocab=39))


def test_a_shared_head_of_another_width_is_refused(
    tiny_reference: ReferencePolicy, tiny_network: Make, build_reference: Build, tmp_path: Path
) -> None:
    tiny_network(tiny_reference, "shared").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"does not fit the reference tiny llama: .*weight") as e:
        ValueModel.from_pretrained(tmp_path, build_reference(hidden_size=64))
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("folder", ["", "trunk"])
def test_no_value_model_there(saved: Path, folder: str, tiny_reference: ReferencePolicy) -> None:
    missing = saved.parent if not folder else saved / folder
    with pytest.raises(FileNotFoundError, match=r"holds no value model: value.json is missing"):
        ValueModel.from_pretrained(missing, tiny_reference)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "Expecting"),
        ("{", "Expecting"),
        ("[]", ""),
        ("{}", "it lacks 'objectives'"),
        ('{"units": [], "objectives": [], "x": 1}', "unexpected"),
    ],
)
def test_a_broken_card_is_named(saved: Path, text: str, why: str) -> None:
    (saved / "value.json").write_text(text)
    with pytest.raises(ValueError, match=r"value/value\.json is damaged or was changed"):
        read_card(saved)
    (saved / "SHA256SUMS").unlink()  # as it was once
    with pytest.raises(ValueError, match=rf"value/value\.json is no card of .* model: .*{why}"):
        read_card(saved)


def test_a_missing_trunk_folder_is_not_looked_for_elsewhere(
    saved: Path, tiny_reference: ReferencePolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(saved / "trunk")
    monkeypatch.chdir(saved.parent)
    with pytest.raises(FileNotFoundError, match=r"value/trunk/\S+ is missing: "):
        ValueModel.from_pretrained("value", tiny_reference)


@pytest.mark.parametrize("file", ["head.safetensors", "trunk/model.safetensors"])
@pytest.mark.parametrize("broken", [False, True])
def test_missing_or_broken_weights(
    saved: Path, tiny_reference: ReferencePolicy, file: str, broken: bool
) -> None:
    (saved / file).unlink()
    if broken:
        (saved / file).write_bytes(b"no weights")
    with pytest.raises((ValueError, OSError), match=str(saved)) as caught:
        ValueModel.from_pretrained(saved, tiny_reference)
    assert "\n" not in str(caught.value)


def test_a_folder_that_is_being_written_over_is_no_value_model(
    saved: Path,
    tiny_reference: ReferencePolicy,
    tiny_network: Make,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A head of today beside a trunk of yesterday must not pass for a model."""

    def fail(*_: Any, **__: Any) -> None:
        raise OSError("disk full")

    network = tiny_network(tiny_reference, seed=9)
    assert network.trunk is not None
    monkeypatch.setattr(network.trunk, "save_pretrained", fail)
    with pytest.raises(OSError, match="disk full"):
        network.save_pretrained(saved)
    with pytest.raises(FileNotFoundError, match="holds no value model"):
        read_card(saved)


def test_the_card_on_disk_is_plain_json(saved: Path) -> None:
    fields = json.loads((saved / "value.json").read_text())
    assert fields["source"] == "action"
    assert fields["objectives"] == ["humor"]
    assert fields["units"] == [{"mean": 0.5, "std": 2.0}]
