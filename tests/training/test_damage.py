"""A file of a run that was damaged is named, and made again where that can be done."""

import json
import os
import shutil
import signal

import pytest
import torch

from mavis import load
from mavis.checksums import check
from mavis.cli.main import main
from mavis.storage import Shards, read_json, write_json
from mavis.training.data import RolloutDataModule

HURTS = {
    "a flipped bit": lambda old: (
        bytes([*old[: len(old) // 2], old[len(old) // 2] ^ 4]) + old[len(old) // 2 + 1 :]
    ),
    "cut": lambda old: old[: len(old) // 3],
    "empty": lambda _: b"",
}


def hurt(file, how):
    old = file.read_bytes()
    assert HURTS[how](old) != old
    file.write_bytes(HURTS[how](old))


@pytest.fixture(params=HURTS)
def how(request):
    return request.param


@pytest.fixture
def run(tiny_fit, tmp_path, monkeypatch):
    """A finished run of one's own."""
    monkeypatch.setattr("mavis.training.callbacks._plots", lambda *_: [])
    return shutil.copytree(tiny_fit, tmp_path / "trial")


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("head.safetensors", "a flipped bit"),
        ("trunk/model.safetensors", "a flipped bit"),
        ("trunk/model.safetensors", "cut"),
        ("trunk/config.json", "a flipped bit"),
        ("value.json", "empty"),
    ],
)
def test_a_damaged_value_model_is_not_used_and_the_fit_makes_it_again(
    run, tiny_fit, fit_words, capsys, same_run, name, how
):
    file = run / "value" / name
    whole = file.read_bytes()
    hurt(file, how)
    with pytest.raises(ValueError, match=str(file)) as caught:
        load({"trial": run / "value"})
    assert "\n" not in str(caught.value)
    assert main(fit_words(run)) == 0
    assert f"{run / 'value'} is missing or damaged" in capsys.readouterr().err
    assert file.read_bytes() == whole
    load({"trial": run / "value"})
    same_run(run, tiny_fit)


def test_a_value_model_that_was_deleted_is_written_again(run, fit_words, tiny_fit):
    shutil.rmtree(run / "value")
    assert main(fit_words(run)) == 0
    for name in ("value.json", "head.safetensors", "prompts.json", "README.md"):
        assert (run / "value" / name).read_bytes() == (tiny_fit / "value" / name).read_bytes()


def test_metrics_come_from_the_checkpoint(run, fit_words, tiny_fit, capsys, how):
    hurt(run / "metrics.json", how)
    with pytest.raises(ValueError, match=r"metrics\.json"):
        read_json(run / "metrics.json")
    assert main(fit_words(run)) == 0
    assert f"{run / 'metrics.json'} is missing or damaged" in capsys.readouterr().err
    assert (run / "metrics.json").read_bytes() == (tiny_fit / "metrics.json").read_bytes()


def test_a_damaged_checkpoint_is_trained_again(run, fit_words, tiny_fit, capsys, same_run, how):
    last = run / "checkpoints" / "last.ckpt"
    hurt(last, how)
    for words in (fit_words(run, command="validate"), fit_words(run, "--ckpt_path", str(last))):
        assert main(words) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert f"{last} is damaged" in line
    assert main(fit_words(run)) == 0
    assert f"{last} is damaged" in capsys.readouterr().err
    assert (last.parent / "last.ckpt.damaged").is_file()
    same_run(run, tiny_fit)


def test_a_damaged_checkpoint_without_a_checksum(run, fit_words, capsys, how):
    last = run / "checkpoints" / "last.ckpt"
    (last.parent / ".last.ckpt.sha256").unlink()
    hurt(last, how)
    assert main(fit_words(run, command="test")) == 2
    assert f"{last} is damaged" in capsys.readouterr().err


def test_a_damaged_configuration_stops_the_run(run, fit_words, capsys, how):
    file = run / "config.yaml"
    hurt(file, how)
    for more in ((), ("--data.eta", "0.25")):
        assert main(fit_words(run, *more)) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert f"{file} is damaged" in line


def test_a_missing_configuration_stops_the_run(run, fit_words, capsys):
    (run / "config.yaml").unlink()
    assert main(fit_words(run)) == 2
    assert f"{run / 'config.yaml'} is missing, so that nobody can tell" in capsys.readouterr().err


def test_a_configuration_from_before_there_were_checksums(run, fit_words, capsys):
    file = run / "config.yaml"
    first, _, text = file.read_text().partition("\n")
    assert first.startswith("# sha256 ")
    file.write_text(text)
    assert main(fit_words(run, "--data.eta", "0.25")) == 2
    assert "holds a run with data.eta = None, not 0.25" in capsys.readouterr().err
    file.write_text(text[: len(text) // 3])
    assert main(fit_words(run)) == 2
    assert f"{file} is damaged" in capsys.readouterr().err
    file.write_text(text)
    assert main(fit_words(run)) == 0


@pytest.fixture(scope="module")
def stopped(tmp_path_factory, fit_words, stopper):
    """A run that was stopped at the end of its second round: its tables are still needed."""
    run = tmp_path_factory.mktemp("stopped") / "trial"
    stop = stopper(RolloutDataModule.evaluate, 2, KeyboardInterrupt())
    before = signal.getsignal(signal.SIGINT)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mavis.training.callbacks._plots", lambda *_: [])
        patch.setattr(RolloutDataModule, "evaluate", stop)
        assert main(fit_words(run)) == 130
    signal.signal(signal.SIGINT, before)
    return run


@pytest.mark.parametrize(
    ("name", "kind", "how"),
    [
        ("data-00000-of-00001.arrow", "made", "a flipped bit"),
        ("data-00000-of-00001.arrow", "scores", "a flipped bit"),
        ("data-00000-of-00001.arrow", "made", "cut"),
        ("state.json", "scores", "empty"),
    ],
)
def test_damaged_rollouts_and_answers_are_made_again(
    tiny_fit, stopped, fit_words, tmp_path, monkeypatch, capsys, same_run, name, kind, how
):
    monkeypatch.setattr("mavis.training.callbacks._plots", lambda *_: [])
    run = shutil.copytree(stopped, tmp_path / "trial")
    tables = [run / "reference" / "validation", run / "rollouts" / "round-1" / "train"]
    files = [next((table / kind).glob(f"*/{name}")) for table in tables]
    for file in files:
        hurt(file, how)
    assert main(fit_words(run)) == 0
    said = capsys.readouterr().err
    for file in files:
        assert f"mavis: {file} is damaged: 000-00000 is kept as 000-00000.damaged" in said
    same_run(run, tiny_fit)


def test_a_table_from_before_there_were_checksums(tmp_path, capsys):
    shards = Shards(tmp_path)
    for number in range(3):
        shards.append([{"index": number}])
    for sums in tmp_path.rglob("SHA256SUMS"):
        sums.unlink()
    assert [row["index"] for row in shards.rows()] == [0, 1, 2]
    hurt(tmp_path / "000-00001" / "data-00000-of-00001.arrow", "cut")
    assert [row["index"] for row in shards.rows()] == [0, 2]
    assert "000-00001 is damaged" in capsys.readouterr().err
    shards.append([{"index": 1}])
    assert [row["index"] for row in shards.rows()] == [0, 2, 1]
    assert {path.name for path in tmp_path.iterdir()} == {
        *("000-00000", "000-00001.damaged", "000-00002", "000-00003"),
    }


def test_json_that_is_valid_and_not_what_was_written(tmp_path):
    file = tmp_path / "a.json"
    write_json(file, {"reward": 1.5})
    assert read_json(file) == {"reward": 1.5}
    file.write_text(file.read_text().replace("1.5", "1.7"))
    with pytest.raises(ValueError, match=r"a\.json is damaged or was changed"):
        read_json(file)
    file.write_text(file.read_text()[:9])  # cut off, it is damaged first, and no JSON second
    with pytest.raises(ValueError, match="damaged or was changed"):
        read_json(file)


def test_everything_is_as_open_as_the_umask_says(tiny_fit):
    mask = os.umask(0)
    os.umask(mask)
    files = [path for path in tiny_fit.rglob("*") if path.is_file() and path.name != ".lock"]
    assert len(files) > 40
    for file in files:
        assert file.stat().st_mode & 0o777 == 0o666 & ~mask, file
    check(tiny_fit / "value")


def test_a_checkpoint_from_before_it_held_the_metrics(run, fit_words, tiny_fit, same_run):
    last = run / "checkpoints" / "last.ckpt"
    state = torch.load(last, weights_only=True)
    del state["callbacks"]["Rounds"]
    torch.save(state, last)
    (last.parent / ".last.ckpt.sha256").unlink()
    assert main(fit_words(run)) == 0
    assert json.loads((run / "metrics.json").read_text())[0]["round"] == 0
    same_run(run, tiny_fit)
