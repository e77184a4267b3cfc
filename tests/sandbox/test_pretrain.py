"""The parts of pretraining: batches, padding, the rate, and a loss that padding does not change."""

import math

import pytest
import torch

from mavis.sandbox.grammar import Dialogue
from mavis.sandbox.pretrain import (
    batches,
    encode,
    make_tokenizer,
    one_cycle,
    pad,
    render,
    surprise,
)


def uniform(input_ids, **_):
    logits = torch.zeros(*input_ids.shape, 4)
    return type("Output", (), {"logits": logits})


def test_a_pass_takes_every_row_once_and_rows_of_like_length_together():
    lengths = [30, 1, 29, 2, 28, 3, 27]
    found = list(batches(lengths, 3, torch.Generator().manual_seed(0)))
    assert sorted(torch.cat(found).tolist()) == list(range(7))
    assert sorted(map(len, found)) == [1, 3, 3]
    short = {1, 3, 5}
    assert any(set(chosen.tolist()) == short for chosen in found)


def test_rows_are_padded_on_the_right():
    rows = [torch.tensor([1, 2, 3]), torch.tensor([4])]
    assert pad(rows, 9).tolist() == [[1, 2, 3], [4, 9, 9]]


def test_surprise_does_not_count_padding():
    rows = [torch.tensor([1, 2, 3]), torch.tensor([2, 1])]
    assert surprise(uniform, rows, 0).item() == pytest.approx(3 * math.log(4))


def test_the_rate_rises_and_falls_to_a_fiftieth():
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    schedule, rates = one_cycle(optimizer, 100), []
    for _ in range(100):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert rates[5:] == sorted(rates[5:], reverse=True)
    assert 0.02 < rates[-1] < 0.03


def test_a_tokenizer_writes_dialogues_as_they_are_rendered():
    dialogues = [Dialogue("Why?", "So it is.", {}), Dialogue("Über?", "Nein: 3 < 4", {})]
    tokenizer = make_tokenizer([render(dialogues)] * 3, 300)
    turns = [
        {"role": role, "content": text}
        for one in dialogues
        for role, text in (("user", one.prompt), ("assistant", one.response))
    ]
    assert tokenizer.apply_chat_template(turns, tokenize=False) == render(dialogues)
    (row,) = encode(tokenizer, [render(dialogues)])
    assert tokenizer.decode(row) == render(dialogues)
