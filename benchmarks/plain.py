"""The plain loops that the benchmarks are held against: the structure of the published method.

Decoding: one prompt at a time (or copies of it), V(s·a) of K siblings by one forward behind each
value model's cropped cache. Rollouts: node by node, each node's prefix read anew. Training: the
whole path to every node a padded row of its own.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache, PreTrainedModel

from mavis.decoding.kv_cache import CACHE
from mavis.decoding.value_model import ValueModel
from mavis.training.rollout import Shape
from mavis.training.tree import NO_PARENT, Floats, Tree


@torch.inference_mode()
def guided(
    model: PreTrainedModel,
    networks: Sequence[ValueModel],
    prompt: Sequence[int],
    copies: int,
    new: int,
    top_k: int,
    beta: float,
) -> list[list[int]]:
    """Write `new` tokens behind copies of one prompt, tilted by `state` values.

    The last token chosen and the K next candidates go through a value model together, behind a
    cache that is cropped back by K afterwards.
    """
    trunks = [network.trunk for network in networks]
    caches = [DynamicCache(config=trunk.config) for trunk in trunks if trunk is not None]
    tokens = torch.tensor([list(prompt)] * copies, device=model.device)
    past, fresh = DynamicCache(config=model.config), tokens
    for _ in range(new):
        output = model(input_ids=fresh, logits_to_keep=1, **{CACHE: past})
        log_ref, options = output.logits[:, -1].float().log_softmax(-1).topk(top_k)
        total = torch.zeros_like(log_ref)
        for network, cache in zip(networks, caches, strict=True):
            total += _siblings(network, cache, fresh, options)
        chosen = torch.multinomial((log_ref + beta * total).softmax(-1), 1)
        fresh = options.gather(1, chosen)
        tokens = torch.cat([tokens, fresh], 1)
    written: list[list[int]] = tokens[:, len(prompt) :].tolist()
    return written


def _siblings(network: ValueModel, cache: DynamicCache, fresh: Tensor, options: Tensor) -> Tensor:
    """V [B, K] of the candidates `options` [B, K] behind the tokens `fresh` [B, q]."""
    assert network.trunk is not None
    known, read, count = cache.get_seq_length(), fresh.shape[1], options.shape[1]
    place = fresh.device
    mask = torch.ones(read + count, known + read + count, device=place).tril(known)
    mask[read:, known + read :] = torch.eye(count, device=place)
    steps = torch.arange(known, known + read, device=place)
    positions = torch.cat([steps, torch.full((count,), known + read, device=place)])
    output = network.trunk(
        input_ids=torch.cat([fresh, options], 1),
        attention_mask=mask.log()[None, None].expand(len(fresh), -1, -1, -1),
        position_ids=positions.expand(len(fresh), -1),
        **{CACHE: cache},
    )
    cache.crop(-count)
    return network.state_values(output.last_hidden_state[:, read:])[..., 0]


def sampled(
    model: PreTrainedModel, prompts: Sequence[Sequence[int]], new: int, top_k: int
) -> Tensor:
    """`generate` of transformers on a left-padded batch: [B, longest + new]."""
    rows = [torch.tensor(list(prompt), device=model.device) for prompt in prompts]
    tokens = pad_sequence(rows, batch_first=True, padding_side="left")
    mask = pad_sequence([torch.ones_like(row) for row in rows], True, padding_side="left")
    output: Tensor = model.generate(  # type: ignore[operator]
        input_ids=tokens,
        attention_mask=mask,
        do_sample=True,
        top_k=top_k,
        max_new_tokens=new,
        pad_token_id=0,
    )
    return output


# (prefix, copies, new tokens) -> what was written behind the prefix, one list a copy
Writer = Callable[[list[int], int, int], list[list[int]]]


def grow(prompt: list[int], shape: Shape, seed: int, write: Writer) -> int:
    """Grow a tree node by node, siblings side by side; return how many tokens were written.

    Siblings have one length, as they run in one batch; else the lengths follow the shape's rule.
    """
    tokens, queue = 0, [(list(prompt), 0, 0)]
    while queue:
        prefix, level, used = queue.pop()
        length = shape.segment((seed, len(queue), tokens), level, used)
        count = shape.branching[level]
        for written in write(prefix, count, length):
            tokens += length
            if used + length < shape.max_tokens:
                queue.append((prefix + written, level + 1, used + length))
    return tokens


def paths(tree: Tree) -> list[list[int]]:
    """The whole token sequence up to the end of every node but the root."""
    whole: list[list[int]] = []
    for node, up in enumerate(tree.parent):
        before = [] if up == NO_PARENT else whole[up]
        whole.append(before + tree.tokens[tree.start[node] : tree.start[node + 1]].tolist())
    return whole[1:]


Lesson = tuple[Tree, Floats]  # a tree of T tokens and its targets [T, 1]


def train(network: ValueModel, lessons: Sequence[Lesson], batch: int) -> float:
    """Squared error at every node's end and its gradient, a right-padded row per node."""
    assert network.trunk is not None
    ends = torch.cat([torch.from_numpy(t[tree.start[2:] - 1]) for tree, t in lessons])
    rows = [torch.tensor(path) for tree, _ in lessons for path in paths(tree)]
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))
    total = 0.0
    for chunk in torch.split(order, batch):
        some = [rows[i] for i in chunk]
        last = torch.tensor([len(row) - 1 for row in some])
        tokens = pad_sequence(some, batch_first=True)
        mask = pad_sequence([torch.ones_like(row) for row in some], batch_first=True)
        output = network.trunk(input_ids=tokens, attention_mask=mask, use_cache=False)
        value = network.state_values(output.last_hidden_state[torch.arange(len(some)), last])
        loss = (value - ends[chunk]).square().sum() / len(rows)
        loss.backward()  # type: ignore[no-untyped-call]
        total += loss.item()
    return total
