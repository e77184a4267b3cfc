"""The one way to measure a policy: its own answers, its own KL, the rewards of all objectives."""

from functools import partial

import numpy as np
import pytest

import mavis
from mavis.decoding.policy import GuidedPolicy
from mavis.decoding.request import SamplingParams
from mavis.evaluation.evaluate import evaluate
from mavis.evaluation.samples import NUMBERS
from mavis.objective import Objective, ObjectiveNotFound
from mavis.storage import Shards

PROMPTS = ["an ant", "a tin", "hats", [{"role": "user", "content": "tens"}], "an aunt is"]
SAMPLING = SamplingParams((), top_k=12)


def letters(_, responses):
    return [float(len(response)) for response in responses]


def short(_, responses):
    return [-float(len(response)) if len(response) < 6 else None for response in responses]


TWO = (Objective("letters", letters), Objective("short", short))


@pytest.fixture
def policy(tiny_reference):
    return GuidedPolicy(tiny_reference)


@pytest.fixture
def measure(policy):
    return partial(evaluate, policy, PROMPTS, TWO, SAMPLING, max_tokens=6, n=2, seed=3, rows=8)


def same(left, right):
    assert left.tokens == right.tokens
    assert left.responses == right.responses
    np.testing.assert_array_equal(left.rewards, right.rewards)
    for name in NUMBERS:
        np.testing.assert_allclose(left.numbers[name], right.numbers[name], atol=1e-5)


@pytest.mark.parametrize("kept", [True, False])
def test_samples_are_those_of_the_policy(measure, policy, tmp_path, kept):
    found = measure(folder=tmp_path if kept else None)
    count = len(PROMPTS)
    answers = policy.sample(PROMPTS, [SAMPLING] * count, [6] * count, [3] * count, 2)
    flat = [tokens for several in found.tokens for tokens in several]
    texts = [text for several in found.responses for text in several]
    assert flat == [answer.tokens for answer in answers]
    assert texts == [answer.text for answer in answers]
    assert found.objectives == ("letters", "short")
    assert found.rewards.shape == (count, 2, 2)
    for m, objective in enumerate(TWO):
        want = np.array(objective.reward(None, texts), dtype=float)
        np.testing.assert_array_equal(found.rewards[..., m].ravel(), want)
    assert np.isnan(found.rewards[..., 1]).any()
    for name in NUMBERS:
        want = [getattr(answer, name) for answer in answers]
        np.testing.assert_allclose(found.numbers[name].ravel(), want, atol=1e-5)


def test_the_parts_make_no_difference(measure, monkeypatch):
    whole = measure()
    parts, sample = [], GuidedPolicy.sample

    def counted(self, prompts, *rest, **more):
        parts.append(len(prompts))
        return sample(self, prompts, *rest, **more)

    monkeypatch.setattr(GuidedPolicy, "sample", counted)
    monkeypatch.setattr("mavis.evaluation.evaluate.PARTS", 0)  # prompt by prompt
    same(measure(), whole)
    assert parts == [1] * len(PROMPTS)


def test_what_is_kept_is_not_made_again(measure, tmp_path, monkeypatch):
    whole = measure()
    made = GuidedPolicy.sample

    def dies(self, prompts, *rest, **more):
        if "hats" in prompts:
            raise KeyboardInterrupt
        return made(self, prompts, *rest, **more)

    monkeypatch.setattr("mavis.evaluation.evaluate.PARTS", 0)
    with monkeypatch.context() as patch:
        patch.setattr(GuidedPolicy, "sample", dies)
        with pytest.raises(KeyboardInterrupt):
            measure(folder=tmp_path)
    assert len(Shards(tmp_path / "made").rows()) == 2
    same(measure(folder=tmp_path), whole)
    monkeypatch.setattr(GuidedPolicy, "sample", None)
    same(measure(folder=tmp_path), whole)


def test_answers_from_before_log_probabilities_were_kept_can_be_read(measure, tmp_path):
    whole = measure()
    measure(folder=tmp_path / "new")
    rows = [dict(row) for row in Shards(tmp_path / "new" / "made").rows()]
    for row in rows:
        del row["log_ref"]
    Shards(tmp_path / "old" / "made").append(rows)
    found = measure(folder=tmp_path / "old")
    assert found.tokens == whole.tokens
    np.testing.assert_allclose(found.kl, whole.kl, atol=1e-5)
    assert np.isnan(found.numbers["log_ref"]).all()


def test_a_policy_is_evaluated_as_it_was_trained_to_decode(tiny_reference, tiny_network):
    network = tiny_network(tiny_reference)
    policy = GuidedPolicy(tiny_reference, (network,))
    found = mavis.evaluate(policy, "an ant", TWO, max_tokens=6)
    answers = policy.generate("an ant", max_tokens=6)
    assert found.responses == [[answers[0].text]]
    assert (found.weights, found.strength) == ((1.0,), policy.beta)


def test_without_objectives_there_is_kl_alone(policy):
    found = evaluate(policy, PROMPTS, (), SAMPLING, max_tokens=6)
    assert found.rewards.shape == (5, 1, 0)
    assert found.summary["kl"] > 0
    assert found.units == []
    assert found.standard([]).shape == (5, 1, 0)
    assert found.mean_rewards([]) == {}


def test_nothing_to_evaluate_on_is_refused(policy):
    with pytest.raises(ValueError, match="prompts must hold at least one prompt"):
        evaluate(policy, [], TWO)
    with pytest.raises(ValueError, match="n must be at least 1, got 0"):
        evaluate(policy, PROMPTS, TWO, n=0)
    with pytest.raises(ObjectiveNotFound, match="no objective 'nosuch'"):
        evaluate(policy, PROMPTS, ["nosuch"])
