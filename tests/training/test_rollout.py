"""Trees are the same whatever grows beside them, and say what the policy really did."""

from dataclasses import replace

import numpy as np
import pytest

from mavis.decoding.decode import decode
from mavis.decoding.policy import GuidedPolicy
from mavis.decoding.request import Request, SamplingParams
from mavis.training.pack_candidates import with_candidates
from mavis.training.packing import pack_tree
from mavis.training.rollout import Shape, grow
from mavis.training.targets import soft_targets
from mavis.training.tree import read_tree, tree_row

PROMPTS = ("an ant in a tin", "hats", "a sane man and his ant: tens")
SHAPE = Shape((2, 2, 2), 8)
SEED = (7, 1)


@pytest.fixture(scope="module")
def policies(tiny_reference, tiny_network):
    """The reference policy, and one guided by each source of values."""
    guided = {
        source: GuidedPolicy(tiny_reference, (tiny_network(tiny_reference, source),))
        for source in ("action", "state", "shared")
    }
    return {"reference": GuidedPolicy(tiny_reference), **guided}


@pytest.fixture(scope="module")
def forest(policies):
    """Each policy's trees."""
    return {name: trees(policy) for name, policy in policies.items()}


def sampling(policy, top_k=12):
    return SamplingParams((1.0,) * len(policy.objectives), 0.7, 1.1, top_k)


def trees(policy, prompts=PROMPTS, rows=8, shape=SHAPE, seed=SEED):
    grown = dict(grow(policy, prompts, shape, [sampling(policy)] * len(prompts), seed, rows))
    assert sorted(grown) == list(range(len(prompts)))
    return [grown[index] for index in range(len(prompts))]


def same(left, right):
    for one, other in zip(left, right, strict=True):
        assert one.tokens.tolist() == other.tokens.tolist()
        assert one.start.tolist() == other.start.tolist()
        assert one.parent.tolist() == other.parent.tolist()
        assert one.responses == other.responses
        assert one.reasons == other.reasons
        np.testing.assert_allclose(one.log_ratio, other.log_ratio, atol=1e-4)


@pytest.mark.parametrize("name", ["reference", "action", "state", "shared"])
def test_what_grows_beside_a_tree_is_no_matter(policies, forest, name):
    policy, expected = policies[name], forest[name]
    for rows in (3, 64):
        same(trees(policy, rows=rows), expected)
    same(trees(policy, PROMPTS[::-1])[::-1], expected)
    same(trees(policy, PROMPTS[2:3]), expected[2:3])


def test_a_prompt_twice_is_the_same_tree_twice(policies):
    one, two = trees(policies["action"], ("hats", "hats"))
    same([one], [two])


def test_seed_and_round_change_the_trees(policies, forest):
    for seed in ((8, 1), (7, 2)):
        other = trees(policies["reference"], seed=seed)
        assert other[0].tokens.tolist() != forest["reference"][0].tokens.tolist()


def test_the_values_change_the_trees(forest):
    assert forest["action"][0].tokens.tolist() != forest["reference"][0].tokens.tolist()


def children_of(tree):
    found = [[] for _ in tree.parent]
    for node, up in enumerate(tree.parent):
        if up >= 0:
            found[up].append(node)
    return found


def spoken(tree, leaf):
    """Tokens of the response that ends in a leaf."""
    said = []
    while leaf > 0:
        said = [*tree.tokens[tree.start[leaf] : tree.start[leaf + 1]].tolist(), *said]
        leaf = tree.parent[leaf]
    return said


@pytest.mark.parametrize("branching", [(2, 2), (3, 2, 2), (1, 1), (4, 1, 2, 3)])
def test_shape(policies, branching):
    ends = policies["reference"].reference.ends
    grown = trees(policies["reference"], shape=Shape(branching, 9))
    for tree, prompt in zip(grown, PROMPTS, strict=True):
        start = policies["reference"].reference.encode(prompt).tokens
        assert tree.prompt == prompt
        assert tree.tokens[: tree.start[1]].tolist() == start
        children = children_of(tree)
        assert len(children[0]) == branching[0]
        assert (np.diff(tree.start) > 0).all()
        for leaf, reason in zip(tree.leaves, tree.reasons, strict=True):
            said = spoken(tree, leaf)
            assert (said[-1] in ends) == (reason == "end")
            assert not ends & set(said[:-1])
            assert len(said) == 9 if reason == "length" else len(said) <= 9
        leaves = set(tree.leaves.tolist())
        for node, below in enumerate(children):
            assert (not below) == (node in leaves)
            level = depth_of(tree, node)
            split = level == 1 and len(below) == 1  # a response that ended on the first level
            assert not below or split or len(below) == branching[level]


def depth_of(tree, node):
    level = 0
    while tree.parent[node] >= 0:
        node, level = tree.parent[node], level + 1
    return level


def test_every_tree_has_two_levels(policies):
    """Also where the policy ends nearly at once: only a response of one token cannot be cut."""
    grown = trees(policies["reference"], [p * 2 for p in "abnstumieh"], shape=Shape((4, 2), 12))
    for tree in grown:
        for leaf in tree.leaves:
            assert depth_of(tree, leaf) >= 2 or len(spoken(tree, leaf)) == 1


def test_responses_are_what_the_tokens_spell(policies, forest):
    decoded = policies["action"].reference.decode
    for tree in forest["action"]:
        assert tree.responses == [decoded(spoken(tree, leaf)) for leaf in tree.leaves]


@pytest.mark.parametrize("name", ["reference", "action", "state", "shared"])
def test_log_ratio_is_that_of_full_forwards(policies, forest, naive, name):
    """Over the candidates: log π − log π_ref(·|C), by one plain forward per state."""
    policy, tree = policies[name], forest[name][1]
    plain = naive(policy.reference, policy.guides)
    previous = tree.previous()
    for place in range(tree.start[1], len(tree.tokens)):
        path, up = [], previous[place]
        while up >= 0:
            path.insert(0, int(tree.tokens[up]))
            up = previous[up]
        step = plain.step(path, sampling(policy))
        token = int(tree.tokens[place])
        expected = step.log_pi[token] - step.log_ref[token] - step.truncation
        assert tree.log_ratio[place] == pytest.approx(expected, abs=1e-4)
        if name == "reference":
            assert tree.log_ratio[place] == pytest.approx(0.0, abs=1e-5)
    assert (tree.log_ratio[: tree.start[1]] == 0).all()


@pytest.mark.parametrize("name", ["reference", "action", "state", "shared"])
def test_forked_is_fresh(policies, forest, name):
    """A segment that went on from a copied row is the one that a row of its own would write."""
    policy = policies[name]
    for tree, prompt in zip(forest[name], PROMPTS, strict=True):
        start = policy.reference.encode(prompt)
        children = children_of(tree)
        jobs = []
        for node in range(1, len(tree.parent)):
            path, up = [], node
            while up > 0:
                path.insert(0, children[tree.parent[up]].index(up))
                up = tree.parent[up]
            if len(path) > 1 and len(children[tree.parent[node]]) == 1:
                continue  # the second half of a response that was cut in two
            before = [*start.tokens, *spoken(tree, tree.parent[node])]
            said = tree.tokens[tree.start[node] : tree.start[node + 1]].tolist()
            if len(path) == 1 and len(children[node]) == 1:
                continue  # its first half
            key = (*SEED, *start.tokens, "tree", *path)
            jobs.append(Request(before, len(said), sampling(policy), key, start.stop, tag=said))
        for span in decode(policy.reference, policy.guides, jobs, rows=5):
            assert span.tokens == span.request.tag


@pytest.mark.parametrize(
    ("branching", "max_tokens", "message"),
    [
        ((2,), 8, "branching must be at least two levels"),
        ((2, 0), 8, r"got \[2, 0\]"),
        ((), 8, "branching"),
        ((2, 2), 1, "max_tokens must be at least 2, got 1"),
        ((2, 2), -4, "max_tokens must be at least 2, got -4"),
    ],
)
def test_no_tree(branching, max_tokens, message):
    with pytest.raises(ValueError, match=message):
        Shape(branching, max_tokens)


def test_segments_are_random_in_length():
    shape = Shape((2, 2, 2, 2), 32)
    lengths = [shape.segment((0, n), 1, 0) for n in range(300)]
    assert min(lengths) == 1
    assert max(lengths) == 15
    assert abs(np.mean(lengths) - 8) < 4.5 * np.sqrt((15**2 - 1) / 12 / 300)  # 1 seed in 150,000
    assert shape.segment((0, 0), 3, 10) == 22
    assert shape.segment((0, 0), 1, 31) == 1


@pytest.mark.parametrize("name", ["reference", "action"])
@pytest.mark.parametrize("most", [5, 64])
def test_candidates_that_are_kept_are_those_of_the_reference(policies, name, most):
    """Wherever a token was sampled, as a reading of the finished tree finds them."""
    policy = policies[name]
    asked = [sampling(policy)] * len(PROMPTS)
    kept = dict(grow(policy, PROMPTS, SHAPE, asked, SEED, 8, most))
    same([kept[at] for at in range(len(PROMPTS))], trees(policy))  # they change nothing else
    for tree in kept.values():
        (tree,) = [read_tree(tree_row(0, tree), np.zeros((len(tree.leaves), 1), np.float32))]
        assert tree.candidates.tokens.shape == (len(tree.tokens) - tree.start[1], min(most, 12))
        targets = soft_targets(tree, tree.rewards, 0.0)
        for cap in (1_000, 12):  # whole, and in parts
            packs = pack_tree(tree, targets, cap)
            bare = pack_tree(replace(tree, candidates=None), targets, cap)
            ((*read,),) = with_candidates([bare], policy.reference, SamplingParams((), 1, 1.1, 12))
            for pack, other in zip(packs, read, strict=True):
                at = pack.previous[pack.position >= pack.prompt_length]
                width = pack.candidates.shape[1]
                assert (pack.candidates[at] == other.candidates[at, :width]).all()
                np.testing.assert_allclose(pack.log_ref[at], other.log_ref[at, :width], atol=1e-4)


def test_trees_that_know_their_candidates_are_not_read_again(policies):
    policy = policies["reference"]
    asked = [sampling(policy)] * len(PROMPTS)
    tree = dict(grow(policy, PROMPTS, SHAPE, asked, SEED, 8, 4))[0]
    tree = replace(tree, rewards=np.zeros((len(tree.leaves), 1), np.float32))
    targets = soft_targets(tree, tree.rewards, 0.0)
    known = pack_tree(tree, targets, 1_000)
    bare = pack_tree(replace(tree, candidates=None), targets, 1_000)
    how = SamplingParams((), 1, 1.1, 4)
    alone, mixed = with_candidates([known, [*known, *bare]], policy.reference, how)
    assert alone[0].candidates is known[0].candidates
    assert [pack.candidates.shape for pack in mixed] == [known[0].candidates.shape] * 2
