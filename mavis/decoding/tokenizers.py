"""What a tokenizer shows: what its tokens spell, and whether another has the same ids."""

import hashlib
import json
from collections.abc import Mapping, Sequence

from transformers import PreTrainedModel, PreTrainedTokenizerBase


class Spelling:
    """What the tokens of a tokenizer spell.

    Special tokens are not shown, and the ids that models have beyond their tokens spell nothing.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        added = tokenizer.added_tokens_decoder.items()
        special = {token: str(one) for token, one in added if one.special}
        self._known = frozenset(tokenizer.get_vocab().values())
        self._shown = self._known - special.keys()
        self._special = tuple(special.values())

    def text(self, tokens: Sequence[int], last: int = 0) -> str:
        """The text that tokens show, or the last few of them that show something."""
        shown = [token for token in tokens if token in self._shown][-last:]
        return str(self.tokenizer.decode(shown, skip_special_tokens=True))

    def stops(self, tokens: Sequence[int], strings: Sequence[str]) -> bool:
        """Whether one of some strings has just been completed, as it is shown.

        A string that names a special token is looked for among special tokens, too.
        """
        # A token spells at least a byte, and the first one here may lose a space in front.
        reach = max(len(string.encode()) for string in strings) + 1
        shown = self.text(tokens, reach)
        if any(string in shown for string in strings):
            return True
        named = [string for string in strings if any(name in string for name in self._special)]
        if not named:
            return False
        whole = [token for token in tokens if token in self._known][-reach:]
        text = str(self.tokenizer.decode(whole))
        return any(string in text for string in named)


def fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """A digest of the vocabulary: tokenizers with one fingerprint have the same ids."""
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
    """What comes before some tokens in a whole that holds them."""
    size = len(tokens)
    places = (at for at in range(len(whole) - size + 1) if whole[at : at + size] == tokens)
    return list(whole[: next(places, 0)])


def _digest(vocabulary: Mapping[str, int]) -> str:
    table = json.dumps(sorted(vocabulary.items()))
    return hashlib.sha256(table.encode()).hexdigest()[:16]
