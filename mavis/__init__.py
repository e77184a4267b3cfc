"""Inference-time multi-objective alignment: a frozen model, tilted by small value models.

The reading order of the package is `STORY`: a module imports only what stands before it.
"""

from importlib import import_module
from typing import Any

from mavis.versions import understand_old_names

STORY = (
    "versions",
    "hub",
    "signals",
    "tables",
    "devices",
    "data_files",
    "dialogues",
    "prompts",
    "thoughts",
    "objective",
    "pretrained",
    "logits",
    "classifier",
    "returned",
    "reward",
    "loudness",
    "quiet",
    "progress",
    "checksums",
    "storage",
    "decoding.tilt",
    "decoding.kv_cache",
    "decoding.architectures",
    "decoding.model_folders",
    "decoding.prompt_format",
    "decoding.tokenizers",
    "decoding.reference",
    "decoding.backbone",
    "decoding.value_model",
    "decoding.guides",
    "decoding.guidance",
    "decoding.request",
    "decoding.arguments",
    "decoding.prompt_requests",
    "decoding.decoder",
    "decoding.policy",
    "decoding.loading",
    "decoding.beam",
    "decoding.prompt_filter",
    "evaluation.metrics",
    "evaluation.bootstrap",
    "evaluation.pareto",
    "training.tree",
    "training.rollout",
    "training.targets",
    "training.packing",
    "training.run_settings",
    "evaluation.collect",
    "training.progress_bar",
    "training.data",
    "training.module",
    "plot_style",
    "plot_labels",
    "training.plots",
    "tracking.mlflow_run",
    "tracking.mlflow_logger",
    "training.checkpoint",
    "training.callbacks",
    "baselines.mod_divergences",
    "baselines.adapter_bases",
    "baselines.adapters",
    "baselines.probe",
    "baselines.policy_guides",
    "baselines.model_weights",
    "baselines.soup",
    "baselines.pblora",
    "baselines.parm_card",
    "baselines.parm",
    "baselines.policy_card",
    "baselines.train.preferences",
    "baselines.train.data",
    "baselines.train.config",
    "baselines.train.trl_trainers",
    "baselines.train.run",
    "baselines.train.measure",
    "baselines.train.callback",
    "baselines.train.tune",
    "baselines.train.parm",
    "comparison.preferences",
    "comparison.provenance",
    "comparison.origin",
    "comparison.checkpoints",
    "comparison.methods",
    "comparison.samples",
    "comparison.setting",
    "comparison.sweep",
    "comparison.contamination",
    "comparison.kl_matching",
    "comparison.indicators",
    "comparison.analysis",
    "comparison.answers",
    "comparison.replicates",
    "comparison.results",
    "report.style",
    "report.plots",
    "report.text",
    "report.console",
    "report.cells",
    "report.html",
    "tracking.sweep_run",
    "judge.verdicts",
    "judge.answer",
    "judge.client",
    "judge.pairs",
    "sandbox.lexicon",
    "sandbox.forms",
    "sandbox.grammar",
    "sandbox.spoil",
    "sandbox.pretrain",
    "sandbox.classify",
    "sandbox.make",
    "scaffold",
    "cli.options",
    "cli.tune",
    "cli.parm",
    "cli.pareto",
    "cli.judge",
    "cli.sandbox",
    "cli.objectives",
    "cli.generate",
    "cli.fit",
    "cli.errors",
    "cli.parsing",
    "cli.fit_help",
    "cli.overview",
    "cli.main",
    "__main__",
)

_HOME = {
    "ClassifierReward": "mavis.reward",
    "Completion": "mavis.decoding.policy",
    "GuidedPolicy": "mavis.decoding.policy",
    "MavisWarning": "mavis.hub",
    "Objective": "mavis.objective",
    "ReferencePolicy": "mavis.decoding.reference",
    "SamplingParams": "mavis.decoding.request",
    "ValueModel": "mavis.decoding.value_model",
    "ValueModule": "mavis.training.module",
    "beam_search": "mavis.decoding.beam",
    "load": "mavis.decoding.loading",
    "mod": "mavis.baselines.policy_guides",
    "soup": "mavis.baselines.soup",
}
__all__ = [*_HOME, "__version__"]

understand_old_names()


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
