"""Rollout speed: a pool of rows for all trees, against node by node.

python benchmarks/rollout.py --size small --trees 4
"""

from collections.abc import Sequence
from typing import Any

from clock import Run, compare, medians, report, take_turns
from jsonargparse import auto_cli
from models import SIZES, network_of, prompts_of, reference_of, sizes_of, text_of
from plain import Writer, guided, sampled
from plain import grow as plain_grow

from mavis.decoding.model_card import Source
from mavis.decoding.policy import GuidedPolicy
from mavis.decoding.request import SamplingParams
from mavis.decoding.value_model import ValueModel
from mavis.training.rollout import Shape, grow

BETA = 1.0


def rollout(
    size: str = "small",
    trees: int = 4,
    guided_trees: int = 3,
    rows: int = 64,
    guided_rows: int = 32,
    candidates: int = 40,
    branching: tuple[int, ...] = (4, 2, 2, 2, 2),
    guided_branching: tuple[int, ...] = (2, 2, 2, 2, 2),
    tokens: int = 128,
    prompt: int = 64,
    repetitions: int = 2,
    runs: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Measure the growing of trees, unguided and guided by one value model.

    The plain loop grows one tree a turn, as its speed does not depend on their number.

    Args:
        size: of the random pair: tiny, small or medium.
        trees: how many grow together, unguided.
        guided_trees: how many grow together, guided.
        rows: that take a step together, unguided.
        guided_rows: that take a step together, guided.
        candidates: K.
        branching: of the unguided trees, children per node level by level.
        guided_branching: of the guided trees.
        tokens: the longest response.
        prompt: tokens of each prompt.
        repetitions: how often each way takes its turn.
        runs: which ways to measure; none is all.
    """
    pair = SIZES[size]
    reference = reference_of(pair)
    prompts = prompts_of(pair, max(trees, guided_trees), prompt, prompt)
    free, bent = Shape(tuple(branching), tokens), Shape(tuple(guided_branching), tokens)
    turns: dict[str, int] = {}  # every turn grows other trees; a turn's are alike for all ways

    def turn(name: str) -> int:
        turns[name] = turns.get(name, -1) + 1
        return turns[name]

    def ours(name: str, source: Source | None, count: int, shape: Shape, width: int) -> Run:
        networks = (network_of(pair, reference, source, "objective"),) if source else ()
        policy = GuidedPolicy(reference, networks)
        sampling = SamplingParams((1.0,) * len(networks), BETA, top_k=candidates)
        texts = [text_of(tokens) for tokens in prompts[:count]]

        def run() -> int:
            grown = grow(policy, texts, shape, [sampling] * len(texts), (turn(name), 0), width)
            return sum(len(tree.tokens) - prompt for _, tree in grown)

        return run

    def plain(name: str, networks: Sequence[ValueModel], shape: Shape) -> Run:
        def write(prefix: list[int], copies: int, new: int) -> list[list[int]]:
            if networks:
                return guided(reference.model, networks, prefix, copies, new, candidates, BETA)
            written = sampled(reference.model, [prefix] * copies, new, candidates)
            return [list(row) for row in written[:, len(prefix) :].tolist()]

        writer: Writer = write
        return lambda: plain_grow(prompts[0], shape, turn(name), writer)

    state = (network_of(pair, reference, "state", "objective"),)
    ways: dict[str, Run] = {
        "unguided": ours("unguided", None, trees, free, rows),
        "plain unguided": plain("plain unguided", (), free),
        "state": ours("state", "state", guided_trees, bent, guided_rows),
        "action": ours("action", "action", guided_trees, bent, guided_rows),
        "plain guided": plain("plain guided", state, bent),
    }
    ways = {name: run for name, run in ways.items() if not runs or name in runs}
    rates = take_turns(ways, repetitions)
    ratios = compare(
        rates,
        {
            "unguided / plain": ("unguided", "plain unguided", "at least", 6),
            "state / plain": ("state", "plain guided", "at least", 2),
            "action / plain": ("action", "plain guided", "at least", 6),
        },
    )
    return {
        "benchmark": "rollout",
        "size": size,
        "million_parameters": sizes_of(pair),
        "trees": trees,
        "guided_trees": guided_trees,
        "rows": rows,
        "guided_rows": guided_rows,
        "candidates": candidates,
        "branching": list(branching),
        "guided_branching": list(guided_branching),
        "tokens": tokens,
        "prompt": prompt,
        "unit": "tokens",
        "per_cpu_second": medians(rates),
        "ratios": ratios,
    }


def main(args: list[str] | None = None) -> None:
    """Run from the command line."""
    report(auto_cli(rollout, args=args, as_positional=False))


if __name__ == "__main__":
    main()
