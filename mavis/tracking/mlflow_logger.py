"""Tracking of a fit in MLflow, or in a local file while MLflow does not answer.

Each run folder has one MLflow run, which the same command continues. No method of `Tracking`
raises, or waits for long, because of the store. Nothing is printed on standard output, and no
credentials are shown. The module knows numbers, texts and files, but no models, rewards or trees.
"""

import json
import logging
import os
import re
import sys
import time
import warnings
from argparse import Namespace
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only

from mavis.storage import legal
from mavis.tracking.mlflow_run import NAME_LENGTH, FitRun, Record, without_secrets

Call = Callable[[FitRun], object]

FLUSH_POINTS, FLUSH_SECONDS = 50, 10.0  # log calls and seconds after which metrics are written
KEPT_CALLS = 1_000  # calls that are kept for a store that comes back
PING, SHORT, LONG = 2, 5, 60  # timeouts in seconds: of a test call, of texts, and of files
PARAM_LENGTH = 500  # older stores accept no longer parameters


def flat(values: Mapping[str, Any], joint: str) -> Iterator[tuple[str, Any]]:
    """Flatten nested values; the names contain only characters that a store accepts.

    >>> dict(flat({"data": {"branching": [4, 2]}, "humor?": 1}, "."))
    {'data.branching': [4, 2], 'humor_': 1}
    """
    for name, value in values.items():
        value = vars(value) if isinstance(value, Namespace) else value
        inner = flat(value, joint) if isinstance(value, Mapping) and value else [("", value)]
        for rest, leaf in inner:
            path = f"{name}{joint}{rest}" if rest else str(name)
            yield re.sub(r"[^\w\-. /]", "_", path, flags=re.ASCII)[:NAME_LENGTH], leaf


def numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """Flatten nested values to numbers; other values are left out.

    >>> numbers({"reward": 2, "kl": {"exact": 0.5}, "model": "x", "r2": None})
    {'reward': 2.0, 'kl/exact': 0.5}
    """
    kept = {}
    for name, value in flat(values, "/"):
        if value is not None and not isinstance(value, str):
            with suppress(TypeError, ValueError, RuntimeError):  # lists, arrays, objects
                kept[name] = float(value)
    return kept


@contextmanager
def careful(seconds: int) -> Iterator[None]:
    """Call MLflow with short timeouts, no telemetry and no output; the user's settings stay.

    By default MLflow retries a dead server for four minutes, logs the migrations of a new database,
    and prints to standard output when a run is closed.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("DO_NOT_TRACK", "true")
    wanted = {
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": str(seconds),
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    }
    added = {name: value for name, value in wanted.items() if name not in os.environ}
    os.environ.update(added)
    silenced = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(silenced)
        for name in added:
            os.environ.pop(name, None)


class Tracking(Logger):
    """The logger of a fit: MLflow, and `tracking.jsonl` in the run folder when MLflow fails.

    The store is first contacted when something is logged. When it stops answering, one line on
    standard error reports this, and everything is written to the file. The store is tried again at
    the end of each round and of the fit, and gets what it has missed.

    Args:
        folder: The run folder (`runs/humor`).
        experiment: Name of the MLflow experiment.
        run_name: Name of the run; the folder's name by default.
        uri: Tracking URI; `MLFLOW_TRACKING_URI` or `mlflow.db` beside `folder` by default.
    """

    def __init__(
        self,
        folder: str,
        experiment: str = "mavis",
        run_name: str | None = None,
        uri: str | None = None,
    ) -> None:
        self._folder = Path(folder).absolute()
        self._experiment = experiment
        self._run_name = run_name or self._folder.name
        beside = f"sqlite:///{(self._folder.parent / 'mlflow.db').as_posix()}"
        self._uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or beside
        self._run: FitRun | None = None
        self._down = False
        self._reported: set[str] = set()  # failures of which the user knows
        self._points: list[Record] = []
        self._missed: deque[tuple[str, Call, int]] = deque(maxlen=KEPT_CALLS)
        self._flushed = time.monotonic()

    @property
    def name(self) -> str:
        """The experiment's name."""
        return self._experiment

    @property
    def version(self) -> str | None:
        """The id of the MLflow run; None before the first call."""
        return None if self._run is None else self._run.id

    @property
    def save_dir(self) -> str:
        """The run folder, in which Lightning writes its own files."""
        return str(self._folder)

    @property
    def uri(self) -> str:
        """The tracking URI without credentials."""
        return without_secrets(self._uri)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log the numbers of a step; many are written together, at the latest when a round ends."""
        point = {"step": int(step or 0), "time": time.time(), "metrics": numbers(metrics)}
        self._points.append(point)
        if self._down:
            self._write(point)
        if len(self._points) >= FLUSH_POINTS or time.monotonic() > self._flushed + FLUSH_SECONDS:
            self._flush()

    @rank_zero_only
    def log_hyperparams(self, params: Record | Namespace, *_: Any, **__: Any) -> None:
        """Log parameters; nested names are joined by dots, and long values are cut."""
        values = vars(params) if isinstance(params, Namespace) else params
        kept = {name: str(value)[:PARAM_LENGTH] for name, value in flat(values, ".")}
        self._send("parameters", lambda run: run.params(kept), [{"params": kept}])

    @rank_zero_only
    def log_config(self, text: str) -> None:
        """Log the full configuration (YAML) as the artifact `config.yaml`."""
        self._send("the configuration", lambda run: run.config(text), [{"config": text}])

    @rank_zero_only
    def log_data(self, name: str, source: str, prompts_count: int, digest: str) -> None:
        """Log the training data: name, source, number of prompts and hash."""
        data: Record = {"name": name, "source": source}
        data |= {"prompts_count": prompts_count, "digest": digest}
        self._send("the data set", lambda run: run.data(**data), [{"data": data}])

    @rank_zero_only
    def log_round(self, entry: Record, plots: Sequence[Path], samples: Sequence[Record]) -> None:
        """Log a finished round, and the steps before it.

        Args:
            entry: The round's entry in `metrics.json`; `entry["round"]` is its number.
            plots: Image files.
            samples: Rows with prompt, reference, guided, reward_reference and reward_guided.
        """
        self._flush()
        self._reconnect()
        point = {"step": int(entry["round"]), "time": time.time(), "metrics": numbers(entry)}
        record = {"round": entry, "samples": list(samples)}
        self._send("a round", lambda run: run.round(point, plots, samples), [record], LONG)

    @rank_zero_only
    def log_model(self, folder: Path, name: str) -> None:
        """Log the value folder and register it as `models:/NAME/latest`."""
        self._send("the model", lambda run: run.model(folder, name), [{"model": str(folder)}], LONG)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Log what is left and close the run as FINISHED, FAILED or (on a signal) KILLED."""
        self._flush()
        self._reconnect()
        stopped = "FAILED" if isinstance(sys.exc_info()[1], Exception | None) else "KILLED"
        last = "FINISHED" if status in ("success", "finished") else stopped
        if self._run is not None:
            self._send("the end", lambda run: run.client.set_terminated(run.id, last), [])

    def _flush(self) -> None:
        points, self._points, self._flushed = self._points, [], time.monotonic()
        if points:
            written = [] if self._down else points
            self._send("metrics", lambda run: run.metrics(points), written)

    def _send(self, what: str, call: Call, records: Sequence[Record], seconds: int = SHORT) -> None:
        """Make a call; if it fails, write its records to the file, and try it again later."""
        if not self._down:
            outer = sys.exc_info()[1]  # a failing fit closes its run, too
            try:
                with careful(seconds):
                    self._run = self._run or FitRun(
                        self._folder, self._experiment, self._run_name, self._uri
                    )
                    call(self._run)
                return
            except Exception as error:
                self._down = not self._answers()
                self._report(what, error, outer)
        if records:
            self._write(*records)
        if self._down:
            self._missed.append((what, call, seconds))

    def _answers(self) -> bool:
        """Whether the store answers: a call may also fail by itself (a refused value or file)."""
        with suppress(Exception), careful(PING):
            return self._run is not None and bool(self._run.client.get_run(self._run.id))
        return False

    def _reconnect(self) -> None:
        """Make the missed calls, if the store answers again."""
        if self._down:
            missed, self._down = list(self._missed), False
            self._missed.clear()
            for what, call, seconds in missed:
                self._send(what, call, [], seconds)
            if missed and not self._down:
                self._reported.discard("metrics go")
                print(f"mavis: tracking at {self.uri} answers again", file=sys.stderr)

    def _report(self, what: str, error: BaseException, outer: BaseException | None) -> None:
        """Print each kind of failure once, in one line without credentials."""
        lost = "metrics go" if self._down else f"{what} was refused and goes"
        if lost in self._reported:
            return
        self._reported.add(lost)
        while (inner := error.__cause__ or error.__context__) not in (None, outer):
            error = inner or error  # the first cause has the shortest message
        text = " ".join(str(error).replace(self._uri, self.uri).split()) or type(error).__name__
        print(
            f"mavis: tracking at {self.uri} failed ({without_secrets(text)[:160]}); "
            f"{lost} to {self._folder / 'tracking.jsonl'}",
            file=sys.stderr,
        )

    def _write(self, *records: Record) -> None:
        with suppress(OSError):  # a full disk is reported by whatever needs the disk
            self._folder.mkdir(parents=True, exist_ok=True)
            with (self._folder / "tracking.jsonl").open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(legal(r), default=str) + "\n" for r in records)
