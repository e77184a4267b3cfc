"""Makes and scores rollout trees once; an interrupted run reads them from disk."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from mavis.decoding.policy import GuidedPolicy
from mavis.decoding.request import SamplingParams
from mavis.evaluation.collect import Collector
from mavis.objective import Objective
from mavis.prompts import Prompt
from mavis.storage import Row
from mavis.training.rollout import Shape, grow
from mavis.training.tree import Tree, read_tree, tree_row


def collect_trees(
    collector: Collector,
    folder: Path,
    policy: GuidedPolicy,
    prompts: Sequence[Prompt],
    objectives: Sequence[Objective],
    shape: Shape,
    sampling: SamplingParams,
    seed: tuple[int, int],
    rows: int,
) -> list[Tree]:
    """A tree for every prompt, its leaves scored by each objective; see `rollout.grow`."""

    def make(missing: Sequence[int]) -> Iterator[Row]:
        wanted = [prompts[index] for index in missing]
        for at, tree in grow(policy, wanted, shape, sampling, seed, rows):
            yield tree_row(missing[at], tree)

    made = collector.make(folder, make, prompts, "rollouts", "trees")
    rewards = collector.score(folder, made, objectives)
    return [
        read_tree(row, scores.astype(np.float32)) for row, scores in zip(made, rewards, strict=True)
    ]
