"""What an accelerator must give: what a CPU gives, and a fit. `pytest -m gpu` runs these alone.

Without an accelerator they run on the CPU, which shows that the tests themselves work.
"""

import json
import math
from copy import deepcopy
from dataclasses import replace
from types import SimpleNamespace
from typing import get_args

import numpy as np
import pytest
import torch

from mavis.cli.main import main
from mavis.decoding.guidance import PolicyRows
from mavis.decoding.model_card import Source
from mavis.decoding.policy import GuidedPolicy
from mavis.decoding.reference import ReferencePolicy, _to_halve
from mavis.decoding.request import SamplingParams, row_settings
from mavis.decoding.row_memory import free_memory, token_bytes
from mavis.decoding.tilt import tilt
from mavis.reward import Units
from mavis.training.batching import collate
from mavis.training.module import ValueModule
from mavis.training.packing import round_packs
from mavis.training.rollout import Shape, grow

pytestmark = pytest.mark.gpu
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
CLOSE = {"atol": 2e-3, "rtol": 2e-3}  # float32, summed in another order
SOURCES = get_args(Source)


@pytest.fixture
def both(tiny_reference, tiny_network):
    """A function: a source's reference and network, on the CPU and on the device."""

    def pair(source):
        network = tiny_network(tiny_reference, source)
        if DEVICE == "cpu":
            return (tiny_reference, network), (tiny_reference, network)
        there = replace(tiny_reference, model=deepcopy(tiny_reference.model).to(DEVICE))
        moved = deepcopy(network).to(DEVICE)
        moved._table = [there.model.get_input_embeddings().weight]
        return (tiny_reference, network), (there, moved)

    return pair


def by_token(options, numbers):
    return torch.zeros_like(numbers).scatter(1, options.tokens, numbers).cpu()


@torch.inference_mode()
def steps(reference, network):
    """What ragged rows may go on with, by token, through reading, forking and waiting copies."""
    rows, index = PolicyRows(reference, (network,), tilt, 3), np.arange(3)
    rows.reserve(5)
    params = SamplingParams((0.5,), top_k=reference.vocabulary)
    settings = row_settings([params] * 3, reference.vocabulary, reference.model.device)
    rows.read(index, [[3, 4, 5, 6, 7] * 9, [8, 9], [5, 4, 3]], settings)
    found = []
    for tokens in ([[4], [5], [6]], [[7], [8], [9]], [[3], [3], [3]]):
        options, log_pi = rows.step(index, tokens, settings)
        found += [by_token(options, numbers) for numbers in (options.log_ref, log_pi)]
        rows.copy(np.array([3]), np.array([0]))
        rows.copy(np.array([0, 1]), np.array([1, 0]))
        rows.copy(np.array([2]), np.array([3]))
    return torch.stack(found)


@pytest.mark.parametrize("source", SOURCES)
def test_rows_are_those_of_the_cpu(both, source):
    here, there = both(source)
    torch.testing.assert_close(steps(*there), steps(*here), **CLOSE)


@pytest.mark.parametrize("source", SOURCES)
def test_replies_have_the_numbers_of_the_cpu(both, source):
    """The log-probabilities of the device's replies, as the CPU has them."""
    (reference, network), (other, moved) = both(source)
    texts = ["a", "an um", "a um is a um is"]
    answers = GuidedPolicy(other, (moved,)).generate(texts, n=2, max_tokens=12, beta=0.7)
    prompts = [answer.prompt for answer in answers]
    tokens = [answer.tokens for answer in answers]
    scores = GuidedPolicy(reference, (network,)).score(prompts, tokens, beta=0.7)
    for answer, score in zip(answers, scores, strict=True):
        assert sum(score.log_ref) == pytest.approx(answer.log_ref, abs=0.02)


@pytest.mark.parametrize("source", SOURCES)
def test_packs_of_trees_have_the_values_of_the_cpu(both, source):
    here, there = both(source)
    sampling, units = SamplingParams((), top_k=12), (Units(0.0, 1.0),)
    policy, prompts = GuidedPolicy(here[0]), ["a", "an um"]
    trees = [
        tree
        for _, tree in grow(policy, prompts, Shape((3, 2), 8), [sampling] * len(prompts), (0, 0), 8)
    ]
    trees = [replace(tree, rewards=rewards_of(tree)) for tree in trees]
    batch = collate(round_packs(trees, units, [0.5] * len(trees), 256))
    found = []
    for reference, network in (here, there):
        place = reference.model.device
        moved = type(batch)(*(column if column is None else column.to(place) for column in batch))
        found.append(module_for(reference, network)(moved).detach().cpu())
    torch.testing.assert_close(found[1], found[0], **CLOSE)


def rewards_of(tree):
    return np.arange(len(tree.leaves), dtype=np.float32)[:, None]


def module_for(reference, network):
    module = ValueModule(source=network.card.source)
    module.network = network
    module._trainer = SimpleNamespace(datamodule=SimpleNamespace(reference=reference))
    return module


@pytest.mark.parametrize("source", SOURCES)
def test_a_round(fit_words, tmp_path, monkeypatch, source):
    monkeypatch.setattr("mavis.training.callbacks._plots", lambda *_: [])
    accelerator = "cpu" if DEVICE == "cpu" else "gpu"
    more = ("--data.rounds", "1", "--model.source", source, "--trainer.precision", "bf16-mixed")
    words = fit_words(tmp_path / "run", *more, "--trainer.accelerator", accelerator)
    assert main(words) == 0
    (entry,) = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert math.isfinite(entry["val_loss"])


def test_a_large_float32_reference_is_halved(tiny_folder, monkeypatch):
    monkeypatch.setattr("mavis.decoding.reference.SMALL", 1)
    loaded = ReferencePolicy.load(str(tiny_folder / "reference"), device=DEVICE)
    plain = ReferencePolicy.load(str(tiny_folder / "reference"), device="cpu")
    halves = _to_halve(plain.model, torch.device(DEVICE))
    assert loaded.model.dtype == (torch.bfloat16 if halves else torch.float32)
    assert loaded.model.device.type == DEVICE
    assert loaded.weights_digest == plain.weights_digest


def test_memory_is_measured(tiny_reference):
    free = free_memory(torch.device(DEVICE))
    assert free is None or free > 1e6
    model = deepcopy(tiny_reference.model)
    assert token_bytes(model.to(DEVICE)) == token_bytes(tiny_reference.model)
