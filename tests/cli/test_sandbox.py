"""`build`: end to end in little, twice the same, and safe to interrupt."""

import hashlib
from pathlib import Path

import pytest
import torch

from mavis.cli.sandbox import build
from mavis.sandbox import make as module
from mavis.sandbox.lexicon import OBJECTIVES


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HELD_OUT", 16)


@pytest.mark.usefixtures("small")
def test_same_seed_same_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    state = torch.get_rng_state()
    for name in ("a", "b"):
        build(str(tmp_path / name), seed=5, dialogues=64, answers=64)
    assert torch.equal(state, torch.get_rng_state())
    first, second = digests(tmp_path / "a"), digests(tmp_path / "b")
    assert first == second
    folders = {Path(name).parts[0] for name in first}
    assert folders == {"reference", "prompts", *OBJECTIVES}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]
    assert capsys.readouterr().out.count('"reference_loss"') == 2


def test_an_interrupted_build_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    target = tmp_path / "assets"
    target.mkdir()
    (target / "old.txt").write_text("old")
    monkeypatch.setattr(module, "make", interrupted)
    with pytest.raises(KeyboardInterrupt):
        build(str(target))
    assert [path.name for path in tmp_path.rglob("*")] == ["assets", "old.txt"]


def test_a_build_takes_the_place_of_its_target_alone(tmp_path: Path, monkeypatch):
    def small(folder: Path, *_: object) -> dict[str, float]:
        (folder / "new.txt").write_text("new")
        return {}

    for name in ("assets", "assets.old", "assets.part"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine.txt").write_text("mine")
    (tmp_path / "file").write_text("a file")
    monkeypatch.setattr(module, "make", small)
    build(str(tmp_path / "assets"))
    build(str(tmp_path / "file"))
    left = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file())
    assert left == ["assets.old/mine.txt", "assets.part/mine.txt", "assets/new.txt", "file/new.txt"]


def test_too_little_to_train_on(tmp_path: Path):
    with pytest.raises(ValueError, match="dialogues must be at least 64, got 3"):
        build(str(tmp_path / "x"), dialogues=3)
    assert not list(tmp_path.iterdir())
