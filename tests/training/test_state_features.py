"""The features that expectations are foretold from."""

import io

import pytest
import torch

from mavis.training.batching import collate
from mavis.training.credit import TOKENS_EACH, Foresight
from mavis.training.packing import pack_tree
from mavis.training.state_features import NONLINEAR, StateFeatures
from mavis.training.targets import soft_targets
from mavis.training.tree import Segment, build_tree


def test_they_are_random_directions_cut_off_at_zero_beside_the_state():
    features, states = StateFeatures(8, 5), torch.randn(3, 7, 8, dtype=torch.float64) * 9 + 4
    found = features(states)
    assert features.width == 5 + 8 + 1
    assert found.shape == (3, 7, features.width)
    assert found.dtype == torch.float32
    unit = torch.nn.functional.layer_norm(states.float(), (8,))
    wanted = (unit @ features.directions + features.offsets).clamp(min=0)
    torch.testing.assert_close(found[..., :5], wanted, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found[..., 5:13], states.float())
    assert (found[..., -1] == 1).all()


def test_without_them_there_is_the_state_alone():
    found = StateFeatures(4, 0)(torch.ones(2, 4))
    assert found.tolist() == [[1.0] * 5] * 2


def test_equal_entries_are_no_failure():
    assert StateFeatures(4)(torch.full((2, 4), 3.0)).isfinite().all()


def test_a_checkpoint_keeps_the_draw():
    file = io.BytesIO()
    torch.save(StateFeatures(6).state_dict(), file)
    file.seek(0)
    other = StateFeatures(6)
    torch.nn.init.zeros_(other.directions)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert (other.directions == StateFeatures(6).directions).all()


def replies(count):
    """A tree of so many replies of 20 tokens."""
    segments = {(): Segment([1], [0.0])}
    for child in range(count):
        segments[child,] = Segment([5] * 10, [0.0] * 10)
        segments[child, 0] = Segment([6] * 10, [0.0] * 10, "said", "end")
    tree = build_tree("p", segments)
    return collate(pack_tree(tree, soft_targets(tree, torch.randn(count, 1).numpy(), 0.0), 10_000))


def explained(nonlinear, count):
    """Of what comes after states, the share that is foretold on other states; and by what."""
    features = StateFeatures(12, nonlinear)

    def states(tokens):
        before = torch.randn(1, tokens, 12, generator=random)
        after = (before[..., :1] - before[..., 1:2]).abs()  # as far from linear as can be
        return before, after + 0.1 * torch.randn(after.shape, generator=random)

    random, batch = torch.Generator().manual_seed(0), replies(count)
    foresight = Foresight(1, features.width, nonlinear)
    before, after = states(batch.tokens.shape[1])
    foresight.add(after, features(before), batch)
    mean = foresight.solve(lambda part: part).mean
    before, after = states(4000)
    left = after - features(before).double() @ mean
    return float(1 - left.square().mean() / after.var()), mean


def test_a_policy_s_expectation_is_no_linear_function_of_the_state():
    assert explained(0, 200)[0] < 0.1
    assert explained(NONLINEAR, 200)[0] > 0.3


@pytest.mark.parametrize("count", [2, 30])
def test_few_tokens_are_foretold_from_few_features(count):
    share, mean = explained(NONLINEAR, count)
    used = int((mean[:NONLINEAR, 0] != 0).sum())
    assert 0 < used <= 20 * count // TOKENS_EACH
    assert share > -0.5
