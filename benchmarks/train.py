"""Training speed: packed trees, against a padded row for every node.

python benchmarks/train.py --size small --cap 1024
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from clock import Run, compare, medians, report, take_turns
from jsonargparse import auto_cli
from models import SIZES, Size, network_of, prompts_of, reference_of, sizes_of
from plain import Lesson
from plain import train as plain_train

from mavis.decoding.value_model import ValueModel
from mavis.training.batching import batches, collate
from mavis.training.losses import MixedLoss
from mavis.training.module import ValueModule
from mavis.training.packing import pack_tree
from mavis.training.rollout import Shape
from mavis.training.tree import Floats, Path, Segment, Tree, build_tree


def train(
    size: str = "small",
    trees: int = 3,
    branching: tuple[int, ...] = (4, 2, 2, 2, 2),
    tokens: int = 128,
    prompt: int = 64,
    cap: int = 1024,
    batch: int = 32,
    repetitions: int = 3,
) -> dict[str, Any]:
    """Measure forward and backward of the mean squared error at all node ends of some trees.

    Every turn has other random trees, the same for both ways.

    Args:
        size: of the random pair, whose value model is trained: tiny, small or medium.
        trees: how many a turn learns from.
        branching: of the trees, children per node level by level.
        tokens: the longest response.
        prompt: tokens of the prompt.
        cap: tokens per pack.
        batch: rows per batch of the plain loop.
        repetitions: how often each way takes its turn.
    """
    pair = SIZES[size]
    network = (
        network_of(pair, reference_of(pair), "state", "objective").train().requires_grad_(True)
    )
    shape = Shape(tuple(branching), tokens)
    seeds = np.arange(repetitions * trees).reshape(repetitions, trees)
    woods = [[random_tree(pair, shape, prompt, int(seed)) for seed in some] for some in seeds]
    lessons = [[(tree, _random_targets(tree)) for tree in wood] for wood in woods]
    nodes = [sum(len(tree.parent) - 1 for tree in wood) for wood in woods]
    found: dict[str, list[tuple[float, torch.Tensor]]] = {"packed": [], "plain": []}

    def turn(name: str, learn: Callable[[list[Lesson]], float]) -> int:
        number = len(found[name])
        loss = learn(lessons[number])
        gradients = [p.grad.flatten() for p in network.parameters() if p.grad is not None]
        found[name].append((loss, torch.cat(gradients)))
        network.zero_grad()
        return nodes[number]

    ways: dict[str, Run] = {
        "packed": lambda: turn("packed", lambda some: packed_loss(network, some, cap)),
        "plain": lambda: turn("plain", lambda some: plain_train(network, some, batch)),
    }
    rates = take_turns(ways, repetitions)
    ratios = compare(rates, {"packed / plain": ("packed", "plain", "at least", 4)})
    pairs = list(zip(found["packed"], found["plain"], strict=True))
    return {
        "benchmark": "train",
        "size": size,
        "million_parameters": sizes_of(pair),
        "branching": list(branching),
        "trees": trees,
        "nodes": nodes,
        "tokens": [sum(len(tree.tokens) for tree in wood) for wood in woods],
        "cap": cap,
        "batch": batch,
        "unit": "node targets",
        "per_cpu_second": medians(rates),
        "ratios": ratios,
        "loss_error": max(abs(a - b) / b for (a, _), (b, _) in pairs),
        "gradient_error": max(float((a - b).norm() / b.norm()) for (_, a), (_, b) in pairs),
    }


def packed_loss(network: ValueModel, lessons: Sequence[Lesson], cap: int) -> float:
    """As training does it: cut into packs, put side by side, forward and backward."""
    module = ValueModule(source="state")
    module.network = network
    packs = [pack for tree, targets in lessons for pack in pack_tree(tree, targets, cap)]
    known = sum(int(np.isfinite(pack.targets).sum()) for pack in packs)
    total, error = 0.0, MixedLoss([[1.0]])
    for group in batches(packs, cap, (0,)):
        some = collate(group)
        share = float(some.targets.isfinite().sum()) / known
        loss = error(module(some), some.targets, some.weights) * share
        loss.backward()  # type: ignore[no-untyped-call]
        total += loss.item()
    return total


def random_tree(size: Size, shape: Shape, prompt: int, seed: int) -> Tree:
    """A tree of random tokens."""
    random = np.random.default_rng(seed)
    segments: dict[Path, Segment] = {
        (): Segment(prompts_of(size, 1, prompt, prompt)[0], [0.0] * prompt)
    }
    queue: list[tuple[Path, int]] = [((), 0)]
    while queue:
        path, used = queue.pop()
        for child in range(shape.branching[len(path)]):
            here = (*path, child)
            length = shape.segment((seed, *here), len(path), used)
            done = used + length >= shape.max_tokens
            words = [int(t) for t in random.integers(1, size.vocabulary, length)]
            segments[here] = Segment(words, [0.0] * length, reason="length" if done else "")
            if not done:
                queue.append((here, used + length))
    return build_tree("prompt", segments)


def _random_targets(tree: Tree) -> Floats:
    """Targets [T, 1] at the node ends alone, which is what the plain loop learns from."""
    ends = tree.start[2:] - 1
    targets = np.full((len(tree.tokens), 1), np.nan, dtype=np.float32)
    targets[ends, 0] = np.random.default_rng(len(ends)).standard_normal(len(ends))
    return targets


def main(args: list[str] | None = None) -> None:
    """Run from the command line."""
    report(auto_cli(train, args=args, as_positional=False))


if __name__ == "__main__":
    main()
