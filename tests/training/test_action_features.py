"""The features of an action head: written into its weights, and the states they are made of."""

import pytest
import torch

from mavis.decoding.value_heads import ActionHead
from mavis.training.action_features import STATES, ActionFeatures

VOCABULARY, OUTPUTS = 30, 2


def features_of(width=12, size=7, states=200):
    """The features of a head of random weights, prepared on random states, and those states."""
    table = torch.randn(VOCABULARY, size) + 3.0
    head = ActionHead(width, size, VOCABULARY, OUTPUTS)
    head.centre.copy_(table.mean(0))
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter)
    features, seen = ActionFeatures(head, table), torch.randn(states, width) * 5 + 2.0
    seen[:, 1] = 4.0  # as some dimensions of a model are, all but
    seen[:, 2] += seen[:, 0]
    assert not features.ready
    features.prepare(seen, lambda part: part)
    assert features.ready
    return head, table, features, seen


@pytest.mark.parametrize(("width", "size"), [(12, 7), (50, 20)])
def test_the_head_s_values_are_what_was_solved_for(monkeypatch, width, size):
    monkeypatch.setattr("mavis.training.action_features.PART", 11)  # the last part is shorter
    head, table, features, seen = features_of(width, size)
    weights = torch.randn(features.width, OUTPUTS)
    features.write(weights)
    tokens = torch.randint(VOCABULARY, (len(seen),))
    values = head(seen, tokens[:, None], table)[:, 0]
    torch.testing.assert_close(values, features(seen, tokens) @ weights, atol=1e-3, rtol=1e-4)
    assert values.std() > 0.5


def test_states_count_in_directions_of_unit_variance():
    _, _, features, seen = features_of(width=STATES + 20, states=3000)
    z = (seen - features.mean) @ features.directions
    assert z.shape[1] == STATES
    torch.testing.assert_close(z.mean(0), torch.zeros(STATES), atol=1e-3, rtol=0)
    torch.testing.assert_close(z.T.cov(), torch.eye(STATES), atol=1e-2, rtol=0)


def test_where_states_do_not_differ_they_do_not_count():
    _, _, features, seen = features_of(width=12, states=5)
    z = (seen - features.mean) @ features.directions
    assert features.directions.isfinite().all()
    assert (features.directions[1] == 0).all()
    assert int((z.abs().amax(0) > 1e-3).sum()) == 4  # as many as five states can differ in


def test_states_of_several_processes_count_together():
    _, _, features, seen = features_of()
    mine, whole = features.mean.clone(), features.directions.clone()
    sums = []
    for part in (seen[:50], seen[50:]):
        features.prepare(part, lambda one: sums.append(one) or one)
    features.prepare(seen[:50], lambda one: one + sums[1])
    torch.testing.assert_close(features.mean, mine)
    torch.testing.assert_close(features.directions.abs(), whole.abs(), atol=1e-3, rtol=1e-3)


def test_what_all_tokens_have_in_common_is_no_feature():
    head, table, features, seen = features_of()
    tokens = torch.arange(VOCABULARY).expand(3, -1)
    found = features(seen[:3, None].expand(-1, VOCABULARY, -1), tokens)
    head.centre += 100.0
    other = ActionFeatures(head, table + 100.0)
    other.prepare(seen, lambda part: part)
    torch.testing.assert_close(
        other(seen[:3, None].expand(-1, VOCABULARY, -1), tokens), found, atol=1e-3, rtol=1e-3
    )


def test_directions_are_kept_where_another_machine_would_find_others(monkeypatch):
    head, table, features, seen = features_of()
    tokens = torch.arange(len(seen)) % VOCABULARY
    found, eigh = features(seen, tokens), torch.linalg.eigh
    kept = features.state_dict()

    def turned(squares):  # as right as the others
        values, vectors = eigh(squares)
        return torch.return_types.linalg_eigh((values, -vectors))

    monkeypatch.setattr(torch.linalg, "eigh", turned)
    resumed = ActionFeatures(head, table)
    resumed.load_state_dict(kept)
    assert torch.equal(resumed(seen, tokens), found)
    resumed.prepare(seen, lambda part: part)
    assert not torch.allclose(resumed(seen, tokens), found)
