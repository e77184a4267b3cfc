"""Trees are made once and scored once, by however many processes, killed or not."""

import time
from functools import partial
from itertools import count

import numpy as np
import pytest

from mavis.decoding.policy import GuidedPolicy
from mavis.decoding.request import SamplingParams
from mavis.evaluation.collect import Collector, World, collected
from mavis.objective import Objective
from mavis.storage import Shards
from mavis.training import collect
from mavis.training.collect import collect_trees
from mavis.training.rollout import Shape

PROMPTS = ["an ant", "a tin", "hats", "tens", "an aunt is", "umbra"]
SHAPE = Shape((2, 2), 6)
SAMPLING = SamplingParams((), top_k=12)


def letters(_, responses):
    return [float(len(response)) for response in responses]


@pytest.fixture
def policy(tiny_reference):
    return GuidedPolicy(tiny_reference)


def trees(folder, policy, who=None, reward=letters, prompts=PROMPTS):
    who, objectives = who or Collector(), [Objective("trial", reward)]
    how = [SAMPLING] * len(prompts)
    return collect_trees(who, folder, policy, prompts, objectives, SHAPE, how, (0, 0), 8)


def same(left, right):
    assert len(left) == len(right)
    for one, other in zip(left, right, strict=True):
        assert one.prompt == other.prompt
        assert one.tokens.tolist() == other.tokens.tolist()
        np.testing.assert_array_equal(one.rewards, other.rewards)


def test_trees_are_scored_and_in_the_order_of_their_prompts(policy, tmp_path):
    found = trees(tmp_path, policy)
    assert [tree.prompt for tree in found] == PROMPTS
    for tree in found:
        assert tree.rewards[:, 0].tolist() == letters(None, tree.responses)


def test_nothing_is_made_or_scored_twice(policy, tmp_path):
    first = trees(tmp_path, policy)

    class Idle(Collector):
        def _scored(self, *_):
            raise AssertionError

    who = Idle()
    same(trees(tmp_path, None, who), first)
    assert who.seconds.keys() == {"made", "scored", "cpu"}


def test_what_it_took_is_kept_across_an_interruption(policy, tmp_path, monkeypatch):
    clock = count()
    monkeypatch.setattr(time, "process_time", lambda: float(next(clock)))
    made, begun = collect.tree_row, []

    def dies(index, tree):
        begun.append(index)
        if len(begun) == 4:
            raise KeyboardInterrupt
        return made(index, tree)

    monkeypatch.setattr(collect, "tree_row", dies)
    first, second = Collector(), Collector()
    with pytest.raises(KeyboardInterrupt):
        trees(tmp_path, policy, first)
    kept = len(Shards(tmp_path / "made").rows())
    assert collected(tmp_path) == kept > 0  # the clock ticks once for every row
    monkeypatch.setattr(collect, "tree_row", made)
    trees(tmp_path, policy, second)
    assert collected(tmp_path) == 2 * len(PROMPTS)  # each made once, and scored once
    assert second.seconds["cpu"] == 2 * len(PROMPTS) - kept + 4  # of this process, and its ends
    trees(tmp_path, policy, second)
    assert second.seconds["cpu"] == 2 * len(PROMPTS) - kept + 4


def test_what_another_reward_scored_is_scored_again_or_refused(policy, tmp_path):
    """Again while nothing was learned from it; refused later, when the trees show what was."""
    first = trees(tmp_path, policy)

    def twice(_, responses):
        return [2.0 * len(response) for response in responses]

    for changed in (partial(letters), twice):
        who = Collector(learned=True)
        with pytest.raises(ValueError, match="before it was edited: give another --out"):
            trees(tmp_path, policy, who, changed)
    again = trees(tmp_path, None, reward=twice)
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(2 * one.rewards, other.rewards)
    same(trees(tmp_path, None), first)


def test_what_other_prompts_led_to_is_not_taken_for_these(policy, tmp_path):
    trees(tmp_path, policy)
    with pytest.raises(ValueError, match=r"other prompts: one was .* Give another --out"):
        trees(tmp_path, policy, prompts=PROMPTS[::-1])


def test_a_prompt_whose_replies_all_abstain_is_kept(policy, tmp_path):
    def picky(prompts, _):
        return [None if p == PROMPTS[-1] else 1.0 for p in prompts]

    found = trees(tmp_path, policy, reward=picky)
    assert np.isnan(found[-1].rewards).all()
    assert all(np.isfinite(tree.rewards).all() for tree in found[:-1])


def test_rows_that_are_there_twice_count_once(policy, tmp_path):
    first = trees(tmp_path, policy)
    shards = Shards(tmp_path / "made")
    shards.append(shards.rows())
    assert len(shards.rows()) == 2 * len(PROMPTS)
    again = trees(tmp_path, None)
    assert [tree.prompt for tree in again] == PROMPTS
    same(again, first)


def test_two_processes_make_what_one_makes(policy, tmp_path):
    """Each its share; here one after the other, the first meeting nobody."""
    alone = trees(tmp_path / "one", policy)
    crew = [Collector(World(rank, 2)) for rank in (0, 1)]
    assert len(trees(tmp_path / "two", policy, crew[1])) == 3
    assert len(Shards(tmp_path / "two" / "made").rows()) == 3
    trees(tmp_path / "two", policy, crew[0])
    for who in crew:
        same(trees(tmp_path / "two", policy, who), alone)


def test_everybody_is_waited_for(policy, tmp_path):
    met = []
    trees(tmp_path, policy, Collector(World(meet=lambda: met.append(1))))
    assert len(met) == 2  # when all is made, and when all is scored


def test_rewards_that_stop_the_run_lose_no_rollouts(policy, tmp_path):
    with pytest.raises(ValueError, match="the reward raised"):
        trees(tmp_path, policy, reward=lambda *_: 1 / 0)
    assert len(Shards(tmp_path / "made").rows()) == len(PROMPTS)
    same(trees(tmp_path, None), trees(tmp_path / "new", policy))


def test_abstained_leaves_are_nan(policy, tmp_path):
    def picky(_, responses):
        return [None if at % 3 else 1.0 for at in range(len(responses))]

    rewards = np.concatenate([tree.rewards for tree in trees(tmp_path, policy, reward=picky)])
    assert np.isnan(rewards).sum() == sum(at % 3 > 0 for at in range(len(rewards)))


def test_a_round_is_scored_in_large_parts(policy, tmp_path):
    sizes = []

    def counting(_, responses):
        sizes.append(len(responses))
        return letters(None, responses)

    trees(tmp_path, policy, reward=counting)
    assert len(sizes) == 1
