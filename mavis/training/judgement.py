"""What a round has come to: the judgement on its values, and the line that reports it."""

import math
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from mavis.decoding.policy import GuidedPolicy
from mavis.decoding.prompt_requests import CandidateSettings
from mavis.decoding.value_model import ValueModel, decoding
from mavis.evaluation.advantages import agreement, reply_advantages
from mavis.evaluation.strength import ExpectedKL
from mavis.prompts import Prompt
from mavis.training.data import RolloutDataModule

ANSWERS = 4  # reference answers to a prompt that values are judged on
SHOWN_TRUNCATION = 0.1  # nats an answer that truncation may cost without a word
DEAR_TRUNCATION = 0.02  # nats a token that it may cost without a hint
MOST = 1 << 28  # numbers that are kept to find the strength: 1 GiB
SHARES = (0.25, 0.5, 1, 2)  # of the strength: what KL is expected there is kept
OVERSPENT = 1.5  # times the KL budget that a round may cost and still be promoted
LEAST_SLOPE = 0.5  # below it, values are more than twice as large as what they foretell


def judge(data: RolloutDataModule, network: ValueModel, split: str) -> dict[str, float]:
    """Hold the first objective's values against rewards of the reference's held-out answers.

    Where the fit has a KL budget, the strength that spends it is found on the validation answers.

    Returns:
        correlation, its 95 % interval, slope and R² of `evaluation.advantages`, the strength, the
        KL that is expected at it, and the reward that is predicted there, by name.
    """
    baseline, policy = data.baseline(split), GuidedPolicy(data.reference, (network,))
    prompts = data.prompts[split][: len(baseline.tokens)]
    tokens = [answers[:ANSWERS] for answers in baseline.tokens[: len(prompts)]]
    rewards = baseline.standard(data.units)[: len(prompts), :, 0]
    with decoding(network):
        advantages = reply_advantages(policy, prompts, tokens, data.sampling(0))
        expected = _strength(data, policy, prompts, tokens, split == "validation")
    beta = data.strength.beta
    kl = expected(beta)
    found = agreement(advantages[..., 0], rewards[:, :ANSWERS])
    # Of a policy that is tilted a little, by values whose advantages correlate so with the truth.
    spread = float(np.sqrt(np.nanvar(rewards, axis=1, ddof=1).mean()))
    gain = math.sqrt(2 * max(0.0, kl)) * max(0.0, found.correlation.value) * spread
    return {
        "advantage_correlation": found.correlation.value,
        "advantage_correlation_low": found.correlation.low,
        "advantage_correlation_high": found.correlation.high,
        "advantage_slope": found.slope,
        "advantage_r2": found.r2,
        "beta": beta,
        "kl_expected": kl,
        **{f"kl_expected_{share:g}": expected(share * beta) for share in SHARES},
        "reward_spread": spread,
        "reward_predicted": float(np.nanmean(rewards)) + gain,
    }


def _strength(
    data: RolloutDataModule,
    policy: GuidedPolicy,
    prompts: Sequence[Prompt],
    tokens: Sequence[Sequence[Sequence[int]]],
    choose: bool,
) -> ExpectedKL:
    """The KL that is expected at any strength; that of the fit is set to spend its KL budget."""
    pairs = [(p, one) for p, few in zip(prompts, tokens, strict=True) for one in few if one]
    sampling = data.sampling(len(policy.objectives))
    weights = dict(zip(policy.objectives, sampling.weights, strict=True))
    used: CandidateSettings = {
        "temperature": sampling.temperature,
        "top_k": sampling.top_k,
        "top_p": sampling.top_p,
    }
    # Every n-th reply, where those of all would fill the memory: of a whole vocabulary, say.
    numbers = (sampling.top_k or data.reference.vocabulary) * (1 + len(policy.objectives))
    states = sum(len(one) for _, one in pairs)
    pairs = pairs[:: max(1, -(-numbers * states // MOST))]
    asked, replies = [p for p, _ in pairs], [list(one) for _, one in pairs]
    expected = ExpectedKL(policy, asked, replies, weights, **used)
    if choose and data.kl_budget is not None:
        # Values that are the same for all tokens spend nothing: the round is then not promoted.
        with suppress(ValueError):
            data.strength.set(expected.strength(data.kl_budget, data.strength.beta))
    return expected


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
    slope, beta = entry["advantage_slope"], entry["beta"]
    if slope < LEAST_SLOPE and data.kl_budget is None:
        return (
            f"the values are {1 / slope:.1f} times as large as what they foretell, so that the "
            f"policy pays KL for noise: guide with --beta {beta * slope:.2g}, or train on more "
            f"trees: {more}."
        )
    budget, expected = data.kl_budget, entry.get("kl_expected", math.inf)
    if budget is not None and expected < budget / 2:
        return (
            f"no strength spends the KL budget of {budget:g} nats on answers as short as these: at "
            f"{beta:.3g}, where it stays, {expected:.2g} are expected. Give a smaller "
            "--data.kl_budget."
        )
    if overspent(entry, data):
        return (
            f"the policy is {entry['kl'] - entry['kl_truncation']:.1f} nats from the reference "
            f"where {data.kl_budget:g} were to be spent: its answers are unlike the reference's. "
            f"Give a smaller --data.kl_budget, or more trees: {more}."
        )
    return ""


def overspent(entry: dict[str, Any], data: RolloutDataModule) -> bool:
    """Whether a round's policy goes far beyond the KL budget."""
    spent = entry["kl"] - entry["kl_truncation"]
    return data.kl_budget is not None and spent > OVERSPENT * data.kl_budget


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
