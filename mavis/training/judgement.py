"""What a round has come to: the judgement on its values, and the line that reports it."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mavis.decoding.policy import GuidedPolicy
from mavis.decoding.spread import matching_equal_weights, scaled
from mavis.decoding.value_model import ValueModel, decoding
from mavis.evaluation.advantages import adding_advantages, agreement, on_grid
from mavis.evaluation.kl_matching import at_kl, best_of_n
from mavis.evaluation.samples import Array
from mavis.evaluation.strength import ExpectedKL
from mavis.prompts import Prompt
from mavis.training.data import RolloutDataModule
from mavis.training.siblings import EXPLAINABLE
from mavis.training.weightings import Weighting, label, measured, mixed

ANSWERS = 8  # reference answers to a prompt that values are judged on
SHOWN_TRUNCATION = 0.1  # nats an answer that truncation may cost without a word
MOST = 1 << 28  # numbers that are kept to find the strength: 1 GiB
SHARES = (0.25, 0.5, 1, 2)  # of the strength: what KL is expected there is kept
OVERSPENT = 1.5  # times the KL budget that a round may cost and still be promoted
CORRECTION = 2.0  # by which what is expected of a KL is multiplied or divided, at most

Entry = Mapping[str, Any]  # of `metrics.json`


def judge(
    data: RolloutDataModule, network: ValueModel, split: str, earlier: Sequence[Entry] = ()
) -> dict[Weighting, dict[str, float | None]]:
    """Hold values against rewards of the reference's held-out answers.

    Where the fit has a KL budget, the strength that spends it is found on the validation answers.

    Args:
        data: of the fit.
        network: with the values.
        split: of the held-out answers.
        earlier: the entries of the rounds before.

    Returns:
        for each weighting that a round is measured at, by name: correlation, its 95 % interval,
        slope and R² of `evaluation.advantages`, the share of the variance that is explainable and
        that of it which is explained, the strength, the KL that is expected at it, and the reward
        that is predicted there.
    """
    baseline, policy = data.baseline(split), GuidedPolicy(data.reference, (network,))
    prompts = data.prompts[split][: len(baseline.tokens)]
    tokens = [answers[:ANSWERS] for answers in baseline.tokens[: len(prompts)]]
    rewards = baseline.standard(data.units)[: len(prompts)]
    with decoding(network):
        advantages, expected = _read(data, policy, prompts, tokens)
    weightings = measured(len(policy.objectives))
    corrections = {
        weights: kl_correction([judged_at(one, data, weights) for one in earlier])
        for weights in weightings
    }
    if split == "validation" and data.kl_budget is not None:
        budgets = {weights: data.kl_budget / one for weights, one in corrections.items()}
        _set_strength(data, expected, budgets)
    verdicts: dict[Weighting, dict[str, float | None]] = {}
    for weights, correction in corrections.items():
        beta, at = data.sampling(weights).beta, expected.of(weights)
        kl = {share: correction * at(share * beta) for share in SHARES}
        first = judged_at(earlier[0], data, weights) if earlier else data.explainable[weights]
        columns = mixed(advantages, weights), mixed(rewards, weights)
        verdicts[weights] = {
            **_verdict(*columns, kl[1], first),
            "beta": beta,
            "kl_correction": correction,
            "kl_expected": kl[1],
            **{f"kl_expected_{share:g}": nats for share, nats in kl.items()},
        }
    return verdicts


def judged_at(entry: Entry, data: RolloutDataModule, weights: Weighting) -> Entry:
    """What an entry of `metrics.json` says of one weighting: all of it, if there is but one."""
    names = [one.name for one in data.objectives]
    found: Entry = entry if len(weights) == 1 else entry["weightings"][label(names, weights)]
    return found


def parts(entry: dict[str, Any], data: RolloutDataModule) -> dict[str, dict[str, Any]]:
    """What an entry says of each weighting, by its label; of one objective by its name."""
    found: dict[str, dict[str, Any]] = entry.get("weightings") or {data.objective.name: entry}
    return found


def keeps_up(entry: dict[str, Any], kept: dict[str, Any] | None, data: RolloutDataModule) -> bool:
    """Whether the values of a round may take the place of those that are kept.

    They must have learned something, foretell the reference's answers about as well as those do, at
    every weighting, and not go far beyond the KL budget.

    Args:
        entry: of the round.
        kept: of the round whose values are kept; None if there is none.
        data: of the fit.
    """
    now = list(parts(entry, data).values())
    before = [{}] * len(now) if kept is None else list(parts(kept, data).values())
    lost = any(_worse(old, new) for old, new in zip(before, now, strict=True))
    spent = any(overspent(part, data) for part in now)
    return any(map(learned, now)) and not lost and not spent


def _worse(old: Entry, new: Entry) -> bool:
    """Whether values foretell less than earlier ones did, by more than is noise.

    Both are held against the same answers. Those of a guided policy's trees are of that policy, and
    need not foretell more of the reference's; if it is much less, they have been learned badly.
    """
    if not learned(old):
        return False
    least = number(old, "advantage_correlation_low")
    return not learned(new) or number(new, "advantage_correlation") < least


def _set_strength(
    data: RolloutDataModule, expected: ExpectedKL, budgets: Mapping[Weighting, float]
) -> None:
    """Find the strength that spends a KL budget, and how it follows from the weights.

    At every corner it is found by itself: a reward that is harder to learn has smaller values, and
    KL grows with the square of the strength only as long as the tilt is weak. Between corners it
    follows from how the values vary together (`spread`): C has 1 / β_m² on its diagonal, and the
    correlations of the values, times what equal weights need.
    """
    outputs = len(data.objectives)
    found = []
    for weights, budget in budgets.items():
        start = data.strength.beta * data.strength.relative(weights)
        try:
            found.append(expected.of(weights).strength(budget, start))
        except ValueError:  # values that are the same for all tokens spend nothing: see `advice`
            found.append(start)
    if outputs == 1:
        data.strength.set(found[0])
        return
    spread, betas = expected.covariance(), np.array(found[:outputs])
    sizes = np.sqrt(np.diag(spread))
    known = np.outer(sizes, sizes)
    correlation = np.divide(spread, known, out=np.eye(outputs), where=known > 0)
    covariance = matching_equal_weights(correlation / np.outer(betas, betas), 1 / found[outputs])
    data.strength.covariance = scaled(covariance)
    data.strength.set(1 / math.sqrt(float(np.diag(covariance).mean())))


def _read(
    data: RolloutDataModule,
    policy: GuidedPolicy,
    prompts: Sequence[Prompt],
    tokens: Sequence[Sequence[Sequence[int]]],
) -> tuple[Array, ExpectedKL]:
    """Read answers once: their summed advantages [P, S, M], and the KL expected at any strength."""
    pairs = [(p, one) for p, few in zip(prompts, tokens, strict=True) for one in few if one]
    sampling = data.sampling(measured(len(policy.objectives))[-1])
    steps = policy.walk(
        [p for p, _ in pairs],
        [list(one) for _, one in pairs],
        dict(zip(policy.objectives, sampling.weights, strict=True)),
        1.0,
        temperature=sampling.temperature,
        top_k=sampling.top_k,
        top_p=sampling.top_p,
    )
    # The candidates of every n-th reply are kept, where those of all would fill the memory: of a
    # whole vocabulary, say. Of advantages there are sums only.
    numbers = (sampling.top_k or data.reference.vocabulary) * (1 + len(policy.objectives))
    every = max(1, -(-numbers * sum(len(one) for _, one in pairs) // MOST))
    sums = np.zeros((len(pairs), len(policy.objectives)))
    expected = ExpectedKL(policy.rule, adding_advantages(steps, sums), every)
    return on_grid(sums, tokens), expected


def _verdict(advantages: Array, rewards: Array, kl: float, first: Entry) -> dict[str, float | None]:
    """What the advantages [P, S] say of rewards [P, n ≥ S], and what is predicted at a KL.

    `first` has what is explainable of the reference's rewards: its answers are those of the trees
    of the first round.
    """
    found = agreement(advantages, rewards[:, : advantages.shape[1]])
    correlation = found.correlation
    # Of a policy that is tilted a little, by values whose advantages correlate so with the truth.
    several = rewards[np.isfinite(rewards).sum(1) > 1]  # of one answer there is no variance
    spread = float(np.sqrt(np.nanvar(several, axis=1, ddof=1).mean())) if len(several) else math.nan
    gain = math.sqrt(2 * max(0.0, kl)) * max(0.0, correlation.value) * spread
    explainable = {name: number(first, name) for name in EXPLAINABLE}
    share, low, _ = explainable.values()
    # Of a share that may as well be 0, nothing can be said.
    explained = min(1.0, max(0.0, correlation.value) ** 2 / share) if low > 0 else None
    return {
        "advantage_correlation": correlation.value,
        "advantage_correlation_low": correlation.low,
        "advantage_correlation_high": correlation.high,
        "advantage_slope": found.slope,
        "advantage_r2": found.r2,
        **explainable,
        "advantage_share_explained": explained,
        "reward_spread": spread,
        "reward_predicted": float(np.nanmean(rewards)) + gain,
        "best_of_n_share_predicted": _share_of_best_of_n(rewards, kl, gain),
    }


def _share_of_best_of_n(rewards: Array, kl: float, gain: float) -> float | None:
    """A gain, divided by that of best-of-N on rewards [P, n] at the same KL; None without one."""
    curve = best_of_n(rewards[..., None], [1.0])
    if (best := at_kl(curve, kl)) is None:
        return None
    most = float(best.rewards[0] - curve[0].mean_rewards[0])
    return gain / most if most > 0 else None


def number(entry: Entry, name: str) -> float:
    """A number of an entry of `metrics.json`; NaN where it has none, as those of older runs."""
    value = entry.get(name)
    return math.nan if value is None else float(value)


def kl_correction(earlier: Sequence[Entry]) -> float:
    """By what factor policies spend more KL than is expected on the reference's answers.

    A guided policy comes to states that the reference rarely comes to. How much that matters is
    known of the round before: its policy's KL over the KL that was expected of it without a
    correction. It is kept between 1/2 and 2; 1 where nothing is known.
    """
    if not earlier or not earlier[-1].get("kl_correction"):  # an older run's KL held truncation
        return 1.0
    last = earlier[-1]
    spent = number(last, "kl")
    expected = number(last, "kl_expected") / float(last["kl_correction"])
    if not (math.isfinite(spent) and expected > 0):
        return 1.0
    return min(CORRECTION, max(1 / CORRECTION, spent / expected))


def learned(entry: Entry) -> bool:
    """Whether the correlation of a round's values with the rewards is above its noise."""
    return bool((entry.get("advantage_correlation_low") or 0.0) > 0)  # older runs have none


def overspent(entry: dict[str, Any], data: RolloutDataModule) -> bool:
    """Whether a round's policy goes far beyond the KL budget."""
    return data.kl_budget is not None and entry["kl"] > OVERSPENT * data.kl_budget


def in_a_line(entry: dict[str, Any]) -> str:
    """A round, in a line."""
    best = entry["best_of_n_at_kl"]
    best_of_n = (
        "best-of-N does not reach this KL" if best is None else f"best-of-N at this KL {best:z.2f}"
    )
    cut = entry["kl_truncation"]
    truncation = f", and {cut:.1f} by truncation" if cut >= SHOWN_TRUNCATION else ""
    return (
        f"reward {entry['reward']:z.2f} ± {entry['reward_se']:.2f} "  # z: no "-0.00"
        f"(reference {entry['reward_reference']:z.2f}, {best_of_n}), "
        f"KL {entry['kl']:.1f} nats{truncation}"
    )
