"""How many rows fit: what is chosen, what is refused, and what a token takes."""

import pytest
import torch

from mavis.decoding import row_memory
from mavis.decoding.kv_cache import CachedRows
from mavis.decoding.row_memory import (
    FEWEST,
    MOST,
    MOST_ON_CPU,
    fitting_rows,
    free_memory,
    token_bytes,
)

PROMPTS = ["a", "an um"] * 4


@pytest.fixture
def free(monkeypatch):
    """Set how many bytes are free."""

    def set_to(number):
        monkeypatch.setattr(row_memory, "free_memory", lambda _: number)

    return set_to


def needed(reference, max_tokens=20):
    """What a row takes of a model in which logits weigh little beside 20 tokens' keys."""
    longest = max(reference.length(prompt) for prompt in PROMPTS) + max_tokens
    logits = row_memory.LOGITS * 4 * reference.vocabulary
    return row_memory.GUIDED * token_bytes(reference.model) * longest + logits


def test_a_token_takes_the_keys_and_values_of_its_layers(tiny_lm, family):
    model = tiny_lm(family, layers=2)
    found = token_bytes(model)
    cache = CachedRows(model, 3).cache
    with torch.inference_mode():
        model(input_ids=torch.tensor([[3]]), use_cache=False)  # the model is as it was
    assert cache.rows == 3
    layers = model(input_ids=torch.tensor([[3]])).past_key_values.layers
    assert found == sum(layer.keys.numel() + layer.values.numel() for layer in layers) * 4
    assert token_bytes(model.to(torch.bfloat16)) * 2 == found


@pytest.mark.parametrize(
    ("rows", "expected"), [(0, FEWEST), (3, FEWEST), (20, 20), (100, 100), (5000, MOST)]
)
def test_as_many_rows_as_fit_into_half_of_what_is_free(tiny_reference, free, rows, expected):
    free(2 * rows * needed(tiny_reference) + 8)
    assert fitting_rows(None, tiny_reference, PROMPTS, 20) == expected


def test_longer_replies_leave_room_for_fewer(tiny_reference, free):
    free(2 * 100 * needed(tiny_reference))
    assert fitting_rows(None, tiny_reference, PROMPTS, 100) < 50


def test_what_is_asked_for_is_taken_or_refused_in_one_line(tiny_reference, free):
    free(40 * needed(tiny_reference))
    assert fitting_rows(40, tiny_reference, PROMPTS, 20) == 40
    with pytest.raises(ValueError, match=r"^--data\.rows 512 needs about [\d.]+ GB .*: give") as no:
        fitting_rows(512, tiny_reference, PROMPTS, 20)
    least = int(str(no.value).rstrip(".").split()[-1])
    assert fitting_rows(least, tiny_reference, PROMPTS, 20) == least


def test_where_nothing_tells_what_is_free(tiny_reference, free):
    free(None)
    assert fitting_rows(None, tiny_reference, PROMPTS, 20) == MOST
    assert fitting_rows(512, tiny_reference, PROMPTS, 20) == 512


def test_the_free_memory_of_this_machine():
    free = free_memory(torch.device("cpu"))
    assert free is None or 1e6 < free < 1e15


@pytest.mark.parametrize(("limit", "left"), [("1000\n", 400), ("max\n", 1 << 62), (None, 1 << 62)])
def test_a_container_s_limit_counts(tmp_path, limit, left):
    if limit is not None:
        (tmp_path / "memory.max").write_text(limit)
        (tmp_path / "memory.current").write_text("600\n")
    assert row_memory._left_of_limit(tmp_path) == left


def test_a_large_model_on_a_cpu_has_fewer(tiny_reference, free, monkeypatch):
    free(10**15)
    monkeypatch.setattr(row_memory, "SMALL", 100)
    assert fitting_rows(None, tiny_reference, PROMPTS, 20) == MOST_ON_CPU < MOST
    assert fitting_rows(MOST, tiny_reference, PROMPTS, 20) == MOST
