import functools
import importlib

import numpy as np
import pytest
import torch

from mavis.objective import Objective
from mavis.reward import ClassifierReward, Units, described, identity, score, with_thoughts

PROMPTS, REPLIES = ["p0", "p1", "p2"], ["r", "rr", "rrr"]


def returning(value):
    return lambda *_: value


def test_rewards_are_called_with_texts_and_maximised_as_they_are():
    asked = []

    def lengths(prompts, responses):
        asked.append((prompts, responses))
        return [len(response) for response in responses]

    scores = score("x", lengths, PROMPTS, REPLIES)

    assert asked == [(PROMPTS, REPLIES)]
    assert scores.tolist() == [1.0, 2.0, 3.0]
    assert scores.dtype == torch.float32


@pytest.mark.parametrize(
    "value",
    [
        [1, True, 2.5],
        (1.0, 1.0, 2.5),
        torch.tensor([1.0, 1.0, 2.5], dtype=torch.float16, requires_grad=True),
        np.array([1.0, 1.0, 2.5]),
        [np.float32(1), torch.tensor(1.0), 2.5],
    ],
)
def test_all_usual_kinds_of_numbers_are_taken(value):
    scores = score("x", returning(value), PROMPTS, REPLIES)

    assert scores.tolist() == [1.0, 1.0, 2.5]
    assert not scores.requires_grad


def test_none_and_nan_abstain():
    scores = score("x", returning([None, float("nan"), 2]), PROMPTS, REPLIES)

    assert scores.isnan().tolist() == [True, True, False]


def test_no_replies_need_no_reward():
    assert score("x", returning(None), [], []).shape == (0,)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([1.0, 2.0], r"\[B = 3\], got 2"),
        (torch.zeros(3, 1), r"got shape \[3, 1\]"),
        (np.zeros(2), r"got shape \[2\]"),
        (torch.tensor(1.0), r"got shape \[\]"),
        (1.0, "got float"),
        (None, "got NoneType"),
        ("123", "got str"),
        ({0: 1.0, 1: 1.0, 2: 1.0}, "got dict"),
        ([1.0, "2", 3.0], "got '2' in it"),
        ([1.0, [2.0], 3.0], r"got \[2.0\] in it"),
        ([1.0, 1j, 3.0], "got 1j in it"),
        ([1.0, torch.zeros(2), 3.0], "in it"),
        ([1.0, float("inf"), 3.0], "must be finite, got inf"),
        ([1.0, 1e300, 3.0], r"must be finite, got 1e\+300"),
    ],
)
def test_anything_else_stops_with_objective_prompt_and_response(value, message):
    with pytest.raises(ValueError, match=message) as caught:
        score("humor", returning(value), PROMPTS, REPLIES)
    row = 1 if "in it" in message or "finite" in message else 0
    assert "objective 'humor'" in str(caught.value)
    assert f"prompt 'p{row}', response '{REPLIES[row]}'" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_long_texts_are_shortened_in_errors():
    with pytest.raises(ValueError, match="…") as caught:
        score("x", returning([float("inf")]), ["p" * 9999], ["r" * 9999])
    assert len(str(caught.value)) < 400


def test_a_reward_may_abstain_for_all_that_it_is_asked():
    assert score("picky", returning([None] * 3), PROMPTS, REPLIES).isnan().all()
    with pytest.raises(ValueError, match="abstained for all 3 replies"):
        Units.measure(torch.full((3,), torch.nan))


class Settings:
    def __init__(self, length):
        self.length = length

    def __call__(self, _, responses):
        return [0.0] * len(responses)

    def __repr__(self):
        return f"Settings({self.length})"


def test_a_rewards_identity_is_its_settings_and_its_source(tmp_path, monkeypatch):
    assert identity(Settings(1)) == identity(Settings(1)) != identity(Settings(2))
    assert identity(ClassifierReward("a")) != identity(ClassifierReward("b"))
    monkeypatch.syspath_prepend(tmp_path)
    seen = set()
    for number in (1, 2):
        name = f"edited{number}"
        (tmp_path / f"{name}.py").write_text(
            f"def reward(p, r):\n    return [{number}.0] * len(r)\n"
        )
        seen |= {identity(importlib.import_module(name).reward) for _ in range(2)}
    assert len(seen) == 2


def test_a_reward_is_described_alike_in_every_process():
    assert described(score) == "mavis.reward.score"
    assert described(ClassifierReward("a")) == repr(ClassifierReward("a"))
    partial = described(functools.partial(score, "a"))
    assert " at 0x" not in partial
    assert "score" in partial


@pytest.mark.parametrize("bad", range(3))
def test_a_reward_that_raises_is_traced_to_the_row(bad):
    def picky(_prompts, responses):
        if REPLIES[bad] in responses:
            raise KeyError("oh no")
        return [1.0] * len(responses)

    with pytest.raises(ValueError, match="the reward raised KeyError: 'oh no'") as caught:
        score("humor", picky, PROMPTS, REPLIES)
    assert f"prompt 'p{bad}', response '{REPLIES[bad]}'" in str(caught.value)
    assert isinstance(caught.value.__cause__, KeyError)


def test_a_reward_that_fails_only_on_batches_says_so():
    def narrow(_prompts, responses):
        if len(responses) > 2:
            raise MemoryError("too many")
        return [1.0] * len(responses)

    with pytest.raises(ValueError, match=r"MemoryError: too many \(all 3 at once\)"):
        score("x", narrow, PROMPTS, REPLIES)


def test_a_missing_file_is_no_rows_fault_and_not_tried_again():
    calls = []

    def unready(prompts, responses):
        calls.append(prompts + responses)
        raise FileNotFoundError("model './x' is missing")

    with pytest.raises(ValueError, match="is missing"):
        score("x", unready, PROMPTS, REPLIES)
    assert len(calls) == 1


def test_prompts_and_replies_must_match():
    with pytest.raises(ValueError, match="1 prompts for 3 responses"):
        score("x", returning([1.0] * 3), ["p"], REPLIES)


# units


def test_units_are_mean_and_deviation_of_what_is_known():
    units = Units.measure(torch.tensor([1.0, 3.0, 5.0, float("nan")]))

    assert units == Units(mean=3.0, std=2.0)
    standard = units.standard(torch.tensor([[1.0, 3.0], [5.0, float("nan")]]))
    assert torch.equal(standard[0], torch.tensor([-1.0, 0.0]))
    assert standard[1, 0] == 1
    assert standard[1, 1].isnan()
    assert standard.dtype == torch.float32


def test_standard_scores_have_mean_0_and_deviation_1_on_any_scale():
    scores = 1e4 + 1e3 * torch.randn(500, generator=torch.Generator().manual_seed(0))
    standard = Units.measure(scores).standard(scores)

    assert standard.mean().item() == pytest.approx(0, abs=1e-5)
    assert standard.std().item() == pytest.approx(1, abs=1e-5)


def test_one_freak_reply_does_not_set_the_units():
    scores = torch.randn(2000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    usual = Units.measure(scores)
    for freak in (1e3, -1e9):
        found = Units.measure(torch.cat([scores, torch.tensor([freak], dtype=torch.float64)]))
        assert found.mean == pytest.approx(usual.mean, abs=0.01)
        assert found.std == pytest.approx(usual.std, rel=0.01)


def test_usual_replies_are_measured_as_they_are():
    """Four deviations reach beyond nearly all of a bell, and of a flat or a skewed spread."""
    draws = torch.Generator().manual_seed(1)
    normal = torch.randn(2000, dtype=torch.float64, generator=draws)
    for scores in (normal, torch.rand(2000, dtype=torch.float64, generator=draws), normal.abs()):
        found = Units.measure(scores)
        assert found.mean == pytest.approx(scores.mean().item(), abs=1e-3)
        assert found.std == pytest.approx(scores.std().item(), rel=0.01)


@pytest.mark.parametrize("share", [0.01, 0.05, 0.5, 0.95])
def test_a_reward_that_is_seldom_won_keeps_its_tail(share):
    """Its quartiles are the same; what is won now and then is all there is to learn."""
    won = round(2000 * share)
    scores = torch.tensor([1.0] * won + [0.0] * (2000 - won))
    found = Units.measure(scores)
    assert found.mean == pytest.approx(share, abs=1e-6)
    assert found.std == pytest.approx(scores.std().item(), rel=1e-5)


def test_a_reward_that_one_reply_in_a_thousand_wins():
    """Nothing says how far the others spread: it is measured as it is, not refused."""
    found = Units.measure([0.0] * 999 + [1.0])
    assert found.std == pytest.approx(0.0316, rel=0.01)


def test_two_scores_are_their_own_units():
    found = Units.measure([2.0, 5.0])
    assert (found.mean, found.std) == pytest.approx((3.5, 4.5**0.5))


@pytest.mark.parametrize("scores", [[2.0, 2.0], [0.0] * 5, [1e4, 1e4 + 1e-3, 1e4]])
def test_constant_scores_are_refused(scores):
    with pytest.raises(ValueError, match="constant scores"):
        Units.measure(scores)


def test_small_scales_are_not_constant():
    assert Units.measure([1e-9, 3e-9]).std == pytest.approx(1.414e-9, rel=1e-3)


@pytest.mark.parametrize("scores", [[], [1.0], [1.0, float("nan")]])
def test_too_few_scores_are_refused(scores):
    with pytest.raises(ValueError, match="at least 2"):
        Units.measure(scores)


@pytest.mark.parametrize("numbers", [(0.0, 0.0), (float("nan"), 1.0), (0.0, float("inf"))])
def test_units_from_a_file_are_checked(numbers):
    with pytest.raises(ValueError, match="std above 0"):
        Units(*numbers)


# what a reward is, and what it is given


class Plain:
    def __call__(self, _prompts, responses):
        return [0.0] * len(responses)


class Later:
    async def __call__(self, _prompts, responses):
        return [0.0] * len(responses)


async def later(_prompts, responses):
    return [0.0] * len(responses)


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        (Plain, r"the reward is the class Plain itself: give an instance of it, Plain\(...\)"),
        (later, "the reward is an async function"),
        (Later(), "the reward is an async function"),
        (lambda responses: [0.0] * len(responses), "two arguments by position: too many"),
        (lambda *, _prompts, _responses: [0.0], "two arguments by position: too many"),
        (lambda _a, _b, _c: [0.0], "two arguments by position: missing a required argument: '_c'"),
    ],
)
def test_what_cannot_be_called_as_a_reward_is_refused_without_calling(reward, message):
    with pytest.raises(ValueError, match=f"objective 'x': .*{message}"):
        score("x", reward, PROMPTS, REPLIES)
    with pytest.raises(TypeError, match=f"objective 'x': .*{message}"):
        Objective("x", reward)


@pytest.mark.parametrize(
    "reward",
    [Plain(), functools.partial(lambda _a, b, _c: [0.0] * len(b), _c=1), lambda *_: [0.0] * 3],
)
def test_any_other_callable_is_a_reward(reward):
    assert score("x", Objective("x", reward).reward, PROMPTS, REPLIES).tolist() == [0.0] * 3


def test_a_reward_may_do_to_its_lists_what_it_likes():
    def reward(prompts, responses):
        prompts.clear()
        for row, response in enumerate(responses):
            responses[row] = float(len(response))
        return responses

    prompts, replies = [*PROMPTS], [*REPLIES]
    assert score("x", reward, prompts, replies).tolist() == [1.0, 2.0, 3.0]
    assert (prompts, replies) == (PROMPTS, REPLIES)


def test_a_reward_that_exits_does_not_end_the_command():
    def reward(_prompts, _responses):
        raise SystemExit("no key")

    with pytest.raises(ValueError, match="the reward raised SystemExit: no key"):
        score("x", reward, PROMPTS, REPLIES)


def seen(replies, **options):
    asked = []

    def reward(_prompts, responses):
        asked.extend(responses)
        return [0.0] * len(responses)

    score("x", reward, ["p"] * len(replies), replies, **options)
    return asked


def test_replies_keep_their_white_space():
    replies = [" a", "\n\na\n", "", " "]

    assert seen(replies) == replies


def test_thoughts_are_not_scored_unless_asked_for():
    replies = ["<think>a</think>\n\nb", "<think>a", "a</think>b", " b"]

    assert seen(replies) == ["b", "", "b", " b"]
    assert seen(replies, thoughts=True) == replies
    assert with_thoughts(replies) == 3
    plain, both = (Objective("x", Plain(), scores_thoughts=thoughts) for thoughts in (False, True))
    assert identity(Plain()) == identity(plain) != identity(both)


def test_an_objective_says_whether_thoughts_are_scored():
    assert Objective("x", Plain()).scores_thoughts is False
    with pytest.raises(TypeError, match="scores_thoughts must be True or False, got 'no'"):
        Objective("x", Plain(), scores_thoughts="no")
