"""Train policies with TRL: rloo, grpo, dpo and sft, under the same KL penalty.

All but sft maximise E[Σ_m λ_m r_m] − η·KL(π ‖ π_ref), rewards in standard units and KL in nats per
response, i.e. summed over its tokens, so that they are baselines for a fit with the same η.
TRL needs these settings for that:

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
    demonstration_tokens,
    preference_pairs,
    ready_tokenizer,
    reward_function,
    token_table,
)
from mavis.baselines.train.preferences import collect
from mavis.decoding.reference import SMALL, ReferencePolicy
from mavis.prompts import plain

DIVERGENCES = {"jsd": "js_divergence", "alpha": "alpha_divergence"}  # TRL's names for ours
Arguments = dict[str, Any]  # of a trainer's config, or of the trainer itself


def import_trainer(method: str) -> Any:
    """Import what a method trains with: TRL's trainer; it takes seconds."""
    return getattr(import_module("trl"), f"{method.upper()}Trainer")


def new_trainer(
    config: TuneConfig, data: TrainingData, output: Path, model: PreTrainedModel
) -> Any:
    """Make TRL's trainer of a method, which trains `model` and writes checkpoints to `output`."""
    if config.method == "dpo":
        settings, given = _dpo(config, data, output / "pairs")
    elif config.method == "sft":
        settings, given = _sft(data)
    else:
        settings, given = _online(config, data, model)
    configured = getattr(import_module("trl"), f"{config.method.upper()}Config")
    return import_trainer(config.method)(
        model=model,
        args=configured(**(_common(config, data.reference, output) | settings)),
        peft_config=_adapter(config),
        **given,
    )


def _common(config: TuneConfig, reference: ReferencePolicy, output: Path) -> Arguments:
    """Settings of every trainer."""
    device, large = reference.model.device, reference.model.num_parameters() >= SMALL
    answers = 2 if config.method == "dpo" else 1  # what a row of TRL's batches holds
    rows = config.batch // answers
    most = max(1, config.rows // answers)
    size = max(n for n in range(1, rows + 1) if rows % n == 0 and n <= most)
    common = {
        "output_dir": str(output),
        "max_steps": config.steps,
        "learning_rate": config.lr,
        "lr_scheduler_type": "linear",
        "warmup_steps": 0.05,
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "per_device_train_batch_size": size,
        "gradient_accumulation_steps": rows // size,
        "gradient_checkpointing": large,
        "bf16": large and device.type == "cuda",
        "use_cpu": device.type == "cpu",
        "seed": config.seed,
        "save_strategy": "steps",
        "save_steps": max(1, config.steps // 8),
        "save_total_limit": 1,
        "logging_steps": 1,
        "report_to": [],
        "disable_tqdm": True,
        "log_level": "error",
    }
    if config.method in ("rloo", "grpo"):
        common["steps_per_generation"] = rows // size
    return common if config.method == "sft" else common | {"disable_dropout": True}


def _adapter(config: TuneConfig) -> Any:
    if not config.lora:
        return None
    from peft import LoraConfig

    return LoraConfig(
        task_type="CAUSAL_LM",
        r=config.lora_rank,
        lora_alpha=2 * config.lora_rank,
        lora_dropout=0.0,
        target_modules="all-linear",
    )


def _online(
    config: TuneConfig, data: TrainingData, model: PreTrainedModel
) -> tuple[Arguments, Arguments]:
    """Policy gradient on answers that are sampled as it goes.

    RLOO has a leave-one-out baseline, and the KL is part of the reward; GRPO has the group's mean
    as baseline, and the KL is part of the loss.
    """
    reference = data.reference
    encoded = [reference.encode(prompt) for prompt in data.prompts]
    keys = [str(at) for at in range(len(encoded))]
    stops = {string for start in encoded for string in start.stop}
    settings = {
        "num_generations": config.generations,
        "max_completion_length": config.max_tokens,
        "temperature": 1.0,
        "top_k": 0,  # the whole vocabulary: policy gradients are of what was sampled from
        "reward_weights": [reward.weight for reward in data.rewards],
    }
    if config.method == "rloo":
        settings |= {"beta": config.eta, "normalize_advantages": False}
    else:
        settings |= {
            "beta": grpo_beta(config.eta, config.generations),
            "loss_type": "dr_grpo",
            "scale_rewards": "none",
            "use_bias_correction_kl": True,
        }
    tokenizer = token_table(reference, {k: e.tokens for k, e in zip(keys, encoded, strict=True)})
    if stops:
        settings["generation_kwargs"] = {"stop_strings": sorted(stops)}
        end_at_strings(model, reference, tokenizer)
    rows = {
        "prompt": keys,
        "text": [plain(prompt) for prompt in data.prompts],
        "stop": [list(start.stop) for start in encoded],
    }
    return settings, {
        "reward_funcs": [reward_function(reward, reference) for reward in data.rewards],
        "train_dataset": Dataset.from_dict(rows),
        "processing_class": tokenizer,
    }


def grpo_beta(eta: float, generations: int) -> float:
    """What GRPO must charge per token for a price of η per nat of a response's KL.

    >>> grpo_beta(0.5, 8)
    0.4375
    """
    return eta * (1 - 1 / generations)


def _dpo(config: TuneConfig, data: TrainingData, folder: Path) -> tuple[Arguments, Arguments]:
    """Preference pairs of the reference policy's answers, which are kept in `folder`."""
    objectives, answers = [reward.objective for reward in data.rewards], config.generations
    groups = collect(data.reference, objectives, data.prompts, answers, config, folder)
    pairs = list(preference_pairs(groups, data.rewards, (config.seed, answers)))
    if not pairs:
        raise ValueError("no two answers differ, or the reward abstained: no pairs for dpo.")
    table: dict[str, list[int]] = {}
    for at, pair in enumerate(pairs):
        table[f"{at}"] = pair.start
        table[f"{at}+"], table[f"{at}-"] = pair.start + pair.chosen, pair.start + pair.rejected
    numbers = [str(at) for at in range(len(pairs))]
    sides = {"chosen": ["+"] * len(pairs), "rejected": ["-"] * len(pairs)}
    settings = {
        "f_divergence_type": DIVERGENCES.get(config.divergence, config.divergence),
        "beta": SHARPNESS * config.eta,
        "max_length": None,
    }
    if config.alpha is not None:
        # TRL counts α from the other end: f'(x) = (x^(α'−1) − 1)/(α'−1) is MOD's with α' = 1 − α.
        settings["f_alpha_divergence_coef"] = 1 - config.alpha
    return settings, {
        "train_dataset": Dataset.from_dict({"prompt": numbers, **sides}),
        "processing_class": token_table(data.reference, table),
    }


def _sft(data: TrainingData) -> tuple[Arguments, Arguments]:
    """Given replies, the loss on their tokens alone."""
    rows = []
    for prompt, reply in zip(data.prompts, data.replies, strict=True):
        start, end = demonstration_tokens(data.reference, prompt, reply)
        tokens = (start + end)[: data.reference.context]
        labels = ([-100] * len(start) + end)[: data.reference.context]
        rows.append({"input_ids": tokens, "labels": labels})
    return {"max_length": None, "dataset_kwargs": {"skip_prepare_dataset": True}}, {
        "train_dataset": Dataset.from_list(rows),
        "processing_class": ready_tokenizer(data.reference),
    }


def end_at_strings(
    model: PreTrainedModel, reference: ReferencePolicy, tokenizer: PreTrainedTokenizerBase
) -> None:
    """Let a model end replies at stop strings, and mark the end as TRL finds it: by an end token.

    Without the mark, TRL would train on the padding after it; where end tokens are the padding, the
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
