"""Groups of answers, their log-probabilities and the loss, against loops written out."""

import math

import pytest
import torch

from mavis.baselines.train.preferences import (
    Group,
    answer_log_probs,
    collect,
    dirichlet,
    preference_loss,
    preferred,
    side_by_side,
)
from mavis.objective import Objective
from mavis.options import TrainingOptions

NAN = math.nan
GROUPS = [
    Group(7, [3, 4, 5], [[6, 0], [7], [8, 9, 0]], torch.tensor([[1.0, 2], [3, 2], [NAN, 5]])),
    Group(9, [5], [[3, 3, 3, 0], [0]], torch.tensor([[1.0, 0], [0, 1]])),
]


def test_a_group_lies_side_by_side():
    batch = side_by_side(GROUPS)
    assert batch.keys == [7, 9]
    assert batch.tokens[0].tolist() == [3, 4, 5, 6, 0, 7, 8, 9, 0]
    assert batch.position[0].tolist() == [0, 1, 2, 3, 4, 3, 3, 4, 5]
    assert batch.previous[0, 3:].tolist() == [2, 3, 2, 2, 6, 7]
    assert batch.owner[1].tolist() == [-1, 0, 0, 0, 0, 1, -2, -2, -2]
    sees = batch.mask[0, 0].tolist()
    assert [at for at, seen in enumerate(sees[8]) if seen] == [0, 1, 2, 6, 7, 8]
    assert [at for at, seen in enumerate(sees[5]) if seen] == [0, 1, 2, 5]
    assert batch.mask.any(-1).all()  # padding, too, sees something
    assert batch.rewards.shape == (2, 3, 2)
    assert batch.rewards[1, 2].isnan().all()


def test_log_probs_are_those_of_separate_forwards(tiny_lm, family):
    model = tiny_lm(family)
    with torch.no_grad():
        ours = answer_log_probs(model, side_by_side(GROUPS))
        for row, group in enumerate(GROUPS):
            for at, answer in enumerate(group.answers):
                logits = model(torch.tensor([[*group.start, *answer]])).logits[0]
                steps = logits.log_softmax(-1)[len(group.start) - 1 : -1]
                want = steps[torch.arange(len(answer)), answer].sum()
                torch.testing.assert_close(ours[row, at], want, atol=1e-4, rtol=0)
    assert ours[1, 2] == 0  # no such answer


def test_ties_and_abstentions_are_no_preference():
    wins = preferred(side_by_side(GROUPS).rewards)
    result = [tuple(entry) for entry in wins.nonzero().tolist()]
    # Of each: the group, who wins, who loses, and for which objective.
    assert result == [(0, 1, 0, 0), (0, 2, 0, 1), (0, 2, 1, 1), (1, 0, 1, 0), (1, 1, 0, 1)]


def test_the_loss_by_hand():
    log_probs = torch.tensor([[-3.0, -5.0, -4.0], [-1.0, -2.0, 0.0]])
    alpha = torch.tensor([[0.3, 0.7], [1.0, 0.0]])
    beta_r = 0.5

    def lost(winner, loser):
        return math.log(1 + math.exp(-beta_r * (winner - loser)))

    first = 0.3 * lost(-5, -3) + 0.7 * (lost(-4, -3) + lost(-4, -5)) / 2
    second = 1.0 * lost(-1, -2)
    wins = preferred(side_by_side(GROUPS).rewards)
    loss = preference_loss(log_probs, wins, alpha, beta_r)
    assert loss.item() == pytest.approx((first + second) / 2)
    nothing = preference_loss(log_probs, torch.zeros_like(wins), alpha, beta_r)
    assert nothing.item() == 0


def test_preferences_are_keyed():
    drawn = dirichlet(3, [4, 9, 2], 1, 0)
    assert drawn.shape == (3, 3)
    torch.testing.assert_close(drawn.sum(-1), torch.ones(3))
    assert torch.equal(dirichlet(3, [2], 1, 0)[0], drawn[2])
    for other in (dirichlet(3, [2], 2, 0), dirichlet(3, [2], 1, 5)):
        assert not torch.equal(other[0], drawn[2])
    assert torch.equal(dirichlet(1, [2, 3], 0, 0), torch.ones(2, 1))
    many = dirichlet(2, range(2000), 0, 0)[:, 0]
    assert many.mean().item() == pytest.approx(0.5, abs=4.5 * math.sqrt(1 / 12 / 2000))
    assert many.std().item() == pytest.approx(math.sqrt(1 / 12), abs=0.03)


def test_answers_are_made_and_scored_once(tiny_reference, tmp_path):
    calls = []

    def long(prompts, responses):
        calls.append(len(prompts))
        return [float(len(text)) for text in responses]

    def short(_, responses):
        return [None if "a" in text else -float(len(text)) for text in responses]

    wanted = [Objective(name="long", reward=long), Objective(name="short", reward=short)]
    prompts = ["an um", "the sun is", "a"]

    def made():
        config = TrainingOptions(max_tokens=6, rows=8)
        return collect(tiny_reference, wanted, prompts, 4, config, tmp_path)

    groups = made()
    assert sum(calls) == 12
    again = made()
    assert sum(calls) == 12
    for group, other, prompt in zip(groups, again, prompts, strict=True):
        assert group.start == tiny_reference.encode(prompt).tokens
        assert len(group.answers) == 4
        assert group.answers == other.answers
        for answer, (more, less) in zip(group.answers, group.rewards.tolist(), strict=True):
            text = tiny_reference.decode(answer)
            assert more == len(text)
            assert math.isnan(less) if "a" in text else less == -len(text)
