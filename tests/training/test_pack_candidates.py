"""Candidates of packs are those of the decoder, state by state."""

import numpy as np
import pytest
import torch

from mavis import load
from mavis.decoding.request import SamplingParams, row_settings
from mavis.decoding.tilt import candidates
from mavis.training import pack_candidates
from mavis.training.batching import collate, on_device
from mavis.training.pack_candidates import with_candidates
from mavis.training.packing import pack_tree
from mavis.training.targets import soft_targets
from mavis.training.tree import Segment, build_tree


@pytest.fixture
def reference(tiny_fit, tiny_folder):
    return load({"trial": tiny_fit / "value"}, reference=str(tiny_folder / "reference")).reference


def two_packs(reference):
    """Of other lengths, side by side."""
    random, found = np.random.default_rng(0), []
    for text, width in (("an um", 2), ("a mum is", 3)):
        prompt = list(reference.encode(text).tokens)
        segments = {(): Segment(prompt, [0.0] * len(prompt))}
        for child in range(2):
            segments[child,] = Segment(random.integers(3, 20, width).tolist(), [0.0] * width)
            for leaf in range(2):
                tokens = random.integers(3, 20, 2).tolist()
                segments[child, leaf] = Segment(tokens, [0.0] * 2, "said", "end")
        tree = build_tree("p", segments)
        found += pack_tree(tree, soft_targets(tree, np.zeros((4, 1), np.float32), 0.0), 10_000)
    return found


@pytest.mark.parametrize(
    "asked",
    [SamplingParams((), temperature=0.7, top_k=6), SamplingParams((), top_k=9, top_p=0.5)],
    ids=["top-k", "top-p"],
)
def test_they_are_what_a_path_read_alone_comes_to(reference, asked):
    packs = two_packs(reference)
    ((*found,),) = with_candidates([packs], reference, asked)
    batch = collate(found)
    for row, pack in enumerate(found):
        for at in range(len(pack.tokens)):
            path, place = [at], at
            while pack.previous[place] >= 0:
                place = int(pack.previous[place])
                path.append(place)
            ids = torch.tensor(pack.tokens[path[::-1]])[None]
            logits = reference.model(ids).logits[:, -1].detach()
            settings = row_settings([asked], logits.shape[-1], logits.device)
            alone = candidates(logits, settings)
            kept = alone.log_ref[0].isfinite()
            assert torch.equal(batch.log_ref[row, at].isfinite(), kept)
            assert batch.candidates[row, at][kept].tolist() == alone.tokens[0][kept].tolist()
            torch.testing.assert_close(
                batch.log_ref[row, at][kept], alone.log_ref[0][kept], atol=1e-4, rtol=1e-4
            )


def test_of_a_whole_vocabulary_the_likeliest_are_kept(reference, monkeypatch):
    monkeypatch.setattr(pack_candidates, "MOST", 5)
    packs = two_packs(reference)
    every = with_candidates([packs], reference, SamplingParams((), top_k=0))[0]
    five = with_candidates([packs], reference, SamplingParams((), top_k=5))[0]
    for one, other in zip(every, five, strict=True):
        assert one.candidates.shape == (len(one.tokens), 5)
        assert np.array_equal(one.candidates, other.candidates)


def test_a_batch_without_candidates_goes_to_a_device_as_it_is(reference):
    batch = collate(two_packs(reference))
    moved = on_device(batch, torch.device("cpu"))
    assert moved.candidates is None
    assert torch.equal(moved.tokens, batch.tokens)
