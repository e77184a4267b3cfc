"""What a server says, taken in: words, refusals, and whether to ask again."""

import json
from email.message import Message

import pytest

from mavis.judge.answer import Answer
from mavis.judge.verdicts import CUT


def reply(content, **more):
    choice = {"message": {"content": content}, **more}
    return Answer(200, json.dumps({"choices": [choice]}))


@pytest.mark.parametrize(
    ("value", "seconds"), [("3", 3), ("0.5", 0.5), ("Wed, 21 Oct 2026 07:28:00 GMT", 0), ("-1", 0)]
)
def test_how_long_to_wait(value, seconds):
    headers = Message()
    headers["Retry-After"] = value
    answer = Answer.read(503, headers, "zu viel: \xff".encode("latin-1"))
    assert answer.after == seconds
    assert answer.body == "zu viel: \N{REPLACEMENT CHARACTER}"


def test_what_may_be_better_next_time():
    waits = {status for status in (None, 200, 400, 401, 404, 408, 422, 429, 500, 503)
             if Answer(status, "").transient}  # fmt: skip
    assert waits == {None, 408, 429, 500, 503}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("A", "A"),
        ([{"type": "text", "text": "A"}, "B", {"type": "reasoning", "text": "no"}], "AB"),
        ([{"type": "output_text", "text": "A"}, {"type": "text", "text": 5}], "A"),
        (None, ""),
    ],
)
def test_words_are_the_text_of_a_reply(content, words):
    assert reply(content).words == words


def test_a_reply_that_was_cut_off_says_so():
    assert reply("A or", finish_reason="length").words == f"A or\n{CUT}"
    assert reply("A", finish_reason="stop").words == "A"


@pytest.mark.parametrize("body", ["", "no JSON", "[]", '{"choices": []}', '{"choices": [1]}'])
def test_what_is_no_reply_has_no_words(body):
    assert Answer(200, body).words is None


def test_an_error_with_the_form_of_a_reply_has_no_words():
    assert Answer(500, reply("A").body).words is None


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ('{"error": {"message": "too long"}}', "too long"),
        ('{"detail": "no such model"}', "no such model"),
        ('{"other": 1}', '{"other": 1}'),
        ("<html>", "<html>"),
    ],
)
def test_what_is_wrong(body, message):
    assert Answer(400, body).message == message


def test_a_field_is_refused_where_it_is_spoken_of():
    said = '{"error": "temperature is fixed"}'
    assert Answer(400, said).refuses("temperature")
    assert not Answer(400, said).refuses("temper")  # a part of a word
    assert not Answer(500, said).refuses("temperature")
