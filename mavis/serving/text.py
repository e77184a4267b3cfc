"""What a client may see of a reply while it is written: whole characters, and no stop string."""

import re
from collections.abc import Sequence

from mavis.decoding.reference import ReferencePolicy

BROKEN = "\ufffd"  # what a tokenizer shows for a part of a character
ANCHOR = 8  # tokens that are spelt again with new ones, whose first may lose a space otherwise


class Growing:
    """The text of a reply, piece by piece; all pieces together are what `decode` gives at its end.

    Held back are the bytes of a character that is not whole, white space at the end, which is no
    part of a reply if nothing follows, and whatever may be the beginning of a stop string.

    Args:
        reference: π_ref, whose tokens it is made of.
        stop: strings that end it.
    """

    def __init__(self, reference: ReferencePolicy, stop: Sequence[str]) -> None:
        self._reference, self._stop = reference, tuple(stop)
        self._tokens: list[int] = []
        self._anchor = 0  # the first token that is spelt again with new ones
        self._spelt = 0  # tokens that are in `_text`
        self._end = ""  # what those from the anchor on spell
        self._text = ""  # what all of them spell
        self._sent = 0  # letters of it
        self.offsets: list[int] = []  # where each token begins in the text

    def add(self, token: int) -> str:
        """Add a token; return what has become certain."""
        self.offsets.append(len(self._text))
        if token not in self._reference.ends:
            self._tokens.append(token)
        spelling = self._reference.spelling
        whole = spelling.text(self._tokens[self._anchor :])
        if whole.endswith(BROKEN) or not whole.startswith(self._end):
            return ""  # the next tokens may complete it
        self._text += whole[len(self._end) :]
        self._spelt, self._end = len(self._tokens), whole
        if self._spelt - self._anchor > 2 * ANCHOR:
            self._anchor = self._spelt - ANCHOR
            self._end = spelling.text(self._tokens[self._anchor :])
        return self._send(self._certain())

    def rest(self) -> str:
        """What is left when the reply has ended."""
        text = self._reference.decode(self._tokens, self._stop)
        begin, self._sent = self._sent, len(text)
        return text[begin:]

    def _send(self, end: int) -> str:
        begin, self._sent = self._sent, max(self._sent, end)
        return self._text[begin : self._sent]

    def _certain(self) -> int:
        """How many letters no later token can take back."""
        text = self._text
        for string in self._stop:
            if string in text:
                text = text[: text.index(string)]
        held = max((_overlap(text, string) for string in self._stop), default=0)
        return len(text[: len(text) - held].rstrip())


def _overlap(text: str, string: str) -> int:
    """The length of the longest end of a text that a string begins with."""
    longest = min(len(text), len(string) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(string[:n])), 0)


def token_text(reference: ReferencePolicy, token: int) -> tuple[str, bytes]:
    """What a token looks like, and its bytes; a part of a character is written as its bytes."""
    text = str(reference.tokenizer.decode([token]))
    if BROKEN not in text:
        return text, text.encode()
    piece = str(reference.tokenizer.convert_ids_to_tokens(token))
    if re.fullmatch("<0x[0-9A-Fa-f]{2}>", piece):
        raw = bytes([int(piece[3:5], 16)])
    elif all(letter in _BYTES for letter in piece):
        raw = bytes(_BYTES[letter] for letter in piece)
    else:
        return text, text.encode()
    return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw), raw


def _letters() -> dict[str, int]:
    """The letters that byte-level tokenizers write bytes as: printable ones as themselves."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in shown]
    pairs = [(chr(byte), byte) for byte in shown]
    return dict(pairs + [(chr(256 + at), byte) for at, byte in enumerate(others)])


_BYTES = _letters()
