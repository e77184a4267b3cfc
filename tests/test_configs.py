"""Every configuration that is shipped, through the real door, on tiny stand-ins."""

from pathlib import Path

import pytest
import yaml

from mavis import Objective
from mavis.cli.main import main

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.yaml"))


def test_there_are_some():
    assert CONFIGS


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_configuration_says_only_what_differs(path):
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    assert len(lines) <= 20
    settings = yaml.safe_load(path.read_text())
    assert settings.get("objective") or settings["objectives"]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_configuration_runs(path, fit_words, tiny_folder, tmp_path, monkeypatch, capsys):
    """With small models in place of the large ones, and a reward that asks no hub."""
    config = yaml.safe_load(path.read_text())
    from mavis import objective
    from mavis.cli import fit

    real = objective.find

    def stand_in(name):
        return Objective(
            name,
            lambda _, responses: [r.count(name[0]) - 0.1 * len(r) for r in responses],
            value=real(name).value,
            value_args=real(name).value_args,
        )

    for module in (objective, fit, __import__("mavis.training.data", fromlist=["_"])):
        monkeypatch.setattr(module, "find", stand_in)
    monkeypatch.setattr("mavis.training.callbacks._plots", lambda *_: [])  # most of the time
    words = fit_words(tmp_path / "run", "--trainer.fast_dev_run", "true")
    at = words.index("--objective")
    words = ["fit", "-c", str(path), *words[1:at], *words[at + 2 :]]
    changes = (config.get("model") or {}).get("init_args", {})
    if "trunk" in changes:
        words += ["--model.init_args.trunk", str(tiny_folder / "reference")]
    assert main(words) == 0, capsys.readouterr().err
    kept = yaml.safe_load((tmp_path / "run" / "fast_dev_run" / "config.yaml").read_text())
    for key in ("objective", "objectives"):
        assert kept.get(key) == config.get(key)
    for key, value in changes.items():
        if key != "trunk":
            assert kept["model"]["init_args"][key] == value
