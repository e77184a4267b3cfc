"""The head of joint credit: over rounds, over processes, and through a checkpoint."""

import io

import numpy as np
import pytest
import torch

from mavis.decoding.value_heads import ActionHead, StateHead
from mavis.training.batching import collate
from mavis.training.credit import Equations, Foresight
from mavis.training.joint_head import JointHead
from mavis.training.packing import pack_tree
from mavis.training.ridge import solve
from mavis.training.targets import soft_targets
from mavis.training.tree import Segment, build_tree

WIDTH, OUTPUTS = 5, 2


def batch_of(seed):
    """A tree in a batch, with the states after and before each of its tokens."""
    random = np.random.default_rng(seed)

    def segment(*ending):
        tokens = random.integers(3, 40, random.integers(1, 4)).tolist()
        return Segment(tokens, random.normal(size=len(tokens)).tolist(), *ending)

    segments = {(): Segment([1, 2], [0.0, 0.0])}
    for child in range(3):
        segments[child,] = segment()
        for leaf in range(2):
            segments[child, leaf] = segment("said", "end")
    tree = build_tree("p", segments)
    after = random.normal(size=(1, len(tree.tokens), WIDTH)).astype(np.float32)
    rewards = random.normal(size=(len(tree.leaves), OUTPUTS)).astype(np.float32)
    for leaf, node in enumerate(tree.leaves):  # what can be learned of them
        place, previous = int(tree.start[node + 1]) - 1, tree.previous()
        while place >= 2:
            rewards[leaf] += after[0, place, :OUTPUTS]
            place = int(previous[place])
    batch = collate(pack_tree(tree, soft_targets(tree, rewards, 0.5), 1000, 0, 0.5))
    after = torch.from_numpy(after)
    before = after.gather(1, batch.previous[..., None].expand(-1, -1, WIDTH))
    return after, before, batch


def alone(part):
    """Of the only process."""
    return part


def joint_head():
    head = StateHead(WIDTH, OUTPUTS)
    return head, JointHead(head)


def read(joint, seeds):
    """Both passes over the trees of a round."""
    foresee(joint, seeds)
    assert joint.expect(alone)
    for seed in seeds:
        joint.add(*batch_of(seed))


def foresee(joint, seeds):
    joint.begin()
    for seed in seeds:
        joint.foresee(*batch_of(seed), alone)


def assert_same(one, other):
    (head, joint), (twin, its) = one, other
    torch.testing.assert_close(head.state.weight, twin.state.weight)
    torch.testing.assert_close(joint.expected, its.expected)


def test_it_is_solved_for_after_two_passes():
    head, joint = joint_head()
    read(joint, range(12))
    assert (head.state.weight == 0).all()
    joint.finish(alone)
    columns = []
    for seed in range(12):
        after, before, batch = batch_of(seed)
        columns.append((after, joint.states(before), batch))
    foresight = Foresight(WIDTH, joint.states.width, joint.states.width - WIDTH - 1)
    for each in columns:
        foresight.add(*each)
    mean, price = foresight.solve(alone)
    equations = Equations.none(mean, OUTPUTS)
    for each in columns:
        equations.add(*each, price)
    wanted = solve(equations)
    assert (wanted.weights != 0).any()
    torch.testing.assert_close(head.state.weight, wanted.weights.T)
    torch.testing.assert_close(joint.expected, wanted.expected)


def test_later_passes_change_nothing():
    one, two = joint_head(), joint_head()
    for _, joint in (one, two):
        read(joint, range(12))
        joint.finish(alone)
    joint = two[1]
    joint.foresee(*batch_of(99), alone)
    assert not joint.expect(alone)
    assert_same(one, two)


def test_trees_that_are_added_to_a_round_count_as_its_others():
    head, joint = joint_head()
    read(joint, range(8))
    joint.finish(alone)
    first, replies = head.state.weight.clone(), joint.equations.replies
    for seed in range(8, 16):
        joint.add(*batch_of(seed))
    joint.finish(alone)
    assert joint.equations.replies == 2 * replies
    assert not torch.allclose(head.state.weight, first)
    joint.finish(alone)  # nothing is counted twice
    assert joint.equations.replies == 2 * replies


def test_a_later_round_adds_its_trees():
    head, joint = joint_head()
    read(joint, range(8))
    joint.finish(alone)
    first, replies = head.state.weight.clone(), joint.equations.replies
    read(joint, range(8, 20))
    joint.finish(alone)
    assert joint.equations.replies == 20 / 8 * replies
    assert not torch.allclose(head.state.weight, first)
    later, other = joint_head()
    read(other, range(8, 20))
    other.finish(alone)
    assert not torch.allclose(head.state.weight, later.state.weight)


def test_processes_add_their_trees_up():
    whole, mine, theirs = joint_head(), joint_head(), joint_head()
    shares = ((whole, range(8)), (mine, range(4)), (theirs, range(4, 8)))
    for (_, joint), seeds in shares:
        foresee(joint, seeds)
    foresight = theirs[1].foresight
    others = iter([foresight.before, foresight.along])
    whole[1].expect(alone)
    mine[1].expect(lambda part: part + next(others))
    theirs[1].expect(alone)
    theirs[1]._expectation = mine[1]._expectation  # which all processes have
    theirs[1]._mine.mean = mine[1]._expectation.mean
    for (_, joint), seeds in shares:
        for seed in seeds:
            joint.add(*batch_of(seed))
    its = theirs[1]._mine
    theirs[1]._mine.trees = 0
    others = iter([its.squares, its.products, its.spread, its.replies])
    whole[1].finish(alone)
    mine[1].finish(lambda part: part + next(others))
    assert_same(whole, mine)


def test_a_checkpoint_between_rounds():
    unbroken, stopped, resumed = joint_head(), joint_head(), joint_head()
    for _, joint in (unbroken, stopped):
        read(joint, range(8))
        joint.finish(alone)
    file = io.BytesIO()
    torch.save([part.state_dict() for part in stopped], file)
    file.seek(0)
    for part, state in zip(resumed, torch.load(file, weights_only=True), strict=True):
        part.load_state_dict(state)
    assert_same(resumed, stopped)
    for _, joint in (unbroken, resumed):
        read(joint, range(8, 16))
        joint.finish(alone)
    assert_same(resumed, unbroken)


def test_a_checkpoint_of_before_the_first_round():
    _, joint = joint_head()
    _, other = joint_head()
    other.load_state_dict(joint.state_dict())
    assert other.equations is None


@pytest.mark.parametrize("packs", [1, 2])
def test_targets_are_foretold_from_the_prompt_on(packs):
    """The prompt's own target, and the advantage of each token that leads to the state."""
    head, joint = joint_head()
    torch.nn.init.normal_(head.state.weight)
    torch.nn.init.normal_(joint.expected)
    joint.expected /= joint.states.width**0.5
    after, before, batch = batch_of(0)
    if packs == 2:
        batch = type(batch)(
            *(None if part is None else part.repeat_interleave(2, 0) for part in batch)
        )
        after, before = after.repeat(2, 1, 1), before.repeat(2, 1, 1)
    with torch.no_grad():
        found = joint(after, before, batch)
        for at in range(after.shape[1]):
            value, place = batch.start[0].clone(), at
            while batch.depth[0, place] >= 0:
                value += after[0, place] @ head.state.weight.T
                value -= joint.states(before[0, place]) @ joint.expected
                place = int(batch.previous[0, place])
            for pack in range(packs):
                torch.testing.assert_close(found[pack, at], value, atol=1e-4, rtol=1e-4)


def action_batch(seed, worth):
    """A tree whose replies earn what each of their tokens is worth by itself."""
    after, before, batch = batch_of(seed)
    bits = batch.target_bits.clone()
    earned = batch.path @ worth[batch.tokens]  # [B, T, M]
    bits.copy_(earned.contiguous().view(torch.int32))
    return after, before, batch._replace(target_bits=bits, price_bits=0 * batch.price_bits)


def test_an_action_head_learns_what_tokens_are_worth():
    table = torch.randn(40, 6)
    worth = (table - table.mean(0)) @ torch.randn(6, OUTPUTS)
    head = ActionHead(WIDTH, 6, 40, OUTPUTS)
    head.centre.copy_(table.mean(0))
    joint = JointHead(head, table)
    joint.begin()
    for seed in range(60):
        joint.foresee(*action_batch(seed, worth), alone)
    joint.expect(alone)
    for seed in range(60):
        joint.add(*action_batch(seed, worth))
    found = joint.finish(alone)
    assert (found.correlation > 0.9).all()
    states, tokens = torch.randn(1, WIDTH), torch.arange(40)[None]
    values = head(states, tokens, table)[0]
    for m in range(OUTPUTS):
        assert torch.corrcoef(torch.stack([values[:, m], worth[:, m]]))[0, 1] > 0.9
    # What is foretold of a state is the prompt's target and what its tokens bring.
    after, before, batch = action_batch(99, worth)
    advantages = head(before, batch.tokens[..., None], table)[..., 0, :]
    advantages = advantages - joint.states(before) @ joint.expected
    wanted = batch.start[:, None] + batch.path @ advantages
    torch.testing.assert_close(joint(after, before, batch), wanted)


def test_an_action_head_through_a_checkpoint():
    table = torch.randn(40, 6)

    def fresh():
        head = ActionHead(WIDTH, 6, 40, OUTPUTS)
        return head, JointHead(head, table)

    unbroken, stopped, resumed = fresh(), fresh(), fresh()
    for _, joint in (unbroken, stopped):
        read(joint, range(8))
        joint.finish(alone)
    for part, before in zip(resumed, stopped, strict=True):
        part.load_state_dict(before.state_dict())
    for _, joint in (unbroken, resumed):
        read(joint, range(8, 16))
        joint.finish(alone)
    for name, tensor in unbroken[0].state_dict().items():
        torch.testing.assert_close(resumed[0].state_dict()[name], tensor)
    assert unbroken[0].mix.weight.any()
