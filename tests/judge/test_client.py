"""An endpoint is asked with patience, in the manner that it wants, and keeps its secrets."""

import json
from email.message import Message

import pytest

from mavis.judge.client import LONGEST, PAUSES, Answer, Endpoint
from mavis.judge.verdicts import CUT

GOOD = Answer(200, json.dumps({"choices": [{"message": {"content": "A"}}]}))
SECRET = "http://ann:pass%21word@host:80/v1?token=t0ken"


def endpoint(monkeypatch, *answers, url="http://host/v1", **more):
    """An endpoint that gets these answers, one after the other; what it was sent, and waits."""
    sent, waited, left = [], [], list(answers)

    def send(self, messages, temperature, versioned):
        del self, messages
        sent.append((temperature, versioned))
        return left.pop(0)

    monkeypatch.setattr(Endpoint, "_send", send)
    return Endpoint(url, "judge", wait=waited.append, **more), sent, waited


@pytest.mark.parametrize(
    "url", ["host/v1", "ftp://host", "http://", "http://host:port", "http://a b"]
)
def test_an_address_that_cannot_be(url):
    with pytest.raises(ValueError, match=r"url must be http\(s\)://HOST") as raised:
        Endpoint(url, "judge")
    assert str(raised.value).endswith("such as http://localhost:8000/v1.")  # not a word of it


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": ""}, "model must be the name of a model"),
        ({"key": "two\nlines"}, "OPENAI_API_KEY must be plain characters"),
        ({"timeout": 0.0}, "timeout must be a number of seconds above 0, got 0.0"),
    ],
)
def test_other_settings_that_cannot_be(settings, message):
    with pytest.raises(ValueError, match=message):
        Endpoint(**{"url": "http://host", "model": "judge"} | settings)


def test_secrets_are_not_shown():
    one = Endpoint(SECRET, "judge", key="sk-1234567")
    assert one.shown == "http://host:80/v1"
    said = one.clean("ann: pass!word, pass%21word, sk-1234567, t0ken, YW5uOnBhc3Mhd29yZA==")
    assert said == "ann: ***, ***, ***, ***, ***"
    assert "sk-" not in repr(one)
    assert "word" not in repr(one)


def test_it_waits_longer_each_time_but_never_too_long(monkeypatch):
    slow = Answer(503, "", after=1000.0)
    one, sent, waited = endpoint(monkeypatch, Answer(None, "gone"), slow, Answer(429, ""), GOOD)
    assert one.ask([]) == "A"
    assert waited == [PAUSES[0], LONGEST, PAUSES[2]]
    assert len(sent) == 4


def test_it_gives_up(monkeypatch):
    one, _, waited = endpoint(monkeypatch, *[Answer(500, "broken")] * 6)
    with pytest.raises(ConnectionError, match=r"no answer from http://host/v1 \(HTTP 500: broken"):
        one.ask([])
    assert waited == list(PAUSES)


def test_what_helped_is_remembered(monkeypatch):
    no = Answer(400, "temperature is not supported")
    one, sent, _ = endpoint(monkeypatch, Answer(404, ""), no, GOOD, GOOD, url="http://host")
    assert [one.ask([]), one.ask([])] == ["A", "A"]
    assert sent == [(True, False), (True, True), (False, True), (False, True)]


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        (Answer(401, "no"), PermissionError, "refuses the API key; set OPENAI_API_KEY"),
        (Answer(404, "no"), LookupError, "is wrong or knows no model 'judge'"),
        (Answer(200, "<html>"), ValueError, "does not answer as a chat endpoint"),
    ],
)
def test_errors_say_what_to_do(monkeypatch, answer, error, message):
    one, _, waited = endpoint(monkeypatch, answer)
    with pytest.raises(error, match=message):
        one.ask([])
    assert waited == []


def test_a_question_that_is_refused_is_answered_by_the_refusal(monkeypatch):
    one, _, _ = endpoint(monkeypatch, Answer(413, "too\nlong"))
    assert one.ask([]) == "(HTTP 413: too long)"


# Responses of the server: words, refusals, and whether to ask again


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
