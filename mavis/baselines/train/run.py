"""A policy's training from beginning to end: TRL's trainer, checkpoints, progress, the folder.

Checkpoints while training are TRL's own, loaded by `torch.load(weights_only=True)` and from the
policy's own folder only; they are gone when the policy is finished.
"""
# ruff: noqa: ARG002 - callbacks are given more than they need

import json
import shutil
import time
import warnings
from pathlib import Path
from typing import Any, cast
from zipfile import BadZipFile, ZipFile

import torch
from safetensors import SafetensorError, safe_open
from transformers import (
    PreTrainedModel,
    PrinterCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from mavis.baselines.train.config import TuneConfig
from mavis.baselines.train.data import TrainingData
from mavis.baselines.train.setup import quiet_libraries
from mavis.baselines.train.trl_trainers import new_trainer
from mavis.decoding.reference import load_causal_lm
from mavis.hub import reachable
from mavis.progress import track
from mavis.storage import read_json, write_json
from mavis.tracking.mlflow_logger import Tracking

CHECKPOINTS, STATE = "checkpoints", "trainer_state.json"
RUN = "run.json"  # of an unfinished training: its settings, and the time that it has taken so far


class TrainingWatch(TrainerCallback):
    """Shows progress, tracks metrics, and counts the seconds of all parts of a training.

    They are kept in the policy's folder, with the settings, for the command that resumes it.
    """

    def __init__(self, folder: Path, settings: dict[str, Any], tracking: Tracking) -> None:
        self._file, self._settings, self._tracking = folder / RUN, settings, tracking
        before = read_run(folder)
        # When the training would have begun if it had not been interrupted.
        self._wall = time.perf_counter() - float(before.get("wall", 0))
        self._cpu = time.process_time() - float(before.get("cpu", 0))
        self._bar: Any = None  # a generator, once the training has begun
        self._keep()

    @property
    def seconds(self) -> tuple[float, float]:
        """Wall-clock and CPU seconds so far, those before an interruption included."""
        return time.perf_counter() - self._wall, time.process_time() - self._cpu

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Show the bar, from where an earlier training stopped; what was sampled for it counts."""
        self._keep()
        left, name = range(state.global_step, state.max_steps), self._file.parent.name
        self._bar = track(left, name, "steps", state.max_steps, state.global_step)
        next(self._bar, None)

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Move the bar."""
        next(self._bar, None)

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: Any
    ) -> None:
        """Track metrics; TRL's KL is per token, and is tracked per response, too."""
        metrics = dict(more.get("logs") or {})
        if "kl" in metrics and metrics.get("completions/mean_length"):
            metrics["kl_response"] = metrics["kl"] * metrics["completions/mean_length"]
        self._tracking.log_metrics(metrics, state.global_step)

    def on_save(self, *_: Any, **__: Any) -> None:
        """Note the time that the checkpoint has taken."""
        self._keep()

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.close()

    def _keep(self) -> None:
        wall, cpu = self.seconds
        write_json(self._file, {"settings": self._settings, "wall": wall, "cpu": cpu})


def train(
    config: TuneConfig, data: TrainingData, folder: Path, watch: TrainingWatch
) -> PreTrainedModel:
    """Train a policy, from the last checkpoint in `folder` if there is one.

    Returns:
        the trained model: a `PeftModel` if the config asks for LoRA.
    """
    name = data.reference.name
    path = reachable(name, "reference")
    with quiet_libraries():
        model = load_causal_lm(name, path, torch.float32)
        trainer = new_trainer(config, data, folder / CHECKPOINTS, model)
        trainer.remove_callback(PrinterCallback)  # it prints to standard output
        trainer.add_callback(watch)
        trainer.train(resume_from_checkpoint=last_checkpoint(folder))
        return cast(PreTrainedModel, trainer.accelerator.unwrap_model(trainer.model))


def read_run(folder: Path) -> dict[str, Any]:
    """What an unfinished training left behind; nothing if there was none."""
    file = folder / RUN
    return cast(dict[str, Any], read_json(file)) if file.is_file() else {}


def forget_run(folder: Path) -> None:
    """Remove what only an unfinished training has use for."""
    shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
    (folder / RUN).unlink(missing_ok=True)


def last_checkpoint(folder: Path) -> str | None:
    """The newest checkpoint that is whole: its state is written last.

    One with a damaged file is removed, with a warning that names the file: what it held is trained
    again.
    """
    written = [file.parent for file in folder.glob(f"{CHECKPOINTS}/checkpoint-*/{STATE}")]
    for checkpoint in sorted(written, key=lambda one: int(one.name.split("-")[-1]), reverse=True):
        if (broken := _damaged(checkpoint)) is None:
            return str(checkpoint)
        warnings.warn(f"{broken} is damaged: the steps up to it are trained again.", stacklevel=2)
        shutil.rmtree(checkpoint)
    return None


def _damaged(checkpoint: Path) -> Path | None:
    """A file of a checkpoint that cannot be what was written."""
    for file in sorted(checkpoint.iterdir()):
        try:
            if file.suffix == ".safetensors":
                with safe_open(file, framework="pt"):
                    pass
            elif file.suffix in {".pt", ".pth"}:  # archives, with a checksum of every part
                with ZipFile(file) as archive:
                    if archive.testzip() is not None:
                        return file
            elif file.suffix == ".json":
                json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError, SafetensorError, BadZipFile):
            return file
    return None
