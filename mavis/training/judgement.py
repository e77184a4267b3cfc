"""What a round has come to: the judgement on its values, and the line that reports it."""

import math
from typing import Any

from mavis.decoding.policy import GuidedPolicy
from mavis.decoding.value_model import ValueModel, decoding
from mavis.evaluation.advantages import agreement, reply_advantages
from mavis.training.data import RolloutDataModule

ANSWERS = 4  # reference answers to a prompt that values are judged on
FEW_PROMPTS = 12  # as many prompts, where each token of an answer takes a forward of its own
SHOWN_TRUNCATION = 0.1  # nats an answer that truncation may cost without a word
DEAR_TRUNCATION = 0.02  # nats a token that it may cost without a hint
LEAST_SLOPE = 0.5  # below it, values are more than twice as large as what they foretell


def judge(data: RolloutDataModule, network: ValueModel, split: str) -> dict[str, float]:
    """Hold the first objective's values against rewards of the reference's held-out answers.

    Returns:
        correlation, its 95 % interval, slope and R² of `evaluation.advantages`, by name.
    """
    baseline, policy = data.baseline(split), GuidedPolicy(data.reference, (network,))
    prompts = data.prompts[split][: len(baseline.tokens)]
    if network.card.source == "state":
        prompts = prompts[:FEW_PROMPTS]
    tokens = [answers[:ANSWERS] for answers in baseline.tokens[: len(prompts)]]
    rewards = baseline.standard(data.units)[: len(prompts), :ANSWERS, 0]
    with decoding(network):
        advantages = reply_advantages(policy, prompts, tokens, data.sampling(0))
    found = agreement(advantages[..., 0], rewards)
    return {
        "advantage_correlation": found.correlation.value,
        "advantage_correlation_low": found.correlation.low,
        "advantage_correlation_high": found.correlation.high,
        "advantage_slope": found.slope,
        "advantage_r2": found.r2,
    }


def learned(entry: dict[str, Any]) -> bool:
    """Whether the correlation of a round's values with the rewards is above its noise."""
    return bool((entry.get("advantage_correlation_low") or 0.0) > 0)  # older runs have none


def doubts(entry: dict[str, Any], data: RolloutDataModule) -> str:
    """What is wrong with the values of a round, and what to do; "" if nothing is known."""
    more = f"--data.trees {2 * data.trees}, and another --out"
    low, high = (entry[f"advantage_correlation_{end}"] for end in ("low", "high"))
    if not learned(entry):
        why = f"their correlation with the reward lies between {low:z.2f} and {high:z.2f}"
        if math.isnan(low):
            why = "they tell no answer from another, or its reward does not"
        return (
            f"nothing shows that the values have learned {data.objective.name}: on held-out "
            f"answers of the reference, {why}. More trees help first: {more}."
        )
    if (slope := entry["advantage_slope"]) < LEAST_SLOPE:
        return (
            f"the values are {1 / slope:.1f} times as large as what they foretell, so that the "
            f"policy pays KL for noise: guide with --beta {data.beta * slope:.2g}, or train on "
            f"more trees: {more}."
        )
    return ""


def truncation_hint(entry: dict[str, Any], data: RolloutDataModule) -> str:
    """What to do where the candidates alone take the policy far from the reference; "" if not."""
    cut = entry["kl_truncation"] / max(1.0, entry["length"])
    if cut <= DEAR_TRUNCATION:
        return ""
    used = data.sampling(0)
    return (
        f"--data.top_k {used.top_k} and --data.top_p {used.top_p:g} alone cost {cut:.2f} nats a "
        f"token: a larger top_k (0 is the whole vocabulary), or a --data.temperature below "
        f"{used.temperature:g}, stays nearer to the reference."
    )


def in_a_line(entry: dict[str, Any]) -> str:
    """A round, in a line."""
    best = entry["best_of_n_at_kl"]
    best_of_n = "no best-of-N at this KL" if best is None else f"best-of-N at this KL {best:z.2f}"
    cut = entry["kl_truncation"]
    truncation = f", {cut:.1f} of them by truncation" if cut >= SHOWN_TRUNCATION else ""
    return (
        f"reward {entry['reward']:z.2f} ± {entry['reward_se']:.2f} "  # z: no "-0.00"
        f"(reference {entry['reward_reference']:z.2f}, {best_of_n}), "
        f"KL {entry['kl']:.1f} nats{truncation}"
    )
