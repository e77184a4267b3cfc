"""`mavis tune`: train the policies that guided decoding is compared with."""

import importlib.util
import os
from pathlib import Path

from mavis.baselines.train.config import TuneConfig
from mavis.comparison.preferences import Weighting, weightings
from mavis.devices import check_device
from mavis.hub import locate
from mavis.objective import find


def tune(config: TuneConfig) -> None:
    """Train policies on weighted objectives, as baselines for guided decoding."""
    objectives = tuple(find(name) for name in config.names)
    vectors = _vectors(config)
    config.source(objectives)
    locate(config.reference, "reference")
    check_device(config.device)
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


def _vectors(config: TuneConfig) -> list[Weighting]:
    """Return the weight vectors to train policies for; by default, equal weights."""
    names = config.names
    if config.weights is None or not names:
        return [(1 / len(names),) * len(names)] if names else [()]
    return weightings(config.weights, names)
