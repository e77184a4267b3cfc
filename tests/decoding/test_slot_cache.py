"""Copies that wait: what they hold, what they share, and that their memory is given back."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from mavis.decoding.kv_cache import CachedRows
from mavis.decoding.slot_cache import SlotCache

ROWS = 3  # in the buffers; a row beyond them waits


@pytest.fixture
def model(tiny_lm) -> PreTrainedModel:
    return tiny_lm("llama", layers=2)


@pytest.fixture
def cache(model) -> CachedRows:
    rows = CachedRows(model, ROWS)
    rows.reserve(ROWS + 4)
    return rows


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


def read(cache: CachedRows, row: int, tokens: list[int]) -> Tensor:
    logits = cache.extend(np.array([row]), [tokens]).logits
    assert logits is not None
    return logits[0]


def copy(cache: CachedRows, dst: list[int], src: list[int]) -> None:
    cache.copy(np.array(dst), np.array(src))


def alone(model: PreTrainedModel, tokens: list[int]) -> Tensor:
    return read(CachedRows(model, 1), 0, tokens)


def waiting(slots: SlotCache) -> dict[int, int]:
    """The tokens that are kept aside, in elements of memory, each piece counted once."""
    parts = [part for parts in slots._parts.values() for part in parts]
    return {id(part): sum(states.numel() for states in part) for part in parts}


def test_a_copy_goes_on_as_the_row_would_have(cache, model):
    read(cache, 0, [3, 4, 5])
    copy(cache, [4], [0])
    read(cache, 0, [6])  # the row goes on, the copy does not
    copy(cache, [1], [4])
    assert torch.equal(read(cache, 1, [7, 8]), read_again(model, [3, 4, 5], [7, 8]))
    assert cache.lengths.tolist() == [4, 5, 0, 0, 3, 0, 0]


def read_again(model: PreTrainedModel, first: list[int], then: list[int]) -> Tensor:
    """What rows of the same buffers give that read in the same steps."""
    rows = CachedRows(model, ROWS)
    read(rows, 1, first)
    return read(rows, 1, then)


def test_a_copy_of_a_copy_s_child_holds_only_what_is_new(cache, model):
    slots = cache.cache
    read(cache, 0, [3, 4, 5, 6, 7])
    copy(cache, [3], [0])
    prompt = sum(waiting(slots).values())
    copy(cache, [1], [3])  # a child of the copy, which is read further, and waits in turn
    read(cache, 1, [8])
    copy(cache, [4], [1])
    assert sum(waiting(slots).values()) == prompt * 6 // 5
    read(cache, 0, [9])  # so does the row that has gone on in place
    copy(cache, [5], [0])
    assert sum(waiting(slots).values()) == prompt * 7 // 5
    copy(cache, [0, 1], [4, 5])  # the two change places
    for row, tokens in ((0, [3, 4, 5, 6, 7, 8, 2]), (1, [3, 4, 5, 6, 7, 9, 2])):
        torch.testing.assert_close(read(cache, row, [2]), alone(model, tokens))


def test_a_row_that_is_copied_within_the_buffers_begins_as_the_other_does(cache, model):
    read(cache, 0, [3, 4])
    read(cache, 1, [5, 6, 7])
    copy(cache, [3, 4], [0, 1])
    copy(cache, [0, 1], [1, 0])
    read(cache, 0, [8])
    copy(cache, [5], [0])
    copy(cache, [2], [5])
    torch.testing.assert_close(read(cache, 2, [9]), alone(model, [5, 6, 7, 8, 9]))


def test_a_row_that_begins_anew_has_nothing_of_the_one_before(cache, model):
    read(cache, 0, [3, 4, 5])
    copy(cache, [3], [0])
    cache.clear(np.array([0]))
    read(cache, 0, [9, 8])
    copy(cache, [4], [0])
    copy(cache, [1], [4])
    torch.testing.assert_close(read(cache, 1, [2]), alone(model, [9, 8, 2]))


def test_the_memory_of_copies_is_given_back(cache):
    read(cache, 0, [3, 4, 5])
    copy(cache, [3], [0])
    cache.clear(np.array([3]))
    assert waiting(cache.cache)  # the row itself still begins so
    cache.clear(np.array([0]))
    assert not waiting(cache.cache)


def test_a_row_that_waits_can_be_read_where_it_is(cache, model):
    read(cache, 0, [3, 4, 5])
    copy(cache, [5], [0])
    torch.testing.assert_close(read(cache, 5, [6]), alone(model, [3, 4, 5, 6]))
    assert cache.cache.rows == 6  # the buffers have grown


def test_buffers_are_of_the_model_s_own_type(model):
    cache = CachedRows(model.to(torch.bfloat16), ROWS)
    read(cache, 0, [3, 4])
    for buffer in (*cache.cache.keys, *cache.cache.values):
        assert buffer.dtype == torch.bfloat16
        assert buffer[1:].eq(0).all()
