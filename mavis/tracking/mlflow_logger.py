"""Where a fit is written down: MLflow as long as it answers, a local file when it does not.

Invariants: one MLflow run for each run folder, continued by the same command; no method of
`Tracking` raises, or waits for long, because of the store; nothing goes to standard output and no
credentials are shown. Knows nothing of models, rewards or trees: it gets numbers, texts and files.
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

FLUSH_POINTS, FLUSH_SECONDS = 50, 10.0  # a write to the store holds as many log calls, or as long
KEPT_CALLS = 1_000  # remembered for a store that comes back
PING, SHORT, LONG = 2, 5, 60  # seconds to wait for an answer: is it there; texts; files
PARAM_LENGTH = 500  # older stores take no more


def flat(values: Mapping[str, Any], joint: str) -> Iterator[tuple[str, Any]]:
    """Nested values under one name each, made legal for a store.

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
    """What can be plotted; the rest is left out.

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
    """Call MLflow with short waits, no telemetry and a quiet terminal; what the user set stays.

    Left alone, a dead server is retried for four minutes, the first use of a database logs its
    migrations, and closing a run prints to standard output.
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

    Nothing is contacted before something is logged. When the store stops answering, one line on
    standard error says so and everything goes to the file; once a round, and at the end, the store
    is asked again: if it is back, it is given what it missed.

    """

    def __init__(
        self,
        folder: str,
        experiment: str = "mavis",
        run_name: str | None = None,
        uri: str | None = None,
    ) -> None:
        """Remember where to write; nothing is opened yet.

        Args:
            folder: The run folder (`runs/humor`).
            experiment: Name of the MLflow experiment.
            run_name: Name of the run; the folder's name by default.
            uri: Tracking URI; `MLFLOW_TRACKING_URI` or `mlflow.db` beside `folder` by default.
        """
        self._folder = Path(folder).absolute()
        self._experiment = experiment
        self._run_name = run_name or self._folder.name
        beside = f"sqlite:///{(self._folder.parent / 'mlflow.db').as_posix()}"
        self._uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or beside
        self._run: FitRun | None = None
        self._down = False
        self._told: set[str] = set()
        self._points: list[Record] = []
        self._missed: deque[tuple[str, Call, int]] = deque(maxlen=KEPT_CALLS)
        self._flushed = time.monotonic()

    @property
    def name(self) -> str:
        """The experiment's name."""
        return self._experiment

    @property
    def version(self) -> str | None:
        """The MLflow run id; None before the store has answered."""
        return None if self._run is None else self._run.id

    @property
    def save_dir(self) -> str:
        """The run folder: where Lightning writes its own files."""
        return str(self._folder)

    @property
    def uri(self) -> str:
        """The tracking URI, fit to be shown."""
        return without_secrets(self._uri)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Take the numbers of a step; they are written together, at latest when a round ends."""
        point = {"step": int(step or 0), "time": time.time(), "metrics": numbers(metrics)}
        self._points.append(point)
        if self._down:
            self._write(point)
        if len(self._points) >= FLUSH_POINTS or time.monotonic() > self._flushed + FLUSH_SECONDS:
            self._flush()

    @rank_zero_only
    def log_hyperparams(self, params: Record | Namespace, *_: Any, **__: Any) -> None:
        """Write parameters, nested names joined by dots, long values cut."""
        values = vars(params) if isinstance(params, Namespace) else params
        kept = {name: str(value)[:PARAM_LENGTH] for name, value in flat(values, ".")}
        self._send("parameters", lambda run: run.params(kept), [{"params": kept}])

    @rank_zero_only
    def log_config(self, text: str) -> None:
        """Write the full configuration (YAML) as the artifact `config.yaml`."""
        self._send(
            "the configuration",
            lambda run: run.client.log_text(run.id, text, "config.yaml"),
            [{"config": text}],
        )

    @rank_zero_only
    def log_data(self, name: str, source: str, prompts_count: int, digest: str) -> None:
        """Write what was trained on: name, where it is from, number of prompts, hash."""
        record = {"name": name, "source": source, "prompts_count": prompts_count, "digest": digest}
        self._send(
            "the data set",
            lambda run: run.data(name, source, prompts_count, digest),
            [{"data": record}],
        )

    @rank_zero_only
    def log_round(self, entry: Record, plots: Sequence[Path], samples: Sequence[Record]) -> None:
        """Write a round that is over, and the steps before it.

        Args:
            entry: The round's entry in `metrics.json`; `entry["round"]` is its number.
            plots: Image files.
            samples: Rows with prompt, reference, guided, reward_reference and reward_guided.
        """
        self._flush()
        self._ask_again()
        point = {"step": int(entry["round"]), "time": time.time(), "metrics": numbers(entry)}
        record = {"round": entry, "samples": list(samples)}
        self._send("a round", lambda run: run.round(point, plots, samples), [record], LONG)

    @rank_zero_only
    def log_model(self, folder: Path, name: str) -> None:
        """Write the value folder and register it; `models:/NAME/latest` gives it back."""
        self._send("the model", lambda run: run.model(folder, name), [{"model": str(folder)}], LONG)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write what is left and close the run as FINISHED, FAILED or (on a signal) KILLED."""
        self._flush()
        self._ask_again()
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
        """Make a call; one that fails goes to the file, and again to a store that comes back."""
        if not self._down:
            outer = sys.exc_info()[1]  # a fit that is failing closes its run, too
            try:
                with careful(seconds):
                    self._run = self._run or FitRun(
                        self._folder, self._experiment, self._run_name, self._uri
                    )
                    call(self._run)
                return
            except Exception as error:
                self._down = not self._answers()
                self._tell(what, error, outer)
        if records:
            self._write(*records)
        if self._down:
            self._missed.append((what, call, seconds))

    def _answers(self) -> bool:
        """Whether the store is there: a call may also fail by itself (a refused value or file)."""
        with suppress(Exception), careful(PING):
            return self._run is not None and bool(self._run.client.get_run(self._run.id))
        return False

    def _ask_again(self) -> None:
        if self._down:
            missed, self._down = list(self._missed), False
            self._missed.clear()
            for what, call, seconds in missed:
                self._send(what, call, [], seconds)
            if missed and not self._down:
                self._told.discard("metrics go")
                print(f"mavis: tracking at {self.uri} answers again", file=sys.stderr)

    def _tell(self, what: str, error: BaseException, outer: BaseException | None) -> None:
        """Say what failed, once each, in one line without credentials."""
        lost = "metrics go" if self._down else f"{what} was refused and goes"
        if lost in self._told:
            return
        self._told.add(lost)
        while (inner := error.__cause__ or error.__context__) not in (None, outer):
            error = inner or error  # the first cause says it in the fewest words
        said = " ".join(str(error).replace(self._uri, self.uri).split()) or type(error).__name__
        print(
            f"mavis: tracking at {self.uri} failed ({without_secrets(said)[:160]}); "
            f"{lost} to {self._folder / 'tracking.jsonl'}",
            file=sys.stderr,
        )

    def _write(self, *records: Record) -> None:
        with suppress(OSError):  # a full disk is for those to tell who cannot go on without it
            self._folder.mkdir(parents=True, exist_ok=True)
            with (self._folder / "tracking.jsonl").open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(legal(r), default=str) + "\n" for r in records)
