"""Makes and scores rollout trees once; an interrupted run reads them from disk."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from mavis.decoding.policy import GuidedPolicy
from mavis.decoding.reference import ReferencePolicy
from mavis.decoding.request import SamplingParams
from mavis.evaluation.collect import PREFIXES, Collector
from mavis.objective import Objective
from mavis.prompts import Prompt
from mavis.storage import Row, chunks, read_json, write_json
from mavis.training.prefixes import prefix_texts
from mavis.training.rollout import Shape, grow
from mavis.training.tree import Tree, read_tree, tree_row

COMPLETE = "complete.json"  # the facts of a folder that has all of a round's trees
SECONDS = ("seconds_rollout", "seconds_score")  # of the facts
TOGETHER = 128  # trees whose prefixes are in memory at the same time


def collect_trees(
    collector: Collector,
    folder: Path,
    policy: GuidedPolicy,
    prompts: Sequence[Prompt],
    objectives: Sequence[Objective],
    shape: Shape,
    sampling: Sequence[SamplingParams],
    seed: tuple[int, int],
    rows: int,
    candidates: int = 0,
) -> list[Tree]:
    """A tree for every prompt, its leaves scored by each objective; see `rollout.grow`."""

    def make(missing: Sequence[int]) -> Iterator[Row]:
        wanted, how = [prompts[at] for at in missing], [sampling[at] for at in missing]
        for at, tree in grow(policy, wanted, shape, how, seed, rows, candidates):
            yield tree_row(missing[at], tree)

    made = collector.make(folder, make, prompts, "rollouts", "trees")
    rewards = collector.score(folder, made, objectives)
    return [
        read_tree(row, scores.astype(np.float32)) for row, scores in zip(made, rewards, strict=True)
    ]


def score_prefixes(
    collector: Collector,
    folder: Path,
    reference: ReferencePolicy,
    prompts: Sequence[Prompt],
    objectives: Sequence[Objective],
    trees: Sequence[Tree],
) -> list[Tree]:
    """The trees of `collect_trees`, with the rewards of all beginnings of their replies.

    They are scored once, and saved beside the trees; the time is added to that of the replies.
    """
    found: list[Tree] = []
    for part in chunks(range(len(trees)), TOGETHER):
        rows: list[Row] = []
        for index in part:
            tree, stop = trees[index], reference.encode(prompts[index]).stop
            texts = prefix_texts(tree, partial(reference.decode, stop=stop))
            rows.append({"index": index, "prompt": tree.prompt, "responses": texts})
        before = collector.seconds["scored"]
        scores = collector.score(folder, rows, objectives, PREFIXES)
        collector.seconds["scored"] += before
        kept = zip(part, scores, strict=True)
        found += [replace(trees[index], prefixes=one.astype(np.float32)) for index, one in kept]
    return found


def facts_of(trees: Sequence[Tree], collector: Collector) -> dict[str, float]:
    """How many trees, tokens and abstained rewards there are, and what they took."""
    return {
        "trees": len(trees),
        "tokens": sum(len(tree.tokens) - int(tree.start[1]) for tree in trees),
        "abstained": sum(int(np.isnan(tree.rewards).sum()) for tree in trees),
        **dict(zip(SECONDS, (collector.seconds["made"], collector.seconds["scored"]), strict=True)),
    }


def keep_facts(folder: Path, facts: Mapping[str, float]) -> None:
    """Write last that a folder has all of a round's trees, and again when more were added."""
    if trees_in(folder) < facts["trees"]:
        write_json(folder / COMPLETE, facts)


def trees_in(folder: Path) -> int:
    """How many trees a folder was said to have; 0 if they are not complete."""
    file = folder / COMPLETE
    return int(read_json(file)["trees"]) if file.is_file() else 0
