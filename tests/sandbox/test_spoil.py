"""Answers are spoilt in the way that each function says, and by nothing but the seed."""

from random import Random

import pytest

from mavis.sandbox import spoil as spoilers
from mavis.sandbox.grammar import read, sample, score

FIRST = "Well. Measure the dough. You can do this!"
SECOND = "My goat tried to bake bread and set the sofa on fire."


def words(text):
    return sorted(text.split())


@pytest.fixture(params=range(8))
def rng(request):
    return Random(request.param)


def test_broken_off(rng):
    assert FIRST.startswith(spoilers.broken_off(rng, [FIRST]))


def test_repeated_says_nothing_new(rng):
    said = [sentence.text for sentence in read(spoilers.repeated(rng, [FIRST]))]
    whole = [sentence.text for sentence in read(FIRST)]
    assert set(said) == set(whole)
    assert len(whole) < len(said) <= len(whole) + 2


def test_shuffled_keeps_the_words(rng):
    assert words(spoilers.shuffled(rng, [FIRST])) == words(FIRST)


def test_garbled_changes_one_word_at_most(rng):
    before, after = FIRST.split(), spoilers.garbled(rng, [FIRST, SECOND]).split()
    if len(after) == len(before):
        changed = [new for old, new in zip(before, after, strict=True) if old != new]
        assert len(changed) <= 1
        assert set(changed) <= set(SECOND.split())
    else:
        assert any(before[:at] + before[at + 1 :] == after for at in range(len(before)))


def test_mixed_takes_sentences_of_all(rng):
    whole = {sentence.text for text in (FIRST, SECOND) for sentence in read(text)}
    said = [sentence.text for sentence in read(spoilers.mixed(rng, [FIRST, SECOND]))]
    assert set(said) <= whole
    assert len(said) == len(set(said)) >= 1


def test_a_spoilt_dialogue_keeps_its_prompt_and_is_scored_anew(rng):
    dialogues = [sample(rng) for _ in range(4)]
    spoilt = spoilers.spoil(rng, dialogues)
    assert spoilt.prompt == dialogues[0].prompt
    assert spoilt.attributes == score(spoilt.prompt, spoilt.response)


def test_the_seed_says_it_all():
    dialogues = [sample(Random(0)) for _ in range(3)]
    once, again = ([spoilers.spoil(Random(n), dialogues) for n in range(20)] for _ in range(2))
    assert once == again
    assert len({one.response for one in once}) > 10
