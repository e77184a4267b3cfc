"""A sweep in MLflow: a run for the sweep, a child run for each method, the same ones every time.

The store is where `mavis fit` has it. One that does not answer costs a line and seconds, never the
results: they lie in files, and the same command writes them to a store that is back.
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


def log_sweep(folder: Path, found: Results, files: Sequence[Path], uri: str | None = None) -> None:
    """Write a sweep to MLflow, or say in a line that it cannot be.

    Args:
        folder: the sweep's; `mlflow.json` in it names its run.
        found: what is known of the sweep.
        files: what else to keep: pictures under `plots`, the rest by its name.
        uri: of the store; `MLFLOW_TRACKING_URI` or `mlflow.db` beside `folder` by default.
    """
    folder = folder.absolute()
    beside = f"sqlite:///{(folder.parent / 'mlflow.db').as_posix()}"
    where = uri or os.environ.get("MLFLOW_TRACKING_URI") or beside
    try:
        with careful(SHORT):
            run = FitRun(folder, EXPERIMENT, folder.name, where)
            run.params(_params(found["settings"]))
            _write(run, run.id, [(0, _indicators(found))])
            for method in found["methods"]:
                child = _child(run, method)
                _write(run, child, list(_points(found, method)))
                run.client.set_terminated(child)
        with careful(LONG):  # the store has answered: what takes time now is the files
            for file in files:
                kind = "plots" if file.suffix == ".png" else None
                run.client.log_artifact(run.id, str(file), kind)
            run.client.set_terminated(run.id)
    except Exception as error:
        _tell(where, error)


def _child(run: FitRun, method: str) -> str:
    """The id of a method's run: found, or started."""
    tags = {"mlflow.parentRunId": run.id, METHOD: method}
    rule = " and ".join(f"tags.`{name}` = '{value}'" for name, value in tags.items())
    found = run.client.search_runs([run.experiment_id], rule, max_results=1)
    if found:
        return str(found[0].info.run_id)
    started = run.client.create_run(run.experiment_id, tags=tags, run_name=method)
    run.client.log_param(started.info.run_id, "method", method)
    return str(started.info.run_id)


def _write(run: FitRun, run_id: str, steps: Sequence[tuple[int, Mapping[str, float]]]) -> None:
    """Write metrics unless they are there, exactly as they are."""
    content = hashlib.sha256(json.dumps(legal(list(steps))).encode()).hexdigest()[:16]
    if run.client.get_run(run_id).data.tags.get(CONTENT) == content:
        return
    now = time.time()
    points: list[Point] = [{"step": step, "time": now, "metrics": dict(m)} for step, m in steps]
    run.metrics(points, run_id)
    run.client.set_tag(run_id, CONTENT, content)  # last: an unfinished write is done again


def _params(settings: Mapping[str, Any]) -> dict[str, str]:
    return {name: without_secrets(str(value))[:PARAM_LENGTH] for name, value in flat(settings, ".")}


def _indicators(found: Results) -> dict[str, float]:
    """On the sweep's own run: all indicators of all methods, to be compared between sweeps."""
    table = {m: method["indicators"] for m, method in found["methods"].items()}
    return _finite({f"{m}/{n}": cell for m, each in table.items() for n, cell in each.items()})


def _points(found: Results, method: str) -> list[tuple[int, dict[str, float]]]:
    """On a method's run: at step 0 what it comes to, at step w its rewards at weighting w."""
    this = found["methods"][method]
    leads = dict(found["ahead"].get(method) or {})
    lead = {f"behind_mavis/{n}": cell for n, cell in leads.items()}
    once: dict[str, Any] = {
        **this["indicators"],
        **lead,
        "training_cpu_seconds": this["training_cpu_seconds"],
        "parameters": this["parameters"],
        "tokens_per_cpu_second": this["tokens_per_cpu_second"],
        **{f"answers/{name}": value for name, value in this["answers"].items()},
    }
    steps = [
        {
            **{f"weight/{n}": w for n, w in zip(found["objectives"], weights, strict=True)},
            **{f"reward/{n}": c for n, c in zip(found["objectives"], cells or (), strict=False)},
        }
        for weights, cells in zip(found["weightings"], this["rewards"], strict=True)
    ]
    return [(0, _finite(once)), *enumerate(map(_finite, steps))]


def _finite(values: Mapping[str, Any]) -> dict[str, float]:
    """Numbers fit for a store; an interval is NAME, NAME/low and NAME/high."""
    found = {name.removesuffix("/value"): x for name, x in numbers(values).items()}
    return {name: x for name, x in found.items() if math.isfinite(x)}


def _tell(where: str, error: BaseException) -> None:
    shown = without_secrets(where)
    while inner := error.__cause__ or error.__context__:
        error = inner  # the first cause says it in the fewest words
    said = " ".join(str(error).replace(where, shown).split()) or type(error).__name__
    print(
        f"mavis: tracking at {shown} failed ({without_secrets(said)[:160]}); the results are in "
        "files, and the same command tries again",
        file=sys.stderr,
    )
