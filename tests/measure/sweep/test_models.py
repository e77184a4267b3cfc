"""Finding models by their folders, and what their cards say of them."""

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from mavis.measure.sweep.models import METHODS, Models, cost, identity
from mavis.measure.tuning.tuned import tuned_folder

NAMES, HALF = ("trial", "rival"), [(0.5, 0.5)]


def test_every_method_has_its_folders(tiny_runs):
    models = Models(str(tiny_runs))
    values = models.folders("mavis", NAMES, HALF, 0)
    assert values == {n: tiny_runs / n / "value" for n in NAMES}
    policies = models.folders("mod", NAMES, HALF, 0)
    assert policies == {n: tiny_runs / "tuned" / f"rloo-{n}" for n in NAMES}
    assert models.folders("soup", NAMES, HALF, 0) == policies
    whole = models.folders("morlhf", NAMES, HALF, 0)
    assert whole == {"trial=0.5,rival=0.5": tiny_runs / "tuned" / "rloo-trial0.5_rival0.5"}
    assert models.folders("reference", NAMES, HALF, 0) == {}
    assert models.folders("best_of", NAMES, HALF, 0) == {}


def test_a_corner_of_morlhf_is_the_policy_of_one_objective(tiny_runs):
    found = Models(str(tiny_runs)).folders("morlhf", NAMES, [(1.0, 0.0)], 0)
    assert list(found.values()) == [tiny_runs / "tuned" / "rloo-trial"]


def test_seeds_and_other_places(tiny_runs, tmp_path):
    shutil.copytree(tiny_runs, tmp_path / "s1")
    models = Models(str(tmp_path / "s{seed}"), values={"rival": str(tiny_runs / "rival/value")})
    found = models.folders("mavis", NAMES, HALF, 1)
    assert found == {"trial": tmp_path / "s1/trial/value", "rival": tiny_runs / "rival/value"}
    with pytest.raises(FileNotFoundError, match=str(tmp_path / "s0")):
        models.folders("mavis", NAMES, HALF, 0)


@pytest.mark.parametrize(
    ("method", "options", "command"),
    [
        ("mavis", {}, "mavis fit --objective trial --out {}/trial`"),
        ("mod", {}, "mavis tune --method rloo --out {}/tuned --objectives trial`"),
        ("soup", {"tuned": "dpo"}, "mavis tune --method dpo --out {}/tuned --objectives trial`"),
        ("mod", {"tuned": "dpo", "divergence": "jsd"}, "--method dpo --divergence jsd --out"),
        (
            "mod",
            {"tuned": "dpo", "divergence": "alpha", "alpha": 0.5},
            "--method dpo --divergence alpha --alpha 0.5 --out",
        ),
        ("mod", {"lora": True}, "--method rloo --lora --out"),
        ("morlhf", {}, "--objectives trial,rival --weights trial=0.5,rival=0.5`"),
        ("parm", {}, "mavis parm --objectives trial,rival --out {}/tuned/parm-trial+rival`"),
    ],
)
def test_what_is_missing_comes_with_the_command_that_makes_it(tmp_path, method, options, command):
    models = Models(str(tmp_path), **options)
    with pytest.raises(FileNotFoundError) as error:
        models.folders(method, NAMES, HALF, 0)
    assert str(error.value).startswith(f"{method} needs a model of ")
    assert command.format(tmp_path) in str(error.value)


def test_the_command_for_missing_models_is_one_that_exists(tmp_path):
    from mavis.cli import TRAINING, commands

    known = {*TRAINING, *(" ".join(words) for words in commands())}
    for method in set(METHODS) - {"reference", "best_of"}:
        with pytest.raises(FileNotFoundError) as error:
            Models(str(tmp_path)).folders(method, NAMES, HALF, 0)
        assert str(error.value).split("`mavis ")[1].split()[0] in known


def test_a_divergence_is_one_that_policies_are_tuned_under():
    Models(tuned="dpo", divergence="jsd").check()
    Models().check()
    for options in ({"divergence": "jsd"}, {"tuned": "dpo", "divergence": "jeffrey"}):
        with pytest.raises(ValueError, match=r"is none that .* tunes under: dpo does"):
            Models(**options).check()
    with pytest.raises(ValueError, match=r"alpha must be in \[0, 1\]"):
        Models(tuned="dpo", divergence="alpha", alpha=1.5).check()


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


def test_a_sweep_looks_where_tune_puts_things(tmp_path):
    models = Models(str(tmp_path), tuned="dpo", divergence="jsd", lora=True)
    place = tuned_folder(tmp_path / "tuned", ["trial"], (1.0,), "dpo", "jsd", lora=True)
    Path(place).mkdir(parents=True)
    assert models.folders("mod", ["trial"], [(1.0,)], 0) == {"trial": place}
