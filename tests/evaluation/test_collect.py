"""What is collected is made once and scored once, by however many processes, killed or not."""

import time
from functools import partial
from itertools import count

import numpy as np
import pytest

from mavis.decoding.policy import GuidedPolicy
from mavis.decoding.request import SamplingParams
from mavis.evaluation import collect
from mavis.evaluation.collect import Collector, World, standard_samples
from mavis.objective import Objective
from mavis.reward import Units
from mavis.storage import Shards
from mavis.training.rollout import Shape

PROMPTS = ["an ant", "a tin", "hats", "tens", "an aunt is", "umbra"]
SHAPE = Shape((2, 2), 6)
SAMPLING = SamplingParams((), top_k=12)


def letters(_, responses):
    return [float(len(response)) for response in responses]


@pytest.fixture
def policy(tiny_reference):
    return GuidedPolicy(tiny_reference)


def collector(reward=letters, crew=None):
    return Collector(Objective("trial", reward), crew or World(), 8)


def trees(folder, policy, who):
    return who.trees(folder, policy, PROMPTS, [who.objective], SHAPE, SAMPLING, (0, 0))


def same(left, right):
    assert len(left) == len(right)
    for one, other in zip(left, right, strict=True):
        assert one.prompt == other.prompt
        assert one.tokens.tolist() == other.tokens.tolist()
        np.testing.assert_array_equal(one.rewards, other.rewards)


def test_trees_are_scored_and_in_the_order_of_their_prompts(policy, tmp_path):
    found = trees(tmp_path, policy, collector())
    assert [tree.prompt for tree in found] == PROMPTS
    for tree in found:
        assert tree.rewards[:, 0].tolist() == letters(None, tree.responses)


def test_nothing_is_made_or_scored_twice(policy, tmp_path):
    first = trees(tmp_path, policy, collector())

    class Idle(Collector):
        def _scored(self, _):
            raise AssertionError

    who = Idle(Objective("trial", letters), World(), 8)
    same(trees(tmp_path, None, who), first)
    assert who.seconds.keys() == {"made", "scored", "cpu"}


def test_what_it_took_is_kept_across_an_interruption(policy, tmp_path, monkeypatch):
    clock = count()
    monkeypatch.setattr(time, "process_time", lambda: float(next(clock)))
    made = collect.tree_row

    def dies(index, tree):
        if index == 4:
            raise KeyboardInterrupt
        return made(index, tree)

    monkeypatch.setattr(collect, "tree_row", dies)
    first, second = collector(), collector()
    with pytest.raises(KeyboardInterrupt):
        trees(tmp_path, policy, first)
    kept = len(Shards(tmp_path / "made").rows())
    assert collect.collected(tmp_path) == kept > 0  # the clock ticks once for every row
    monkeypatch.setattr(collect, "tree_row", made)
    trees(tmp_path, policy, second)
    assert collect.collected(tmp_path) == 2 * len(PROMPTS)  # each made once, and scored once
    assert second.seconds["cpu"] == 2 * len(PROMPTS) - kept + 4  # of this process, and its ends
    trees(tmp_path, policy, second)
    assert second.seconds["cpu"] == 2 * len(PROMPTS) - kept + 4


def test_what_another_reward_scored_is_scored_again_or_refused(policy, tmp_path):
    """Again while nothing was learned from it; refused later, when the trees show what was."""
    first = trees(tmp_path, policy, collector())

    def twice(_, responses):
        return [2.0 * len(response) for response in responses]

    for changed in (partial(letters), twice):
        who = Collector(Objective("trial", changed), World(), 8, learned=True)
        with pytest.raises(ValueError, match="before it was edited: give another --out"):
            trees(tmp_path, policy, who)
    again = trees(tmp_path, None, collector(twice))
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(2 * one.rewards, other.rewards)
    same(trees(tmp_path, None, collector()), first)


def test_what_other_prompts_led_to_is_not_taken_for_these(policy, tmp_path):
    trees(tmp_path, policy, collector())
    with pytest.raises(ValueError, match=r"other prompts: one was .* Give another --out"):
        collector().trees(tmp_path, policy, PROMPTS[::-1], [], SHAPE, SAMPLING, (0, 0))


def test_a_prompt_whose_replies_all_abstain_is_kept(policy, tmp_path):
    def picky(prompts, _):
        return [None if p == PROMPTS[-1] else 1.0 for p in prompts]

    found = trees(tmp_path, policy, collector(picky))
    assert np.isnan(found[-1].rewards).all()
    assert all(np.isfinite(tree.rewards).all() for tree in found[:-1])


def test_rows_that_are_there_twice_count_once(policy, tmp_path):
    first = trees(tmp_path, policy, collector())
    shards = Shards(tmp_path / "made")
    shards.append(shards.rows())
    assert len(shards.rows()) == 2 * len(PROMPTS)
    again = trees(tmp_path, None, collector())
    assert [tree.prompt for tree in again] == PROMPTS
    same(again, first)


def test_two_processes_make_what_one_makes(policy, tmp_path):
    """Each its share; here one after the other, the first meeting nobody."""
    alone = trees(tmp_path / "one", policy, collector())
    crew = [collector(crew=World(rank, 2)) for rank in (0, 1)]
    assert len(trees(tmp_path / "two", policy, crew[1])) == 3
    assert len(Shards(tmp_path / "two" / "made").rows()) == 3
    trees(tmp_path / "two", policy, crew[0])
    for who in crew:
        same(trees(tmp_path / "two", policy, who), alone)


def test_everybody_is_waited_for(policy, tmp_path):
    met = []
    trees(tmp_path, policy, collector(crew=World(meet=lambda: met.append(1))))
    assert len(met) == 2  # when all is made, and when all is scored


def test_rewards_that_stop_the_run_lose_no_rollouts(policy, tmp_path):
    with pytest.raises(ValueError, match="the reward raised"):
        trees(tmp_path, policy, collector(lambda *_: 1 / 0))
    assert len(Shards(tmp_path / "made").rows()) == len(PROMPTS)
    same(trees(tmp_path, None, collector()), trees(tmp_path / "new", policy, collector()))


def test_abstained_leaves_are_nan(policy, tmp_path):
    def picky(_, responses):
        return [None if at % 3 else 1.0 for at in range(len(responses))]

    rewards = np.concatenate([tree.rewards for tree in trees(tmp_path, policy, collector(picky))])
    assert np.isnan(rewards).sum() == sum(at % 3 > 0 for at in range(len(rewards)))


def test_a_round_is_scored_in_large_parts(policy, tmp_path):
    sizes = []

    def counting(_, responses):
        sizes.append(len(responses))
        return letters(None, responses)

    trees(tmp_path, policy, collector(counting))
    assert len(sizes) == 1


def test_samples_are_those_of_the_policy(policy, tmp_path):
    found = collector().samples(tmp_path, policy, PROMPTS, SAMPLING, 6, 3, n=2)
    count = len(PROMPTS)
    answers = policy.sample(PROMPTS, [SAMPLING] * count, [6] * count, [3] * count, 2)
    flat = [row for rows in found for row in rows]
    assert [len(rows) for rows in found] == [2] * count
    assert [row["tokens"] for row in flat] == [answer.tokens for answer in answers]
    assert [row["response"] for row in flat] == [answer.text for answer in answers]
    assert [row["reward"] for row in flat] == letters(None, [a.text for a in answers])
    for row, answer in zip(flat, answers, strict=True):
        assert row["kl"] == pytest.approx(answer.kl, abs=1e-5)
        assert row["kl_sampled"] == pytest.approx(answer.kl_sampled, abs=1e-5)
    samples = standard_samples(found, Units(2.0, 4.0))
    assert [s.reward for s in samples] == pytest.approx([(r["reward"] - 2) / 4 for r in flat])
    assert [s.prompt for s in samples[::2]] == PROMPTS


def test_thoughts_are_counted_and_not_scored(tmp_path):
    rows = [{"index": 0, "prompt": "p", "responses": ["<think>a</think>bc", "d"]}]
    who = collector()

    for _ in range(2):  # counted again when nothing is left to score
        assert who._score(tmp_path / "no", rows)[0].tolist() == [2, 1]
        assert who.thoughts() == "1 of 2 replies hold thoughts, which the reward is not given"
        assert who.thoughts() is None
    who = Collector(Objective("trial", letters, scores_thoughts=True), World(), 8)
    assert who._score(tmp_path / "yes", rows)[0].tolist() == [18, 1]
    assert who.thoughts() is None
