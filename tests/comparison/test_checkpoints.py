"""Finding models by their folders, and what their cards say of them."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from mavis.baselines.policy_card import TunedCard, tuned_folder
from mavis.comparison.checkpoints import Models
from mavis.comparison.config import METHODS, ParetoConfig

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


def test_one_value_model_of_all_objectives_comes_first(tiny_runs, tmp_path):
    """But not where one by one is asked for, and not one that is of something else."""
    shutil.copytree(tiny_runs, tmp_path / "runs")
    place = tmp_path / "runs" / "rival+trial" / "value"
    shutil.copytree(tiny_runs / "trial" / "value", place)
    models = Models(str(tmp_path / "runs"))
    with pytest.raises(ValueError, match=r"is for trial, not for rival"):
        models.folders("mavis", NAMES, HALF, 0)
    card = json.loads((place / "value.json").read_text())
    several = {"objectives": ["rival", "trial"], **{k: card[k] * 2 for k in ("units", "rewards")}}
    (place / "value.json").write_text(json.dumps(card | several))
    (place / "SHA256SUMS").unlink()  # as of a folder that nobody has sealed
    assert models.folders("mavis", NAMES, HALF, 0) == dict.fromkeys(NAMES, place)
    by_name = {name: tmp_path / "runs" / name / "value" for name in NAMES}
    assert models.folders("mavis_linear", NAMES, HALF, 0) == by_name
    given = Models(str(tmp_path / "runs"), values=dict.fromkeys(NAMES, str(place)))
    assert given.folders("mavis", NAMES, HALF, 0) == dict.fromkeys(NAMES, place)


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


def test_the_command_for_another_seed_trains_another_model(tmp_path):
    said = {"mavis": "--seed_everything 2`", "mod": "--seed 2`", "parm": "--seed 2`"}
    for method, option in said.items():
        with pytest.raises(FileNotFoundError, match=option):
            Models(str(tmp_path / "{seed}")).folders(method, NAMES, HALF, 2)
        with pytest.raises(FileNotFoundError) as error:
            Models(str(tmp_path)).folders(method, NAMES, HALF, 2)
        assert "--seed" not in str(error.value)


def test_the_command_for_missing_models_is_one_that_exists(tmp_path):
    from mavis.cli.main import TRAINING, commands

    known = {*TRAINING, *(" ".join(words) for words in commands())}
    for method in set(METHODS) - {"reference", "best_of"}:
        with pytest.raises(FileNotFoundError) as error:
            Models(str(tmp_path)).folders(method, NAMES, HALF, 0)
        assert str(error.value).split("`mavis ")[1].split()[0] in known


def test_a_divergence_is_one_that_policies_are_tuned_under():
    Models(tuned="dpo", divergence="jsd").check(NAMES)
    Models().check(NAMES)
    Models(divergence="jeffrey", policies=dict.fromkeys(NAMES, "elsewhere")).check(NAMES)
    for options in ({"divergence": "jsd"}, {"tuned": "dpo", "divergence": "jeffrey"}):
        with pytest.raises(ValueError, match=r"is not available with --tuned .*: dpo tunes under"):
            Models(**options).check(NAMES)
    with pytest.raises(ValueError, match=r"alpha must be in \[0, 1\]"):
        Models(tuned="dpo", divergence="alpha", alpha=1.5).check(NAMES)


def test_a_sweep_looks_where_tune_puts_things(tmp_path):
    models = Models(str(tmp_path), tuned="dpo", divergence="jsd", lora=True)
    place = tuned_folder(tmp_path / "tuned", ["trial"], (1.0,), "dpo", "jsd", lora=True)
    Path(place).mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="mavis tune"):  # it is still in training
        models.folders("mod", ["trial"], [(1.0,)], 0)
    (place / "adapter_config.json").touch()
    assert models.folders("mod", ["trial"], [(1.0,)], 0) == {"trial": place}


def test_a_model_of_something_else_is_refused(tiny_runs, tmp_path):
    other = str(tiny_runs / "rival" / "value")
    with pytest.raises(ValueError, match=r"mavis: the model at .* is for rival, not for trial"):
        Models(str(tiny_runs), values={"trial": other}).folders("mavis", NAMES, HALF, 0)
    both = str(tiny_runs / "tuned" / "rloo-trial0.5_rival0.5")
    with pytest.raises(ValueError, match=r"soup: .* is for trial0.5_rival0.5, not for rival"):
        Models(str(tiny_runs), policies={"rival": both}).folders("soup", NAMES, HALF, 0)
    shutil.copytree(tiny_runs / "tuned" / "rloo-rival", tmp_path / "tuned" / "rloo-trial")
    with pytest.raises(ValueError, match=r"morlhf: .* is for rival, not for trial=1,rival=0"):
        Models(str(tmp_path)).folders("morlhf", NAMES, [(1.0, 0.0)], 0)


def test_a_policy_without_a_card_is_taken_at_its_users_word(tiny_runs, tmp_path):
    place = tmp_path / "foreign"
    shutil.copytree(tiny_runs / "tuned" / "rloo-rival", place)
    (place / "tuned.json").unlink()
    models = Models(str(tiny_runs), policies={"trial": str(place)})
    assert models.folders("mod", NAMES, HALF, 0)["trial"] == place


@pytest.mark.parametrize("what", ["values", "policies"])
def test_a_folder_for_an_objective_that_is_not_asked_for_is_refused(what):
    with pytest.raises(ValueError, match=rf"{what} are those of trial, rival, got --{what}.humour"):
        Models(**{what: {"humour": "runs/humor"}}).check(NAMES)


def test_a_policy_tuned_under_another_divergence_is_refused(tiny_runs):
    places = {name: str(tiny_runs / "tuned" / f"rloo-{name}") for name in NAMES}
    models = Models(divergence="jeffrey", policies=places)
    models.check(NAMES)
    with pytest.raises(ValueError, match="tuned under reverse_kl, not under jeffrey"):
        models.folders("mod", NAMES, HALF, 0)


def test_one_alpha_is_not_another(tiny_runs, tmp_path):
    models = Models(str(tmp_path), tuned="dpo", divergence="alpha", alpha=0.7)
    for name in NAMES:
        place = tuned_folder(tmp_path / "tuned", [name], (1.0,), "dpo", "alpha")
        shutil.copytree(tiny_runs / "tuned" / f"rloo-{name}", place)
        card = TunedCard.read(place)
        replace(card, divergence="alpha", settings=card.settings | {"alpha": 0.3}).save(place)
    with pytest.raises(ValueError, match=r"under alpha with alpha 0\.3, not under .* 0\.7"):
        models.folders("mod", NAMES, HALF, 0)
    replace(models, alpha=0.3).folders("mod", NAMES, HALF, 0)


def test_a_folder_of_the_users_that_is_not_there(tiny_runs, tmp_path):
    places = {"trial": str(tmp_path / "typo")}
    with pytest.raises(FileNotFoundError, match=r"trial at .*/typo: there is no such folder"):
        Models(str(tiny_runs), values=places).folders("mavis", NAMES, HALF, 0)


def test_every_folder_may_have_the_seed_in_its_name(tiny_runs, tmp_path):
    for seed in "01":
        shutil.copytree(tiny_runs, tmp_path / seed)
    place = str(tmp_path / "{seed}" / "trial" / "value")
    models = Models(str(tiny_runs), values={"trial": place})
    assert models.folders("mavis", NAMES, HALF, 1)["trial"] == tmp_path / "1" / "trial" / "value"
    with pytest.raises(FileNotFoundError, match=r"runs/\{s\}/trial/value"):
        Models("runs/{s}").folders("mavis", NAMES, HALF, 1)


def test_the_command_says_what_the_sweep_says(tmp_path):
    models = Models(str(tmp_path), given={"reference": "my lm", "prompts": "asked.jsonl"})
    for method, option in (("mavis", "--data."), ("mod", "--"), ("parm", "--")):
        with pytest.raises(FileNotFoundError) as error:
            models.folders(method, NAMES, HALF, 0)
        assert f"{option}reference 'my lm' {option}prompts asked.jsonl`" in str(error.value)


def test_no_other_braces_than_those_of_the_seed():
    Models("runs/{seed}").check(NAMES)
    with pytest.raises(ValueError, match=r"folders may have \{seed\} in them, got \{sed\} in"):
        Models("runs/{sed}").check(NAMES)


def test_models_are_those_of_the_options():
    options = {"tuned": "dpo", "divergence": "alpha", "alpha": 0.5, "lora": True, "base": "b"}
    options |= {"values": {"a": "v"}, "policies": {"a": "p"}, "runs": "r"}
    assert Models.of(ParetoConfig(objectives="a", **options)) == Models(**options)
