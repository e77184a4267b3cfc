"""Loading a guided policy: folders in every form that has one meaning, and errors that teach."""

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import mavis
from mavis import MavisWarning, load
from mavis.checksums import seal
from mavis.decoding.policy import GuidedPolicy
from mavis.decoding.reference import ReferencePolicy
from mavis.decoding.value_model import ValueModel

Make = Callable[..., ValueModel]
Build = Callable[..., ReferencePolicy]


def change(folder: Path, **fields: object) -> None:
    """Write other fields into the card of a value model."""
    card = json.loads((folder / "value.json").read_text())
    (folder / "value.json").write_text(json.dumps(card | fields))
    seal(folder)


@pytest.fixture
def folders(build_reference: Build, tiny_network: Make, tmp_path: Path) -> dict[str, Path]:
    """A reference and two value models on disk: humor with kind, and sense."""
    first = build_reference()
    first.model.save_pretrained(tmp_path / "reference")
    first.tokenizer.save_pretrained(tmp_path / "reference")
    reference = ReferencePolicy.load(str(tmp_path / "reference"), device="cpu")
    both = tiny_network(reference, "action", ("humor", "kind"))
    both.save_pretrained(tmp_path / "both")
    tiny_network(reference, "state", ("sense",), seed=4).save_pretrained(tmp_path / "sense")
    names = {"humor": "both", "kind": "both", "sense": "sense", "reference": "reference"}
    return {name: tmp_path / folder for name, folder in names.items()}


def test_value_models_are_loaded_by_objective(folders: dict[str, Path]) -> None:
    reference = str(folders.pop("reference"))
    policy = mavis.load(folders, device="cpu")
    assert isinstance(policy, GuidedPolicy)
    assert policy.objectives == ("humor", "kind", "sense")
    assert policy.reference.name == reference
    assert len(policy.guides) == 2  # one for humor and kind
    assert policy.generate(["um"], {"sense": 1.0}, max_tokens=3)[0].tokens


def test_a_policy_is_shown_in_a_line(folders: dict[str, Path]) -> None:
    policy = load(reference=str(folders["reference"]), device="cpu")
    assert repr(policy.reference) == f"ReferencePolicy({policy.reference.name!r})"
    assert repr(policy) == f"GuidedPolicy({policy.reference.name!r}, objectives=())"


def test_one_of_two_outputs_may_be_asked_for(folders: dict[str, Path]) -> None:
    policy = load({"kind": str(folders["kind"])}, device="cpu")
    assert policy.vector({"kind": 1.0}) == (0.0, 1.0)


def test_a_relative_reference_is_found_from_everywhere(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folders["reference"].parent)
    assert load(reference="reference", device="cpu").reference.name == str(folders["reference"])
    assert load(device="cpu").reference.name == "sandbox/reference"


def test_value_models_of_different_strengths_or_references(folders: dict[str, Path]) -> None:
    folders.pop("reference")
    for name, eta in {"humor": 0.5, "sense": 2.0}.items():
        change(folders[name], eta=eta)
    policy = load(folders, device="cpu")
    assert policy.beta == 0.5  # the smaller one of 1 / η
    usual = policy.generate(["um"], max_tokens=3)
    assert usual == policy.generate(["um"], beta=0.5, max_tokens=3)
    change(folders["sense"], reference="other")
    with pytest.raises(
        ValueError, match=r"value models must be of one reference, got .* and other"
    ):
        load(folders, device="cpu")


def test_the_reference_alone(folders: dict[str, Path]) -> None:
    policy = load(reference=str(folders["reference"]), device="cpu")
    assert policy.objectives == ()
    assert policy.generate(["um"], max_tokens=3)[0].kl == pytest.approx(0, abs=1e-5)


def test_a_value_model_of_another_objective(folders: dict[str, Path]) -> None:
    with pytest.raises(
        ValueError, match=r"values.sad must be a value model of sad, .* humor, kind"
    ):
        load({"sad": folders["humor"]})


def test_a_value_folder_that_is_none(folders: dict[str, Path]) -> None:
    with pytest.raises(FileNotFoundError, match=r"holds no value model: value.json is missing"):
        load({"humor": folders["reference"]})
    with pytest.raises(FileNotFoundError, match="holds no value model: there is no such folder"):
        load({"humor": "runs/nowhere/value"})


def test_a_reference_that_does_not_fit(
    folders: dict[str, Path], tiny_lm: Callable[..., Any], tiny_tokenizer: Callable[..., Any]
) -> None:
    tiny_lm(vocab=39).save_pretrained(folders["reference"])
    tiny_tokenizer(39).save_pretrained(folders["reference"])
    with pytest.raises(ValueError, match="have different tokenizers"):
        load({"sense": folders["sense"]}, device="cpu")


def test_a_card_says_what_its_folder_is_of(folders: dict[str, Path]) -> None:
    both, sense = folders["humor"], folders["sense"]
    for told in (both, str(both), [both], (str(both),)):
        policy = load(told, device="cpu")
        assert policy.objectives == ("humor", "kind")
    assert load([sense, both], device="cpu").objectives == ("sense", "humor", "kind")
    assert load([], device="cpu").objectives == ()
    answers = policy.generate("um", {"kind": 1.0}, max_tokens=3)
    expected = load({"kind": both}, device="cpu").generate("um", {"kind": 1.0}, max_tokens=3)
    assert answers[0].tokens == expected[0].tokens


def test_the_folder_of_a_run_stands_for_its_values(folders: dict[str, Path]) -> None:
    run = folders["sense"].parent / "run"
    shutil.copytree(folders["sense"], run / "value")
    assert load(run, device="cpu").objectives == ("sense",)
    assert load({"sense": str(run)}, device="cpu").objectives == ("sense",)


@pytest.mark.parametrize("told", [3, {"humor": None}, {"humor": ""}, [None], {"humor"}, ""])
def test_what_cannot_be_understood_shows_the_right_call(told: Any) -> None:
    with pytest.raises(ValueError, match=r"as in mavis.load\({.humor.: .runs/humor/value.}\)"):
        load(told)


def test_folders_that_are_none_of_ours(folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no such folder.*runs/humor/value"):
        load("humor")
    with pytest.raises(FileNotFoundError, match=r"is a language model.*mavis.load.reference="):
        load(folders["reference"])
    shutil.copytree(folders["humor"], tmp_path / "again")
    with pytest.raises(
        ValueError, match=r"different objectives, but .*both and .*again.* of humor"
    ):
        load([folders["humor"], tmp_path / "again"])


def test_a_reference_that_has_moved(folders: dict[str, Path], tmp_path: Path) -> None:
    now = tmp_path / "elsewhere"
    folders["reference"].rename(now)
    with pytest.raises(
        FileNotFoundError,
        match=r"both was trained under .*reference, which is no "
        r"longer there: .*`--reference PATH`",
    ):
        load(folders["humor"], device="cpu")
    assert load(folders["humor"], now, device="cpu").reference.name == str(now)


def test_a_reference_without_its_tokenizer(folders: dict[str, Path]) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folders["reference"] / name).unlink()
        with pytest.raises(FileNotFoundError, match=r"holds no tokenizer .*save_pretrained"):
            load(folders["humor"], device="cpu")


def test_new_weights_in_the_reference_s_folder(
    folders: dict[str, Path], tiny_lm: Callable[..., Any]
) -> None:
    reference = ReferencePolicy.load(str(folders["reference"]), device="cpu")
    sense = folders["sense"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        old = load(sense, device="cpu")  # an old card, that does not say
        change(sense, reference_weights=reference.weights_digest)
        same = load(sense, device="cpu")
    for policy in (old, same):
        assert policy.reference.weights_digest == reference.weights_digest
    tiny_lm(seed=5).save_pretrained(folders["reference"])
    with pytest.warns(MavisWarning, match="are not those that value model .*sense was trained"):
        other = load(sense, device="cpu")
    assert other.reference.weights_digest != reference.weights_digest


@pytest.mark.parametrize("device", ["warp", "cuda:99", "meta", "", "cpu:x"])
def test_a_device_that_is_not_there(folders: dict[str, Path], device: str) -> None:
    with pytest.raises(
        ValueError, match=f"device '{device}' is not available here; there are: cpu"
    ):
        load(reference=folders["reference"], device=device)


def test_arguments_of_the_chat_template(folders: dict[str, Path]) -> None:
    template = "{{ messages[0].content }}{% if loud %} um um{% endif %} a"
    (folders["reference"] / "chat_template.jinja").write_text(template)
    loud = load(reference=folders["reference"], device="cpu", template_args={"loud": True})
    assert loud.reference.render("an") == "an um um a"
    change(folders["sense"], template_args={"loud": True})
    assert load(folders["sense"], device="cpu").reference.render("an") == "an um um a"
    mine = load(folders["sense"], device="cpu", template_args={"loud": False})
    assert mine.reference.render("an") == "an a"
    with pytest.raises(ValueError, match=r"value models must be of one template_args"):
        load([folders["sense"], folders["humor"]], device="cpu")
    with pytest.raises(ValueError, match=r"template_args must be arguments .* got 'quiet'"):
        load(reference=folders["reference"], device="cpu", template_args={"quiet": True})


def test_public_names() -> None:
    assert {"load", "Objective", "ClassifierReward", "ValueModule"} <= set(dir(mavis))
    assert dir(mavis) == sorted(mavis.__all__)
    assert mavis.__version__.count(".") >= 1
