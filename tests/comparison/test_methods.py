"""Methods and their models: loaded once, late, and for each seed its own."""

import shutil
from dataclasses import replace

from safetensors.torch import load_file, save_file

from mavis.comparison.checkpoints import Models
from mavis.comparison.methods import as_deployed


def test_seeds_have_models_of_their_own(sweep, tiny_runs, tmp_path):
    for seed in (0, 1):
        shutil.copytree(tiny_runs, tmp_path / f"s{seed}")
    for name in ("trial", "rival"):
        file = tmp_path / "s1" / "tuned" / f"rloo-{name}" / "model.safetensors"
        save_file({key: 1.5 * t for key, t in load_file(file).items()}, file, {"format": "pt"})

    def point(runs):
        ours = replace(sweep, models=Models(runs), folder=tmp_path / "sweep" / runs[-1])
        models = ours.load("mod", ours.open(["mod"])["mod"])
        return ours.setting.point("mod", (0.5, 0.5), 4.0, models.weighted((0.5, 0.5)))

    own, first, second = (point(str(tmp_path / f"s{name}")) for name in ("{seed}", 0, 1))
    both = [[one[0], other[1]] for one, other in zip(first.tokens, second.tokens, strict=True)]
    assert own.tokens == both
    assert first.tokens != both != second.tokens
    shared = sweep.load("mod", sweep.open(["mod"])["mod"]).weighted((0.5, 0.5))
    assert shared(0)[0] is shared(1)[0]  # one set of models, loaded once


def test_a_whole_policy_is_timed_alone(sweep):
    for method, alone in [("soup", True), ("morlhf", True), ("mavis", False), ("mod", False)]:
        folders = sweep.open([method])[method]
        one = replace(sweep, weightings=((0.5, 0.5),))
        folders = one.open([method])[method]
        models = one.load(method, folders)
        policy, vector = as_deployed(models.weighted((0.5, 0.5))(0))
        assert (len(policy.guides) == 0) == alone
        assert one.speed(models) > 0
        assert len(vector) == len(policy.objectives)
        first = one.speed(models)
        assert one.speed(models) == first  # kept


def test_models_are_loaded_when_they_are_used(sweep, monkeypatch):
    folders = sweep.open(["mavis"])["mavis"]
    loaded = []
    monkeypatch.setattr(
        "mavis.comparison.sweep.open_method", lambda *args: loaded.append(args) or None
    )
    sweep.load("mavis", folders)
    assert not loaded
