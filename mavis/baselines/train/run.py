"""A policy's training from beginning to end: the model, TRL's trainer, checkpoints, the folder.

Checkpoints while training are TRL's own, loaded by `torch.load(weights_only=True)` and from the
policy's own folder only; they are gone when the policy is finished.
"""

import json
import logging
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast
from zipfile import BadZipFile, ZipFile

import torch
from datasets import disable_progress_bars
from safetensors import SafetensorError, safe_open
from transformers import AutoModelForCausalLM, PreTrainedModel, PrinterCallback, TrainerCallback

from mavis.baselines.train.config import TuneConfig
from mavis.baselines.train.data import TrainingData
from mavis.baselines.train.trl_trainers import dpo_trainer, grpo_trainer, rloo_trainer, sft_trainer
from mavis.checksums import DRAFT, install_all
from mavis.decoding.model_folders import loading
from mavis.decoding.reference import ReferencePolicy
from mavis.hub import reachable

CHECKPOINTS = "checkpoints"
TRAINERS = {
    "rloo": rloo_trainer,
    "grpo": grpo_trainer,
    "dpo": dpo_trainer,
    "sft": sft_trainer,
}


def train(
    plan: TuneConfig, study: TrainingData, folder: Path, callbacks: Sequence[TrainerCallback]
) -> PreTrainedModel:
    """Train a policy, from the last checkpoint in `folder` if there is one.

    Returns:
        the trained model: a `PeftModel` if the plan says so.
    """
    with _quiet():
        model = _fresh(study.reference)
        trainer = TRAINERS[plan.method](plan, study, folder / CHECKPOINTS, model)
        trainer.remove_callback(PrinterCallback)  # it prints to standard output
        for callback in callbacks:
            trainer.add_callback(callback)
        trainer.train(resume_from_checkpoint=last_checkpoint(folder))
        return cast(PreTrainedModel, trainer.accelerator.unwrap_model(trainer.model))


def last_checkpoint(folder: Path) -> str | None:
    """The newest checkpoint that is whole: its state is written last.

    One with a damaged file is removed, with a warning that names the file: what it held is trained
    again.
    """
    written = [
        (int(file.parent.name.split("-")[-1]), file.parent)
        for file in (folder / CHECKPOINTS).glob("checkpoint-*/trainer_state.json")
    ]
    for _, checkpoint in sorted(written, reverse=True):
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


def forget_checkpoints(folder: Path) -> None:
    """Remove what only an unfinished training has use for."""
    shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)


def save_policy(model: PreTrainedModel, reference: ReferencePolicy, folder: Path) -> None:
    """Write a trained model, or its adapter, and the tokenizer, with checksums."""
    draft = folder / DRAFT
    shutil.rmtree(draft, ignore_errors=True)  # of a process that was killed
    with _quiet():
        if hasattr(model, "merge_and_unload"):  # nothing but the adapter, and no look at the hub
            cast(Any, model).save_pretrained(draft, save_embedding_layers=False)
        else:
            model.save_pretrained(draft)
        reference.tokenizer.save_pretrained(draft)
    install_all(draft, folder)


def merged(model: PreTrainedModel) -> PreTrainedModel:
    """The model with its adapter folded in, if it has one."""
    fold: Callable[[], PreTrainedModel] | None = getattr(model, "merge_and_unload", None)
    return fold() if fold else model


def _fresh(reference: ReferencePolicy) -> PreTrainedModel:
    """A second copy of the reference, in float32, that may be trained."""
    path = reachable(reference.name, "reference")
    with loading(reference.name):
        model: Any = AutoModelForCausalLM.from_pretrained(
            path, dtype=torch.float32, attn_implementation="sdpa"
        )
    return cast(PreTrainedModel, model)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the libraries from talking over our own lines."""
    disable_progress_bars()
    logging.getLogger("trl").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        # TRL and peft use names that newer transformers have changed.
        warnings.filterwarnings("ignore", ".*gradient_checkpointing", FutureWarning)
        yield
