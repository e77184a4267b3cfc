"""Packs: one forward of a pack is one forward per path of the tree, gradients and all."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from losses_of_each import value_losses

from mavis.reward import Units
from mavis.training.batching import batches, collate, tree_mask
from mavis.training.module import ValueModule
from mavis.training.packing import FREAK, Pack, pack_tree, round_packs
from mavis.training.tree import Segment, build_tree

PROMPT = [5, 9, 3, 7]


def make_tree(seed=0, levels=3, prompt=PROMPT, longest=4):
    random = np.random.default_rng(seed)
    segments = {(): Segment(list(prompt), [0.0] * len(prompt))}

    def add(path):
        tokens = random.integers(3, 40, random.integers(1, longest + 1)).tolist()
        leaf = len(path) == levels
        segments[path] = Segment(tokens, [0.0] * len(tokens), *(("said", "end") if leaf else ()))
        for child in range(0 if leaf else 2):
            add((*path, child))

    for child in range(3):
        add((child,))
    return build_tree("p", segments)


def targets_for(tree, seed=0):
    targets = np.random.default_rng(seed).normal(size=(len(tree.tokens), 1)).astype(np.float32)
    targets[-2] = np.nan  # as of a leaf that abstained
    return targets


def path_to(tree, place):
    path, previous = [], tree.previous()
    while place >= 0:
        path.append(place)
        place = previous[place]
    return path[::-1]


def module_for(reference, network):
    module = ValueModule(source=network.card.source)
    module.network = network
    # What `forward` asks for beside the network, without a Trainer around it.
    module._trainer = SimpleNamespace(datamodule=SimpleNamespace(reference=reference))
    return module


def path_by_path(reference, network, tree):
    """Each response token's value [T], from a row of its own that ends in it; no mask, no pack."""
    values = {}
    for place in range(tree.start[1], len(tree.tokens)):
        tokens = tree.tokens[path_to(tree, place)]
        read = tokens if network.card.source == "state" else tokens[:-1]
        model = reference.model.base_model if network.trunk is None else network.trunk
        ids = torch.tensor([read.tolist()])
        output = model(input_ids=ids, output_hidden_states=True, use_cache=False)
        hidden = output.last_hidden_state
        if network.card.layers:
            inner = [output.hidden_states[at] for at in network.card.layers]
            hidden = torch.cat([h / h.square().mean(-1, keepdim=True).sqrt() for h in inner], -1)
        if network.card.source == "state":
            values[place] = network.head.state(hidden[0, -1])[0]
        else:
            action = torch.tensor([int(tokens[-1])])
            values[place] = network.head(hidden[0, -1], action, network.table)[0, 0]
    return values


def gradients(network, loss):
    network.zero_grad()
    loss.backward()
    found = {n: p.grad.clone() for n, p in network.named_parameters() if p.grad is not None}
    assert found
    return found


@pytest.mark.parametrize(
    ("source", "layers"),
    [("action", ()), ("state", ()), ("shared", ()), ("shared", (1, 0)), ("shared", (3,))],
)
def test_packed_is_path_by_path(build_reference, tiny_network, family, source, layers):
    reference = build_reference(family, layers=3)
    network = tiny_network(reference, source, layers=layers)  # in eval mode: no dropout
    module = module_for(reference, network)
    tree = make_tree()
    targets = targets_for(tree)
    plain = path_by_path(reference, network, tree)
    known = [place for place in plain if np.isfinite(targets[place, 0])]
    naive = torch.stack([(plain[p] - float(targets[p, 0])) ** 2 for p in known]).mean()
    expected = gradients(network, naive)

    packs = pack_tree(tree, targets, cap=18)
    assert len(packs) > 1
    batch = collate(packs)
    predicted = module(batch)
    (loss,) = value_losses(predicted, batch.targets)
    assert loss.item() == pytest.approx(naive.item(), abs=1e-5)
    found = gradients(network, loss)

    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=2e-5, rtol=1e-4, msg=name)


def test_padding_is_no_matter(tiny_reference, tiny_network):
    network = tiny_network(tiny_reference, "state")
    module = module_for(tiny_reference, network)
    tree = make_tree()
    small, *_, large = sorted(pack_tree(tree, targets_for(tree), 16), key=lambda p: len(p.tokens))
    assert len(small.tokens) < len(large.tokens)
    both = collate([small, large])
    alone = collate([small])
    size = len(small.tokens)
    torch.testing.assert_close(module(both)[0, :size], module(alone)[0], atol=1e-5, rtol=1e-5)
    wild = both._replace(tokens=both.tokens.clone())
    wild.tokens[0, size:] = 11
    torch.testing.assert_close(module(wild)[0, :size], module(both)[0, :size], atol=0, rtol=0)
    alike = gradients(network, value_losses(module(both)[:1], both.targets[:1]))
    wanted = gradients(network, value_losses(module(alone), alone.targets))
    for name, gradient in wanted.items():
        torch.testing.assert_close(alike[name], gradient, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("cap", [1, 7, 12, 20, 30, 1000])
def test_every_token_is_supervised_once(cap, seed):
    tree = make_tree(seed)
    targets = targets_for(tree, seed)
    packs = pack_tree(tree, targets, cap)
    seen = np.concatenate([p.targets[np.isfinite(p.targets)] for p in packs])
    expected = targets[tree.start[1] :]
    assert sorted(seen) == sorted(expected[np.isfinite(expected)])
    families = np.concatenate([p.siblings[p.siblings >= 0] for p in packs])
    assert sorted(families) == sorted(tree.parent[1:])
    longest = max(len(path_to(tree, tree.start[leaf + 1] - 1)) for leaf in tree.leaves)
    assert all(len(pack.tokens) <= max(cap, longest) for pack in packs)
    if cap == 1000:
        assert len(packs) == 1
        assert packs[0].tokens.tolist() == tree.tokens.tolist()


def test_a_pack_keeps_paths_whole():
    tree = make_tree()
    for pack in pack_tree(tree, targets_for(tree), 16):
        assert pack.position[0] == 0
        assert pack.previous[0] == -1
        for place in range(1, len(pack.tokens)):
            before = pack.previous[place]
            assert 0 <= before < place
            assert pack.position[place] == pack.position[before] + 1
        assert pack.tokens[: len(PROMPT)].tolist() == PROMPT
        assert np.isnan(pack.targets[: len(PROMPT)]).all()


def test_families_of_trees_are_apart():
    tree = make_tree()
    first = pack_tree(tree, targets_for(tree), 1000)
    second = pack_tree(tree, targets_for(tree), 1000, family=len(tree.parent))
    names = [set(p.siblings[p.siblings >= 0]) for p in (*first, *second)]
    assert not names[0] & names[1]


def test_a_token_sees_its_ancestors():
    previous = np.array([-1, 0, 1, 1, 3])
    expected = [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 1, 0, 1, 0],
        [1, 1, 0, 1, 1],
    ]
    assert tree_mask(previous).astype(int).tolist() == expected


def test_depth_counts_the_response():
    tree = make_tree()
    batch = collate(pack_tree(tree, targets_for(tree), 1000))
    assert batch.depth[0, len(PROMPT) - 1] == -1
    assert batch.depth[0, len(PROMPT)] == 0


@pytest.mark.parametrize("cap", [1, 12, 20, 1000])
def test_leaves_paths_and_prices(cap):
    """Every response ends in one pack, which shows all of its tokens, with what each costs."""
    tree = make_tree()
    tree.log_ratio[:] = np.random.default_rng(1).normal(size=len(tree.tokens))
    tree.log_ratio[: len(PROMPT)] = 0.0
    targets = targets_for(tree)
    batch = collate(pack_tree(tree, targets, cap, eta=0.5))
    found = []
    for pack, place in batch.leaf.nonzero().tolist():
        path = batch.path[pack, place].nonzero()[:, 0]
        tokens, price = batch.tokens[pack, path].tolist(), batch.price[pack, path]
        found.append((tokens, price.double().sum().item()))
        assert batch.depth[pack, path].tolist() == list(range(len(path)))
    wanted = []
    for leaf in tree.leaves:
        path = path_to(tree, tree.start[leaf + 1] - 1)[len(PROMPT) :]
        wanted.append((tree.tokens[path].tolist(), 0.5 * tree.log_ratio[path].sum()))
    for (tokens, price), (its, paid) in zip(sorted(found), sorted(wanted), strict=True):
        assert tokens == its
        assert price == pytest.approx(paid, abs=1e-5)
    assert batch.start.shape == (len(batch.tokens), 1)
    assert (batch.start == targets[len(PROMPT) - 1]).all()
    assert (batch.path.sum(-1)[batch.depth < 0] == 0).all()  # of the prompt, and of padding


def test_a_freak_reply_counts_for_five_units():
    """It stays the best, and moves the targets above it no further."""
    tree, units = make_tree(), (Units(1.0, 2.0), Units(0.0, 1.0))
    raw = np.random.default_rng(0).normal(size=(len(tree.leaves), 2)).astype(np.float32)
    raw[3], raw[5, 1] = (1e6, -80.0), np.nan
    packs = round_packs([replace(tree, rewards=raw)], units, [0.0], 1000)
    near = np.where(np.isnan(raw), raw, raw.clip([-9.0, -5.0], [11.0, 5.0]))
    (expected,) = round_packs([replace(tree, rewards=near.astype(np.float32))], units, [0.0], 1000)
    np.testing.assert_allclose(packs[0].targets, expected.targets, rtol=1e-6)
    at = int(tree.start[tree.leaves[3] + 1]) - 1
    assert packs[0].targets[at].tolist() == [FREAK, -FREAK]
    assert np.nanmax(packs[0].targets) == FREAK


def bare(size):
    zeros = np.zeros(size, dtype=np.int64)
    targets, start = np.zeros((size, 1), np.float32), np.zeros(1, np.float32)
    return Pack(zeros, zeros - 1, zeros, targets, zeros - 1, 1, start, targets[:, 0], start)


def test_batches_stay_within_the_budget():
    sizes = np.random.default_rng(0).integers(5, 130, 60)
    packs = [bare(size) for size in sizes] + [bare(300)]
    groups = batches(packs, 256, (0, 1))
    assert sorted(id(p) for group in groups for p in group) == sorted(map(id, packs))
    for group in groups:
        assert len(group) == 1 or len(group) * max(len(p.tokens) for p in group) <= 256
    again = batches(packs, 256, (0, 1))
    shape = [[len(p.tokens) for p in group] for group in groups]
    assert [[len(p.tokens) for p in group] for group in again] == shape
    other = batches(packs, 256, (0, 2))
    assert [[len(p.tokens) for p in group] for group in other] != shape
    # Packs of like length stand together: little is padding.
    padded = sum(len(group) * max(len(p.tokens) for p in group) for group in groups)
    assert padded < 1.35 * sum(len(p.tokens) for p in packs)
