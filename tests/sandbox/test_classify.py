"""Reward models of the sandbox: goals at the ends of sentences, one trunk cut into three models."""

import pytest
import torch

from mavis.sandbox.classify import (
    OUTLIER,
    Lesson,
    cut,
    explained,
    lessons,
    loss_of,
    make_classifier,
    standardise,
)
from mavis.sandbox.grammar import Dialogue, score
from mavis.sandbox.lexicon import OBJECTIVES
from mavis.sandbox.pretrain import make_tokenizer, render

PROMPT = "How do I bake bread?"
ANSWERS = ("Measure the dough. You can do this!", "Go away.", "Ha!")
DIALOGUES = [Dialogue(PROMPT, answer, score(PROMPT, answer)) for answer in ANSWERS]


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer([render([one]) for one in DIALOGUES], 280)


@pytest.fixture
def model(tokenizer):
    return make_classifier(tokenizer, len(OBJECTIVES)).eval()


def test_goals_stand_at_the_ends_of_sentences_and_of_the_text(tokenizer):
    first, *_ = lessons(tokenizer, DIALOGUES)
    upto = [tokenizer.decode(first.ids[: mark + 1]) for mark in first.ends]
    head = "<|user|>How do I bake bread?<|assistant|>"
    assert upto[0] == f"{head}Measure the dough."
    assert upto[-1] == f"{head}{ANSWERS[0]}<|end|>"
    worth = [score(PROMPT, ANSWERS[0])[name] for name in OBJECTIVES]
    assert first.goals[-1].tolist() == pytest.approx(worth)


def test_goals_in_standard_units_are_cut():
    lesson = Lesson(torch.tensor([1]), torch.tensor([0]), torch.tensor([[3.0, 100.0]]))
    found = standardise(lesson, torch.tensor([1.0, 0.0]), torch.tensor([2.0, 1.0]))
    assert found.goals.tolist() == [[1.0, OUTLIER]]


def test_padding_is_no_matter_to_the_loss(model, tokenizer):
    short, long = lessons(tokenizer, [DIALOGUES[2], DIALOGUES[0]])
    count = len(short.ends) + len(long.ends)
    alone = [loss_of(model, [one]) for one in (short, long)]
    ends = [(model(one.ids[None]).logits - one.goals[-1]).square().mean() for one in (short, long)]
    every = [(a - e) * len(one.ends) for a, e, one in zip(alone, ends, (short, long), strict=True)]
    expected = sum(ends) / 2 + sum(every) / count
    torch.testing.assert_close(loss_of(model, [short, long]), expected, atol=1e-5, rtol=1e-5)


def test_the_parts_say_what_the_whole_said(model, tokenizer):
    ids = lessons(tokenizer, DIALOGUES)[0].ids[None]
    whole = model(ids).logits[0]
    pieces = cut(model, tokenizer)
    assert tuple(pieces) == tuple(OBJECTIVES)
    for at, piece in enumerate(pieces.values()):
        torch.testing.assert_close(piece(ids).logits[0, 0], whole[at])


def test_what_is_explained(model, tokenizer):
    data = lessons(tokenizer, DIALOGUES)
    torch.nn.init.zeros_(model.score.weight)
    goals = torch.stack([one.goals[-1] for one in data])
    expected = 1 - goals.square().mean(0) / goals.var(0, correction=0)
    assert explained(model, data) == pytest.approx(expected.tolist(), abs=1e-4)
