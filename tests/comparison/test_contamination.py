"""What the cards of a sweep's models say against it."""

import json
import shutil
from dataclasses import replace

import pytest

from mavis.baselines.parm import ParmCard
from mavis.baselines.policy_card import TunedCard
from mavis.comparison.checkpoints import Models
from mavis.comparison.contamination import check
from mavis.comparison.provenance import cost
from mavis.decoding.model_card import read_card
from mavis.reward import identity


@pytest.fixture
def checked(sweep, tiny_runs, tmp_path):
    """Check a sweep over copies of the tiny runs, whose cards may be changed before."""
    runs = tmp_path / "runs"
    shutil.copytree(tiny_runs, runs)

    def look(*methods):
        ours = replace(sweep, models=Models(str(runs)))
        found = ours.open(methods)
        return check(ours, found, {m: cost(found[m]) for m in methods})

    look.runs = runs
    return look


def test_models_that_do_not_say_what_they_learned_from(checked):
    found = checked("mavis", "mod", "parm")
    assert found.judged == {"mavis": None, "mod": None, "parm": None}
    assert found.overlap == {"mavis": None, "mod": 0, "parm": 0}
    assert found.warnings == ["mavis: its models do not say which prompts they were trained on."]


def test_the_reward_that_judged_in_training_is_compared(checked, sweep):
    marks = {one.name: identity(one.reward) for one in sweep.setting.objectives}
    for name, mark in marks.items():
        place = checked.runs / "tuned" / f"rloo-{name}"
        card = TunedCard.read(place)
        replace(card, settings={"rewards": [mark]}).save(place)
        one = name == "trial"  # the other does not say yet
        assert checked("mod").judged == {"mod": None if one else []}
    assert not checked("mod").warnings
    place = checked.runs / "tuned" / "rloo-rival"
    replace(TunedCard.read(place), rewards=("another",)).save(place)
    place = checked.runs / "tuned" / "parm-trial+rival"
    replace(ParmCard.read(place), rewards=("another", marks["rival"])).save(place)
    found = checked("mod", "parm")
    assert found.judged == {"mod": ["rival"], "parm": ["trial"]}
    assert [line.split(" than ")[0] for line in found.warnings] == [
        "mod: it learned from another reward of rival",
        "parm: it learned from another reward of trial",
    ]


def test_another_reference_policy_is_told(checked, sweep):
    place = checked.runs / "tuned" / "rloo-trial"
    replace(TunedCard.read(place), reference="an/other").save(place)
    (said,) = checked("mod").warnings
    name = sweep.setting.reference.name
    assert said.endswith(f"was trained under the reference policy an/other, not under {name}.")
    replace(TunedCard.read(place), template="json.dumps", reference=name).save(place)
    (said,) = checked("mod").warnings
    assert said.endswith("was trained under the template json.dumps, not under chat template.")


def test_other_weights_of_the_reference_policy_are_told(checked, sweep):
    reference = sweep.setting.reference
    value, parm = (checked.runs / name for name in ("trial/value", "tuned/parm-trial+rival"))
    policy = checked.runs / "tuned" / "rloo-trial"
    for mark, warned in ((reference.weights_digest, 0), ("others", 3)):
        card = json.loads((value / "value.json").read_text())
        forget(value)
        (value / "value.json").write_text(json.dumps(card | {"reference_weights": mark}))
        replace(TunedCard.read(policy), reference_weights=mark).save(policy)
        replace(ParmCard.read(parm), reference_weights=mark).save(parm)
        said = [w for w in checked("mavis", "mod", "parm").warnings if "weights" in w]
        assert len(said) == warned
    for line, place in zip(said, (value, policy, parm), strict=True):
        end = f"reference policy {reference.name} when that had other weights than now."
        assert line.endswith(f": {place} was trained under the {end}")


def forget(folder):
    for sums in (folder / "SHA256SUMS", folder / ".value.json.sha256"):
        sums.unlink(missing_ok=True)


def test_a_fit_says_which_reward_it_learned_from(tiny_fit):
    card = read_card(tiny_fit / "value")
    assert len(card.rewards) == 1
    assert len(card.rewards[0]) == 16
