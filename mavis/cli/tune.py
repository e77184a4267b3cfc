"""`mavis tune`: train the rivals that guided policies are compared with."""

import importlib.util
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mavis.cli.options import at_least, listed, positive
from mavis.comparison.preferences import Weighting, weightings
from mavis.devices import check_device
from mavis.hub import lasting, locate
from mavis.objective import common_source, find


@dataclass(frozen=True)
class Default:
    """What a method takes where nothing else was asked for."""

    steps: int
    batch: int


DEFAULTS = {
    "rloo": Default(steps=48, batch=128),
    "grpo": Default(steps=48, batch=128),
    "dpo": Default(steps=176, batch=64),
    "sft": Default(steps=100, batch=32),
}


def tune(
    method: Literal["rloo", "grpo", "dpo", "sft"] = "rloo",
    objectives: str | list[str] = "",
    weights: str | None = None,
    reference: str = "sandbox/reference",
    template: str | None = None,
    template_args: dict[str, Any] | None = None,
    prompts: str | None = None,
    column: str | None = None,
    out: str = "runs/tuned",
    divergence: Literal["reverse_kl", "forward_kl", "jsd", "alpha"] = "reverse_kl",
    alpha: float | None = None,
    eta: float = 0.5,
    steps: int | None = None,
    lr: float | None = None,
    batch: int | None = None,
    generations: int = 8,
    max_tokens: int = 64,
    lora: bool = False,
    lora_rank: int = 16,
    rows: int = 128,
    held_out: int = 200,
    best_of: int = 32,
    seed: int = 0,
    device: str | None = None,
    tracking: str | None = None,
) -> None:
    """Train policies for weighted objectives: the rivals of guided decoding.

    Args:
        method: policy gradient (rloo, grpo), preference pairs (dpo) or replies (sft)
        objectives: names of installed objectives, with commas between
        weights: NAME=X,NAME=X, grid:STEP, dirichlet:N, a file with a column for each objective, or
            several of these with ; between (default: equal ones)
        reference: the policy to start from and keep close to: sandbox/reference, folder, hub name
        template: dotted name of a function prompt -> text, in place of the chat template
        template_args: arguments of the chat template, such as '{enable_thinking: false}'
        prompts: where training prompts come from (default: the objectives' own); for sft, dialogues
        column: column of the data set that holds them
        out: folder to keep policies in, each in OUT/METHOD-LABEL
        divergence: what dpo keeps small between policy and reference
        alpha: of the alpha divergence, from 0 (reverse KL) to 1 (forward KL)
        eta: price of a nat of KL per response, in standard deviations of the weighted reward
        steps: optimizer steps (default: by method)
        lr: learning rate (default: by method and size of the model)
        batch: answers per step (default: by method)
        generations: answers per prompt
        max_tokens: longest answer
        lora: train an adapter in place of all parameters
        lora_rank: its rank
        rows: answers that are made, or trained on, side by side
        held_out: validation prompts to measure on
        best_of: answers of the reference to a third of them, for standard units
        seed: of the random draws
        device: where to run, such as cpu or cuda:1 (default: an accelerator if there is one)
        tracking: MLflow tracking URI (default: MLFLOW_TRACKING_URI, or mlflow.db beside OUT)
    """
    names = listed("objectives", objectives)
    found = [find(name) for name in names]
    _check_method(method, names, divergence, alpha)
    at_least(1, max_tokens=max_tokens, rows=rows, lora_rank=lora_rank)
    at_least(2, held_out=held_out, best_of=best_of)  # spreads need two
    vectors = _vectors(weights, names)
    source = common_source("prompts", prompts, found)
    locate(reference, "reference")
    check_device(device)
    _check_installed(lora)
    settings: dict[str, Any] = {
        "method": method,
        "reference": lasting(reference),
        "template": template,
        "template_args": template_args,
        "prompts": lasting(source),
        "column": column,
        "divergence": divergence,
        "alpha": alpha,
        "eta": eta,
        "steps": DEFAULTS[method].steps if steps is None else steps,
        "lr": lr,
        "batch": DEFAULTS[method].batch if batch is None else batch,
        "generations": 1 if method == "sft" else generations,
        "max_tokens": max_tokens,
        "lora_rank": lora_rank if lora else None,
        "held_out": held_out,
        "best_of": best_of,
        "seed": seed,
    }
    _check_sizes(settings)
    beside = f"sqlite:///{(Path(out).absolute().parent / 'mlflow.db').as_posix()}"
    uri = tracking or os.environ.get("MLFLOW_TRACKING_URI") or beside

    from mavis.baselines.train.tune import PolicyTrainer

    bench = PolicyTrainer(tuple(found), settings, rows, uri, device)
    for vector in vectors:
        bench.tune(Path(out), vector)


def _vectors(told: str | None, names: Sequence[str]) -> list[Weighting]:
    """The weightings that policies are asked for; equal ones if none were told."""
    if told is not None and not names:
        raise ValueError("weights need objectives.")
    if told is None or not names:
        return [(1 / len(names),) * len(names)] if names else [()]
    return weightings(told, names)


def _check_method(method: str, names: Sequence[str], divergence: str, alpha: float | None) -> None:
    if method not in DEFAULTS:  # the parser has seen to it, but not for calls from Python
        raise ValueError(f"method must be one of {', '.join(DEFAULTS)}, got {method!r}.")
    if method == "sft" and names:
        raise ValueError("objectives must be left out for sft: it learns from replies.")
    if method != "sft" and not names:
        raise ValueError("objectives must be named: add --objectives NAME[,NAME …].")
    if divergence != "reverse_kl" and method != "dpo":
        raise ValueError(f"divergence can be chosen for dpo alone: {method} has reverse_kl.")
    if (alpha is not None) != (divergence == "alpha"):
        said = "needs one" if alpha is None else f"has none, got {alpha:g}"
        raise ValueError(f"alpha is of the alpha divergence: {divergence} {said}.")
    if alpha is not None and not 0 <= alpha <= 1:
        raise ValueError(f"alpha must be in [0, 1] (0 is reverse KL, 1 forward KL), got {alpha:g}.")


def _check_sizes(settings: dict[str, Any]) -> None:
    method, batch, generations = (settings[name] for name in ("method", "batch", "generations"))
    at_least(1, steps=settings["steps"], batch=batch)
    positive(eta=settings["eta"], lr=settings["lr"])
    if method == "sft":
        return
    if generations < 2 or (method == "dpo" and generations % 2):
        rule = "an even number" if method == "dpo" else "at least 2"
        raise ValueError(f"generations must be {rule} for {method}, got {generations}.")
    if batch % (2 if method == "dpo" else generations):
        rule = "even" if method == "dpo" else f"a multiple of generations ({generations})"
        raise ValueError(f"batch must be {rule} for {method}, got {batch}.")


def _check_installed(lora: bool) -> None:
    for name in ("trl", "peft") if lora else ("trl",):
        if importlib.util.find_spec(name) is None:
            raise ImportError(f'{name} is not installed: pip install "mavis[baselines]".')
