"""A reference policy in bfloat16: its rows, and what is read from them in float32."""

import json
import math
from copy import deepcopy
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch

from mavis.cli.main import main
from mavis.decoding.guidance import PolicyRows
from mavis.decoding.model_card import Source
from mavis.decoding.policy import GuidedPolicy
from mavis.decoding.request import SamplingParams, row_settings
from mavis.decoding.tilt import tilt

TEXTS = [[3, 4, 5, 6, 7], [8, 9], [5, 4, 3]]
CLOSE = 0.1  # nats, of log-probabilities of logits with 8 bits


@pytest.fixture
def half(tiny_reference):
    """The tiny reference in bfloat16, and in float32 with the same, rounded weights."""
    model = deepcopy(tiny_reference.model).to(torch.bfloat16)
    return replace(tiny_reference, model=model), replace(
        tiny_reference, model=deepcopy(model).float()
    )


def steps(reference, networks):
    """Candidates and log π after ragged texts, a step and a fork."""
    rows, index = PolicyRows(reference, networks, tilt, 5), np.arange(3)
    params = SamplingParams((0.5,) * len(networks), top_k=reference.vocabulary)
    settings = row_settings([params] * 3, reference.vocabulary, reference.model.device)
    rows.read(index, TEXTS, settings)
    found = [rows.step(index, [[4], [5], [6]], settings)]
    rows.copy(np.array([0, 1]), np.array([2, 0]))
    return [*found, rows.step(index, [[7], [8], [9]], settings)], rows


@pytest.mark.parametrize("source", get_args(Source))
def test_rows_in_bfloat16_are_those_of_float32_but_for_rounding(half, tiny_network, source):
    with torch.inference_mode():
        (found, rows), (expected, _) = (
            steps(reference, (tiny_network(reference, source),)) for reference in half
        )
    assert {buffer.dtype for buffer in rows.cache.cache.keys} == {torch.bfloat16}
    assert rows.logits.dtype == torch.float32
    assert {values.dtype for values in rows.guidance.values} == {torch.float32}
    for (options, log_pi), (others, log_other) in zip(found, expected, strict=True):
        for mine, plain in ((options.log_ref, others.log_ref), (log_pi, log_other)):
            assert mine.dtype == torch.float32
            mine = torch.zeros_like(mine).scatter(1, options.tokens, mine)  # by token
            plain = torch.zeros_like(plain).scatter(1, others.tokens, plain)
            torch.testing.assert_close(mine, plain, atol=CLOSE, rtol=0.05)
            torch.testing.assert_close(mine.exp().sum(-1), torch.ones(3))  # sums in float32


@pytest.mark.parametrize("source", get_args(Source))
def test_what_is_trained_beside_it_is_float32(half, tiny_network, source):
    network = tiny_network(half[0], source)
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
    answers = GuidedPolicy(half[0], (network,)).generate(["a", "an um"], max_tokens=6, n=3)
    assert all(len(answer.tokens) <= 6 for answer in answers)
    assert all(math.isfinite(answer.kl) for answer in answers)


@pytest.mark.parametrize("source", get_args(Source))
def test_a_round_under_it(fit_words, tmp_path, monkeypatch, source):
    """As on a GPU, but for the rule that asks for one."""
    monkeypatch.setattr("mavis.decoding.reference._to_halve", lambda *_: True)
    monkeypatch.setattr("mavis.training.callbacks._plots", lambda *_: [])
    more = ("--data.rounds", "1", "--model.source", source, "--trainer.precision", "bf16-mixed")
    assert main(fit_words(tmp_path / "run", *more)) == 0
    (entry,) = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert math.isfinite(entry["val_loss"])
