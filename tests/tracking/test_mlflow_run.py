"""A run is written in as few requests as a store allows, and nothing in it is ever changed."""

import subprocess
import sys
from types import SimpleNamespace

import pytest

from mavis.tracking import mlflow_run
from mavis.tracking.mlflow_run import BATCH, PARAM_BATCH, FitRun, versions, without_secrets


class Store(SimpleNamespace):
    """What stands for MLflow's client: it knows some parameters, and keeps what it is sent."""

    def __init__(self, **params):
        super().__init__(params=params, batches=[])

    def get_run(self, _):
        return SimpleNamespace(data=SimpleNamespace(params=self.params))

    def log_batch(self, run_id, **what):
        self.batches.append((run_id, what))


@pytest.fixture
def run():
    """`run(store)`: a run that is there already."""

    def build(store):
        found = object.__new__(FitRun)
        found.client, found.id = store, "r1"
        return found

    return build


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://ann:pw@host/x", "https://host/x"),
        ("'http://host/a?key=1'", "'http://host/a'"),
        ("why? http://host", "why? http://host"),
    ],
)
def test_secrets_are_left_out(text, shown):
    assert without_secrets(text) == shown


def test_versions_of_what_is_installed(monkeypatch):
    monkeypatch.setattr(mlflow_run, "LIBRARIES", ("torch", "no-such-library"))
    assert versions().keys() == {"version.python", "version.torch"}


def test_metrics_come_in_large_requests_and_milliseconds(run):
    store = Store()
    points = [{"step": n, "time": 1.5, "metrics": {"a": n, "b": -n}} for n in range(BATCH)]
    run(store).metrics(points)
    sizes = [len(what["metrics"]) for _, what in store.batches]
    assert sizes == [BATCH, BATCH]
    first = store.batches[0][1]["metrics"][1]
    assert (first.key, first.value, first.timestamp, first.step) == ("b", 0, 1500, 0)
    run(store).metrics(points[:1], "child")
    assert [run_id for run_id, _ in store.batches] == ["r1", "r1", "child"]


def test_a_parameter_is_never_changed(run, monkeypatch):
    monkeypatch.setattr(mlflow_run, "versions", dict)
    store = Store(same="1", other="1")
    run(store).params({"same": "1", "other": "2", "new": "3"})
    ((_, what),) = store.batches
    assert [(param.key, param.value) for param in what["params"]] == [("new", "3")]
    assert [(tag.key, tag.value) for tag in what["tags"]] == [("changed/other", "2")]


def test_many_parameters_come_in_parts(run, monkeypatch):
    monkeypatch.setattr(mlflow_run, "versions", dict)
    store = Store()
    run(store).params({f"p{n}": "1" for n in range(PARAM_BATCH + 1)})
    assert [len(what["params"]) for _, what in store.batches] == [PARAM_BATCH, 1]


def test_two_processes_may_open_a_new_store_at_once(tmp_path):
    """The first makes its tables, and the other waits for them."""
    code = (
        "import sys; from pathlib import Path; from mavis.tracking.mlflow_run import FitRun\n"
        "FitRun(Path(sys.argv[1]) / sys.argv[2], 'same', sys.argv[2], sys.argv[3])\n"
    )
    uri = f"sqlite:///{(tmp_path / 'mlflow.db').as_posix()}"
    words = [sys.executable, "-c", code, str(tmp_path)]
    both = [subprocess.Popen([*words, name, uri]) for name in ("one", "other")]
    assert [child.wait() for child in both] == [0, 0]
    assert all((tmp_path / name / "mlflow.json").is_file() for name in ("one", "other"))
