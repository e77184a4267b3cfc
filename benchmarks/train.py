"""Training speed: packed trees, against a padded row for every node.

python benchmarks/train.py --size small --cap 1024
"""

from typing import Any

import numpy as np
import torch
from clock import compare, medians, report, take_turns
from jsonargparse import auto_cli
from models import SIZES, Size, network_of, prompts_of, reference_of, sizes_of
from plain import train as plain_train

from mavis.guide.network import ValueNetwork
from mavis.learn.module import ValueModule, value_loss
from mavis.learn.packs import batches, collate, pack_tree
from mavis.learn.rollout import Shape
from mavis.learn.tree import Floats, Path, Segment, Tree, build_tree


def train(
    size: str = "small",
    branching: tuple[int, ...] = (4, 2, 2, 2, 2),
    tokens: int = 128,
    prompt: int = 64,
    cap: int = 1024,
    batch: int = 32,
    repetitions: int = 3,
) -> dict[str, Any]:
    """Measure forward and backward of the mean squared error at all node ends of a tree.

    Args:
        size: of the random pair, whose value model is trained: tiny, small or medium.
        branching: of the tree, children per node level by level.
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
    tree = random_tree(pair, Shape(tuple(branching), tokens), prompt)
    ends = tree.start[2:] - 1
    targets = np.full(len(tree.tokens), np.nan, dtype=np.float32)
    targets[ends] = np.random.default_rng(1).standard_normal(len(ends))
    found: dict[str, tuple[float, torch.Tensor]] = {}

    def ours() -> int:
        found["ours"] = _learned(network, packed_loss(network, tree, targets, cap))
        return len(ends)

    def plain() -> int:
        found["plain"] = _learned(network, plain_train(network, tree, targets, batch))
        return len(ends)

    rates = take_turns({"packed": ours, "plain": plain}, repetitions)
    ratios = compare(rates, {"packed / plain": ("packed", "plain", "at least", 4)})
    (loss, gradient), (plain_loss, plain_gradient) = found["ours"], found["plain"]
    return {
        "benchmark": "train",
        "size": size,
        "million_parameters": sizes_of(pair),
        "branching": list(branching),
        "nodes": len(ends),
        "tokens": len(tree.tokens),
        "cap": cap,
        "batch": batch,
        "unit": "node targets",
        "per_cpu_second": medians(rates),
        "ratios": ratios,
        "loss_error": abs(loss - plain_loss) / plain_loss,
        "gradient_error": float((gradient - plain_gradient).norm() / plain_gradient.norm()),
    }


def packed_loss(network: ValueNetwork, tree: Tree, targets: Floats, cap: int) -> float:
    """As training does it: cut into packs, put side by side, forward and backward."""
    module = ValueModule(source="state")
    module.network = network
    packs = pack_tree(tree, targets, cap)
    known = sum(int(np.isfinite(pack.targets).sum()) for pack in packs)
    total = 0.0
    for group in batches(packs, cap, (0,)):
        some = collate(group)
        share = float(some.targets.isfinite().sum()) / known
        loss = value_loss(module(some), some.targets) * share
        loss.backward()  # type: ignore[no-untyped-call]
        total += loss.item()
    return total


def random_tree(size: Size, shape: Shape, prompt: int) -> Tree:
    """A tree of random tokens."""
    random = np.random.default_rng(0)
    segments: dict[Path, Segment] = {
        (): Segment(prompts_of(size, 1, prompt, prompt)[0], [0.0] * prompt)
    }
    queue: list[tuple[Path, int]] = [((), 0)]
    while queue:
        path, used = queue.pop()
        for child in range(shape.branching[len(path)]):
            here = (*path, child)
            length = shape.segment(here, len(path), used)
            done = used + length >= shape.max_tokens
            words = [int(t) for t in random.integers(1, size.vocabulary, length)]
            segments[here] = Segment(words, [0.0] * length, reason="length" if done else "")
            if not done:
                queue.append((here, used + length))
    return build_tree("prompt", segments)


def _learned(network: ValueNetwork, loss: float) -> tuple[float, torch.Tensor]:
    """The loss and all gradients in a row, which are then forgotten."""
    gradients = [p.grad.flatten() for p in network.parameters() if p.grad is not None]
    network.zero_grad()
    return loss, torch.cat(gradients)


def main(args: list[str] | None = None) -> None:
    """Run from the command line."""
    report(auto_cli(train, args=args, as_positional=False))


if __name__ == "__main__":
    main()
