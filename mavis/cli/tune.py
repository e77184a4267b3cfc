"""`mavis tune`: train the policies that guided decoding is compared with."""

import importlib.util
import os
from pathlib import Path

from mavis.baselines.train.config import TuneConfig
from mavis.comparison.preferences import weightings
from mavis.devices import check_device
from mavis.hub import locate
from mavis.objective import Objective, find
from mavis.options import TrainingOptions


def tune(config: TuneConfig) -> None:
    """Train policies on weighted objectives, as baselines for guided decoding."""
    objectives, names = checked_objectives(config), config.names
    equal = [(1 / len(names),) * len(names)] if names else [()]
    vectors = equal if config.weights is None else weightings(config.weights, names)
    for name in ("trl", "peft") if config.lora else ("trl",):
        if importlib.util.find_spec(name) is None:
            raise ImportError(f'{name} is not installed: pip install "mavis[baselines]".')
    out = Path(config.out)
    beside = f"sqlite:///{(out.absolute().parent / 'mlflow.db').as_posix()}"
    uri = config.tracking or os.environ.get("MLFLOW_TRACKING_URI") or beside

    from mavis.baselines.train.tune import PolicyTrainer

    trainer = PolicyTrainer(objectives, config, uri)
    for vector in vectors:
        trainer.tune(out, vector)


def checked_objectives(config: TrainingOptions) -> tuple[Objective, ...]:
    """Return the objectives, after a check of everything that can be checked without loading it."""
    objectives = tuple(find(name) for name in config.names)
    config.source(objectives)
    locate(config.reference, "reference")
    check_device(config.device)
    return objectives
