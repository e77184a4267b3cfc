"""Inference-time multi-objective alignment: a frozen model, tilted by small value models.

The reading order of the package is `STORY`: a module imports only what stands before it.
"""

from importlib import import_module
from typing import Any

STORY = (
    "names",
    "sources",
    "prompts",
    "objective",
    "classifier",
    "reward",
    "progress",
    "guide.tilt",
    "guide.reference",
    "guide.rows",
    "guide.trunk",
    "guide.network",
    "guide.values",
    "guide.jobs",
    "guide.decode",
    "guide.policy",
    "guide.search",
    "learn.tree",
    "learn.rollout",
    "learn.targets",
    "learn.packs",
    "learn.store",
    "learn.evaluate",
    "learn.collect",
    "learn.data",
    "learn.module",
    "learn.plots",
    "learn.fitrun",
    "learn.tracking",
    "learn.rounds",
    "measure.divergence",
    "measure.policies",
    "measure.soup",
    "measure.tuned",
    "measure.weightings",
    "measure.models",
    "measure.rivals",
    "measure.points",
    "measure.ground",
    "measure.sweep",
    "measure.pareto",
    "measure.intervals",
    "measure.metrics",
    "measure.equal_kl",
    "measure.standing",
    "measure.results",
    "measure.compare",
    "measure.endpoint",
    "measure.verdicts",
    "measure.pairs",
    "measure.judge",
    "sandbox.lexicon",
    "sandbox.forms",
    "sandbox.grammar",
    "sandbox.spoil",
    "sandbox.pretrain",
    "sandbox.classify",
    "sandbox.make",
    "sandbox.build",
    "scaffold",
    "commands",
    "generate",
    "training",
    "cli",
)

_HOME = {
    "Objective": "mavis.objective",
    "ClassifierReward": "mavis.reward",
    "ValueModule": "mavis.learn.module",
    "load": "mavis.guide.policy",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that light commands start light."""
    if name not in _HOME:
        raise AttributeError(f"module 'mavis' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
