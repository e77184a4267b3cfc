"""Whether rewards of partial text foretell the whole: paths drawn for it, and real replies."""

import math
from types import SimpleNamespace

import numpy as np
import pytest

from mavis.decoding.policy import GuidedPolicy
from mavis.decoding.reference import ReferencePolicy
from mavis.evaluation.prefix_rewards import compare, prefix_fit
from mavis.objective import Objective

STEPS, REPLIES, PROMPTS = 20, 8, 60


def walks(seed=0):
    """Random walks from each prompt's mean: martingales."""
    random = np.random.default_rng(seed)
    return random.normal(size=(PROMPTS, REPLIES, STEPS)).cumsum(-1) + 5 * random.normal(
        size=(PROMPTS, 1, 1)
    )


def test_by_hand():
    """Mean 2. Paths from it: 2 3 4 and 2 1 0; half of two tokens is one."""
    found = compare([[np.array([3.0, 4.0]), np.array([1.0, 0.0])]])
    assert found.correlation == pytest.approx(1.0)
    assert found.variation == pytest.approx(1.0)  # the second step is all that changes


def test_a_martingale_moves_as_much_as_needed():
    found = compare(walks())
    assert found.variation == pytest.approx(1.0, abs=0.15)
    assert found.correlation == pytest.approx(math.sqrt(0.5), abs=0.1)
    assert "0.5 may help" in found.advice


def test_a_saw_tooth_is_left_off():
    paths = walks()
    paths[..., ::4] += 8.0
    paths[..., -1] -= 8.0 * ((STEPS - 1) % 4 == 0)
    found = compare(paths)
    assert found.variation > 5
    assert "jumps up and down" in found.advice
    assert "leave --data.prefix_discount at 1" in found.advice


def test_what_only_the_last_token_decides_is_left_off():
    paths = 0.01 * walks()
    paths[..., -1] += np.random.default_rng(1).normal(size=(PROMPTS, REPLIES))
    found = compare(paths - 0.01 * walks()[:, :, :1])
    assert found.correlation < 0.3
    assert "says too little" in found.advice


def test_what_abstains_is_carried_on_or_left_out():
    nan = math.nan
    clean = [[np.array([2.0, 3.0, 3.0, 4.0]), np.array([2.0, 1.0, 1.0, 0.0])]]
    spotted = [[np.array([nan, 3.0, nan, 4.0]), np.array([2.0, 1.0, nan, 0.0])]]
    spotted[0] += [np.array([9.0, 9.0, 9.0, nan])]  # a reply that it abstains from
    assert compare(spotted) == compare(clean)


@pytest.mark.parametrize("groups", [[], [[np.array([1.0, 2.0])]], [[np.array([1.0])] * 3]])
def test_nothing_to_compare_is_no_promise(groups):
    found = compare(groups)
    assert math.isnan(found.correlation)
    assert "leave --data.prefix_discount at 1" in found.advice


def test_rewards_that_are_all_the_same_are_no_promise():
    assert "leave" in compare([[np.ones(5), np.ones(5)]] * 3).advice


def test_replies_of_a_policy(tiny_folder):
    """A count of words foretells the whole; what is worth something at a full length does not."""
    reference = ReferencePolicy.load(str(tiny_folder / "reference"))
    policy, prompts = GuidedPolicy(reference), ["an um", "a tum is", "is", "an"]
    seen = []

    def growing(asked, replies):
        seen.append((len(asked), len(replies)))
        return [float(sum(map(ord, reply)) % 7 + len(reply)) for reply in replies]

    def late(_, replies):
        return [float((sum(map(ord, reply)) * 7919) % 101) for reply in replies]

    counted = prefix_fit(policy, prompts, Objective("count", growing))
    assert seen[0][0] == seen[0][1] > 4 * 8
    hashed = prefix_fit(policy, prompts, Objective("hash", late))
    assert counted.correlation > 0.3 > hashed.correlation
    assert hashed.variation > 2 > counted.variation


def test_replies_without_tokens_are_left_out(tiny_folder):
    """Those beside them are compared as if they were not there."""
    reference, count = ReferencePolicy.load(str(tiny_folder / "reference")), REPLIES
    some = SimpleNamespace(tokens=[5, 9, 2], text="abc")
    empty = SimpleNamespace(tokens=[], text="")
    found = []
    for replies in ([some] * count, [empty, some] * (count // 2)):
        policy = SimpleNamespace(reference=reference, sample=lambda *_, r=replies: r)
        seen = []

        def reward(asked, texts, seen=seen):
            seen.extend(asked)
            return [float(len(text) + at) for at, text in enumerate(texts)]

        prefix_fit(policy, ["an um"], Objective("count", reward))
        found.append(len(seen))
    assert found == [3 * count, 3 * count // 2]
