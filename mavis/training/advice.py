"""What is wrong with the values of a round, and what to do next: sentences for people."""

import math
from typing import Any

from mavis.training import judgement
from mavis.training.collect import SECONDS
from mavis.training.data import RolloutDataModule
from mavis.training.estimate import duration
from mavis.training.judgement import number
from mavis.training.ridge import PER_DOUBLING, WORTH

DEAR_TRUNCATION = 0.02  # nats a token that it may cost without a hint
LEAST_SLOPE = 0.5  # below it, values are more than twice as large as what they foretell
FEW = 15  # prompts, below which figures on them say little
ENOUGH = 0.5  # of what can be explained: below it, more trees are advised
SLIGHT = 0.2  # correlation of siblings that their trees must rule out to show that there is none
KNOWN_SECONDS = 1.0  # of rollouts; what takes less was read from disk, or needs no warning


def more_trees(entry: dict[str, Any], data: RolloutDataModule) -> str:
    """How many more trees, how long they take, and the option; a whole sentence but for its end."""
    factor = _factor(entry)
    seconds = sum(entry.get(name) or data.facts.get(name) or 0.0 for name in SECONDS)
    if data.pooled or data.rereads:
        return _more_rounds(factor, seconds, data)
    time = f", about {duration(factor * seconds)} a round" if seconds > KNOWN_SECONDS else ""
    return f"{factor} × as many trees{time}: --data.trees {factor * data.trees}, and another --out"


def growing(more: int, growth: float, data: RolloutDataModule) -> str:
    """A sentence that says why trees are added to a round's, and how to keep it from that.

    Args:
        more: how many there will be beside those that there are.
        growth: by what factor what is explained grows when trees are doubled; NaN if unknown.
        data: of the fit.
    """
    there = data.trees
    seconds = sum(data.facts[name] for name in SECONDS) * more / there
    time = f", about {duration(seconds)}" if seconds > KNOWN_SECONDS else ""
    gain = f"{growth ** math.log2(1 + more / there):.1f} times as much as they do"
    why = "they explain nothing yet" if math.isnan(growth) else f"these may explain {gain}"
    return (
        f"{there} trees are read; {more} more are rolled out{time}, as {why} "
        f"(--data.most_trees {there}: no more than that)."
    )


def _factor(entry: dict[str, Any]) -> int:
    """By how much the trees should be multiplied.

    If all that values lack were the noise of their trees, k times as many would turn a share s into
    1 / (1 + (1/s − 1) / k): 2 times as many make a half of a third, and 4 of a fifth.
    """
    share = entry.get("advantage_share_explained")
    return 4 if share is not None and share < 1 / 3 else 2


def _more_rounds(factor: int, seconds: float, data: RolloutDataModule) -> str:
    """As `more_trees`, where the trees of all rounds count: nothing that was sampled is lost."""
    done, first = data.round + 1, min(data.first_trees, len(data.prompts["train"]))
    missing = (factor - 1) * (first + data.round * data.trees)
    rounds = done + math.ceil(missing / data.trees)
    if rounds <= data.rounds:
        left = data.rounds - done
        come = "round to come adds" if left == 1 else f"{left} rounds to come add"
        return f"the {come} trees to those of this one"
    # Later rounds sample from a guided policy, which is slower than the reference.
    about = "about" if data.round else "at least"
    spent = seconds * missing / (data.trees if data.round else first)
    time = f", {about} {duration(spent)} more of rollouts" if seconds > KNOWN_SECONDS else ""
    return (
        f"{factor} × as many trees{time}: the same command with --data.rounds {rounds}, "
        "which goes on from here"
    )


def share_hint(entry: dict[str, Any], data: RolloutDataModule) -> str:
    """What to do where values that have learned explain little; "" if it is enough or unknown."""
    share = entry.get("advantage_share_explained")
    if share is None or share >= ENOUGH or not judgement.learned(entry):
        return ""
    told = f"the values explain {100 * share:.0f} % of what can be explained"
    growth = number(entry, PER_DOUBLING)
    if growth < WORTH:  # whatever is asked for of each objective: they share their trees
        more = max(share, min(1.0, share * growth ** math.log2(_factor(entry))))
        return (
            f"{told}, and more trees would hardly change that ({_factor(entry)} × as many: about "
            f"{100 * more:.0f} %). Other --model.layers, or another --model.source, may find more."
        )
    return f"{told}: {more_trees(entry, data)}."


def _not_learned(entry: dict[str, Any], data: RolloutDataModule, name: str) -> str:
    low, high = (number(entry, f"advantage_correlation_{end}") for end in ("low", "high"))
    least, most = (number(entry, f"reward_explainable_{end}") for end in ("low", "high"))
    if least <= 0 and most < SLIGHT:  # only siblings say so: values that have not learned cannot
        return (
            f"there is nothing to learn of {name} that {data.trees} trees show: replies that part "
            "only at the last branching are no more alike in it than others to the prompt "
            f"(correlation between {least:z.2f} and {most:z.2f}). Score what the whole reply has, "
            "not how it ends."
        )
    why = f"their correlation with the reward lies between {low:z.2f} and {high:z.2f}"
    if math.isnan(low):
        why = "they tell no answer from another, or its reward does not"
    there = f", while {100 * number(entry, 'reward_explainable'):.0f} % of it can be explained"
    if not least > 0:  # or it is not known
        there = ""
    return (
        f"nothing shows that the values have learned {name} yet: on held-out answers of the "
        f"reference, {why}{there}. {more_trees(entry, data)}."
    )


def doubts(entry: dict[str, Any], data: RolloutDataModule, name: str) -> str:
    """What is wrong with the values of a round, and what to do; "" if nothing is known."""
    if not judgement.learned(entry):
        return _not_learned(entry, data, name)
    slope, beta = entry["advantage_slope"], entry["beta"]
    if slope < LEAST_SLOPE and data.kl_budget is None:
        return (
            f"the values are {1 / slope:.1f} times as large as what they foretell, so that the "
            f"policy pays KL for noise: guide with --beta {beta * slope:.2g}, or train on more "
            f"trees ({more_trees(entry, data)})."
        )
    budget, expected = data.kl_budget, entry.get("kl_expected", math.inf)
    if budget is not None and expected < budget / 2:
        return (
            f"no strength spends the KL budget of {budget:g} nats on answers as short as these: at "
            f"{beta:.3g}, where it stays, {expected:.2g} are expected. Give a smaller "
            "--data.kl_budget."
        )
    if judgement.overspent(entry, data):
        return (
            f"the policy is {entry['kl']:.1f} nats from the reference "
            f"where {data.kl_budget:g} were to be spent: its answers are unlike the reference's. "
            f"Give a smaller --data.kl_budget, or train on more trees ({more_trees(entry, data)})."
        )
    return ""


def few_hint(data: RolloutDataModule) -> str:
    """What to do where figures are of few held-out prompts; "" where they are not."""
    held, judged = len(data.prompts["validation"]), -(-data.held_out // 3)
    if min(held, judged) >= FEW:
        return ""
    there = f"{data.source} has {held}, as a single file gives about a tenth of its prompts; "
    return (
        f"values are judged, and their strength is found, on {min(held, judged)} held-out prompts, "
        f"so that these figures say little: {there if held < data.held_out else ''}give more "
        f"prompts, and --data.held_out {3 * FEW} or more."
    )


def truncation_hint(entry: dict[str, Any], data: RolloutDataModule) -> str:
    """What to do where the candidates alone take the policy far from the reference; "" if not."""
    cut = entry["kl_truncation"] / max(1.0, entry["length"])
    if cut <= DEAR_TRUNCATION:
        return ""
    used = data.sampling()
    return (
        f"--data.top_k {used.top_k} and --data.top_p {used.top_p:g} alone cost {cut:.2f} nats a "
        f"token: a larger top_k (0 is the whole vocabulary), or a --data.temperature below "
        f"{used.temperature:g}, stays nearer to the reference."
    )
