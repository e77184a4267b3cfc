"""Attention by length says what attention to everything, masked, says."""

import numpy as np
import pytest
import torch

from mavis.decoding import attention
from mavis.decoding.attention import NAME, attending, by_length, let_attend_by_length, runs_of
from mavis.decoding.decode import decode
from mavis.decoding.request import Request, SamplingParams


class Module(torch.nn.Module):
    """What the attention function asks of a layer."""

    num_key_value_groups, is_causal, training = 2, False, False


def padded(reach, queries, rng):
    """Queries, keys, values and a mask of rows that reach so far."""
    rows, span = len(reach), max(reach)
    query = torch.tensor(rng.normal(size=(rows, 4, queries, 8)))
    key, value = (torch.tensor(rng.normal(size=(rows, 2, span, 8))) for _ in "kv")
    seen = torch.arange(span) < torch.tensor(reach)[:, None]
    mask = torch.where(seen, 0.0, -torch.inf)[:, None, None].expand(-1, 1, queries, -1).double()
    return query, key, value, mask


@pytest.mark.parametrize("reach", [[5], [3, 4, 90, 2], [80, 3, 3, 70, 71], [9] * 6])
@pytest.mark.parametrize("queries", [1, 3])
def test_it_equals_attention_to_all_that_is_shown(reach, queries, monkeypatch):
    monkeypatch.setattr(attention, "CPU_CALL", 20)
    given = padded(reach, queries, np.random.default_rng(1))
    want, _ = by_length(Module(), *given)
    with attending(reach, torch.device("cpu")):
        found, _ = by_length(Module(), *given)
    torch.testing.assert_close(found, want)
    again, _ = by_length(Module(), *given)  # nothing is left behind
    assert torch.equal(again, want)


def test_what_lies_beyond_a_run_is_not_looked_at(monkeypatch):
    monkeypatch.setattr(attention, "CPU_CALL", 20)
    reach = [3, 90, 4]
    query, key, value, mask = padded(reach, 1, np.random.default_rng(1))
    for at, length in enumerate(reach):
        key[at, :, length:] = torch.nan
    with attending(reach, torch.device("cpu")):
        assert by_length(Module(), query, key, value, mask)[0].isfinite().all()
    assert not by_length(Module(), query, key, value, mask)[0].isfinite().all()


def test_runs_cover_all_rows_and_waste_little():
    assert runs_of([], 10) == []
    assert runs_of([7, 7, 7], 0) == [(0, 3, 7)]
    assert runs_of([10] * 15 + [400], 512) == [(0, 15, 10), (15, 16, 400)]
    rng = np.random.default_rng(0)
    for _ in range(100):
        reach = rng.integers(1, 900, rng.integers(1, 40)).tolist()
        runs = runs_of(reach, 500)
        assert [at for begin, end, _ in runs for at in range(begin, end)] == [*range(len(reach))]
        assert all(longest == max(reach[begin:end]) for begin, end, longest in runs)


@pytest.mark.parametrize("source", ["action", "state", "shared"])
def test_rows_of_unlike_length_decode_as_each_alone(
    tiny_reference, tiny_network, monkeypatch, source
):
    monkeypatch.setattr(attention, "CPU_CALL", 20)
    network = tiny_network(tiny_reference, source)
    asked = [
        Request([3 + at] * length, 8, SamplingParams((1.0,), top_k=5), (at,), tag=at)
        for at, length in enumerate([5, 90, 4, 6, 70, 3])
    ]
    want = {one.tag: next(decode(tiny_reference, [network], [one])).tokens for one in asked}
    found = {one.request.tag: one.tokens for one in decode(tiny_reference, [network], asked)}
    assert found == want


def test_families_take_it_and_are_saved_as_they_were(build_reference, family, tmp_path):
    reference = build_reference(family)
    let_attend_by_length(reference.model)
    assert reference.model.config._attn_implementation in {NAME, "eager", "sdpa"}
    reference.model.save_pretrained(tmp_path)
    assert NAME not in (tmp_path / "config.json").read_text()
