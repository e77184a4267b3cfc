"""Soft policy improvement on a tiny decision process that is solved by enumeration.

V tokens, a fixed horizon, a random reference policy and random rewards of the V^H responses. The
targets are those of `soft_targets` and the policy that of `tilt`; what they are held against is
dynamic programming in numpy. The exact target of (s, a) is the mean of the targets that the
responses through (s, a) give it, weighted by how likely the policy is to write them: what rollouts
of ever more trees converge to.
"""

from itertools import product

import numpy as np
import pytest
import torch

from mavis.decoding.tilt import tilt
from mavis.training.targets import soft_targets
from mavis.training.tree import Segment, build_tree


class World:
    """All responses of H tokens out of V, what the reference thinks of them, and their rewards."""

    def __init__(self, seed, vocabulary, horizon, eta):
        random = np.random.default_rng(seed)
        self.vocabulary, self.horizon, self.eta = vocabulary, horizon, eta
        self.leaves = list(product(range(vocabulary), repeat=horizon))
        self.reward = dict(zip(self.leaves, random.normal(size=len(self.leaves)), strict=True))
        self.states = [s for t in range(horizon) for s in product(range(vocabulary), repeat=t)]
        logits = 1.5 * random.normal(size=(len(self.states), vocabulary))
        self.log_ref = {
            s: z - np.log(np.exp(z).sum()) for s, z in zip(self.states, logits, strict=True)
        }

    def ratio(self, policy, leaf):
        """log π/π_ref of every token of a response."""
        return [
            float((policy[leaf[:t]] - self.log_ref[leaf[:t]])[leaf[t]]) for t in range(len(leaf))
        ]

    def chance(self, policy, leaf, start=0):
        return float(np.exp(sum(policy[leaf[:t]][leaf[t]] for t in range(start, len(leaf)))))

    def value(self, policy):
        """E[reward] − η KL, over all responses."""
        return sum(
            self.chance(policy, leaf)
            * (self.reward[leaf] - self.eta * sum(self.ratio(policy, leaf)))
            for leaf in self.leaves
        )

    def evaluate(self, policy, whole_path=False):
        """Q [V] of every state, by `soft_targets` of all responses."""
        q = {s: np.zeros(self.vocabulary) for s in self.states}
        for leaf in self.leaves:
            ratio = self.ratio(policy, leaf)
            # A tree of one branch, cut anywhere.
            stem, end = (list(leaf[:1]), ratio[:1]), (list(leaf[1:]), ratio[1:])
            segments = {(): Segment([99], [0.0]), (0,): Segment(*stem)}
            tree = build_tree("", segments | {(0, 0): Segment(*end, "x", "end")})
            rewards = np.array([[self.reward[leaf]]], np.float32)
            targets = soft_targets(tree, rewards, self.eta)[1:, 0]
            for t in range(self.horizon):
                paid = self.eta * sum(ratio[: t + 1]) if whole_path else 0.0
                below = self.chance(policy, leaf, t + 1)
                q[leaf[:t]][leaf[t]] += below * (targets[t] - paid)
        return q

    def improve(self, q, beta):
        """π ∝ π_ref exp(β q), by `tilt`."""
        policy = {}
        for s in self.states:
            log_ref = torch.tensor(self.log_ref[s])[None]
            values, one = torch.tensor(q[s])[None, :, None], torch.ones(1, 1)
            tilted = tilt(log_ref, values, one, torch.tensor([beta]))[0].double()
            policy[s] = (tilted - tilted.logsumexp(0)).numpy()
        return policy

    def optimum(self):
        """π* and Q* by backward dynamic programming with the soft maximum."""
        q, value = {}, dict(self.reward)
        for s in reversed(self.states):
            q[s] = np.array([value[(*s, a)] for a in range(self.vocabulary)])
            value[s] = self.eta * np.log(np.exp(self.log_ref[s] + q[s] / self.eta).sum())
        best = {s: self.log_ref[s] + (q[s] - value[s]) / self.eta for s in self.states}
        return best, q, value[()]


WORLDS = [(0, 4, 3, 1.0), (1, 4, 4, 0.5), (2, 6, 3, 0.25), (3, 3, 5, 0.5)]


def rounds(world, count, beta, whole_path=False):
    policy, values = world.log_ref, []
    for _ in range(count):
        values.append(world.value(policy))
        policy = world.improve(world.evaluate(policy, whole_path), beta)
    return policy, [*values, world.value(policy)]


@pytest.fixture(params=WORLDS, ids=str)
def world(request):
    return World(*request.param)


def test_the_reference_policy_solution_of_the_world(world):
    """The reference here is right by itself: π* is better than any policy that is tried."""
    best, _, top = world.optimum()
    assert world.value(best) == pytest.approx(top)
    random = np.random.default_rng(0)
    for _ in range(20):
        other = {}
        for s in world.states:
            z = best[s] + 0.3 * random.normal(size=world.vocabulary)
            other[s] = z - np.log(np.exp(z).sum())
        assert world.value(other) < top


def test_rounds_improve_and_converge(world):
    best, q_best, top = world.optimum()
    policy, values = rounds(world, world.horizon + 2, 1 / world.eta)
    steps = np.diff(values)
    assert (steps > -1e-6).all()
    assert steps[0] > 0.01
    assert values[-1] == pytest.approx(top, abs=1e-5)
    q = world.evaluate(policy)
    for s in world.states:
        np.testing.assert_allclose(np.exp(policy[s]), np.exp(best[s]), atol=1e-4)
        # π*(a|s) ∝ π_ref(a|s) exp(Q*(s, a) / η)
        np.testing.assert_allclose(q[s], q_best[s], atol=1e-4)


def test_most_of_it_comes_first(world):
    """Round 0 reaches most of the way, and one more round nearly all of the rest."""
    _, _, top = world.optimum()
    _, values = rounds(world, 2, 1 / world.eta)
    share = (np.array(values) - values[0]) / (top - values[0])
    assert share[1] > 0.75
    assert share[2] > 0.93


def test_charging_the_whole_path_does_not_converge(world):
    """Q becomes Q − ηβ Q_k: with β = 1/η every round takes the last one back."""
    _, _, top = world.optimum()
    _, good = rounds(world, 5, 1 / world.eta)
    _, bad = rounds(world, 5, 1 / world.eta, whole_path=True)
    assert (np.diff(bad) < -0.01).any()
    assert top - bad[-1] > 100 * (top - good[-1]) + 0.01
    # The first rollouts are the reference's: there is nothing to charge, so no difference.
    assert bad[1] == pytest.approx(good[1])


def test_trees_converge_to_the_exact_targets():
    """Targets of sampled trees are unbiased, for every token, not only at the ends of segments.

    For each (s, a) the targets of different nodes are independent, given (s, a). Ten to twenty
    means are held to 4.5 standard errors: a right program fails for fewer than 1 seed in 5,000.
    """
    world = World(6, 4, 3, 0.5)
    policy, _ = rounds(world, 1, 0.3)  # a guided policy, so that there is something to charge
    exact = world.evaluate(policy)
    random = np.random.default_rng(7)
    seen = {(s, a): [] for s in world.states[:5] for a in range(4)}
    for _ in range(1000):
        tree, said = sample_tree(world, policy, random)
        rewards = np.array([[world.reward[leaf]] for leaf in said], np.float32)
        targets = soft_targets(tree, rewards, world.eta)[:, 0]
        previous = tree.previous()
        for place in range(1, len(tree.tokens)):
            state, up = [], previous[place]
            while up > 0:
                state.insert(0, int(tree.tokens[up]))
                up = previous[up]
            if len(state) < 2:
                seen[tuple(state), int(tree.tokens[place])].append(float(targets[place]))
    tried = 0
    for (s, a), found in seen.items():
        if len(found) >= 50:
            error = np.std(found, ddof=1) / np.sqrt(len(found))
            assert abs(np.mean(found) - exact[s][a]) < 4.5 * error + 1e-6
            tried += 1
    assert tried >= 10  # the policy hardly ever says the others


def sample_tree(world, policy, random):
    """A tree of two children per node, after segments of random length."""
    segments = {(): Segment([99], [0.0])}
    said = {}

    def add(path, before):
        left = world.horizon - len(before)
        size = left if len(path) == 2 else int(random.integers(1, left))
        now = list(before)
        for _ in range(size):
            now.append(int(random.choice(world.vocabulary, p=np.exp(policy[tuple(now)]))))
        ratio = world.ratio(policy, tuple(now))[len(before) :]
        tokens = now[len(before) :]
        if len(now) == world.horizon:
            segments[path] = Segment(tokens, ratio, "x", "length")
            said[path] = tuple(now)
            return
        segments[path] = Segment(tokens, ratio)
        for child in range(2):
            add((*path, child), now)

    for child in range(2):
        add((child,), [])
    return build_tree("", segments), [said[path] for path in sorted(said)]
