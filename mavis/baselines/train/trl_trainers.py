"""Tuned policies by TRL: rloo, grpo, dpo and sft, under one price of KL.

All but sft maximise E[Σ_m λ_m r_m] − η·KL(π ‖ π_ref), rewards in standard units and KL in nats per
response, i.e. summed over its tokens, so that their policies compare with a fit at the same η.
What TRL has to be told for that:

- RLOO charges β·Σ_t log π/π_ref of a response to its reward: β = η.
- GRPO charges β per token, in the loss. With `dr_grpo` every token weighs the same as in a sum;
  advantages are r − mean(r), unscaled, where the mean of G answers holds the answer's own reward:
  E[r − mean(r)] is (1 − 1/G) of the reward's gradient, hence β = η·(1 − 1/G). Its estimator is
  weighted by the probability ratio (`use_bias_correction_kl`): without, it has the gradient of
  KL(π_ref ‖ π). What a token does to the KL of later ones is not charged, unlike in RLOO.
- DPO has the optimum π ∝ π_ref·exp(s·r/β) for labels with the odds σ(s·(r − r')): β = s·η.
"""

from importlib import import_module
from pathlib import Path
from typing import Any, cast

import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mavis.baselines.train.config import TuneConfig
from mavis.baselines.train.data import (
    SHARPNESS,
    TrainingData,
    preference_pairs,
    ready_tokenizer,
    reward_function,
    token_table,
    told_tokens,
)
from mavis.decoding.reference import SMALL, ReferencePolicy
from mavis.prompts import plain

DIVERGENCES = {  # TRL's names
    "reverse_kl": "reverse_kl",
    "forward_kl": "forward_kl",
    "jsd": "js_divergence",
    "alpha": "alpha_divergence",
}


def _trl() -> Any:
    """TRL: an extra, and without types that would be exported."""
    return import_module("trl")


def import_trainer(method: str) -> None:
    """Import what a method trains with, so that the seconds this takes count as no training."""
    getattr(_trl(), f"{method.upper()}Trainer")


def _common(plan: TuneConfig, study: TrainingData, output: Path, answers: int) -> dict[str, Any]:
    """Settings of every trainer; `answers` are what a row of TRL's batches holds."""
    device, large = study.reference.model.device, study.reference.model.num_parameters() >= SMALL
    rows = plan.batch // answers
    size = max(
        n for n in range(1, rows + 1) if rows % n == 0 and n <= max(1, study.rows // answers)
    )
    return {
        "output_dir": str(output),
        "max_steps": plan.steps,
        "learning_rate": plan.lr,
        "lr_scheduler_type": "linear",
        "warmup_steps": 0.05,
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "per_device_train_batch_size": size,
        "gradient_accumulation_steps": rows // size,
        "gradient_checkpointing": large,
        "bf16": large and device.type == "cuda",
        "use_cpu": device.type == "cpu",
        "disable_dropout": True,
        "seed": plan.seed,
        "save_strategy": "steps",
        "save_steps": max(1, plan.steps // 8),
        "save_total_limit": 1,
        "logging_steps": 1,
        "report_to": [],
        "disable_tqdm": True,
        "log_level": "error",
    }


def _adapter(plan: TuneConfig) -> Any:
    if not plan.lora:
        return None
    from peft import LoraConfig

    return LoraConfig(
        task_type="CAUSAL_LM",
        r=plan.lora_rank,
        lora_alpha=2 * plan.lora_rank,
        lora_dropout=0.0,
        target_modules="all-linear",
    )


def _online(
    plan: TuneConfig, study: TrainingData, output: Path, model: PreTrainedModel
) -> dict[str, Any]:
    """What the two trainers have in common that sample as they go; `args` are still a dict."""
    reference = study.reference
    encoded = [reference.encode(prompt) for prompt in study.prompts]
    keys = [str(at) for at in range(len(encoded))]
    stops = {string for start in encoded for string in start.stop}
    args = _common(plan, study, output, 1)
    args |= {
        "num_generations": plan.generations,
        "steps_per_generation": args["gradient_accumulation_steps"],
        "max_completion_length": plan.max_tokens,
        "temperature": 1.0,
        "top_k": 0,  # the whole vocabulary: policy gradients are of what was sampled from
        "reward_weights": [scale.weight for scale in study.scales],
    }
    tokenizer = token_table(reference, {k: e.tokens for k, e in zip(keys, encoded, strict=True)})
    if stops:
        args["generation_kwargs"] = {"stop_strings": sorted(stops)}
        end_at_strings(model, reference, tokenizer)
    rows = {
        "prompt": keys,
        "text": [plain(prompt) for prompt in study.prompts],
        "stop": [list(start.stop) for start in encoded],
    }
    return {
        "model": model,
        "reward_funcs": [reward_function(scale, reference) for scale in study.scales],
        "args": args,
        "train_dataset": Dataset.from_dict(rows),
        "processing_class": tokenizer,
        "peft_config": _adapter(plan),
    }


def rloo_trainer(
    plan: TuneConfig, study: TrainingData, output: Path, model: PreTrainedModel
) -> Any:
    """Policy gradient with a leave-one-out baseline; the KL is part of the reward."""
    given = _online(plan, study, output, model)
    args = _trl().RLOOConfig(**given.pop("args"), beta=plan.eta, normalize_advantages=False)
    return _trl().RLOOTrainer(args=args, **given)


def grpo_beta(eta: float, generations: int) -> float:
    """What GRPO must charge per token for a price of η per nat of a response's KL.

    >>> grpo_beta(0.5, 8)
    0.4375
    """
    return eta * (1 - 1 / generations)


def grpo_trainer(
    plan: TuneConfig, study: TrainingData, output: Path, model: PreTrainedModel
) -> Any:
    """Policy gradient with the group's mean as baseline; the KL is part of the loss."""
    given = _online(plan, study, output, model)
    args = _trl().GRPOConfig(
        **given.pop("args"),
        beta=grpo_beta(plan.eta, plan.generations),
        loss_type="dr_grpo",
        scale_rewards="none",
        use_bias_correction_kl=True,
    )
    return _trl().GRPOTrainer(args=args, **given)


def dpo_beta(eta: float) -> float:
    """What DPO must charge for a price of η, given how sharp its labels are.

    >>> dpo_beta(0.5)
    2.0
    """
    return SHARPNESS * eta


def dpo_trainer(plan: TuneConfig, study: TrainingData, output: Path, model: PreTrainedModel) -> Any:
    """Preference pairs of the reference policy's answers."""
    pairs = preference_pairs(
        study.reference,
        study.scales,
        study.prompts,
        plan.generations,
        plan.max_tokens,
        plan.seed,
        study.rows,
        output / "pairs",
    )
    if not pairs:
        raise ValueError("no two answers differ, or the reward abstained: no pairs for dpo.")
    table: dict[str, list[int]] = {}
    for at, pair in enumerate(pairs):
        both = {"+": pair.chosen, "-": pair.rejected}
        table |= {str(at): pair.start} | {f"{at}{s}": pair.start + t for s, t in both.items()}
    numbers = [str(at) for at in range(len(pairs))]
    sides = {"chosen": ["+"] * len(pairs), "rejected": ["-"] * len(pairs)}
    kind = {"f_divergence_type": DIVERGENCES[plan.divergence]}
    # TRL counts α from the other end: f'(x) = (x^(α'−1) − 1)/(α'−1) is MOD's with α' = 1 − α.
    order = {} if plan.alpha is None else {"f_alpha_divergence_coef": 1 - plan.alpha}
    args = _trl().DPOConfig(
        **_common(plan, study, output, 2), **kind, **order, beta=dpo_beta(plan.eta), max_length=None
    )
    return _trl().DPOTrainer(
        model=model,
        args=args,
        train_dataset=Dataset.from_dict({"prompt": numbers, **sides}),
        processing_class=token_table(study.reference, table),
        peft_config=_adapter(plan),
    )


def sft_trainer(plan: TuneConfig, study: TrainingData, output: Path, model: PreTrainedModel) -> Any:
    """Given replies, the loss on their tokens alone."""
    rows = []
    for told in study.dialogues:
        start, reply = told_tokens(study.reference, told)
        tokens = (start + reply)[: study.reference.context]
        labels = ([-100] * len(start) + reply)[: study.reference.context]
        rows.append({"input_ids": tokens, "labels": labels})
    common = _common(plan, study, output, 1)
    del common["disable_dropout"]
    args = _trl().SFTConfig(
        **common, max_length=None, dataset_kwargs={"skip_prepare_dataset": True}
    )
    return _trl().SFTTrainer(
        model=model,
        args=args,
        train_dataset=Dataset.from_list(rows),
        processing_class=ready_tokenizer(study.reference),
        peft_config=_adapter(plan),
    )


def end_at_strings(
    model: PreTrainedModel, reference: ReferencePolicy, tokenizer: PreTrainedTokenizerBase
) -> None:
    """Let a model end replies at stop strings, and mark the end as TRL finds it: by an end token.

    Without the mark, TRL would train on the padding behind; where end tokens are the padding, the
    first of it is the mark.
    """
    generate: Any = model.generate
    end, pad = tokenizer.eos_token_id, tokenizer.pad_token_id

    def marked(input_ids: torch.Tensor, **more: Any) -> torch.Tensor:
        made: torch.Tensor = generate(input_ids=input_ids, tokenizer=reference.tokenizer, **more)
        for row in made[:, input_ids.shape[1] :]:
            padding = (row == pad).nonzero()
            if len(padding) and not reference.ends & set(row.tolist()):
                row[padding[0]] = end
        return made

    cast(Any, model).generate = marked
