"""A sweep in MLflow: a run for the sweep, a child run for each method, the same ones every time.

The store is the one of `mavis fit`. If it does not answer, a warning is printed after some seconds;
the results are in files, and the same command writes them to the store later.
"""

import hashlib
import json
import math
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mavis.comparison.result_format import Results
from mavis.storage import legal
from mavis.tracking.mlflow_logger import LONG, PARAM_LENGTH, SHORT, careful, flat, numbers
from mavis.tracking.mlflow_run import FitRun, without_secrets

EXPERIMENT = "mavis"
METHOD, CONTENT = "mavis.method", "mavis.content"  # tags: whose child run it is, what it holds

Point = dict[str, Any]


def log_sweep(
    folder: Path, results: Results, files: Sequence[Path], uri: str | None = None
) -> None:
    """Write a sweep to MLflow; if that fails, print a warning.

    Args:
        folder: of the sweep; `mlflow.json` in it names its run.
        results: of the sweep.
        files: to keep with the run, pictures under `plots`.
        uri: of the store; `MLFLOW_TRACKING_URI` or `mlflow.db` beside the folder by default.
    """
    folder = folder.absolute()
    beside = f"sqlite:///{(folder.parent / 'mlflow.db').as_posix()}"
    where = uri or os.environ.get("MLFLOW_TRACKING_URI") or beside
    try:
        with careful(SHORT):
            run = FitRun(folder, EXPERIMENT, folder.name, where)
            run.params(_params(results["settings"]))
            _write(run, run.id, [(0, _indicators(results))])
            for method in results["methods"]:
                child = _child(run, method)
                _write(run, child, list(_points(results, method)))
                run.client.set_terminated(child)
        with careful(LONG):  # the store has answered: what takes time now is the files
            for file in files:
                kind = "plots" if file.suffix == ".png" else None
                run.client.log_artifact(run.id, str(file), kind)
            run.client.set_terminated(run.id)
    except Exception as error:
        _tell(where, error)


def _child(run: FitRun, method: str) -> str:
    """Return the id of a method's run, which is created if there is none."""
    tags = {"mlflow.parentRunId": run.id, METHOD: method}
    rule = " and ".join(f"tags.`{name}` = '{value}'" for name, value in tags.items())
    if earlier := run.client.search_runs([run.experiment_id], rule, max_results=1):
        return str(earlier[0].info.run_id)
    started = run.client.create_run(run.experiment_id, tags=tags, run_name=method)
    run.client.log_param(started.info.run_id, "method", method)
    return str(started.info.run_id)


def _write(run: FitRun, run_id: str, steps: Sequence[tuple[int, Mapping[str, float]]]) -> None:
    """Write metrics unless the same are there already."""
    content = hashlib.sha256(json.dumps(legal(list(steps))).encode()).hexdigest()[:16]
    if run.client.get_run(run_id).data.tags.get(CONTENT) == content:
        return
    now = time.time()
    points: list[Point] = [{"step": step, "time": now, "metrics": dict(m)} for step, m in steps]
    run.metrics(points, run_id)
    run.client.set_tag(run_id, CONTENT, content)  # last: an unfinished write is done again


def _params(settings: Mapping[str, Any]) -> dict[str, str]:
    return {name: without_secrets(str(value))[:PARAM_LENGTH] for name, value in flat(settings, ".")}


def _indicators(results: Results) -> dict[str, float]:
    """Return all indicators of all methods, for the sweep's own run, to compare sweeps by."""
    return _finite({name: method["indicators"] for name, method in results["methods"].items()})


def _points(results: Results, method: str) -> list[tuple[int, dict[str, float]]]:
    """Return a method's metrics: at step 0 all but rewards, then rewards by weighting."""
    this = results["methods"][method]
    once = {
        **this["indicators"],
        "behind_mavis": results["ahead"].get(method),
        "training_cpu_seconds": this["training_cpu_seconds"],
        "parameters": this["parameters"],
        "tokens_per_cpu_second": this["tokens_per_cpu_second"],
        "answers": this["answers"],
    }
    steps = [
        {
            "weight": dict(zip(results["objectives"], weights, strict=True)),
            "reward": dict(zip(results["objectives"], cells or (), strict=False)),
        }
        for weights, cells in zip(results["weightings"], this["rewards"], strict=True)
    ]
    return [(0, _finite(once)), *enumerate(map(_finite, steps))]


def _finite(values: Mapping[str, Any]) -> dict[str, float]:
    """Flatten to finite numbers; an interval becomes NAME, NAME/low and NAME/high."""
    known = ((name, x) for name, x in numbers(values).items() if math.isfinite(x))
    return {name.removesuffix("/value"): x for name, x in known}


def _tell(where: str, error: BaseException) -> None:
    shown = without_secrets(where)
    while inner := error.__cause__ or error.__context__:
        error = inner  # the first cause has the shortest message
    reason = " ".join(str(error).replace(where, shown).split()) or type(error).__name__
    print(
        f"mavis: tracking at {shown} failed ({without_secrets(reason)[:160]}); the results are in "
        "files, and the same command tries again",
        file=sys.stderr,
    )
