"""What can be told from a tokenizer: whether another names tokens alike, and what ends a text."""

import hashlib
import json
from collections.abc import Mapping, Sequence

from transformers import PreTrainedModel, PreTrainedTokenizerBase


def fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """A digest of the vocabulary: two tokenizers with one fingerprint name tokens alike."""
    return _digest(tokenizer.get_vocab())


def was_before(tokenizer: PreTrainedTokenizerBase, earlier: str) -> bool:
    """Whether an earlier fingerprint is this tokenizer's without some of its last added tokens."""
    vocabulary = dict(tokenizer.get_vocab())
    for token in sorted(tokenizer.get_added_vocab(), key=vocabulary.__getitem__, reverse=True):
        del vocabulary[token]
        if _digest(vocabulary) == earlier:
            return True
    return False


def names_alike(tokenizer: PreTrainedTokenizerBase, ours: PreTrainedTokenizerBase) -> bool:
    """Whether every token of ours has the same id in another tokenizer, which may have more."""
    return ours.get_vocab().items() <= tokenizer.get_vocab().items()


def end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """The tokens that end a text, by the model's generation config and by the tokenizer."""
    generation = getattr(model, "generation_config", None)
    listed = getattr(generation, "eos_token_id", None)
    ends = set(listed if isinstance(listed, list) else [listed])
    ends.add(tokenizer.eos_token_id)
    return frozenset(int(token) for token in ends if token is not None)


def head_of(tokens: Sequence[int], whole: Sequence[int]) -> list[int]:
    """What stands in front of some tokens in a whole that holds them."""
    size = len(tokens)
    places = (at for at in range(len(whole) - size + 1) if whole[at : at + size] == tokens)
    return list(whole[: next(places, 0)])


def _digest(vocabulary: Mapping[str, int]) -> str:
    table = json.dumps(sorted(vocabulary.items()))
    return hashlib.sha256(table.encode()).hexdigest()[:16]
