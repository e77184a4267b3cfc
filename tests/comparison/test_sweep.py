"""Sweeps on tiny models: resumed, and refused where they must be."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from mavis.comparison import sweep as sweep_module
from mavis.comparison.checkpoints import Models
from mavis.comparison.setting import Setting
from mavis.comparison.sweep import reach
from mavis.evaluation.samples import ScoredSamples
from mavis.objective import Objective
from mavis.storage import read_json

TRAINED = ("mavis", "mod", "soup", "morlhf", "parm")


def test_finished_points_are_not_made_again(sweep, monkeypatch):
    folders = sweep.open(TRAINED[:2])
    first = [list(sweep.curves(sweep.load(m, folders[m]), 0.3)) for m in TRAINED[:2]]
    files = {f: f.stat().st_mtime_ns for f in sweep.folder.rglob("*.parquet")}
    assert len(files) >= 6

    def never(*_, **__):
        raise AssertionError("decoded again")

    monkeypatch.setattr(Setting, "point", never)
    again = [list(sweep.curves(sweep.load(m, folders[m]), 0.3)) for m in TRAINED[:2]]
    flat = [[(p.strength, p.tokens) for curve in curves for p in curve] for curves in first]
    assert flat == [[(p.strength, p.tokens) for curve in curves for p in curve] for curves in again]
    assert files == {f: f.stat().st_mtime_ns for f in sweep.folder.rglob("*.parquet")}


def test_an_interrupted_sweep_goes_on_and_comes_out_the_same(sweep, tmp_path, monkeypatch):
    folders = sweep.open(["mavis"])["mavis"]
    whole = [p for curve in sweep.curves(sweep.load("mavis", folders), 0.3) for p in curve]
    other = replace(sweep, folder=tmp_path / "other")
    other.open(["mavis"])
    made = Setting.point
    left = [2]

    def dies(self, *args, **kwargs):
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        return made(self, *args, **kwargs)

    monkeypatch.setattr(Setting, "point", dies)
    with pytest.raises(KeyboardInterrupt):
        list(other.curves(other.load("mavis", folders), 0.3))
    assert len(list(other.folder.rglob("*.parquet"))) == 2
    monkeypatch.setattr(Setting, "point", made)
    resumed = [p for curve in other.curves(other.load("mavis", folders), 0.3) for p in curve]
    assert [p.tokens for p in resumed] == [p.tokens for p in whole]


@pytest.mark.parametrize("method", TRAINED)
def test_strength_is_swept_past_the_kl(sweep, method):
    weightings = ((0.5, 0.5),)
    sweep = replace(sweep, weightings=weightings)
    folders = sweep.open([method])[method]
    (curve,) = sweep.curves(sweep.load(method, folders), 0.5)
    kls = np.array([point.kl.mean(0) for point in curve])  # [points, S]
    assert (kls.min(0) < 0.5).all()
    assert (kls.max(0) >= 0.5).all()
    assert [p.strength for p in curve] == sorted(p.strength for p in curve)


def at(kl):
    """Numbers of answers [P, S] at a KL, of which truncation has cost nothing."""
    return {"kl": kl, "kl_truncation": np.zeros_like(kl)}


def test_reach_goes_on_until_every_seed_has_passed():
    def point(strength):
        kl = np.array([[0.5, 1.0, 4.0]] * 2) * strength**2  # [P, S]
        return ScoredSamples(("m",), [], [], np.zeros((2, 3, 1)), at(kl), strength=strength)

    kls = np.array([p.kl.mean(0) for p in reach(point, 1.0, 2.0)])
    assert (kls.min(0) <= 2).all()
    assert (kls.max(0) >= 2).all()


def test_reach_goes_down_as_well_as_up():
    def point(strength):
        kl = np.full((2, 1), strength**2)
        return ScoredSamples(("m",), [], [], np.zeros((2, 1, 1)), at(kl), strength=strength)

    up = [p.strength for p in reach(point, 1.0, 3.0)]
    np.testing.assert_allclose(up, [1, 2**0.5, 2])
    down = [p.strength for p in reach(point, 4.0, 3.0)]
    np.testing.assert_allclose(down, [2**0.5, 2, 2**1.5, 4])
    endless = reach(lambda s: point(0.1 * s / s), 1.0, 3.0)
    assert len(endless) == sweep_module.RUNGS + 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"top_k": 10}, "top_k = 20, not 10"),
        ({"max_tokens": 5}, "max_tokens = 6, not 5"),
        ({"seeds": 1}, "seeds = 2, not 1"),
        ({"prompts": ["an um"]}, "other prompts"),
        ({"temperature": 0.9}, r"temperature = 1\.0, not 0\.9"),
        ({"best_of": 4}, "best_of = 3, not 4"),
    ],
)
def test_a_folder_of_other_settings_is_refused(sweep, setting, change, said):
    sweep.open(["mavis"])
    if "prompts" not in change:
        change = {"config": replace(setting.config, **change)}
    other = replace(sweep, setting=replace(setting, **change))
    with pytest.raises(ValueError, match=rf"holds a sweep with {said}: give another --out"):
        other.open(["mavis"])


def test_an_edited_reward_or_another_model_is_refused(sweep, setting, tiny_runs, tmp_path):
    sweep.open(["mavis"])
    edited = (Objective("trial", lambda _, r: [0.0] * len(r)), setting.objectives[1])
    with pytest.raises(ValueError, match="holds a sweep with other rewards"):
        replace(sweep, setting=replace(setting, objectives=edited)).open(["mavis"])
    shutil.copytree(tiny_runs, tmp_path / "runs")
    moved = replace(sweep, models=Models(str(tmp_path / "runs")))
    moved.open(["mavis"])  # the same models elsewhere are the same
    (sweep.folder / "points" / "mavis").mkdir(parents=True)
    (sweep.folder / "points" / "mavis" / "one.parquet").touch()
    file = tmp_path / "runs" / "trial" / "value" / "head.safetensors"
    head = load_file(file)
    save_file({name: tensor + 1e-3 for name, tensor in head.items()}, file)
    with pytest.raises(ValueError, match="holds points of other models of mavis"):
        moved.open(["mavis"])
    moved.open(["mod"])  # others are added to what is there


def test_a_try_that_made_no_point_binds_nobody(sweep, tiny_runs, tmp_path):
    place = tmp_path / "runs" / "tuned" / "rloo-trial"
    shutil.copytree(tiny_runs / "tuned" / "rloo-rival", place)
    (place / "tuned.json").unlink()
    wrong = Models(str(tiny_runs), policies={"trial": str(place)})
    replace(sweep, models=wrong).open(["mod"])
    tried = read_json(sweep.folder / "sweep.json")["models"]["mod"]
    sweep.open(["mod"])
    assert read_json(sweep.folder / "sweep.json")["models"]["mod"] != tried  # the right one's


def test_seeds_with_one_model_between_them_are_told(sweep, tiny_runs, tmp_path):
    for seed in "01":
        shutil.copytree(tiny_runs, tmp_path / seed)
    sweep.open(["mod"])
    assert not sweep.shares_models("mod")  # one model for all seeds is what was asked for
    own = replace(sweep, models=Models(str(tmp_path / "{seed}")))
    own.open(["mod"])
    assert own.shares_models("mod")
    for name in ("trial", "rival"):
        file = tmp_path / "1" / "tuned" / f"rloo-{name}" / "model.safetensors"
        save_file({key: 1.001 * t for key, t in load_file(file).items()}, file, {"format": "pt"})
        own.open(["mod"])
        assert own.shares_models("mod") == (name == "trial")  # the other is still the same


def test_a_missing_model_is_said_before_anything_is_decoded(sweep, setting):
    other = replace(setting, objectives=setting.objectives[::-1])
    with pytest.raises(FileNotFoundError, match="parm needs a model of rival,trial"):
        replace(sweep, setting=other).open(["mavis", "parm"])
    assert not sweep.folder.exists()


def test_points_of_another_divergence_or_reference_are_not_mixed_in(
    sweep, setting, tiny_runs, tiny_folder, tmp_path
):
    foreign = {}
    for name in ("trial", "rival"):
        foreign[name] = str(tmp_path / name)
        shutil.copytree(tiny_runs / "tuned" / f"rloo-{name}", foreign[name])
        (tmp_path / name / "tuned.json").unlink()  # it does not say what it was tuned under
    jsd = Models(str(tiny_runs), divergence="jsd", policies=foreign)
    one = replace(sweep, models=jsd)
    list(one.curves(one.load("mod", one.open(["mod"])["mod"]), 0.1))
    other = Models(str(tiny_runs), divergence="jeffrey", policies=foreign)
    with pytest.raises(ValueError, match="holds points of mod under another divergence: give"):
        replace(sweep, models=other).open(["mod"])
    replace(sweep, models=other).open(["soup"])  # whose points have no divergence
    shutil.copytree(tiny_folder / "reference", tmp_path / "reference")
    moved = replace(setting.reference, name=str(tmp_path / "reference"))
    mine = replace(sweep, setting=replace(setting, reference=moved), folder=tmp_path / "mine")
    mine.open(["mavis"])
    mine.reference()
    file = tmp_path / "reference" / "model.safetensors"
    save_file({key: 1.001 * t for key, t in load_file(file).items()}, file, {"format": "pt"})
    with pytest.raises(ValueError, match=r"trained anew \(reference\): give another --out"):
        mine.open(["mavis"])
