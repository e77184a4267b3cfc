"""The rows cache against plain forwards of each row alone, without a cache, for every family."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from mavis.decoding.kv_cache import CachedRows, Index

CLOSE = 2e-5
Build = Callable[..., PreTrainedModel]


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


@pytest.fixture
def lm(tiny_lm: Build, family: str) -> PreTrainedModel:
    return tiny_lm(family, layers=2)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


class Fresh:
    """Rows as bare token lists, each read alone and from its beginning whenever it is asked."""

    def __init__(self, model: PreTrainedModel, rows: int) -> None:
        self.model = model
        self.tokens: list[list[int]] = [[] for _ in range(rows)]

    def logits(self, tokens: list[int]) -> Tensor:
        found: Tensor = self.model(input_ids=torch.tensor([tokens]), use_cache=False).logits
        return found[0, -1]

    def hidden(self, tokens: list[int]) -> Tensor:
        headless = self.model.base_model
        found: Tensor = headless(input_ids=torch.tensor([tokens]), use_cache=False)[0]
        return found[0, -1]


class Pair:
    """A cache and its slow double, told the same things."""

    def __init__(self, model: PreTrainedModel, rows: int, seed: int = 3) -> None:
        self.cache, self.fresh = CachedRows(model, rows, hidden=True), Fresh(model, rows)
        self.trunk = CachedRows(model.base_model, rows)
        self.rng, self.vocab = np.random.default_rng(seed), model.config.vocab_size

    def some(self, count: int) -> list[int]:
        return [int(token) for token in self.rng.integers(0, self.vocab, count)]

    def extend(self, rows: list[int], counts: list[int]) -> None:
        """Extend both by random tokens, and compare what is read at each row's end."""
        tokens = [self.some(count) for count in counts]
        index = np.array(rows)
        reading, bare = self.cache.extend(index, tokens), self.trunk.extend(index, tokens)
        assert reading.hidden is not None
        assert bare.hidden is not None
        assert bare.logits is None
        assert reading.logits is not None
        assert reading.logits.dtype == torch.float32
        for at, row in enumerate(rows):
            self.fresh.tokens[row] += tokens[at]
            whole = self.fresh.tokens[row]
            assert_close(reading.logits[at], self.fresh.logits(whole))
            assert_close(reading.hidden[at], self.fresh.hidden(whole))
            assert_close(bare.hidden[at], self.fresh.hidden(whole))
        self.same_lengths()

    def score(self, rows: list[int], count: int) -> Tensor:
        """Score random candidates and compare each with a forward of its own."""
        candidates = torch.tensor([self.some(count) for _ in rows])
        index = np.array(rows)
        states, bare = self.cache.score(index, candidates), self.trunk.score(index, candidates)
        assert states.hidden is not None
        assert bare.hidden is not None
        for at, row in enumerate(rows):
            for k in range(count):
                whole = [*self.fresh.tokens[row], int(candidates[at, k])]
                assert_close(states.hidden[at, k], self.fresh.hidden(whole))
                assert_close(bare.hidden[at, k], self.fresh.hidden(whole))
        self.same_lengths()
        return candidates

    def commit(self, rows: list[int], candidates: Tensor, chosen: list[int]) -> None:
        for cache in (self.cache, self.trunk):
            cache.commit(np.array(rows), torch.tensor(chosen))
        for at, row in enumerate(rows):
            self.fresh.tokens[row].append(int(candidates[at, chosen[at]]))
        self.same_lengths()

    def copy(self, dst: list[int], src: list[int]) -> None:
        for cache in (self.cache, self.trunk):
            cache.copy(np.array(dst), np.array(src))
        copies = [list(self.fresh.tokens[row]) for row in src]
        for row, tokens in zip(dst, copies, strict=True):
            self.fresh.tokens[row] = tokens

    def same_lengths(self) -> None:
        lengths = [len(tokens) for tokens in self.fresh.tokens]
        assert self.cache.lengths.tolist() == lengths
        assert self.trunk.lengths.tolist() == lengths


def assert_close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=CLOSE, rtol=CLOSE)


def test_ragged_prefill_and_ragged_steps(lm: PreTrainedModel) -> None:
    pair = Pair(lm, 6)
    pair.extend([4, 0, 2], [7, 1, 30])
    pair.extend([5, 3], [2, 2])
    for rows in ([0, 1], [0, 1, 2, 3, 4, 5], [5, 4, 3, 2, 1, 0], [3], [2, 5, 0]):
        pair.extend(rows, [1] * len(rows))
    pair.extend([3, 1, 5, 0], [4, 1, 9, 2])  # more than one token on rows that hold some already


def test_rows_grow_beyond_their_first_slots(lm: PreTrainedModel) -> None:
    pair = Pair(lm, 3)
    pair.extend([0, 1, 2], [62, 3, 10])
    slots = pair.cache.cache.slots
    for _ in range(4):  # steps across the border, one row at a time behind the others
        pair.extend([0, 1, 2], [1, 1, 1])
    assert pair.cache.cache.slots > slots
    pair.extend([1, 2], [75, 80])  # twice as many in one go
    pair.copy([0], [2])
    pair.extend([0, 1, 2], [1, 2, 3])


def test_candidates_side_by_side_equal_candidates_alone(lm: PreTrainedModel) -> None:
    pair = Pair(lm, 4)
    pair.extend([0, 1, 2, 3], [5, 1, 20, 9])
    pair.score([0, 1, 2, 3], 7)
    pair.score([3, 1], 1)
    pair.extend([1, 3], [1, 2])  # scoring leaves nothing behind
    pair.score([2], 40)


def test_a_committed_candidate_goes_on_as_if_it_had_been_read(lm: PreTrainedModel) -> None:
    pair = Pair(lm, 3)
    pair.extend([0, 1, 2], [55, 3, 8])
    for chosen in ([4, 0, 2], [0, 0, 0], [3, 4, 1]):
        pair.commit([0, 1, 2], pair.score([0, 1, 2], 5), chosen)
    pair.commit([2, 0], pair.score([2, 0], 6), [5, 1])
    pair.extend([1, 2, 0], [2, 1, 3])


def test_copies_go_their_own_ways(lm: PreTrainedModel) -> None:
    pair = Pair(lm, 5)
    pair.extend([0, 1], [12, 4])
    pair.copy([2, 3, 4], [0, 1, 0])
    pair.extend([0, 2, 3, 4], [1, 3, 2, 1])
    pair.copy([0, 1], [1, 0])  # a swap reads before it writes
    pair.extend([0, 1, 2], [1, 2, 1])
    pair.copy([2], [1])  # a shorter row over a longer one, and back
    pair.commit([1, 2], pair.score([1, 2], 3), [2, 0])
    pair.extend([4, 2, 1, 0], [1, 1, 1, 1])


def test_what_lies_beyond_a_row_is_never_seen(lm: PreTrainedModel) -> None:
    pair = Pair(lm, 3)
    pair.extend([0, 1, 2], [9, 30, 4])
    for rows in (pair.cache, pair.trunk):
        for buffer in (*rows.cache.keys, *rows.cache.values):
            for row, length in enumerate(rows.lengths):
                buffer[row, length:] = 1e4
    pair.extend([0, 1, 2], [3, 1, 1])
    pair.commit([0, 2], pair.score([0, 2], 4), [3, 1])
    pair.extend([2, 0, 1], [1, 5, 2])


def test_cleared_rows_begin_again(lm: PreTrainedModel) -> None:
    pair = Pair(lm, 2)
    pair.extend([0, 1], [40, 6])
    for rows in (pair.cache, pair.trunk):
        rows.clear(np.array([0]))
    pair.fresh.tokens[0] = []
    pair.extend([0, 1], [2, 1])
    pair.score([0, 1], 3)


@pytest.mark.parametrize("family", ["gpt2", "llama"], indirect=True)
def test_to_the_very_end_of_the_context(lm: PreTrainedModel) -> None:
    """With learned positions anything behind the last one is out of range."""
    end = lm.config.max_position_embeddings
    pair = Pair(lm, 3)
    pair.extend([0, 1, 2], [end - 3, 1, end - 40])
    pair.extend([0, 1], [1, 30])
    pair.score([0, 2], 20)  # twenty candidates, all at the last position but one
    pair.commit([0, 1, 2], pair.score([0, 1, 2], 4), [0, 3, 2])
    pair.extend([0, 2], [1, 5])
    assert len(pair.fresh.tokens[0]) == end


def test_what_is_read_in_silence_is_read(lm: PreTrainedModel) -> None:
    pair = Pair(lm, 4)
    for cache in (pair.cache, pair.trunk):
        reading = cache.extend(np.array([1, 2]), [[5, 6, 7, 8], [9, 10]], silent=True)
        assert reading.logits is None
        assert reading.hidden is not None
    pair.fresh.tokens[1:3] = [[5, 6, 7, 8], [9, 10]]
    assert_close(reading.hidden[1], pair.fresh.hidden([9, 10]))
    pair.extend([1, 2], [1, 2])
    pair.extend([2, 3, 0], [1, 4, 2])


def test_a_headless_model_says_no_logits(tiny_lm: Build) -> None:
    reading = CachedRows(tiny_lm().base_model, 1).extend(np.array([0]), [[3, 4]])
    assert reading.logits is None
    assert reading.hidden is not None
    assert reading.hidden.shape == (1, 32)


@pytest.mark.parametrize("selects", [True, False])
def test_states_of_the_layers_that_were_asked_for(
    lm: PreTrainedModel, monkeypatch: pytest.MonkeyPatch, selects: bool
) -> None:
    """Where a forward can be told which layers to keep, and where it keeps them all."""
    if not selects:
        monkeypatch.setattr("mavis.decoding.kv_cache.SELECTS", False)
    texts = [[3, 4, 5], [9]]
    rows = CachedRows(lm, 2, layers=(2, 0))
    found = rows.extend(np.array([0, 1]), texts)
    more = rows.extend(np.array([0, 1]), [[6, 7], [8, 3]], every=True)
    assert found.hidden is None
    assert list(found.layers) == [2, 0]
    for row, (text, rest) in enumerate(zip(texts, [[6, 7], [8, 3]], strict=True)):
        whole = lm(torch.tensor([[*text, *rest]]), output_hidden_states=True).hidden_states
        for at in (0, 2):
            assert_close(found.layers[at][row], whole[at][0, len(text) - 1])
            assert_close(more.layers[at][row], whole[at][0, len(text) :])


def test_hidden_states_only_when_asked(tiny_lm: Build) -> None:
    index: Index = np.array([0])
    assert CachedRows(tiny_lm(), 1).extend(index, [[3, 4]]).hidden is None
    assert CachedRows(tiny_lm(), 1, hidden=True).extend(index, [[3, 4]]).hidden is not None


def test_random_work_with_all_primitives(tiny_lm: Build, rng: np.random.Generator) -> None:
    pair = Pair(tiny_lm("qwen2", layers=2), 5)
    pair.extend([0, 1, 2, 3, 4], [3, 1, 6, 2, 11])
    for _ in range(30):
        rows = rng.permutation(5)[: rng.integers(1, 6)].tolist()
        act = rng.integers(3)
        if act == 0:
            pair.extend(rows, rng.integers(1, 4, len(rows)).tolist())
        elif act == 1:
            count = int(rng.integers(1, 5))
            pair.commit(rows, pair.score(rows, count), rng.integers(0, count, len(rows)).tolist())
        else:
            pair.copy(rows[:1], rng.integers(0, 5, 1).tolist())
