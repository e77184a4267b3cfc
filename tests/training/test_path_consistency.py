"""Path consistency, against all replies of a small vocabulary, written out."""

from itertools import product

import numpy as np
import pytest
import torch

from mavis.training.batching import collate
from mavis.training.packing import pack_tree
from mavis.training.path_consistency import PathLoss, path_targets
from mavis.training.targets import soft_targets
from mavis.training.tree import Segment, build_tree

SIZE, LENGTH = 3, 2  # tokens of the vocabulary, and of a reply
REPLIES = list(product(range(SIZE), repeat=LENGTH))
CONFLICT = ((1.0, -0.5), (-0.5, 1.0))


class World:
    """A reference policy and M rewards of every reply, drawn at random."""

    def __init__(self, seed, outputs):
        random = np.random.default_rng(seed)
        self.first = random.dirichlet(np.ones(SIZE))
        self.second = random.dirichlet(np.ones(SIZE), size=SIZE)
        self.rewards = {reply: random.normal(size=outputs) for reply in REPLIES}

    def mixed(self, weights):
        """The rewards of the mix [SIZE, SIZE], first token by second."""
        found = [np.dot(weights, self.rewards[reply]) for reply in REPLIES]
        return np.array(found).reshape(SIZE, SIZE)

    def best(self, weights, beta):
        """Soft values of the best policy: of first tokens [SIZE], and of second ones."""
        second = self.mixed(weights)
        first = np.log((self.second * np.exp(beta * second)).sum(1)) / beta
        return first, second

    def batch(self, replies, lost=()):
        """A pack of some replies to the prompt (9), with every token's candidates.

        Rewards of (reply, objective) in `lost` are not known.
        """
        firsts = sorted({reply[0] for reply in replies})
        segments = {(): Segment([9], [0.0])}
        for at, token in enumerate(firsts):
            segments[at,] = Segment([token], [0.3])  # a policy that is not the reference
            ends = [reply[1] for reply in replies if reply[0] == token]
            for end, last in enumerate(ends):
                segments[at, end] = Segment([last], [-0.2], "said", "end")
        tree = build_tree("p", segments)
        order = [(t, r[1]) for t in firsts for r in replies if r[0] == t]
        rewards = np.array([self.rewards[reply] for reply in order], dtype=np.float32)
        for reply, objective in lost:
            rewards[order.index(reply), objective] = np.nan
        (pack,) = pack_tree(tree, soft_targets(tree, rewards, 0.0), 100)
        ids = np.tile(np.arange(SIZE, dtype=np.int32), (len(pack.tokens), 1))
        after = [self.first, *(self.second[t] for t in pack.tokens[1:])]
        # Of a whole vocabulary, of which these candidates have 60 %.
        log_ref = np.log(0.6 * np.stack(after)).astype(np.float32)
        return collate([replace(pack, candidates=ids, log_ref=log_ref)])


def replace(pack, **changes):
    return type(pack)(**(vars(pack) | changes))


def values_of(batch, first, second):
    """Values of the tokens themselves [1, T, M], and of candidates [1, T, SIZE, M].

    Args:
        batch: of a world.
        first: values of first tokens [SIZE, M].
        second: of second ones [SIZE, SIZE, M].
    """
    tokens, depth = batch.tokens[0], batch.depth[0]
    taken, options = torch.zeros(len(tokens), first.shape[-1]), []
    for at, token in enumerate(tokens):
        before = int(tokens[batch.previous[0, at]])
        if depth[at] >= 0:
            taken[at] = first[token] if depth[at] == 0 else second[before, token]
        options.append(second[token] if depth[at] == 0 else first)
    return taken[None], torch.stack(options)[None]


def tensors(*arrays):
    return [torch.tensor(array, dtype=torch.float32) for array in arrays]


@pytest.mark.parametrize("replies", [REPLIES, REPLIES[::2], [(2, 0), (2, 1)]])
@pytest.mark.parametrize("weights", [(1.0, 0.0), (0.3, 0.7), (-0.5, 1.0)])
def test_the_best_policy_s_values_are_their_own_targets(replies, weights):
    """Along whatever replies, of whichever policy, exactly."""
    world, beta = World(1, 2), 1.7
    best = tensors(*world.best(weights, beta))
    # Any values of two objectives whose mix is the best one.
    random = torch.Generator().manual_seed(0)
    λ = torch.tensor(weights)
    first, second = (torch.randn(*one.shape, 2, generator=random) for one in best)
    for values, wanted in zip((first, second), best, strict=True):
        values += ((wanted - values @ λ) / (λ @ λ))[..., None] * λ
    batch = world.batch(replies)
    taken, options = values_of(batch, first, second)
    found = path_targets(taken, options, batch, λ[None, None], torch.full((1, 1), beta))
    sampled = batch.depth >= 0
    torch.testing.assert_close(found[sampled][:, 0], (taken @ λ)[sampled], atol=1e-5, rtol=1e-5)
    assert found[~sampled].isnan().all()


def test_of_values_that_know_nothing_it_is_the_mean_reward_below():
    world = World(2, 1)
    batch = world.batch(REPLIES)
    nothing = torch.zeros(1, batch.tokens.shape[1], 1), torch.zeros(*batch.log_ref.shape, 1)
    found = path_targets(*nothing, batch, torch.ones(1, 1, 1), torch.ones(1, 1))[0, :, 0]
    wanted = world.mixed([1.0])
    depth, tokens = batch.depth[0], batch.tokens[0]
    for at in range(len(tokens)):
        if depth[at] == 0:
            assert float(found[at]) == pytest.approx(wanted[tokens[at]].mean(), abs=1e-5)


def test_weights_ask_for_rewards_that_are_known():
    world, lost = World(3, 2), ((0, 0), 1)
    replies = [(0, 0), (0, 1), (1, 2)]
    batch = world.batch(replies, [lost])
    taken, options = values_of(batch, torch.zeros(SIZE, 2), torch.zeros(SIZE, SIZE, 2))
    weights = torch.tensor([[[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]]])
    found = path_targets(taken, options, batch, weights, torch.ones(1, 3))[0]
    stem, unknown = 1, 2  # the token 0, and the reply (0, 0) after it
    assert found[unknown].isnan().tolist() == [False, True, True]
    alone = world.mixed([0.5, 0.5])[0, 1]  # the other reply's
    assert float(found[stem, 1]) == pytest.approx(alone, abs=1e-5)


class Table(torch.nn.Module):
    """Values of every state and token, as free parameters."""

    def __init__(self, *objectives):
        super().__init__()
        self.objectives = objectives
        self.first = torch.nn.Parameter(torch.zeros(SIZE, len(objectives)))
        self.second = torch.nn.Parameter(torch.zeros(SIZE, SIZE, len(objectives)))

    def action_values(self, hidden, tokens):
        """Of states [..., 1], which are −1 for the prompt and else the first token."""
        state = hidden[..., 0].long()
        rows = torch.where((state < 0)[..., None, None], self.first, self.second[state.clamp(0)])
        index = tokens.long().clamp(max=SIZE - 1)[..., None]
        return rows.gather(-2, index.expand(*tokens.shape, len(self.objectives)))


def states_of(batch):
    return torch.where(batch.depth < 0, -1, batch.tokens).float()[..., None]


def learned(world, covariance, *objectives):
    """A table that has learned from all replies, each once, and the weights it was asked at."""
    batch, asked = world.batch(REPLIES), set()

    def beta(weights):
        asked.add(weights)
        return 2.0

    table, loss = Table(*objectives), PathLoss(covariance, beta, seed=0)
    optimizer = torch.optim.Adam(table.parameters(), lr=0.05)
    for step in range(400):
        optimizer.zero_grad()
        loss(table, states_of(batch), batch, (step,)).backward()
        optimizer.step()
    return table.first.detach().numpy(), table.second.detach().numpy(), asked


@pytest.mark.parametrize("seed", range(3))
def test_any_replies_teach_the_best_policy(seed):
    """Exactly; their mean rewards, each reply being there once, are those of no policy at all."""
    world = World(seed, 1)
    first, second, asked = learned(world, ((1.0,),), "one")
    best = world.best((1.0,), 2.0)
    assert asked == {(1.0,)}
    np.testing.assert_allclose(second[..., 0], best[1], atol=0.01)
    np.testing.assert_allclose(first[:, 0], best[0], atol=0.02)
    assert np.abs(world.mixed([1.0]).mean(1) - best[0]).max() > 0.2


@pytest.mark.parametrize("seed", range(3))
def test_two_objectives_are_learned_for_all_weights(seed):
    """No sum of values is the best one for all weights, but the sums come near to it."""
    world = World(seed, 2)
    first, second, asked = learned(world, ((1.0, 0.0), (0.0, 1.0)), "one", "two")
    assert len(asked) > 100  # other weights in every step
    error, far = 0.0, 0.0
    for weights in ((1.0, 0.0), (0.0, 1.0), (0.5, 0.5)):
        best = world.best(weights, 2.0)
        mean = (world.second * world.mixed(weights)).sum(1)  # of the reference
        np.testing.assert_allclose(second @ weights, best[1], atol=0.05)
        error += np.abs(apart(first @ weights) - apart(best[0])).mean()
        far += np.abs(apart(mean) - apart(best[0])).mean()
    assert error < 0.75 * far


def apart(values):
    """What is the same for all tokens of a state bends no policy."""
    return values - values.mean()


def test_draws_of_weights_are_those_of_the_step():
    world = World(5, 2)
    batch = world.batch(REPLIES)
    states, table = states_of(batch), Table("one", "two")
    torch.nn.init.normal_(table.first)

    def found(seed, step):
        with torch.no_grad():
            return float(PathLoss(CONFLICT, lambda _: 2.0, seed)(table, states, batch, step))

    assert found(0, (1, 2)) == found(0, (1, 2))
    assert len({found(0, (1, 2)), found(0, (1, 3)), found(0, (2, 2)), found(1, (1, 2))}) == 4


def test_errors_count_by_how_much_the_mix_varies():
    """Else weights at which rewards cancel out would hardly count."""
    world = World(7, 2)
    batch = world.batch(REPLIES)
    found = []
    for scale in (1.0, 4.0):
        covariance = tuple(tuple(scale * one for one in row) for row in CONFLICT)
        loss = PathLoss(covariance, lambda _: 2.0, 0)
        found.append(loss(Table("one", "two"), states_of(batch), batch, (0,)).item())
    assert found[1] == pytest.approx(found[0] / 4)


def test_what_another_pack_shows_is_learned_there():
    world = World(6, 2)
    whole = world.batch(REPLIES)
    hidden = whole.targets.clone()
    hidden[0, 1] = torch.nan  # the first stem belongs to another pack
    cut = whole._replace(target_bits=hidden.view(torch.int32))
    states, table = states_of(whole), Table("one", "two")
    loss = PathLoss(CONFLICT, lambda _: 2.0, 0)
    for batch, learned in ((whole, True), (cut, False)):
        table.zero_grad()
        loss(table, states, batch, (0,)).backward()
        assert bool(table.first.grad[int(whole.tokens[0, 1])].any()) == learned
