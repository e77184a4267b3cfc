"""An autoregressive reward model learns preferences, and nothing else changes."""

import pytest
import torch

from mavis.baselines.parm import new_arm
from mavis.baselines.pblora import adapters
from mavis.baselines.train.config import ParmConfig
from mavis.baselines.train.parm import train_arm
from mavis.baselines.train.preferences import Group, answer_log_probs, preferred, side_by_side
from mavis.decoding.policy import GuidedPolicy

PROMPTS = ["an um", "the sun is", "a is"]


@pytest.fixture(scope="module")
def groups(tiny_reference):
    """Answers of the reference, and two objectives that never agree."""
    answers = GuidedPolicy(tiny_reference).generate(PROMPTS, max_tokens=8, n=4, top_k=0)
    made = []
    for at, prompt in enumerate(PROMPTS):
        mine = [answer.tokens for answer in answers[4 * at : 4 * at + 4]]
        order = torch.randperm(4, generator=torch.Generator().manual_seed(at)).float()
        tokens = tiny_reference.encode(prompt).tokens
        made.append(Group(at, tokens, mine, torch.stack([order, -order], -1)))
    return made


def trained(reference, groups, names=("up", "down"), epochs=40, seed=0):
    arm = new_arm(reference, reference.name, names, (4, 4), seed=seed)
    options = {"beta_r": 0.3, "lr": 0.02, "epochs": epochs, "batch": 3, "seed": seed}
    train_arm(arm, groups, ParmConfig(objectives=list(names), **options))
    return arm


def right(arm, groups, alpha, objective):
    """The share of pairs that the reward model has in an objective's order."""
    batch = side_by_side(groups)
    arm.preference.rows = torch.tensor([alpha] * len(groups))
    with torch.no_grad():
        log_probs = answer_log_probs(arm.model, batch)
    wins = preferred(batch.rewards)[..., objective]
    return (wins & preferred(log_probs[..., None])[..., 0]).sum() / wins.sum()


def test_it_can_memorise_preferences_that_never_agree(tiny_reference, groups):
    before = [parameter.clone() for parameter in tiny_reference.model.parameters()]
    arm = trained(tiny_reference, groups)
    result = [right(arm, groups, *where) for where in (((1.0, 0.0), 0), ((0.0, 1.0), 1))]
    assert min(result) > 0.9, result
    after = list(tiny_reference.model.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert not any(parameter.requires_grad for parameter in arm.model.parameters())
    assert not arm.model.training


def test_training_is_keyed_by_its_seed(tiny_reference, groups):
    def result(seed):
        arm = trained(tiny_reference, groups, epochs=2, seed=seed)
        return torch.cat([part.detach().flatten() for _, part in adapters(arm.model)])

    first = result(1)
    torch.manual_seed(5)  # whatever the process has drawn before
    assert torch.equal(first, result(1))
    assert not torch.equal(first, result(2))


def test_one_objective_is_learned_by_the_same_road(tiny_reference, groups):
    alone = [Group(g.key, g.start, g.answers, g.rewards[:, :1]) for g in groups]
    arm = trained(tiny_reference, alone, names=("up",), epochs=15)
    assert right(arm, alone, (1.0,), 0) > 0.9


def test_nothing_to_learn_is_said(tiny_reference, groups):
    flat = [Group(g.key, g.start, g.answers, g.rewards * torch.tensor([1.0, 0.0])) for g in groups]
    arm = new_arm(tiny_reference, tiny_reference.name, ("up", "down"), (2, 2))
    with pytest.raises(ValueError, match="objective 'down' prefers no answer to another"):
        train_arm(arm, flat, ParmConfig(objectives="up,down", epochs=1))
