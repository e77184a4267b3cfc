"""Every precision that Lightning offers: a fit, or a refusal before anything is rolled out."""

import json
import math

import pytest
import torch
from safetensors.torch import load_file

from mavis import load
from mavis.cli.main import main
from mavis.training.module import ValueModule

FITS = ("32-true", "32", "bf16-mixed", "bf16", "bf16-true", "64-true", "64", "16-true")
REFUSED = ("16-mixed", "16", "transformer-engine", "transformer-engine-float16")
ONE = ("--data.rounds", "1", "--data.epochs", "1", "--data.trees", "2")


@pytest.fixture(autouse=True)
def light(monkeypatch):
    monkeypatch.setattr("mavis.training.callbacks._plots", lambda *_: [])


@pytest.mark.parametrize("precision", FITS)
def test_it_fits(precision, fit_words, tmp_path, monkeypatch):
    """And what it learned is finite, float32 where it must be, and comes back from the disk."""
    run, inner, seen = tmp_path / "run", ValueModule.forward, []

    def watched(self, batch):
        values = inner(self, batch)
        seen.append((values.dtype, batch.targets.dtype))
        return values

    monkeypatch.setattr(ValueModule, "forward", watched)
    assert main(fit_words(run, *ONE, "--trainer.precision", precision)) == 0
    assert set(seen) == {(torch.float32, torch.float32)}
    (entry,) = json.loads((run / "metrics.json").read_text())
    assert math.isfinite(entry["val_loss"])
    head = load_file(run / "value" / "head.safetensors")
    assert all(tensor.isfinite().all() for tensor in head.values())
    assert any(tensor.any() for tensor in head.values())  # it was zero at the start
    network = load({"trial": run / "value"}).guides[0]
    assert {tensor.dtype for tensor in network.parameters()} == {torch.float32}
    for name, tensor in network.head.state_dict().items():
        assert torch.equal(tensor, head[name].float())


@pytest.mark.parametrize("precision", ["bf16-true", "64-true"])
def test_targets_are_not_rounded(precision, fit_words, tmp_path, monkeypatch):
    """Lightning turns every float of a batch into the half type."""
    inner, seen = ValueModule.training_step, []

    def watched(self, batch, index):
        seen.append(batch.targets)
        return inner(self, batch, index)

    monkeypatch.setattr(ValueModule, "training_step", watched)
    found = []
    for name in ("32-true", precision):
        seen.clear()
        assert main(fit_words(tmp_path / name, *ONE, "--trainer.precision", name)) == 0
        found.append(torch.cat([targets.flatten() for targets in seen]))
    assert torch.equal(found[0].nan_to_num(), found[1].nan_to_num())


@pytest.mark.parametrize("precision", REFUSED)
def test_it_is_refused_before_anything_is_rolled_out(precision, fit_words, tmp_path, capsys):
    run = tmp_path / "run"
    assert main(fit_words(run, *ONE, "--trainer.precision", precision)) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert precision in line
    assert not (run / "reference").exists()


def test_a_setting_that_failed_at_the_first_step_may_be_changed(
    fit_words, tmp_path, monkeypatch, capsys
):
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(ValueModule, "training_step", lambda *_: 1 / 0)
        assert main(fit_words(run, *ONE, "--trainer.precision", "bf16-mixed")) == 1
    before = {path: path.stat().st_mtime_ns for path in (run / "rollouts").rglob("*.arrow")}
    capsys.readouterr()
    assert main(fit_words(run, *ONE, "--data.eta", "0.25")) == 2  # trees are of these settings
    assert "holds a run with data.eta = None, not 0.25" in capsys.readouterr().err
    clip = ("--trainer.gradient_clip_val", "2")
    assert main(fit_words(run, *ONE, "--model.lr", "0.002", *clip)) == 0
    after = {path: path.stat().st_mtime_ns for path in before}
    assert before == after
    capsys.readouterr()
    assert main(fit_words(run, *ONE, "--model.lr", "0.001", *clip)) == 2  # now they bind
    assert "holds a run with model.init_args.lr = 0.002, not 0.001" in capsys.readouterr().err
