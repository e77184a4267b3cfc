"""Sweeps on tiny models: the same ground for all, resumed, and refused where they must be."""

from dataclasses import replace

import numpy as np
import pytest

from mavis.guide.jobs import Sampling
from mavis.guide.policy import GuidedPolicy
from mavis.measure import sweep as sweep_module
from mavis.measure.ground import Ground
from mavis.measure.models import Models
from mavis.measure.points import Point
from mavis.measure.rivals import Team, served
from mavis.measure.sweep import Sweep, reach
from mavis.objective import Objective
from mavis.prompts import plain

WEIGHTINGS = ((1.0, 0.0), (0.5, 0.5))
PROMPTS = ["an um", "the sun is", "a", [{"role": "user", "content": "mis"}]]
TRAINED = ("mavis", "mod", "soup", "morlhf")


@pytest.fixture
def ground(disk_reference, two_objectives):
    return Ground(disk_reference, two_objectives, PROMPTS, 2, 3, 6, 1.0, 20, 64)


@pytest.fixture
def sweep(tmp_path, ground, tiny_runs):
    return Sweep(tmp_path / "sweep", ground, Models(str(tiny_runs)), WEIGHTINGS)


def test_every_method_is_the_reference_at_strength_nothing(sweep):
    """Common random numbers: at strength 0 all methods say word for word the same."""
    start = sweep.reference()
    folders = sweep.open(["mavis", "mod", "soup"])
    for method, places in folders.items():
        choose = sweep.team(method, places).weighted((0.5, 0.5))
        point = sweep.ground.point(method, (0.5, 0.5), 0.0, choose)
        assert point.tokens == start.tokens
        np.testing.assert_allclose(point.kl, start.kl, atol=1e-5)
        np.testing.assert_array_equal(point.rewards, start.rewards)


def test_a_point_s_answers_are_those_of_its_policy_seed_by_seed(sweep, ground):
    folders = sweep.open(["mod"])["mod"]
    choose = sweep.team("mod", folders).weighted((0.5, 0.5))
    point = ground.point("mod", (0.5, 0.5), 1.3, choose)
    policy, vector = choose(0)
    for seed in range(2):
        sampling = Sampling(vector, 1.3, 1.0, 20)
        answers = policy.sample(PROMPTS, [sampling] * 4, [6] * 4, [seed] * 4)
        assert [row[seed] for row in point.responses] == [a.text for a in answers]
        np.testing.assert_allclose(point.kl[:, seed], [a.kl for a in answers], atol=1e-5)
    texts = [text for row in point.responses for text in row]
    for m, objective in enumerate(ground.objectives):
        want = objective.reward([plain(p) for p in PROMPTS for _ in range(2)], texts)
        np.testing.assert_allclose(point.rewards[..., m].ravel(), want, atol=1e-6)


def test_finished_points_are_not_made_again(sweep, monkeypatch):
    folders = sweep.open(TRAINED[:2])
    first = [list(sweep.curves(sweep.team(m, folders[m]), 0.3)) for m in TRAINED[:2]]
    files = {f: f.stat().st_mtime_ns for f in sweep.folder.rglob("*.parquet")}
    assert len(files) >= 6

    def never(*_, **__):
        raise AssertionError("decoded again")

    monkeypatch.setattr(Ground, "point", never)
    again = [list(sweep.curves(sweep.team(m, folders[m]), 0.3)) for m in TRAINED[:2]]
    flat = [[(p.strength, p.tokens) for curve in curves for p in curve] for curves in first]
    assert flat == [[(p.strength, p.tokens) for curve in curves for p in curve] for curves in again]
    assert files == {f: f.stat().st_mtime_ns for f in sweep.folder.rglob("*.parquet")}


def test_an_interrupted_sweep_goes_on_and_comes_out_the_same(sweep, tmp_path, monkeypatch):
    folders = sweep.open(["mavis"])["mavis"]
    whole = [p for curve in sweep.curves(sweep.team("mavis", folders), 0.3) for p in curve]
    other = replace(sweep, folder=tmp_path / "other")
    other.open(["mavis"])
    made = Ground.point
    left = [2]

    def dies(self, *args, **kwargs):
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        return made(self, *args, **kwargs)

    monkeypatch.setattr(Ground, "point", dies)
    with pytest.raises(KeyboardInterrupt):
        list(other.curves(other.team("mavis", folders), 0.3))
    assert len(list(other.folder.rglob("*.parquet"))) == 2
    monkeypatch.setattr(Ground, "point", made)
    resumed = [p for curve in other.curves(other.team("mavis", folders), 0.3) for p in curve]
    assert [p.tokens for p in resumed] == [p.tokens for p in whole]


@pytest.mark.parametrize("method", TRAINED)
def test_strength_is_swept_past_the_kl(sweep, method):
    weightings = ((0.5, 0.5),)
    sweep = replace(sweep, weightings=weightings)
    folders = sweep.open([method])[method]
    (curve,) = sweep.curves(sweep.team(method, folders), 0.5)
    kls = [point.kl.mean() for point in curve]
    assert kls[-2] < 0.5 <= kls[-1] or kls[0] < 0.5 <= kls[1]
    assert [p.strength for p in curve] == sorted(p.strength for p in curve)


def test_reach_goes_down_as_well_as_up():
    def point(strength):
        kl = np.full((2, 1), strength**2)
        return Point("m", (1.0,), strength, [], [], np.zeros((2, 1, 1)), {"kl": kl}, 0.0)

    up = [p.strength for p in reach(point, 1.0, 3.0)]
    np.testing.assert_allclose(up, [1, 2**0.5, 2])
    down = [p.strength for p in reach(point, 4.0, 3.0)]
    np.testing.assert_allclose(down, [2**0.5, 2, 2**1.5, 4])
    endless = reach(lambda s: point(0.1 * s / s), 1.0, 3.0)
    assert len(endless) == sweep_module.RUNGS + 1


def test_best_of_is_many_answers_of_the_reference(sweep, disk_reference):
    point = sweep.best_of()
    assert point.rewards.shape == (4, 3, 2)
    answers = GuidedPolicy(disk_reference).generate(PROMPTS, n=3, top_k=20, max_tokens=6)
    assert [text for row in point.responses for text in row] == [a.text for a in answers]


def test_seeds_may_have_models_of_their_own(sweep, tiny_runs, tmp_path):
    import shutil

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


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"top_k": 10}, "top_k = 20, not 10"),
        ({"max_tokens": 5}, "max_tokens = 6, not 5"),
        ({"seeds": 1}, "seeds = 2, not 1"),
        ({"prompts": PROMPTS[:2]}, "other prompts"),
        ({"temperature": 0.9}, r"temperature = 1\.0, not 0\.9"),
        ({"best_of": 4}, "best_of = 3, not 4"),
    ],
)
def test_a_folder_of_other_settings_is_refused(sweep, ground, change, said):
    sweep.open(["mavis"])
    other = replace(sweep, ground=replace(ground, **change))
    with pytest.raises(ValueError, match=rf"holds a sweep with {said}: give another --out"):
        other.open(["mavis"])


def test_an_edited_reward_or_another_model_is_refused(sweep, ground, tiny_runs, tmp_path):
    import shutil

    sweep.open(["mavis"])
    edited = (Objective("trial", lambda _, r: [0.0] * len(r)), ground.objectives[1])
    with pytest.raises(ValueError, match="holds a sweep with other rewards"):
        replace(sweep, ground=replace(ground, objectives=edited)).open(["mavis"])
    shutil.copytree(tiny_runs, tmp_path / "runs")
    moved = replace(sweep, models=Models(str(tmp_path / "runs")))
    moved.open(["mavis"])  # the same models elsewhere are the same
    for name in ("trial", "rival"):
        shutil.rmtree(tmp_path / "runs" / name / "value")
    shutil.copytree(tiny_runs / "rival" / "value", tmp_path / "runs" / "trial" / "value")
    shutil.copytree(tiny_runs / "rival" / "value", tmp_path / "runs" / "rival" / "value")
    with pytest.raises(ValueError, match="holds points of other models of mavis"):
        moved.open(["mavis"])
    moved.open(["mod"])  # others are added to what is there


def test_a_missing_model_is_said_before_anything_is_decoded(sweep):
    with pytest.raises(FileNotFoundError, match="parm needs a model of trial,rival"):
        sweep.open(["mavis", "parm"])
    assert not sweep.folder.exists()


def test_a_team_is_loaded_when_it_is_asked_for(sweep, monkeypatch):
    folders = sweep.open(["mavis"])["mavis"]
    loaded = []
    monkeypatch.setattr(
        "mavis.measure.rivals.open_rival", lambda *args: loaded.append(args) or None
    )
    ground = sweep.ground
    Team("mavis", ground.reference, ground.names, sweep.models, folders)
    assert not loaded
