"""`shared` values that are learned from finished `action` values."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from mavis import load
from mavis.checksums import seal
from mavis.cli.main import main
from mavis.decoding.request import SamplingParams
from mavis.decoding.value_model import build_network
from mavis.training.batching import collate
from mavis.training.distil import LEVEL, Teachers, check_teachers
from mavis.training.pack_candidates import with_candidates
from mavis.training.packing import pack_tree
from mavis.training.targets import soft_targets
from mavis.training.tree import Segment, build_tree


@pytest.fixture
def taught(tiny_fit, tiny_folder):
    """A reference, a new `shared` network and its teacher, whose units are others."""
    policy = load({"trial": tiny_fit / "value"}, reference=str(tiny_folder / "reference"))
    (teacher,) = policy.guides
    units = tuple(replace(one, std=one.std * 2) for one in teacher.card.units)
    card = replace(teacher.card, source="shared", layers=(), units=units)
    network = build_network(card, policy.reference)
    return (
        policy,
        teacher,
        network,
        Teachers([str(tiny_fit / "value")], ["trial"], policy.reference),
    )


def packs(reference):
    """Two trees of other sizes, side by side."""
    prompts = [list(reference.encode(text).tokens) for text in ("an um", "a mum is")]
    random, found = np.random.default_rng(0), []
    for prompt in prompts:
        segments = {(): Segment(prompt, [0.0] * len(prompt))}
        for child in range(2):
            segments[child,] = Segment(random.integers(3, 20, 2).tolist(), [0.0] * 2)
            for leaf in range(2):
                tokens = random.integers(3, 20, 1 + leaf).tolist()
                segments[child, leaf] = Segment(tokens, [0.0] * len(tokens), "said", "end")
        tree = build_tree("p", segments)
        targets = soft_targets(tree, random.normal(size=(4, 1)).astype(np.float32), 0.0)
        found += pack_tree(tree, targets, 10_000)
    asked = SamplingParams((), temperature=0.7, top_k=6)
    return collate(with_candidates([found], reference, asked)[0])


def test_the_loss_is_what_single_rows_come_to(taught):
    """Each path of each tree read by itself, and each state counted once."""
    policy, teacher, network, teachers = taught
    torch.nn.init.normal_(network.head.mix.weight, std=0.1)
    torch.nn.init.normal_(network.head.token, std=0.5)
    reference, batch = policy.reference, packs(policy.reference)
    sampling = [SamplingParams((1.0,), 1.5, 0.7, 6, 1.0), SamplingParams((1.0,), 3.0, 0.7, 6, 1.0)]
    with torch.no_grad():
        hidden = network.states(
            reference.model.base_model,
            input_ids=batch.tokens,
            attention_mask=batch.mask,
            position_ids=batch.position,
        )
        found = teachers.loss(network, hidden, batch, sampling)
        wanted = []
        for row in range(2):
            inside = (batch.depth[row] >= 0).nonzero()[:, 0]
            for at in sorted({int(batch.previous[row, token]) for token in inside}):
                path, place = [at], at
                while batch.position[row, place] > 0:
                    place = int(batch.previous[row, place])
                    path.append(place)
                ids = batch.tokens[row, path[::-1]][None]
                output = reference.model(ids, output_hidden_states=True)
                top = (output.logits[0, -1] / 0.7).topk(6)
                state = teacher.trunk(ids).last_hidden_state[:, -1]
                its = teacher.action_values(state, top.indices[None])[0, :, 0] / 2
                mine = network.action_values(output.hidden_states[-1][:, -1], top.indices[None])
                error = mine[0, :, 0] - its
                plain = top.values.softmax(-1)
                guided = (top.values + sampling[row].beta * its).softmax(-1)
                weight = (plain + guided) / 2
                mean = (weight * error).sum()
                wanted.append((weight * (error - mean) ** 2).sum() + LEVEL * mean**2)
    torch.testing.assert_close(found, torch.stack(wanted).mean(), atol=1e-5, rtol=1e-4)
    assert found > 0.01


def test_gradient_steps_come_near_the_teacher(tiny_fit, fit_words, tmp_path, monkeypatch):
    """A fit, through the command line; where it is stopped, it goes on."""
    monkeypatch.setattr("mavis.training.callbacks._plots", lambda *_: [])
    run, teacher = tmp_path / "run", ("--model.teacher", str(tiny_fit / "value"))
    words = (*teacher, "--data.epochs", "6", "--data.trees", "8")
    assert main(fit_words(run, *words, "--data.rounds", "1")) == 0
    assert main(fit_words(run, *words)) == 0
    assert len(json.loads((run / "metrics.json").read_text())) == 2
    reference = load({"trial": run / "value"}).reference
    mine, its = (load({"trial": one / "value"}).guides[0] for one in (run, tiny_fit))
    assert mine.card.source == "shared"
    assert mine.card.layers == ()
    batch = packs(reference)
    tokens = torch.arange(20)
    with torch.no_grad():
        ids = batch.tokens[:1, :5]
        states = [
            model(ids).last_hidden_state[0] for model in (reference.model.base_model, its.trunk)
        ]
        columns = [
            network.action_values(state, tokens.expand(len(state), -1))[..., 0]
            for network, state in zip((mine, its), states, strict=True)
        ]
    apart = [one - one.mean(-1, keepdim=True) for one in columns]
    assert torch.corrcoef(torch.stack([one.flatten() for one in apart]))[0, 1] > 0.5


def test_what_no_teacher_can_teach(tiny_fit, tmp_path):
    value = str(tiny_fit / "value")
    check_teachers([value], ["trial"])
    check_teachers([str(tiny_fit)], ["trial"])
    with pytest.raises(ValueError, match=r"no teacher has values of other \(there are trial\)"):
        check_teachers([value], ["trial", "other"])
    with pytest.raises(ValueError, match=r"both .* and .* have values of trial"):
        check_teachers([value, value], ["trial"])
    with pytest.raises(FileNotFoundError, match="no value model"):
        check_teachers([str(tmp_path)], ["trial"])
    folder = shutil.copytree(value, tmp_path / "shared")
    card = json.loads((folder / "value.json").read_text())
    (folder / "value.json").write_text(json.dumps(card | {"source": "shared"}))
    seal(folder)
    with pytest.raises(ValueError, match="has `shared` values: give `action` values"):
        check_teachers([str(folder)], ["trial"])


@pytest.mark.parametrize("more", [("--model.source", "action"), ("--model.credit", "joint")])
def test_a_teacher_is_of_shared_values(fit_words, tiny_fit, tmp_path, capsys, more):
    words = ("--model.teacher", str(tiny_fit / "value"), *more)
    assert main(fit_words(tmp_path / "run", *words)) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "a teacher is of `shared` values, which learn from it in gradient steps" in line


def test_a_missing_teacher_is_said_before_anything_is_sampled(fit_words, tmp_path, capsys):
    run = tmp_path / "run"
    assert main(fit_words(run, "--model.teacher", str(tmp_path / "none"))) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "holds no value model" in line
    assert not (run / "reference").exists()


def test_a_teacher_for_another_tokenizer_is_said_before_anything_is_sampled(
    fit_words, tiny_fit, tmp_path, capsys
):
    run, words = tmp_path / "run", ("--data.reference", "sandbox/reference")
    assert main(fit_words(run, *words, "--model.teacher", str(tiny_fit))) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "have different tokenizers" in line
    assert not (run / "reference").exists()
