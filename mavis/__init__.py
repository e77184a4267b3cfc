"""Inference-time multi-objective alignment: a frozen model, tilted by small value models.

The reading order of the package is `STORY`: a module imports only what stands before it.
"""

from importlib import import_module
from typing import Any

STORY = (
    "names",
    "devices",
    "sources",
    "prompts",
    "objective",
    "classifier",
    "reward",
    "loudness",
    "progress",
    "checksums",
    "guide.tilt",
    "guide.rows",
    "guide.architecture",
    "guide.folders",
    "guide.wording",
    "guide.tokens",
    "guide.reference",
    "guide.trunk",
    "guide.network",
    "guide.values",
    "guide.states",
    "guide.jobs",
    "guide.settings",
    "guide.requests",
    "guide.decode",
    "guide.policy",
    "guide.loading",
    "guide.search",
    "learn.tree",
    "learn.rollout",
    "learn.targets",
    "learn.packs",
    "learn.store",
    "learn.settings",
    "learn.evaluate",
    "learn.fitting",
    "learn.collect",
    "learn.data",
    "learn.module",
    "learn.canvas",
    "learn.plots",
    "learn.fitrun",
    "learn.tracking",
    "learn.rounds",
    "measure.options",
    "measure.weightings",
    "measure.rivals.divergence",
    "measure.rivals.policies",
    "measure.rivals.soup",
    "measure.rivals.pblora",
    "measure.rivals.parm",
    "measure.tuning.tuned",
    "measure.tuning.preferences",
    "measure.tuning.lessons",
    "measure.tuning.plans",
    "measure.tuning.tuners",
    "measure.tuning.training",
    "measure.tuning.exam",
    "measure.tuning.watch",
    "measure.tuning.bench",
    "measure.tuning.tune",
    "measure.tuning.parm_training",
    "measure.tuning.parm_run",
    "measure.sweep.cards",
    "measure.sweep.origin",
    "measure.sweep.models",
    "measure.sweep.teams",
    "measure.sweep.points",
    "measure.sweep.ground",
    "measure.sweep.sweep",
    "measure.sweep.checks",
    "measure.front.pareto",
    "measure.front.intervals",
    "measure.front.metrics",
    "measure.front.equal_kl",
    "measure.front.standing",
    "measure.front.findings",
    "measure.front.answers",
    "measure.front.replicates",
    "measure.front.results",
    "measure.report.looks",
    "measure.report.plot",
    "measure.report.words",
    "measure.report.table",
    "measure.report.report",
    "measure.report.sweeprun",
    "measure.compare",
    "measure.judge.endpoint",
    "measure.judge.verdicts",
    "measure.judge.pairs",
    "measure.judge.judge",
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
    "signals",
    "complaints",
    "parsing",
    "fit_help",
    "overview",
    "cli",
)

_HOME = {
    "ClassifierReward": "mavis.reward",
    "GuidedPolicy": "mavis.guide.policy",
    "MavisWarning": "mavis.names",
    "Objective": "mavis.objective",
    "ReferencePolicy": "mavis.guide.reference",
    "ValueModule": "mavis.learn.module",
    "beam_search": "mavis.guide.search",
    "load": "mavis.guide.loading",
    "mod": "mavis.measure.rivals.policies",
    "soup": "mavis.measure.rivals.soup",
}
__all__ = [*_HOME, "__version__"]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that light commands start light."""
    if name == "__version__":
        from importlib.metadata import version

        return version("mavis")
    if name not in _HOME:
        raise AttributeError(f"module 'mavis' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    """The public names."""
    return sorted(__all__)
