"""Pieces of text: together they are the reply, and none of them is taken back."""

import random

import pytest

from mavis.serving.text import Growing


def grown(reference, tokens, stop=()):
    """All pieces of a reply, and the rest."""
    growing = Growing(reference, stop)
    return [*(growing.add(token) for token in tokens), growing.rest()]


@pytest.mark.parametrize("stop", [(), ("um",), ("is a", " tum "), ("\n\n",)])
@pytest.mark.parametrize("seed", range(20))
def test_all_pieces_are_the_reply(tiny_reference, stop, seed):
    draw = random.Random(seed)
    tokens = [draw.randrange(tiny_reference.vocabulary) for _ in range(draw.randrange(1, 40))]
    for at in range(1, len(tokens) + 1):  # a stop string ends a reply where it is complete
        if tiny_reference.ending(tokens[:at], stop):
            tokens = tokens[:at]
            break
    pieces = grown(tiny_reference, tokens, stop)
    assert "".join(pieces) == tiny_reference.decode(tokens, stop)


class Bytes:
    """A stand-in for a reference policy whose tokens are bytes, so that characters are cut."""

    ends = frozenset({0})

    class spelling:  # noqa: N801
        @staticmethod
        def text(tokens):
            return bytes(tokens).decode("utf-8", errors="replace")

    def decode(self, tokens, stop):
        text = self.spelling.text([token for token in tokens if token])
        for string in stop:
            text = text.split(string)[0]
        return text.rstrip()


@pytest.mark.parametrize("text", ["héllo 🌍 wörld", "日本語です", "a\u0301b  \n", " x  y ", "🏳️‍🌈!"])
@pytest.mark.parametrize("stop", [(), ("w",), ("です",), ("  y",)])
def test_pieces_are_whole_characters(text, stop):
    tokens = [*text.encode(), 0]
    if stop and stop[0] in text:
        tokens = list(text[: text.index(stop[0]) + len(stop[0])].encode())
    pieces = grown(Bytes(), tokens, stop)
    assert "".join(pieces) == Bytes().decode(tokens, stop)
    assert "\ufffd" not in "".join(pieces)
    assert all(string not in "".join(pieces) for string in stop)


def test_bytes_that_are_no_text_are_shown_as_such():
    pieces = grown(Bytes(), [*b"a", 0xFF, *b"b"])
    assert "".join(pieces) == "a\ufffdb"


def test_text_comes_as_soon_as_it_is_certain():
    growing = Growing(Bytes(), ("end",))
    assert [growing.add(byte) for byte in b"an e"] == ["a", "n", "", ""]
    assert growing.add(ord("x")) == " ex"


@pytest.mark.parametrize("text", ["How do I cook rice? First, wash it.", "one\n\ntwo"])
def test_the_embedded_tokenizer(text):
    from mavis.decoding.reference import ReferencePolicy

    reference = ReferencePolicy.load("sandbox/reference")
    tokens = reference.continued(text, head=False)
    assert "".join(grown(reference, tokens)) == reference.decode(tokens)


def test_parts_of_characters_are_written_as_bytes():
    from mavis.decoding.reference import ReferencePolicy
    from mavis.serving.text import token_text

    reference = ReferencePolicy.load("sandbox/reference")
    for character in ("é", "🌍", "中", "r"):
        tokens = reference.continued(character, head=False)
        named = [token_text(reference, token) for token in tokens]
        assert b"".join(raw for _, raw in named) == character.encode()
        if len(tokens) > 1:  # each a part of it
            assert all(text.startswith("bytes:") for text, _ in named)
            assert named[0][0] == "bytes:" + "".join(f"\\x{byte:02x}" for byte in named[0][1])
    assert token_text(reference, reference.continued("r", head=False)[0])[0] == "r"
