"""What a model's folder says of it."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file, save_file

from mavis.baselines.policy_card import TunedCard
from mavis.checksums import SUMS
from mavis.comparison.checkpoints import Models
from mavis.comparison.config import ParetoConfig
from mavis.comparison.provenance import Origin, cost, identity, origin, purpose, tokenizer
from mavis.decoding.model_card import read_card
from mavis.options import EMBEDDED
from mavis.storage import read_json, write_json

NAMES, HALF = ("trial", "rival"), [(0.5, 0.5)]


def test_costs_are_read_from_cards(tiny_runs, tmp_path):
    models = Models(str(tiny_runs))
    found = cost([models.folders("mod", NAMES, HALF, 0)])
    assert found.seconds == 100.0
    assert len(found.seen) == 10
    sizes = [load_file(tiny_runs / "tuned/rloo-trial/model.safetensors")]
    assert found.parameters == 2 * sum(t.numel() for t in sizes[0].values())
    twice = cost([models.folders("mod", NAMES, HALF, 0)] * 2)
    assert (twice.seconds, twice.parameters) == (found.seconds, found.parameters)
    values = cost([models.folders("mavis", NAMES, HALF, 0)])
    assert values.seconds is None  # no metrics.json beside them
    assert values.seen is None
    run = tmp_path / "trial"
    shutil.copytree(tiny_runs / "trial", run)
    (run / "metrics.json").write_text(json.dumps([{"seconds_cpu": 5.0}, {"seconds_cpu": 7.0}]))
    (run / "value" / "prompts.json").write_text('["a", "b"]')
    found = cost([{"trial": run / "value"}])
    assert (found.seconds, found.seen) == (12.0, {"a", "b"})


def test_another_model_in_the_same_folder_is_another_one(tiny_runs, tmp_path):
    place = tmp_path / "value"
    shutil.copytree(tiny_runs / "trial" / "value", place)
    before = identity(place)
    assert before == identity(tiny_runs / "trial" / "value")
    (place / "README.md").write_text("nothing that matters")
    assert identity(place) == before
    head = load_file(place / "head.safetensors")
    save_file({name: tensor + 1e-3 for name, tensor in head.items()}, place / "head.safetensors")
    assert identity(place) != before


def test_what_a_model_was_made_for(tiny_runs, tmp_path):
    assert purpose(tiny_runs / "rival" / "value") == "rival"
    assert purpose(tiny_runs / "tuned" / "rloo-trial0.5_rival0.5") == "trial0.5_rival0.5"
    assert purpose(tmp_path) is None


def test_the_tokenizer_of_a_folder_with_and_without_a_card(tiny_runs, disk_reference, tmp_path):
    place = tmp_path / "policy"
    shutil.copytree(tiny_runs / "tuned" / "rloo-trial", place)
    assert tokenizer(place) == disk_reference.fingerprint
    (place / "tuned.json").unlink()
    assert tokenizer(place) == disk_reference.fingerprint
    disk_reference.tokenizer.__class__.from_pretrained(place, extra_special_tokens={"x": "<x>"})
    more = disk_reference.tokenizer.__class__.from_pretrained(place)
    more.add_tokens(["mavisly"])
    more.save_pretrained(place)
    assert tokenizer(place) not in {None, disk_reference.fingerprint}
    assert tokenizer(tmp_path) is None


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"fingerprint": '])
@pytest.mark.parametrize(
    ("look", "card"),
    [
        (tokenizer, "trial/value/value.json"),
        (tokenizer, "tuned/rloo-trial/tuned.json"),
        (tokenizer, "tuned/parm-trial+rival/parm.json"),
        (purpose, "trial/value/value.json"),
        (purpose, "tuned/rloo-trial/tuned.json"),
    ],
)
def test_a_broken_card_is_named(tiny_runs, tmp_path, look, card, content):
    runs = tmp_path / "runs"
    shutil.copytree(tiny_runs, runs)
    file = runs / card
    file.write_text(content)
    with pytest.raises(ValueError, match=re.escape(f"{card} is damaged or was changed")):
        look(file.parent)
    for sums in (file.parent / SUMS, file.with_name(f".{file.name}.sha256")):  # as it was once
        sums.unlink(missing_ok=True)
    with pytest.raises(ValueError, match=re.escape(f"{card} is no card")):
        look(file.parent)


def test_broken_figures_of_a_fit_are_named(tiny_runs, tmp_path):
    run = tmp_path / "trial"
    shutil.copytree(tiny_runs / "trial", run)
    (run / "metrics.json").write_text("[{")
    with pytest.raises(ValueError, match=r"trial/metrics\.json is no JSON"):
        cost([{"trial": run / "value"}])


# A sweep is of the policy that its models know, unless another one is asked for


@pytest.fixture
def runs(tiny_runs, tmp_path):
    return shutil.copytree(tiny_runs, tmp_path / "runs")


@pytest.fixture
def look(two_objectives):
    def ask(*places, **asked):
        return origin(ParetoConfig(**asked), [Path(place) for place in places], two_objectives)

    return ask


def say(place, **changes):
    """Change the card of a value model or of a tuned policy."""
    if (place / "value.json").is_file():
        write_json(place / "value.json", read_json(place / "value.json") | changes)
    else:
        replace(TunedCard.read(place), **changes).save(place)


@pytest.mark.parametrize("kind", ["trial/value", "tuned/rloo-trial", "tuned/parm-trial+rival"])
def test_it_is_what_the_cards_say(kind, runs, look, disk_reference):
    assert look(runs / kind).reference == disk_reference.name
    assert look(runs / kind, reference="an/other").reference == "an/other"


def test_arguments_of_the_template_are_those_of_the_cards(runs, look):
    loud = {"loud": True}
    say(runs / "trial" / "value", template_args=loud)
    assert look(runs / "trial/value").template_args == loud
    assert look(runs / "trial/value", template_args={}).template_args == {}
    tuned = runs / "tuned" / "rloo-trial"
    say(tuned, template_args=loud)
    assert look(runs / "trial/value", tuned).template_args == loud
    with pytest.raises(ValueError, match=r"template_args must be given, by --template_args"):
        look(runs / "trial/value", runs / "tuned/rloo-rival")


def test_models_that_say_nothing_are_of_the_embedded_policy(look, tmp_path):
    assert look(tmp_path / "missing", tmp_path) == Origin(
        EMBEDDED, None, None, "sandbox/prompts", None
    )


def test_models_that_disagree_are_a_question(runs, look):
    say(runs / "trial" / "value", reference="an/other")
    say(runs / "rival" / "value", reference="one/more")
    places = (runs / "trial/value", runs / "rival/value")
    with pytest.raises(ValueError, match=r"reference must be given, by --reference, .*") as error:
        look(*places)
    for part in (*map(str, places), "an/other", "one/more"):
        assert part in str(error.value)
    assert look(*places, reference="an/other").reference == "an/other"


def test_a_template_goes_with_the_models(runs, look):
    say(runs / "trial" / "value", template="json.dumps")
    assert look(runs / "trial/value").template == "json.dumps"
    with pytest.raises(ValueError, match=r"template must be given, by --template, .* under none"):
        look(runs / "trial/value", runs / "rival/value")
    both = look(runs / "trial/value", runs / "rival/value", template="json.loads")
    assert both.template == "json.loads"


def test_a_reference_that_has_moved(runs, look, tmp_path):
    say(runs / "tuned" / "rloo-trial", reference=str(tmp_path / "gone"))
    with pytest.raises(FileNotFoundError, match=r"rloo-trial was trained under .*gone, .*--refer"):
        look(runs / "tuned/rloo-trial")
    assert look(runs / "tuned/rloo-trial", reference="an/other").reference == "an/other"


def test_prompts_are_those_of_the_data_that_the_models_were_trained_on(runs, look, tmp_path):
    config = runs / "trial" / "config.yaml"
    config.write_text(yaml.safe_dump({"data": {"prompts": str(tmp_path), "column": "ask"}}))
    say(runs / "tuned" / "rloo-rival", settings={"prompts": "a/set", "column": None})
    found = look(runs / "trial/value")
    assert (found.prompts, found.column) == (str(tmp_path), "ask")
    assert look(runs / "trial/value", prompts="b", column="c") == replace(
        found, prompts="b", column="c"
    )
    assert look(runs / "tuned/rloo-rival").prompts == "a/set"
    with pytest.raises(ValueError, match=r"prompts must be given, by --prompts, .* ask, .* a/set"):
        look(runs / "trial/value", runs / "tuned/rloo-rival")
    config.write_text(yaml.safe_dump({"data": {"prompts": None, "column": None}}))
    assert look(runs / "trial/value").prompts == "sandbox/prompts"  # the objective's own
    for broken in ("data: [", "x", ""):
        config.write_text(broken)
        with pytest.raises(
            ValueError, match=r"trial/config.yaml is damaged: it is not the configuration of a fit"
        ):
            look(runs / "trial/value")
    assert look(runs / "trial/value", prompts="b").prompts == "b"


def test_what_a_command_for_missing_models_must_be_told(two_objectives):
    assert Origin(EMBEDDED, None, None, "sandbox/prompts", None).given(two_objectives) == {}
    other = Origin("m", "t", {"loud": True}, "p", "c")
    assert other.given(two_objectives) == {
        "reference": "m",
        "template": "t",
        "template_args": '{"loud": true}',
        "prompts": "p",
        "column": "c",
    }


def test_a_fit_s_own_card(tiny_fit, look, tiny_folder):
    found = look(tiny_fit / "value")
    assert found.reference == read_card(tiny_fit / "value").reference
    assert found.prompts == str(tiny_folder / "prompts")
