"""What a model's folder says of it."""

import json
import re
import shutil

import pytest
from safetensors.torch import load_file, save_file

from mavis.checksums import SUMS
from mavis.comparison.checkpoints import Models
from mavis.comparison.provenance import cost, identity, purpose, tokenizer

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
