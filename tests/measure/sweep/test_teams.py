"""Methods and their models: loaded once, late, and for each seed its own."""

import shutil
from dataclasses import replace

from mavis.measure.sweep.models import Models
from mavis.measure.sweep.teams import Team, served


def test_seeds_may_have_models_of_their_own(sweep, tiny_runs, tmp_path):
    for seed in (0, 1):
        shutil.copytree(tiny_runs, tmp_path / f"s{seed}")
    swap = tmp_path / "s1"
    (swap / "trial").rename(swap / "other")
    (swap / "rival" / "value").rename(swap / "other" / "value2")
    (swap / "trial").mkdir()
    shutil.copytree(tiny_runs / "trial" / "value", swap / "trial" / "value")
    shutil.copytree(tiny_runs / "rival" / "value", swap / "rival" / "value")
    models = Models(str(tmp_path / "s{seed}"))
    ours = replace(sweep, models=models, folder=tmp_path / "seeds")
    folders = ours.open(["mod"])["mod"]
    assert folders[0] != folders[1]
    team = ours.team("mod", folders)
    choose = team.weighted((0.5, 0.5))
    assert choose(0)[0] is not choose(1)[0]
    shared = sweep.team("mod", sweep.open(["mod"])["mod"]).weighted((0.5, 0.5))
    assert shared(0)[0] is shared(1)[0]  # one set of models, loaded once


def test_a_whole_policy_is_timed_alone(sweep):
    for method, alone in [("soup", True), ("morlhf", True), ("mavis", False), ("mod", False)]:
        folders = sweep.open([method])[method]
        one = replace(sweep, weightings=((0.5, 0.5),))
        folders = one.open([method])[method]
        team = one.team(method, folders)
        policy, vector = served(team.weighted((0.5, 0.5))(0))
        assert (len(policy.networks) == 0) == alone
        assert one.speed(team) > 0
        assert len(vector) == len(policy.objectives)
        first = one.speed(team)
        assert one.speed(team) == first  # kept


def test_a_team_is_loaded_when_it_is_asked_for(sweep, monkeypatch):
    folders = sweep.open(["mavis"])["mavis"]
    loaded = []
    monkeypatch.setattr(
        "mavis.measure.sweep.teams.open_rival", lambda *args: loaded.append(args) or None
    )
    ground = sweep.ground
    Team("mavis", ground.reference, ground.names, sweep.models, folders)
    assert not loaded
