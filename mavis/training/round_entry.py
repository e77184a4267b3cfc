"""What a round has come to: its entry of `metrics.json`, measured on held-out prompts.

A round of one objective is measured at weight 1. A round of several is measured at each of
`weightings.measured`: then the entry has the means over these, and each of them by its label.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mavis.decoding.value_model import ValueModel
from mavis.evaluation.kl_matching import PerPrompt, at_kl
from mavis.evaluation.metrics import distinct, mean_reward
from mavis.evaluation.samples import Array, ScoredSamples
from mavis.training.data import RolloutDataModule
from mavis.training.judgement import judge
from mavis.training.ridge import PER_DOUBLING
from mavis.training.weightings import Weighting, label, measured, mixed

LEARNED = ("r2", "val_loss", "sibling_rank_correlation")  # of the values on held-out trees
SUMMARY = ("kl", "kl_sampled", "kl_truncation", "length", "distinct_3", "repetition")

Entry = dict[str, Any]


def measure(
    data: RolloutDataModule,
    network: ValueModel,
    split: str,
    folder: Path,
    earlier: Sequence[Entry],
    logged: Mapping[str, float],
) -> tuple[Entry, dict[Weighting, ScoredSamples]]:
    """Judge the values of a round, and have its policy answer held-out prompts.

    Args:
        data: of the fit.
        network: with the values.
        split: of the held-out prompts.
        folder: where answers are saved.
        earlier: the entries of the rounds before.
        logged: what was logged of the values on held-out trees.

    Returns:
        the entry, and the answers at each weighting.
    """
    weightings = measured(len(data.objectives))
    verdicts = judge(data, network, split, earlier)
    places = [folder] if len(weightings) == 1 else [folder / f"{at}" for at in range(len(verdicts))]
    guided = {
        weights: data.evaluate(network, split, place, weights)
        for weights, place in zip(weightings, places, strict=True)
    }
    entries = {
        weights: _reached(data, split, weights, guided[weights]) | verdicts[weights]
        for weights in weightings
    }
    if math.isfinite(growth := logged.get(PER_DOUBLING, math.nan)):  # of joint credit
        entries = {weights: entry | {PER_DOUBLING: growth} for weights, entry in entries.items()}
    shared = {"round": data.round, **data.facts}
    shared |= {name: logged.get(name, math.nan) for name in LEARNED}
    if len(weightings) == 1:
        return {**shared, **entries[weightings[0]]}, guided
    names = [one.name for one in data.objectives]
    by_label = {label(names, weights): entry for weights, entry in entries.items()}
    beta = {"beta": data.strength.beta}
    return {**shared, **_means(list(entries.values())), **beta, "weightings": by_label}, guided


def _reached(
    data: RolloutDataModule, split: str, weights: Weighting, guided: ScoredSamples
) -> Entry:
    """The reward and the KL of guided answers, beside those of the reference and best-of-N."""
    baseline = data.baseline(split)
    reference = mean_reward(mixed(baseline.standard(data.units), weights))
    tokens = [answer for answers in baseline.tokens for answer in answers]
    as_many = tokens[:: max(1, len(tokens) // len(guided.tokens))][: len(guided.tokens)]
    best = at_kl(best_of_n_curve(data, split, weights), guided.summary["kl"])
    return {
        **mean_reward(mixed(guided.standard(data.units), weights)),
        **{name: guided.summary[name] for name in SUMMARY},
        "reward_reference": reference["reward"],
        "reward_reference_se": reference["reward_se"],
        "length_reference": baseline.summary["length"],
        "distinct_3_reference": distinct(as_many, 3),
        "repetition_reference": baseline.summary["repetition"],
        "best_of_n_at_kl": None if best is None else float(best.rewards[0]),
    }


def best_of_n_curve(data: RolloutDataModule, split: str, weights: Weighting) -> list[PerPrompt]:
    """The curve of best-of-N by the weighted reward, whose rewards are of that alone [P, 1]."""
    curve = data.baseline(split).best_of_n(data.units, weights)
    return [point._replace(rewards=mixed(point.rewards, weights)[:, None]) for point in curve]


def _means(entries: Sequence[Entry]) -> Entry:
    """The mean of each number; None where one of them is unknown."""
    found: Entry = {}
    for name in entries[0]:
        values = [entry[name] for entry in entries]
        found[name] = None if None in values else float(np.mean(values))
    return found


def reward_column(samples: ScoredSamples, data: RolloutDataModule, weights: Weighting) -> Array:
    """The weighted rewards of answers in standard units [P, S]."""
    return mixed(samples.standard(data.units), weights)
