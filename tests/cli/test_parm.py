"""The command `parm`, from prompts to a folder that guides."""

import json
import shutil

import pytest

from mavis.baselines.parm import ParmCard, guided_by, load_parm
from mavis.baselines.train.config import ParmConfig
from mavis.baselines.train.parm import RewardModelTrainer
from mavis.cli.parm import parm
from mavis.decoding.reference import ReferencePolicy
from mavis.prompts import digest, read_prompts
from mavis.storage import alone_in


@pytest.fixture(scope="module")
def small(tiny_folder, plugin):  # noqa: ARG001
    """Options of a run of seconds."""
    return {
        "objectives": "trial,rival",
        "reference": str(tiny_folder / "reference"),
        "prompts": str(tiny_folder / "prompts"),
        "answers": 4,
        "epochs": 2,
        "batch": 1,
        "rank": 2,
        "max_tokens": 6,
        "held_out": 4,
        "best_of": 4,
        "tracking": "nowhere://",  # a store of its own takes seconds; this one goes to a file
    }


@pytest.fixture(scope="module")
def run(tmp_path_factory, small):
    folder = tmp_path_factory.mktemp("tuned") / "parm"
    parm(ParmConfig(**small, out=str(folder)))
    return folder


def test_what_a_run_leaves_behind(run, small):
    card = ParmCard.read(run)
    assert card.objectives == ("trial", "rival")
    assert card.reference == small["reference"]
    asked = read_prompts(small["prompts"], "train")
    assert sorted(card.prompts) == sorted(map(digest, asked))
    assert card.targets == (
        *("q_proj", "k_proj", "v_proj", "o_proj"),
        *("gate_proj", "up_proj", "down_proj"),
    )
    assert card.train_seconds > 0
    assert card.cpu_seconds > 0
    assert [row["preference"] for row in card.measured] == [[1, 0], [0, 1], [0.5, 0.5]]
    assert all(set(row["reward"]) == {"trial", "rival"} for row in card.measured)
    tracked = (run / "tracking.jsonl").read_text()
    assert "train_loss" in tracked
    assert "beta_r" in tracked
    assert not [f for f in run.rglob("*") if f.suffix in {".pt", ".ckpt", ".bin", ".pkl"}]
    reference = ReferencePolicy.load(small["reference"])
    arm = load_parm(reference, run)
    answers = guided_by(reference, arm).generate(["a is"], {"trial": 1.0}, max_tokens=4)
    assert answers[0].tokens


def test_a_run_goes_on_and_is_done_once(run, small, capsys, monkeypatch):
    before = (run / "pblora.safetensors").read_bytes()
    parm(ParmConfig(**small, out=str(run)))
    assert "already trained" in capsys.readouterr().out
    (run / "parm.json").unlink()  # as if it had been killed while it trained
    monkeypatch.setattr("mavis.storage.Shards.append", None)  # nothing is made anew
    parm(ParmConfig(**small, out=str(run)))
    assert "preference 0.5, 0.5: trial" in capsys.readouterr().out
    assert (run / "pblora.safetensors").read_bytes() == before


def test_a_model_that_is_not_measured_yet_is_not_trained_again(small, tmp_path, monkeypatch):
    def stopped(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(RewardModelTrainer, "_measure", stopped)
    monkeypatch.setattr("mavis.baselines.train.parm.collected", lambda _: 1000.0)
    with pytest.raises(KeyboardInterrupt):
        parm(ParmConfig(**small, out=str(tmp_path / "parm")))
    kept = (tmp_path / "parm" / "pblora.safetensors").read_bytes()
    monkeypatch.undo()
    monkeypatch.setattr(RewardModelTrainer, "_train", stopped)
    parm(ParmConfig(**small, out=str(tmp_path / "parm")))
    card = ParmCard.read(tmp_path / "parm")
    assert (tmp_path / "parm" / "pblora.safetensors").read_bytes() == kept
    assert card.cpu_seconds > 1000  # what the answers took, and the steps
    assert len(card.measured) == 3


def test_a_model_of_an_edited_reward_is_another_one(run, small, monkeypatch):
    monkeypatch.setattr("mavis.baselines.train.setup.identity", lambda _: "edited")
    with pytest.raises(ValueError, match="holds a run with other rewards: give another --out"):
        parm(ParmConfig(**small, out=str(run)))


def test_a_reference_with_other_weights_is_another_one(run, small, monkeypatch):
    monkeypatch.setattr(ReferencePolicy, "weights_digest", "others")
    with pytest.raises(ValueError, match="holds a run with other reference weights: give another"):
        parm(ParmConfig(**small, out=str(run)))


def test_prompts_that_cannot_be_used_do_not_claim_the_folder(small, tmp_path, tiny_folder):
    """The corrected command finds the folder free."""
    prompts, out = tmp_path / "prompts", tmp_path / "out"
    shutil.copytree(tiny_folder / "prompts", prompts)
    (validation,) = prompts.glob("validation.*")
    validation.write_text(json.dumps({"prompt": "an ant " * 400}) + "\n")
    with pytest.raises(ValueError, match="validation"):
        parm(ParmConfig(**small | {"prompts": str(prompts)}, out=str(out)))
    assert [path.name for path in out.iterdir()] == [".lock"]


def test_one_process_at_a_time(small, tmp_path):
    folder = tmp_path / "parm"
    with alone_in(folder), pytest.raises(RuntimeError, match="another run is at work in"):
        parm(ParmConfig(**small, out=str(folder)))


def test_another_run_does_not_get_in_between(run, small):
    with pytest.raises(ValueError, match=r"holds a run with lr = 0\.\d+, not 0\.5: give another"):
        parm(ParmConfig(**small, out=str(run), lr=0.5))
    assert json.loads((run / "settings.json").read_text())["answers"] == 4


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"objectives": ""}, "objectives must be named"),
        ({"objectives": "trial,trial"}, "objectives must not contain duplicates"),
        ({"objectives": "trail"}, "no objective 'trail' .did you mean 'trial'"),
        ({"answers": 1}, "answers must be at least 2, got 1"),
        ({"lr": 0.0}, "lr must be a positive number"),
        ({"beta_r": -1.0}, "beta_r must be a positive number"),
        ({"rank": 0}, "rank must be at least 1"),
        ({"device": "abacus"}, "device 'abacus' is not available here; there are: cpu"),
        ({"num_prompts": 0}, "num_prompts must be at least 1"),
        ({"reference": "./nowhere"}, "is missing"),
        ({"objectives": "trial,hh-humor", "prompts": None}, "prompts must be given"),
    ],
)
def test_bad_input_is_said_at_once(small, tmp_path, wrong, message):
    with pytest.raises((ValueError, LookupError, FileNotFoundError), match=message):
        parm(ParmConfig(**(small | wrong), out=str(tmp_path / "out")))
    assert not (tmp_path / "out").exists()
