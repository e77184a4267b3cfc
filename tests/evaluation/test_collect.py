"""Tables of what was written and scored: in memory or in a folder, for several rewards at once."""

import pytest

from mavis.evaluation.collect import Collector
from mavis.objective import Objective

ROWS = [{"index": 0, "prompt": "p", "responses": ["<think>a</think>bc", "d"]}]


def letters(_, responses):
    return [float(len(response)) for response in responses]


def minus(_, responses):
    return [-float(len(response)) for response in responses]


@pytest.mark.parametrize("kept", [True, False])
def test_thoughts_are_counted_and_not_scored(tmp_path, kept):
    who, folder = Collector(), tmp_path / "no" if kept else None

    for _ in range(2):  # counted again when nothing is left to score
        (found,) = who.score(folder, ROWS, [Objective("trial", letters)])
        assert found.tolist() == [[2], [1]]
        assert who.thoughts() == "1 of 2 replies hold thoughts, which the reward is not given"
        assert who.thoughts() is None
    folder = tmp_path / "yes" if kept else None
    (found,) = who.score(folder, ROWS, [Objective("trial", letters, scores_thoughts=True)])
    assert found.tolist() == [[18], [1]]
    assert who.thoughts() is None


def test_a_reward_is_asked_once_whoever_else_is_asked(tmp_path):
    asked = []

    def counting(_, responses):
        asked.append(responses)
        return letters(None, responses)

    one, other = Objective("one", counting), Objective("other", minus)
    who = Collector()
    assert who.score(tmp_path, ROWS, [one])[0].tolist() == [[2], [1]]
    assert who.score(tmp_path, ROWS, [other, one])[0].tolist() == [[-2, 2], [-1, 1]]
    same = Objective("namesake", counting)
    assert who.score(tmp_path, ROWS, [one, same])[0].tolist() == [[2, 2], [1, 1]]
    assert len(asked) == 1


def test_a_model_that_learned_is_not_given_scores_of_another_reward(tmp_path):
    one, other = Objective("one", letters), Objective("other", minus)
    Collector().score(tmp_path, ROWS, [one, other])
    with pytest.raises(ValueError, match="scores of another reward of other, or of this one"):
        Collector(learned=True).score(tmp_path, ROWS, [other])
    assert Collector(learned=True).score(tmp_path, ROWS, [other, one])[0].shape == (2, 2)
