"""Batches: packs side by side, for a forward of the value model, and their order in each pass."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Sampler
from transformers import PreTrainedModel

from mavis.decoding.windows import tree_masks
from mavis.training.packing import Pack
from mavis.training.tree import Ints


class Batch(NamedTuple):
    """Packs side by side, padded to the longest; padding is masked and has no targets."""

    tokens: Tensor  # [B, T]
    previous: Tensor  # [B, T]; 0 where there is none
    position: Tensor  # [B, T]
    mask: Tensor  # [B, 1, T, T] bool: may attend
    target_bits: Tensor  # [B, T, M] int32: of `targets`; Lightning rounds floats in half precision
    siblings: Tensor  # [B, T]
    depth: Tensor  # [B, T] position in the response; the prompt's last token is at −1
    start_bits: Tensor  # [B, M] int32, as the targets: the target of the prompt
    price_bits: Tensor  # [B, T] int32, as the targets: η log π/π_ref
    leaf: Tensor  # [B, T] bool: a response ends here
    weights: Tensor  # [B, M] float32: λ that guided the policy; 0 where it was the reference
    increment_bits: Tensor | None = None  # [B, T, M] int32, as the targets
    candidates: Tensor | None = None  # [B, T, K] int32: of the state after each token
    log_ref_bits: Tensor | None = None  # [B, T, K] int32, as the targets

    @property
    def targets(self) -> Tensor:
        """[B, T, M] float32, NaN = nothing to learn here."""
        return self.target_bits.view(torch.float32)

    @property
    def start(self) -> Tensor:
        """[B, M] float32: the target of the prompt."""
        return self.start_bits.view(torch.float32)

    @property
    def price(self) -> Tensor:
        """[B, T] float32: η log π/π_ref, what each token is charged."""
        return self.price_bits.view(torch.float32)

    @property
    def increments(self) -> Tensor | None:
        """[B, T, M] float32: what each token adds to the reward of the reply so far."""
        return None if self.increment_bits is None else self.increment_bits.view(torch.float32)

    @property
    def log_ref(self) -> Tensor:
        """[B, T, K] float32: log π_ref of the candidates; −∞ where there are fewer."""
        assert self.log_ref_bits is not None
        return self.log_ref_bits.view(torch.float32)

    @property
    def path(self) -> Tensor:
        """[B, T, T] float32: 1 where a token of the response leads to a token, itself included."""
        return (self.mask[:, 0] & (self.depth >= 0)[:, None]).float()

    def before(self, states: Tensor) -> Tensor:
        """The state before each token [B, T, H], of the states after each."""
        return states.gather(1, self.previous[..., None].expand(-1, -1, states.shape[-1]))


def tree_mask(previous: Ints) -> np.ndarray:
    """Which token may attend to which [T, T], from each token's predecessor [T]."""
    mask = np.eye(len(previous), dtype=bool)
    for token, before in enumerate(previous):
        if before >= 0:
            mask[token] |= mask[before]
    return mask


def collate(packs: Sequence[Pack]) -> Batch:
    """Put packs side by side."""
    width = max(len(pack.tokens) for pack in packs)

    def padded(arrays: Sequence[np.ndarray], value: float) -> Tensor:
        tensors = [torch.from_numpy(array) for array in arrays]
        return pad_sequence(tensors, batch_first=True, padding_value=value)

    # Padding sees itself, so that no row of the softmax is empty.
    mask = np.tile(np.eye(width, dtype=bool), (len(packs), 1, 1))
    for square, pack in zip(mask, packs, strict=True):
        size = len(pack.tokens)
        square[:size, :size] = tree_mask(pack.previous)
    gained = [pack.increments for pack in packs if pack.increments is not None]
    options = [pack.candidates for pack in packs if pack.candidates is not None]
    log_ref = [pack.log_ref for pack in packs if pack.log_ref is not None]
    return Batch(
        tokens=padded([pack.tokens for pack in packs], 0),
        previous=padded([np.maximum(pack.previous, 0) for pack in packs], 0),
        position=padded([pack.position for pack in packs], 0),
        mask=torch.from_numpy(mask)[:, None],
        target_bits=padded([pack.targets for pack in packs], np.nan).view(torch.int32),
        siblings=padded([pack.siblings for pack in packs], -1),
        depth=padded([pack.position - pack.prompt_length for pack in packs], -1),
        start_bits=torch.from_numpy(np.stack([pack.start for pack in packs])).view(torch.int32),
        price_bits=padded([pack.price for pack in packs], 0.0).view(torch.int32),
        leaf=padded([_ends(pack) for pack in packs], False),
        weights=torch.from_numpy(np.stack([pack.weights for pack in packs])),
        increment_bits=padded(gained, 0.0).view(torch.int32) if gained else None,
        candidates=padded(options, 0) if options else None,
        log_ref_bits=padded(log_ref, 0.0).view(torch.int32) if log_ref else None,
    )


def on_device(batch: Batch, device: torch.device) -> Batch:
    """The batch on a device."""
    there = {name: part for name, part in batch._asdict().items() if part is not None}
    return batch._replace(**{name: part.to(device) for name, part in there.items()})


def inputs(model: PreTrainedModel, batch: Batch) -> dict[str, Any]:
    """What a model reads packs by, whose tokens hang together as trees."""
    mask = tree_masks(model, batch.mask, batch.position)
    return {"input_ids": batch.tokens, "attention_mask": mask, "position_ids": batch.position}


def _ends(pack: Pack) -> np.ndarray:
    """Whether a response ends at each token [T]: nothing in the pack comes after it."""
    ends = pack.position >= pack.prompt_length
    ends[pack.previous[pack.previous >= 0]] = False
    return ends


def batches(packs: Sequence[Pack], budget: int, seed: tuple[int, ...]) -> list[list[Pack]]:
    """Group packs of like length into batches of at most `budget` tokens, padding included.

    The order is random and depends on the seed. A pack larger than the budget is a batch by itself.
    """
    random = np.random.default_rng(seed)
    order = sorted(random.permutation(len(packs)), key=lambda i: len(packs[i].tokens) // 32)
    groups: list[list[Pack]] = []
    for index in order:
        pack = packs[index]
        widest = max([len(pack.tokens), *(len(p.tokens) for p in groups[-1])]) if groups else 0
        if not groups or widest * (len(groups[-1]) + 1) > budget:
            groups.append([])
        groups[-1].append(pack)
    return [groups[i] for i in random.permutation(len(groups))]


class _Order(Sampler[int]):
    """Which batches each pass reads, in a random order that depends on seed and epoch alone.

    A fit that resumes starts its passes at other times than one that was never stopped. A pass
    reads all batches of the round, and its share of the earlier rounds', so that a round reads each
    of those once.
    """

    def __init__(self, count: int, seed: tuple[int, ...], earlier: int, passes: int) -> None:
        self.count, self.seed, self.epoch = count, seed, 0
        self._earlier, self._passes = earlier, passes

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next pass; Lightning calls this."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.count + -(-self._earlier // self._passes)

    def __iter__(self) -> Iterator[int]:
        random = np.random.default_rng((*self.seed, self.epoch))
        first = self.epoch % self._passes * (len(self) - self.count)
        again = [(first + at) % self._earlier for at in range(len(self) - self.count)]
        chosen = [*range(self.count), *(self.count + at for at in again)]
        yield from random.permutation(chosen).tolist()


def loader(
    groups: Sequence[Sequence[Pack]],
    seed: tuple[int, ...] | None = None,
    earlier: Sequence[Sequence[Pack]] = (),
    passes: int = 1,
) -> DataLoader[Batch]:
    """A loader of batches, in their order, or with a seed in another order in each epoch.

    Args:
        groups: the packs of each batch.
        seed: None keeps the order.
        earlier: batches of earlier rounds, of which each pass reads a share.
        passes: epochs of a round.
    """
    order = None if seed is None else _Order(len(groups), seed, len(earlier), passes)
    # A sequence will do as a data set; a group is collated when it is needed.
    data: Any = [*groups, *earlier]
    return DataLoader(data, batch_size=None, sampler=order, collate_fn=collate)
