"""The three sources, deep in decoding, against values of whole token sequences."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, get_args

import numpy as np
import pytest
import torch

from mavis.decoding.guides import Reading
from mavis.decoding.kv_cache import CachedRows
from mavis.decoding.model_card import Source
from mavis.decoding.reference import ReferencePolicy
from mavis.decoding.tilt import RowSettings
from mavis.decoding.value_model import ValueModel
from mavis.decoding.value_states import ActionValues, SharedValues, StateValues

SOURCES = get_args(Source)
Make = Callable[..., ValueModel]
Build = Callable[..., ReferencePolicy]


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


class Walk:
    """Rows that wander at random; each value on the way is compared with a naive one."""

    def __init__(
        self,
        reference: ReferencePolicy,
        networks: Sequence[ValueModel],
        naive: Any,
        rows: int = 4,
    ) -> None:
        self.rng, self.vocab = np.random.default_rng(11), reference.vocabulary
        self.sources = [network.start(rows) for network in networks]
        layers = sorted({at for source in self.sources for at in source.layers})
        self.cache = CachedRows(reference.model, rows, hidden=True, layers=layers)
        self.naive = naive(reference, networks)
        self.tokens: list[list[int]] = [[] for _ in range(rows)]

    def begin(self, rows: list[int], lengths: list[int]) -> None:
        """Start rows afresh; all but the last token is read now, as in decoding."""
        for row, length in zip(rows, lengths, strict=True):
            self.tokens[row] = [int(t) for t in self.rng.integers(0, self.vocab, length)]
        index = np.array(rows)
        self.cache.clear(index)
        for source in self.sources:
            source.clear(index)
        some = [row for row in rows if len(self.tokens[row]) > 1]
        self._read(some, [self.tokens[row][:-1] for row in some])

    def step(self, rows: list[int], count: int) -> None:
        """Value `count` random candidates on each row, compare, and go on with one of them."""
        index = np.array(rows)
        self._read(rows, [self.tokens[row][-1:] for row in rows])
        picks = [self.rng.permutation(self.vocab)[:count] for _ in rows]
        candidates = torch.tensor(np.array(picks))
        found = torch.cat([source.values(index, candidates) for source in self.sources], -1)
        assert found.dtype == torch.float32
        expected = [
            self.naive.values(self.tokens[row], candidates[at].tolist())
            for at, row in enumerate(rows)
        ]
        torch.testing.assert_close(found, torch.tensor(expected), atol=1e-4, rtol=1e-5)
        assert found.std() > 0.1  # there was something to get wrong
        chosen = torch.tensor(self.rng.integers(0, count, len(rows)))
        for source in self.sources:
            source.commit(index, chosen)
        for at, row in enumerate(rows):
            self.tokens[row].append(int(candidates[at, chosen[at]]))

    def force(self, rows: list[int]) -> None:
        """Go on with a token that was no candidate."""
        self._read(rows, [self.tokens[row][-1:] for row in rows])
        for row in rows:
            self.tokens[row].append(int(self.rng.integers(self.vocab)))

    def copy(self, dst: int, src: int) -> None:
        for holder in (self.cache, *self.sources):
            holder.copy(np.array([dst]), np.array([src]))
        self.tokens[dst] = list(self.tokens[src])

    def _read(self, rows: list[int], tokens: list[list[int]]) -> None:
        index = np.array(rows)
        reading = self.cache.extend(index, tokens)
        for source in self.sources:
            source.extend(Reading(index, tokens, reading, RowSettings(*torch.ones(5, len(rows)))))


def wander(walk: Walk) -> None:
    """Ragged prompts, growth beyond the first slots, forks, a fresh row among old ones."""
    walk.begin([0, 1, 2], [5, 60, 1])
    for _ in range(6):
        walk.step([0, 1, 2], 5)
    walk.copy(3, 0)
    walk.step([0, 1, 2, 3], 4)
    walk.force([2, 0])
    walk.begin([1], [9])
    walk.step([3, 1], 6)
    walk.copy(0, 1)
    for _ in range(3):
        walk.step([2, 0, 1, 3], 7)


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("objectives", [("humor",), ("humor", "kind")])
def test_cached_values_equal_recomputed_ones(
    tiny_reference: ReferencePolicy,
    tiny_network: Make,
    naive: Any,
    source: Source,
    objectives: tuple[str, ...],
) -> None:
    wander(Walk(tiny_reference, [tiny_network(tiny_reference, source, objectives)], naive))


@pytest.mark.parametrize("source", ["shared", "state"])
@pytest.mark.parametrize("layers", [(0,), (2,), (1, 0)])
def test_states_of_other_layers(
    build_reference: Build,
    tiny_network: Make,
    naive: Any,
    family: str,
    layers: tuple[int, ...],
    source: Source,
) -> None:
    reference = build_reference(family, layers=3)
    inner = tiny_network(reference, source, ("a", "b"), layers=layers)
    walk = Walk(reference, [inner, tiny_network(reference, "shared", ("c",), seed=2)], naive)
    walk.begin([0, 1, 2], [3, 11, 1])
    walk.step([0, 1, 2], 4)
    walk.copy(3, 1)
    walk.step([2, 3, 0], 4)
    walk.step([0, 1, 2, 3], 4)


@pytest.mark.parametrize(
    "pair", [("action", "state"), ("state", "shared"), ("state", "state"), ("shared", "action")]
)
def test_two_networks_beside_each_other(
    tiny_reference: ReferencePolicy, tiny_network: Make, naive: Any, pair: tuple[Source, Source]
) -> None:
    first = tiny_network(tiny_reference, pair[0], ("humor", "kind"), seed=1)
    second = tiny_network(tiny_reference, pair[1], ("sense",), seed=2, trunk=1)
    wander(Walk(tiny_reference, [first, second], naive))


@pytest.mark.parametrize("source", SOURCES)
def test_every_family(
    build_reference: Build, tiny_network: Make, naive: Any, family: str, source: Source
) -> None:
    reference = build_reference(family, layers=2)
    walk = Walk(reference, [tiny_network(reference, source, ("a", "b"))], naive)
    walk.begin([0, 1, 2], [3, 11, 1])
    walk.step([0, 1, 2], 4)
    walk.copy(3, 1)
    walk.step([2, 3, 0], 4)
    walk.step([0, 1, 2, 3], 4)


@pytest.mark.parametrize("family", ["gpt2"], indirect=True)
@pytest.mark.parametrize("source", SOURCES)
def test_to_the_end_of_the_context(
    build_reference: Build, tiny_network: Make, naive: Any, family: str, source: Source
) -> None:
    reference = build_reference(family)
    walk = Walk(reference, [tiny_network(reference, source)], naive)
    walk.begin([0, 1], [reference.context - 3, 2])
    for _ in range(3):
        walk.step([0, 1], 3)


@pytest.mark.parametrize("source", ["action", "state"])
def test_adapters_are_part_of_the_values(
    tiny_reference: ReferencePolicy, tiny_network: Make, naive: Any, source: Source
) -> None:
    lora = {"r": 4, "target_modules": ["q_proj", "v_proj"]}
    network = tiny_network(tiny_reference, source, lora=lora)
    walk = Walk(tiny_reference, [network], naive)
    walk.begin([0, 1], [4, 9])
    for _ in range(3):
        walk.step([0, 1], 5)


def test_a_card_names_its_source(tiny_reference: ReferencePolicy, tiny_network: Make) -> None:
    kinds = {"action": ActionValues, "state": StateValues, "shared": SharedValues}
    for source, kind in kinds.items():
        assert type(tiny_network(tiny_reference, source).start(2)) is kind
