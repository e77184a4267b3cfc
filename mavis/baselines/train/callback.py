"""What can be seen of a policy while it is tuned: a bar, tracked metrics, the time spent."""

import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from mavis.progress import track
from mavis.storage import read_json, write_json
from mavis.tracking.mlflow_logger import Tracking

RUN = "run.json"  # of a training that is under way: its settings, and what it has taken so far


def read_run(folder: Path) -> dict[str, Any]:
    """What a training left behind that has not come to its end; nothing if there was none."""
    file = folder / RUN
    content: dict[str, Any] = read_json(file) if file.is_file() else {}
    return content


class TrainingWatch(TrainerCallback):
    """Shows progress, hands metrics on, and counts the seconds of all parts of a training.

    Args:
        folder: the policy's.
        settings: what it is trained by, for the command that goes on with it.
        tracking: where metrics go.
    """

    def __init__(self, folder: Path, settings: dict[str, Any], tracking: Tracking) -> None:
        self._file, self._settings, self._tracking = folder / RUN, settings, tracking
        before = read_run(folder)
        self._before = (float(before.get("wall", 0)), float(before.get("cpu", 0)))
        self._started = (time.perf_counter(), time.process_time())
        self._bar: Generator[int, None, None] | None = None
        self._keep()

    @property
    def seconds(self) -> tuple[float, float]:
        """Wall-clock and CPU seconds so far, those before an interruption included."""
        now = (time.perf_counter(), time.process_time())
        wall, cpu = (b + n - s for b, n, s in zip(self._before, now, self._started, strict=True))
        return wall, cpu

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Show the bar, from where an earlier training stopped; what was sampled for it counts."""
        del args, control
        self._keep()
        left, name = range(state.global_step, state.max_steps), self._file.parent.name
        self._bar = _passed(track(left, name, "steps", state.max_steps, state.global_step))
        next(self._bar, None)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Move the bar."""
        del args, state, control
        if self._bar is not None:
            next(self._bar, None)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """Hand metrics on; TRL's KL is per token, and comes per response, too."""
        del args, control
        found = dict(logs or {})
        if "kl" in found and found.get("completions/mean_length"):
            found["kl_response"] = found["kl"] * found["completions/mean_length"]
        self._tracking.log_metrics(found, state.global_step)

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Note the time that the checkpoint has taken."""
        del args, state, control
        self._keep()

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.close()

    def _keep(self) -> None:
        wall, cpu = self.seconds
        write_json(self._file, {"settings": self._settings, "wall": wall, "cpu": cpu})


def _passed(items: Any) -> Generator[int, None, None]:
    yield from items
