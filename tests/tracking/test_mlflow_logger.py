"""What is written is read back through MLflow's own client; a dead store never ends a fit."""

import json
import os
import platform
import threading
from argparse import Namespace
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from mavis.tracking.mlflow_logger import Tracking
from mavis.tracking.mlflow_run import FitRun

SAMPLE = {
    "prompt": "Tell me a story.",
    "reference": "Once.",
    "guided": "Once, ha!",
    "reward_reference": -0.5,
    "reward_guided": None,
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder of run folders; the tests share its database, whose migrations take seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        yield tmp_path_factory.mktemp("all runs")


@pytest.fixture
def client(runs: Path):
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=f"sqlite:///{runs}/mlflow.db")


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "reward_kl.png"
    path.write_bytes(b"png")
    return path


def fit_like(tracking: Tracking, picture: Path, value: Path, steps: int = 120) -> None:
    """What a fit calls, in its order."""
    tracking.log_hyperparams({"model": {"lr": 1e-3}, "note": "x" * 9000})
    tracking.log_config("objective: humor\n")
    tracking.log_data("sandbox/prompts", "sandbox/prompts", 600, "abc123")
    for step in range(steps):
        tracking.log_metrics({"train/loss": 1 / (step + 1), "epoch": 0}, step)
        tracking.save()
    tracking.log_round({"round": 0, "reward": 1.5, "kl": None}, [picture], [SAMPLE])
    tracking.log_model(value, "mavis-humor")
    tracking.finalize("success")


@pytest.fixture
def value(tmp_path: Path) -> Path:
    folder = tmp_path / "value"
    folder.mkdir()
    (folder / "config.json").write_text('{"constants": [0, 1]}')
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


def settings_of(run) -> dict[str, str]:
    """The parameters of a run but for the versions of the libraries, which are checked here."""
    params = dict(run.data.params)
    assert params.pop("version.python") == platform.python_version()
    assert params.pop("version.torch") == version("torch")
    assert params.keys() >= {f"version.{name}" for name in ("mavis", "transformers", "lightning")}
    return {name: text for name, text in params.items() if not name.startswith("version.")}


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "tracking.jsonl").read_text().splitlines()]


def file_losses(folder: Path) -> list[int]:
    return [row["step"] for row in lines(folder) if "train/loss" in row.get("metrics", {})]


def test_everything_is_read_back(runs, client, picture, value, capfd, monkeypatch):
    monkeypatch.chdir(picture.parent)
    tracking = Tracking(str(runs / "humor"))
    assert tracking.version is None, "nothing is opened before something is logged"
    fit_like(tracking, picture, value)
    assert capfd.readouterr() == ("", "")

    run = client.get_run(tracking.version)
    assert (run.info.status, run.info.run_name) == ("FINISHED", "humor")
    assert settings_of(run) == {"model.lr": "0.001", "note": "x" * 500}
    assert run.data.metrics["round/reward"] == 1.5
    assert "round/kl" not in run.data.metrics
    history = client.get_metric_history(tracking.version, "train/loss")
    assert [point.step for point in history] == list(range(120))
    assert history[9].value == pytest.approx(0.1)
    data = run.inputs.dataset_inputs[0].dataset
    assert (data.name, data.digest) == ("sandbox/prompts", "abc123")
    assert json.loads(data.profile) == {"num_rows": 600}
    files = {f.path for f in client.list_artifacts(tracking.version)}
    assert files == {"config.yaml", "plots", "samples.json", "value"}
    assert not (runs / "humor" / "tracking.jsonl").exists()
    assert not list(Path.cwd().glob("mlruns")), "artifacts lie beside the database"
    assert (runs / "mlartifacts" / tracking.version).is_dir()


def test_a_round_is_a_child_run(runs, client, picture):
    tracking = Tracking(str(runs / "children"))
    for k in range(2):
        tracking.log_round({"round": k, "reward": k / 2, "distinct_3": 0.9}, [picture], [SAMPLE])
    tracking.log_round({"round": 1, "reward": 9.0}, [picture], [SAMPLE])  # again, after a crash

    rule = f"tags.`mlflow.parentRunId` = '{tracking.version}'"
    experiment = client.get_experiment_by_name("mavis")
    children = client.search_runs([experiment.experiment_id], rule, order_by=["start_time"])
    assert [child.info.run_name for child in children] == ["round 0", "round 1"]
    assert [child.data.metrics["reward"] for child in children] == [0.0, 0.5]
    assert {child.info.status for child in children} == {"FINISHED"}
    history = client.get_metric_history(tracking.version, "round/reward")
    assert [(point.step, point.value) for point in history] == [(0, 0.0), (1, 0.5)]

    table = json.loads(
        Path(client.download_artifacts(tracking.version, "samples.json")).read_text()
    )
    assert table["columns"] == ["round", *SAMPLE]
    assert table["data"] == [[k, *SAMPLE.values()] for k in range(2)]
    assert "mlflow.loggedArtifacts" in client.get_run(tracking.version).data.tags
    own = client.download_artifacts(children[1].info.run_id, "plots/reward_kl.png")
    assert Path(own).read_bytes() == b"png"


def test_the_same_command_continues_the_run(runs, client):
    first = Tracking(str(runs / "resumed"))
    first.log_hyperparams({"rounds": 2, "lr": 0.1})
    first.log_metrics({"loss": 1.0}, 0)
    first.finalize("failed")
    assert client.get_run(first.version).info.status == "FAILED"

    second = Tracking(str(runs / "resumed"))
    second.log_hyperparams({"rounds": 3, "lr": 0.1, "new": True})
    assert second.version == first.version
    assert client.get_run(second.version).info.status == "RUNNING"
    second.log_metrics({"loss": 0.5}, 1)
    second.finalize("success")
    run = client.get_run(second.version)
    assert settings_of(run) == {"rounds": "2", "lr": "0.1", "new": "True"}
    assert run.data.tags["changed/rounds"] == "3"
    assert [point.step for point in client.get_metric_history(run.info.run_id, "loss")] == [0, 1]
    assert run.info.status == "FINISHED"


@pytest.mark.parametrize("content", ['{"run_id": "0123"}', "{}", "half a li", "[]"])
def test_an_unknown_run_id_starts_a_new_run(runs, client, content, capfd):
    folder = runs / "unknown"
    folder.mkdir(exist_ok=True)
    (folder / "mlflow.json").write_text(content)
    tracking = Tracking(str(folder))
    tracking.log_config("a: 1")
    assert client.get_run(tracking.version).info.run_name == "unknown"
    assert json.loads((folder / "mlflow.json").read_text())["run_id"] == tracking.version
    said = capfd.readouterr().err
    assert (said == "") if "0123" in content else "mlflow.json is damaged: a new MLflow run" in said


def test_a_deleted_run_is_left_alone(runs, client):
    first = Tracking(str(runs / "deleted"), experiment="short")
    first.log_config("a: 1")
    client.delete_run(first.version)
    client.delete_experiment(client.get_experiment_by_name("short").experiment_id)
    second = Tracking(str(runs / "deleted"), experiment="short", run_name="another")
    second.log_config("a: 1")
    assert second.version != first.version
    assert client.get_run(second.version).info.run_name == "another"


def test_the_registered_model_comes_back(runs, client, value, tmp_path, monkeypatch):
    from mlflow.artifacts import download_artifacts

    tracking = Tracking(str(runs / "registered"))
    tracking.log_model(value, "mavis-test")
    (value / "config.json").write_text('{"constants": [1, 2]}')
    Tracking(str(runs / "registered")).log_model(value, "mavis-test")  # a resumed fit
    versions = client.search_model_versions("name = 'mavis-test'")
    assert [(v.run_id, v.status) for v in versions] == [(tracking.version, "READY")]

    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking.uri)  # as a user would
    back = download_artifacts("models:/mavis-test/latest", dst_path=str(tmp_path / "back"))
    for path in value.iterdir():
        assert (Path(back) / path.name).read_bytes() == path.read_bytes()

    Tracking(str(runs / "registered 2")).log_model(value, "mavis-test")
    assert len(client.search_model_versions("name = 'mavis-test'")) == 2


def test_odd_values_are_taken(runs, client, capfd):
    tracking = Tracking(str(runs / "odd"))
    metrics = {"loss": float("nan"), "reward?": torch.tensor(2.0), "top": float("inf")}
    tracking.log_metrics(metrics | {"text": "x", "none": None, "list": [1, 2]}, None)
    tracking.log_hyperparams(Namespace(empty="", data=Namespace(path=None), deep={"a": {}}))
    tracking.finalize("success")
    run = client.get_run(tracking.version)
    assert set(run.data.metrics) == {"loss", "reward_", "top"}
    assert run.data.metrics["loss"] != run.data.metrics["loss"]
    assert settings_of(run) == {"empty": "", "data.path": "None", "deep.a": "{}"}
    assert capfd.readouterr().err == ""


def test_ctrl_c_is_told_from_a_failure(runs, client):
    tracking = Tracking(str(runs / "killed"))
    tracking.log_config("a: 1")
    try:
        raise KeyboardInterrupt
    except KeyboardInterrupt:
        tracking.finalize("failed")
    assert client.get_run(tracking.version).info.status == "KILLED"


def test_uri_comes_from_argument_then_environment_then_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://localhost:5000")
    assert Tracking(str(tmp_path / "a"), uri="https://u:p@there/x").uri == "https://there/x"
    assert Tracking(str(tmp_path / "a")).uri == "http://localhost:5000"
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert Tracking(str(tmp_path / "a")).uri == f"sqlite:///{tmp_path}/mlflow.db"


def test_a_dead_server_costs_one_line(tmp_path, picture, value, capfd):
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as closed:
        port = closed.server_port
    folder = tmp_path / "humor"
    tracking = Tracking(str(folder), uri=f"http://ann:s3cret@127.0.0.1:{port}")
    fit_like(tracking, picture, value)
    out, err = capfd.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    assert f"http://127.0.0.1:{port} failed (" in err
    assert "Connection refused" in err
    assert str(folder / "tracking.jsonl") in err
    assert "s3cret" not in err
    assert file_losses(folder) == list(range(120))
    kinds = [next(iter(row)) for row in lines(folder)]
    assert [kind for kind in kinds if kind != "step"] == [
        "params",
        "config",
        "data",
        "round",
        "model",
    ]
    assert not (folder / "mlflow.json").exists()
    assert "MLFLOW_HTTP_REQUEST_TIMEOUT" not in os.environ


class Answering(BaseHTTPRequestHandler):
    """Just enough of a tracking server for a run with steps."""

    def do_GET(self) -> None:
        body = {"experiment": {"experiment_id": "1", "name": "mavis", "lifecycle_stage": "active"}}
        if "/runs/get" in self.path:
            body = {"run": RUN}
        self._answer(body)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self._answer({"run": RUN} if self.path.endswith("/runs/create") else {})

    def _answer(self, body: dict) -> None:
        content = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


RUN = {
    "info": {
        "run_id": "7",
        "experiment_id": "1",
        "status": "RUNNING",
        "lifecycle_stage": "active",
        "artifact_uri": "mlflow-artifacts:/1/7/artifacts",
    },
    "data": {},
}


def test_a_server_that_dies_in_the_middle(tmp_path, picture, value, capfd):
    server = HTTPServer(("127.0.0.1", 0), Answering)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    folder = tmp_path / "humor"
    tracking = Tracking(str(folder), uri=f"http://ann:s3cret@127.0.0.1:{server.server_port}")
    try:
        tracking.log_hyperparams({"lr": 1})
        for step in range(60):
            tracking.log_metrics({"train/loss": 1.0}, step)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert tracking.version == "7"
    assert capfd.readouterr() == ("", "")
    for step in range(60, 200):
        tracking.log_metrics({"train/loss": 1.0}, step)
    tracking.log_round({"round": 0, "reward": 1.0}, [picture], [SAMPLE])
    tracking.log_model(value, "mavis-humor")
    tracking.finalize("success")
    out, err = capfd.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    assert "s3cret" not in err
    assert file_losses(folder) == list(range(50, 200))


def test_a_store_that_comes_back_is_given_what_it_missed(runs, client, capfd, monkeypatch):
    def gone(*_, **__):
        raise ConnectionError("no route to ann:s3cret@host")

    folder = runs / "back"
    tracking = Tracking(str(folder))
    with monkeypatch.context() as patch:
        patch.setattr("mlflow.MlflowClient.get_experiment_by_name", gone)
        tracking.log_hyperparams({"lr": 1})
        for step in range(70):
            tracking.log_metrics({"train/loss": 1.0}, step)
    tracking.log_round({"round": 0, "reward": 1.0}, [], [])
    tracking.finalize("success")
    first, second = capfd.readouterr().err.splitlines()
    assert "metrics go to" in first
    assert "answers again" in second
    run = client.get_run(tracking.version)
    assert settings_of(run) == {"lr": "1"}
    history = client.get_metric_history(run.info.run_id, "train/loss")
    assert [point.step for point in history] == list(range(70))
    assert file_losses(folder) == list(range(70))


def test_a_refused_call_leaves_the_rest_alone(runs, client, value, capfd, monkeypatch):
    def full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(FitRun, "model", full)
    tracking = Tracking(str(runs / "refused"))
    tracking.log_model(value, "mavis-humor")
    tracking.log_model(value, "mavis-humor")
    tracking.log_metrics({"loss": 1.0}, 3)
    tracking.finalize("success")
    assert capfd.readouterr().err.splitlines() == [
        f"mavis: tracking at {tracking.uri} failed (No space left on device); "
        f"the model was refused and goes to {runs / 'refused' / 'tracking.jsonl'}"
    ]
    assert client.get_run(tracking.version).data.metrics == {"loss": 1.0}
    assert len(lines(runs / "refused")) == 2


def test_what_the_user_set_stays(runs, monkeypatch):
    seen: dict[str, str | None] = {}

    def look(*_):
        for name in ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_HTTP_REQUEST_TIMEOUT"):
            seen[name] = os.environ.get(name)

    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "4")
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_TIMEOUT", raising=False)
    monkeypatch.setattr(FitRun, "model", look)
    Tracking(str(runs / "user")).log_model(runs, "x")
    assert seen == {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "4", "MLFLOW_HTTP_REQUEST_TIMEOUT": "60"}
    assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "4"
    assert "MLFLOW_HTTP_REQUEST_TIMEOUT" not in os.environ


def test_other_ranks_write_nothing(tmp_path, monkeypatch, picture, value):
    from lightning.pytorch.utilities import rank_zero_only

    monkeypatch.setattr(rank_zero_only, "rank", 1)
    fit_like(Tracking(str(tmp_path / "runs" / "humor")), picture, value)
    assert not (tmp_path / "runs").exists()


def test_a_fit_by_lightning(runs, client, capfd):
    from lightning.pytorch import Trainer
    from lightning.pytorch.demos.boring_classes import BoringModel

    class Model(BoringModel):
        def training_step(self, batch, batch_idx):
            out = super().training_step(batch, batch_idx)
            self.log("train/loss", out["loss"])
            return out

    tracking = Tracking(str(runs / "lightning"))
    trainer = Trainer(
        max_steps=6,
        logger=tracking,
        log_every_n_steps=1,
        accelerator="cpu",
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        num_sanity_val_steps=0,
    )
    trainer.fit(Model())
    assert trainer.log_dir == str(runs / "lightning")
    assert "mavis:" not in capfd.readouterr().err
    history = client.get_metric_history(tracking.version, "train/loss")
    assert [point.step for point in history] == list(range(6))
    assert client.get_run(tracking.version).info.status == "FINISHED"
