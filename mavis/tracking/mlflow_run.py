"""One fit as an MLflow run: found or started, and written to by MLflow's public client.

`mlflow_logger` decides when to write, and what happens if the store does not answer.
"""

import json
import platform
import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from filelock import FileLock

from mavis.storage import read_json, write_json

Record = dict[str, Any]

NAME_LENGTH, BATCH, PARAM_BATCH = 250, 1000, 100  # limits of MLflow stores
LIBRARIES = ("mavis", "torch", "transformers", "lightning", "datasets", "peft", "trl")
SQLITE = "sqlite:///"
PATIENCE = 60.0  # seconds to wait for another process that makes the tables of a store
SAMPLE_COLUMNS = ("prompt", "reference", "guided", "reward_reference", "reward_guided")


def without_secrets(text: str) -> str:
    """Remove user, password and query from all URIs in a text.

    >>> without_secrets("no answer from https://ann:s3cr@t@host:5000/api?token=1 today")
    'no answer from https://host:5000/api today'
    """
    return re.sub(r"(://[^\s?]*)\?[^\s'\")]*", r"\1", re.sub(r"://\S*@", "://", text))


def versions() -> dict[str, str]:
    """The versions of Python and of the installed libraries, as parameters."""
    versions = {"version.python": platform.python_version()}
    for name in LIBRARIES:
        with suppress(PackageNotFoundError):  # some are extras
            versions[f"version.{name}"] = version(name)
    return versions


def _one_at_a_time(uri: str) -> AbstractContextManager[object]:
    """Let one process at a time open a store in a file.

    The first to open it makes its tables, and fails where another is making them.
    """
    if not uri.startswith(SQLITE):
        return nullcontext()
    return FileLock(f"{uri.removeprefix(SQLITE)}.lock", timeout=PATIENCE)


class FitRun:
    """The MLflow run of a run folder: continued if `mlflow.json` names it, else started.

    Every method contacts the store, and raises what the store raises.
    """

    def __init__(self, folder: Path, experiment: str, run_name: str, uri: str) -> None:
        from mlflow import MlflowClient

        folder.mkdir(parents=True, exist_ok=True)
        record = folder / "mlflow.json"
        with _one_at_a_time(uri):
            self.client = MlflowClient(tracking_uri=uri)
            run = self._continued(record) or self.client.create_run(
                self._experiment(experiment, folder, uri), run_name=run_name
            )
        self.id, self.experiment_id = run.info.run_id, run.info.experiment_id
        write_json(record, {"uri": without_secrets(uri), "run_id": self.id})

    def _continued(self, record: Path) -> Any:
        from mlflow.exceptions import MlflowException

        if not record.is_file():
            return None
        try:
            run = self.client.get_run(read_json(record)["run_id"])
        except (ValueError, KeyError, TypeError):
            print(f"mavis: {record} is damaged: a new MLflow run begins.", file=sys.stderr)
            return None
        except MlflowException as error:
            if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise
            return None
        if run.info.lifecycle_stage != "active":
            return None
        self.client.update_run(run.info.run_id, status="RUNNING")
        return run

    def _experiment(self, name: str, folder: Path, uri: str) -> str:
        experiment = self.client.get_experiment_by_name(name)
        if experiment is None:  # a local store would put files under the working directory
            local = (folder.parent / "mlartifacts").as_uri() if uri.startswith("sqlite:") else None
            return self.client.create_experiment(name, artifact_location=local)
        if experiment.lifecycle_stage != "active":
            self.client.restore_experiment(experiment.experiment_id)
        return experiment.experiment_id

    def metrics(self, points: Sequence[Record], run_id: str | None = None) -> None:
        """Write points `{"step", "time", "metrics"}` in as few requests as the store allows."""
        from mlflow.entities import Metric

        rows = [
            Metric(name, value, round(1000 * point["time"]), point["step"])
            for point in points
            for name, value in point["metrics"].items()
        ]
        for i in range(0, len(rows), BATCH):
            self.client.log_batch(run_id or self.id, metrics=rows[i : i + BATCH])

    def config(self, text: str) -> None:
        """Write the configuration as a file."""
        self.client.log_text(self.id, text, "config.yaml")

    def params(self, values: Mapping[str, str]) -> None:
        """Write parameters, and the versions of the libraries.

        A store does not let parameters change: a new value becomes the tag `changed/NAME`.
        """
        from mlflow.entities import Param, RunTag

        values = versions() | dict(values)
        known = self.client.get_run(self.id).data.params
        new = [Param(name, value) for name, value in values.items() if name not in known]
        changed = [(name, v) for name, v in values.items() if known.get(name, v) != v]
        tags = [RunTag(f"changed/{name}"[:NAME_LENGTH], value) for name, value in changed]
        for i in range(0, max(len(new), len(tags)), PARAM_BATCH):
            batch = slice(i, i + PARAM_BATCH)
            self.client.log_batch(self.id, params=new[batch], tags=tags[batch])

    def data(self, name: str, source: str, prompts_count: int, digest: str) -> None:
        """Write a data set as an input of the run; the same one again changes nothing."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        local = source.startswith(("sandbox/", ".", "/", "~")) or Path(source).exists()
        kind, key = ("local", "uri") if local else ("hugging_face", "path")
        where, profile = json.dumps({key: source}), json.dumps({"num_rows": prompts_count})
        data = Dataset(name[:500], digest[:36], kind, where, profile=profile)
        tag = InputTag("mlflow.data.context", "training")
        self.client.log_inputs(self.id, [DatasetInput(data, [tag])])

    def round(self, point: Record, plots: Sequence[Path], samples: Sequence[Record]) -> None:
        """Write a round as a child run, and on the run itself at step = round; only once."""
        k, start = point["step"], self.client.create_run
        tags = {"mlflow.parentRunId": self.id, "mavis.round": str(k)}
        rule = " and ".join(f"tags.`{name}` = '{value}'" for name, value in tags.items())
        runs = self.client.search_runs([self.experiment_id], rule, max_results=1)
        child = runs[0] if runs else start(self.experiment_id, tags=tags, run_name=f"round {k}")
        if child.info.status == "FINISHED":
            return
        self.metrics([point], child.info.run_id)
        self.metrics([point | {"metrics": {f"round/{n}": v for n, v in point["metrics"].items()}}])
        table = {name: [row.get(name) for row in samples] for name in SAMPLE_COLUMNS}
        for run_id in (child.info.run_id, self.id):
            for path in plots:
                self.client.log_artifact(run_id, str(path), "plots")
            if samples:  # on the run itself the table grows by round
                self.client.log_table(run_id, {"round": [k] * len(samples)} | table, "samples.json")
        self.client.set_terminated(child.info.run_id)

    def model(self, folder: Path, name: str) -> None:
        """Write the folder as `value/` and register it as a version of a model, once for a run."""
        from mlflow.exceptions import MlflowException

        self.client.log_artifacts(self.id, str(folder), "value")
        try:
            self.client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        versions = self.client.search_model_versions(f"name = '{name}'")
        if all(version.run_id != self.id for version in versions):
            self.client.create_model_version(name, f"runs:/{self.id}/value", self.id)
