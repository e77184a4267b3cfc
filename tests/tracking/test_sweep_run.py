"""A sweep is read back through MLflow's own client; a dead store takes seconds, never results."""

import time

import pytest

from mavis.comparison.contamination import Checks
from mavis.comparison.provenance import Cost
from mavis.comparison.results import results
from mavis.tracking.sweep_run import log_sweep

SETTINGS = {"top_k": 40, "models": {"runs": "runs"}, "source": "https://ann:s3cret@host/x?token=1"}

NOTHING = Checks({}, {}, [])


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder of sweeps; the tests share its database, whose migrations take seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        yield tmp_path_factory.mktemp("sweeps")


@pytest.fixture
def client(place):
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=f"sqlite:///{place}/mlflow.db")


@pytest.fixture
def found(analysis, monkeypatch):
    monkeypatch.setattr("mavis.comparison.analysis.RESAMPLES", 40)
    costs = {"mavis": Cost(235.0, 1101314, frozenset()), "mod": Cost(None, 10, None)}
    return results(analysis(), costs, {"mavis": 1429.0}, SETTINGS, NOTHING)


@pytest.fixture
def files(tmp_path):
    written = [tmp_path / name for name in ("results.json", "report.html", "bars.png")]
    for file in written:
        file.write_text("content")
    return written


def runs_of(client, name):
    (experiment,) = [e for e in client.search_experiments() if e.name == "mavis"]
    every = client.search_runs([experiment.experiment_id])
    (parent,) = [run for run in every if run.info.run_name == name]
    children = [r for r in every if r.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    return parent, {run.info.run_name: run for run in children}


def test_a_run_for_the_sweep_and_a_child_for_each_method(place, client, found, files, capfd):
    log_sweep(place / "one", found, files)
    assert capfd.readouterr() == ("", "")
    parent, children = runs_of(client, "one")
    assert set(children) == {"best_of", "mavis", "mod"}
    assert {run.info.status for run in (parent, *children.values())} == {"FINISHED"}
    params = parent.data.params
    assert "version.torch" in params
    assert {name: v for name, v in params.items() if not name.startswith("version.")} == {
        "top_k": "40",
        "models.runs": "runs",
        "source": "https://host/x",
    }
    want = found["methods"]["mavis"]["indicators"]["hypervolume"]
    assert parent.data.metrics["mavis/hypervolume"] == want["value"]
    mavis = children["mavis"].data
    assert mavis.params == {"method": "mavis"}
    kept = [mavis.metrics[f"hypervolume{end}"] for end in ("", "/low", "/high")]
    assert kept == [want["value"], want["low"], want["high"]]
    assert mavis.metrics["training_cpu_seconds"] == 235
    assert mavis.metrics["tokens_per_cpu_second"] == 1429
    assert "training_cpu_seconds" not in children["mod"].data.metrics  # not known
    behind = found["ahead"]["mod"]["hypervolume_ratio"]["value"]
    assert children["mod"].data.metrics["behind_mavis/hypervolume_ratio"] == behind
    rewards = client.get_metric_history(children["mavis"].info.run_id, "reward/humor")
    cells = [cell[0]["value"] for cell in found["methods"]["mavis"]["rewards"]]
    assert [(m.step, m.value) for m in rewards] == list(enumerate(cells))
    artifacts = {a.path for a in client.list_artifacts(parent.info.run_id)}
    assert artifacts == {"results.json", "report.html", "plots"}
    assert (place / "mlartifacts").is_dir()


def test_running_again_goes_on_with_the_same_runs(place, client, found, files):
    def history(run):
        return client.get_metric_history(run.info.run_id, "hypervolume")

    log_sweep(place / "two", found, files)
    before, children = runs_of(client, "two")
    log_sweep(place / "two", found, files)
    after, again = runs_of(client, "two")
    assert after.info.run_id == before.info.run_id
    assert {n: r.info.run_id for n, r in again.items()} == {
        n: r.info.run_id for n, r in children.items()
    }
    assert len(history(again["mod"])) == 1

    found["methods"]["mod"]["indicators"]["hypervolume"]["value"] /= 2  # more methods, other corner
    log_sweep(place / "two", found, files)
    _, changed = runs_of(client, "two")
    assert len(history(changed["mod"])) == 2
    assert len(history(changed["best_of"])) == 1
    value = found["methods"]["mod"]["indicators"]["hypervolume"]["value"]
    assert changed["mod"].data.metrics["hypervolume"] == value


def test_a_method_that_was_not_compared_has_what_is_known(place, client, analysis):
    found = results(analysis(("mavis",), reach=(0.5, 1.0)), {}, {}, {}, NOTHING)
    log_sweep(place / "three", found, [])
    _, children = runs_of(client, "three")
    metrics = children["mavis"].data.metrics
    assert "hypervolume" not in metrics
    assert "reward/humor" not in metrics
    assert metrics["answers/kl"] == pytest.approx(0.95)


def test_a_store_that_does_not_answer_costs_a_line(tmp_path, found, files, capsys):
    began = time.monotonic()
    log_sweep(tmp_path / "dead", found, files, "http://ann:s3cret@127.0.0.1:9")
    assert time.monotonic() - began < 20
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("mavis: tracking at http://127.0.0.1:9 failed (")
    assert said.err.count("\n") == 1
    assert "s3cret" not in said.err


def test_what_is_refused_costs_a_line(place, client, found, tmp_path, capsys):
    log_sweep(place / "four", found, [tmp_path / "missing.html"])
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "the results are in files" in said
    _, children = runs_of(client, "four")
    assert set(children) == {"best_of", "mavis", "mod"}


def test_the_variable_says_where(found, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    log_sweep(tmp_path / "elsewhere", found, [])
    assert "127.0.0.1:9" in capsys.readouterr().err
    assert not (tmp_path / "mlflow.db").exists()
