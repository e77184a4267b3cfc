"""A judge behind real HTTP on loopback: what it says counts once, is kept, and keeps no secrets."""

import json
import re
import socket
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Lock, Thread

import pytest

from mavis.cli.judge import TRIAL, compare
from mavis.cli.main import main
from mavis.judge.client import PAUSES, Endpoint
from mavis.judge.pairs import Pair
from mavis.judge.verdicts import CUT, read_verdict

PAIRS = [Pair(f"prompt {n}", "long " * (n % 3 + 1), "long " * 2) for n in range(12)]  # 4 equal
ASKED = 16
KEY = "sk-very-secret-key"


def longer(question):
    """A judge that looks at the lengths, and is shown answers that try to talk it over."""
    a, b = (re.search(f"<answer {x}>\n(.*?)\n</answer {x}>", question, re.S)[1] for x in "AB")
    return f"Length.\nverdict: {'A' if len(a) > len(b) else 'B' if len(b) > len(a) else 'tie'}"


class Stub(ThreadingHTTPServer):
    """A chat endpoint. `say(question)` returns its words, or (status, headers, body), or None.

    `requests` are (path, headers, body), in the order of their arrival.
    """

    say = staticmethod(longer)

    def __init__(self):
        self.requests, self.lock, self.over = [], Lock(), Event()
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/v1"

    def endpoint(self, **options):
        """The stub, as seen by one who never waits."""
        return Endpoint(**{"url": self.url, "model": "m", "wait": lambda _: None} | options)


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.requests.append((self.path, self.headers, body))
        said = self.server.say(body["messages"][-1]["content"])
        if said is None:  # gone without a word
            return
        if isinstance(said, str):
            said = (200, {}, {"choices": [{"message": {"role": "assistant", "content": said}}]})
        status, headers, content = said
        content = content.encode() if isinstance(content, str) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": len(content), **headers}.items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture
def stub(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with Stub() as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.over.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def files(tmp_path):
    """PAIRS, as two files of answers."""
    paths = [tmp_path / "first.jsonl", tmp_path / "second.jsonl"]
    for path, name in zip(paths, ("first", "second"), strict=True):
        rows = [json.dumps({"prompt": p.prompt, "text": getattr(p, name)}) for p in PAIRS]
        path.write_text("\n".join(rows))
    return [str(path) for path in paths]


@pytest.fixture
def ask(files, stub, tmp_path, capsys):
    """`ask("--json")`: exit status, stdout and stderr of the command."""

    def run(*words):
        mine = ["--url", stub.url, "--model", "m", "--out", str(tmp_path / "out")]
        status = main(["judge", *files, *mine, *words])
        return status, *capsys.readouterr()

    return run


def test_a_judge_that_prefers_the_longer_answer(ask, stub):
    status, out, err = ask("--json", "--criterion", "length")
    result = json.loads(out)
    assert (status, err) == (0, "")
    assert [result[x] for x in ("pairs", "wins", "ties", "losses", "equal")] == [12, 4, 4, 4, 4]
    assert result["win_rate"] == 0.5
    assert 0 < result["low"] < 0.5 < result["high"] < 1
    assert (result["shown_first"], result["unparseable"]) == (0.5, 0)
    assert result["criterion"] == "length"
    assert len(stub.requests) == ASKED  # equal texts are not asked about
    path, headers, body = stub.requests[0]
    assert path == "/v1/chat/completions"
    assert "Authorization" not in headers
    assert (body["model"], body["temperature"]) == ("m", 0)
    assert "criterion: length" in body["messages"][0]["content"]


def test_text(ask):
    status, out, err = ask()
    assert (status, err) == (0, "")
    assert re.search(r"wins +4 ", out)
    assert re.search(r"win rate +0\.50  \[0\.\d\d, 0\.\d\d\], 95 % bootstrap over prompts", out)
    assert "4 of them between equal texts" in out


def test_how_far_the_answers_are_from_the_reference(ask, files):
    assert "mean KL" not in ask()[1]
    for file, kl in zip(map(Path, files), (1.5, 2.25), strict=True):
        rows = [json.loads(line) | {"kl": kl} for line in file.read_text().splitlines()]
        file.write_text("\n".join(map(json.dumps, rows)))
    assert "mean KL 1.50 and 2.25 nats per answer" in ask()[1]
    assert json.loads(ask("--json")[1])["kl"] == [1.5, 2.25]
    rows[-1]["kl"] = float("nan")
    file.write_text("\n".join(map(json.dumps, rows)))
    assert json.loads(ask("--json")[1])["kl"] == [1.5, None]


def test_results_do_not_depend_on_the_order_of_arrival(stub, tmp_path):
    one, many = (
        compare(PAIRS, stub.endpoint(), "c", tmp_path / str(n), parallel=n, seed=3) for n in (1, 8)
    )
    assert one == many


def test_pure_position_bias_makes_ties(stub, tmp_path):
    stub.say = lambda _: "**Verdict: A**"
    result = compare(PAIRS, stub.endpoint(), "c", tmp_path)
    assert (result.wins, result.ties, result.losses) == (0, 12, 0)
    assert (result.shown_first, result.unparseable) == (1.0, 0)


def test_ties(stub, tmp_path):
    stub.say = lambda _: "verdict: tie"
    result = compare(PAIRS, stub.endpoint(), "c", tmp_path)
    assert (result.ties, result.shown_first, result.unparseable) == (12, None, 0)


def test_nonsense_is_reminded_of_once(stub, tmp_path):
    stub.say = lambda asked: "verdict: B" if "no verdict" in asked else "Both are fine!"
    result = compare(PAIRS, stub.endpoint(), "c", tmp_path)
    assert (result.ties, result.shown_first, result.unparseable) == (12, 0.0, 0)
    assert len(stub.requests) == 2 * ASKED
    longest = max((body["messages"] for _, _, body in stub.requests), key=len)
    assert [turn["role"] for turn in longest] == ["user", "assistant", "user"]
    assert longest[1]["content"] == "Both are fine!"


@pytest.mark.parametrize("said", ["hm", (400, {}, {"error": {"message": "too long"}})])
def test_some_nonsense_is_a_tie(said, stub, tmp_path):
    def say(asked):
        last = stub.requests[-1][2]["messages"][0]["content"]
        return said if re.search(r"prompt 2\n", last) else longer(asked)

    stub.say = say
    result = compare(PAIRS, stub.endpoint(), "c", tmp_path, parallel=1)
    assert (result.ties, result.unparseable) == (5, 2)
    asked = len(stub.requests)
    assert asked == ASKED + 2
    assert compare(PAIRS, stub.endpoint(), "c", tmp_path) == result
    assert len(stub.requests) == asked  # nonsense is kept, too
    assert ("too long" in (tmp_path / "verdicts.jsonl").read_text()) == (said != "hm")


@pytest.mark.parametrize("pairs", [PAIRS, PAIRS[:1]])
def test_nothing_but_nonsense_stops(pairs, stub, tmp_path):
    stub.say = lambda _: "I am a\nteapot"
    questions = min(TRIAL, 2 * len(pairs))
    with pytest.raises(ValueError, match=r"m at http://\S+ gave no verdict") as caught:
        compare(pairs, stub.endpoint(), "c", tmp_path)
    assert f"no verdict on {questions} questions" in str(caught.value)
    assert r"I am a\nteapot" in str(caught.value)
    assert len(stub.requests) == 2 * questions
    stub.say = longer  # set right, it is asked again
    assert compare(pairs, stub.endpoint(), "c", tmp_path).unparseable == 0


def test_a_server_that_stumbles(stub, tmp_path):
    said = iter([(500, {}, "oops"), None, (200, {"Content-Length": 999}, "{")])
    waits = []
    stub.say = lambda asked: next(said, longer(asked))
    endpoint = stub.endpoint(wait=waits.append)
    assert compare(PAIRS, endpoint, "c", tmp_path, parallel=1).wins == 4
    assert waits == [*PAUSES[:3]]
    assert len(stub.requests) == ASKED + 3


def test_a_server_that_is_busy(stub):
    told = ("7", "9999", "Fri, 31 Dec 2027 23:59:59 GMT", "0.5")
    said = iter([(429, {"Retry-After": after}, "slowly") for after in told])
    waits = []
    stub.say = lambda _: next(said, "well")
    hi = [{"role": "user", "content": "hi"}]
    assert stub.endpoint(wait=waits.append).ask(hi) == "well"
    assert waits == [7, 60, PAUSES[2], PAUSES[3]]


UNFIT = "Unsupported value: 'temperature' does not support 0 with this model."


@pytest.mark.parametrize(
    "refusal",
    [
        (400, {}, {"error": {"message": UNFIT, "param": "temperature"}}),
        (400, {}, {"error": {"message": "no such parameter", "param": "temperature"}}),
        (400, {}, {"message": "unsupported: temperature"}),
        (422, {}, {"detail": [{"loc": ["body", "temperature"], "msg": "not permitted"}]}),
        (400, {}, f"<html>{UNFIT}</html>"),
    ],
)
def test_a_judge_that_takes_no_temperature(refusal, stub, ask):
    stub.say = lambda asked: refusal if "temperature" in stub.requests[-1][2] else longer(asked)
    status, out, err = ask("--json", "--parallel", "1")
    assert status == 0
    assert json.loads(out)["wins"] == 4
    assert err == "mavis: m accepts no temperature, so its verdicts may not be reproducible.\n"
    assert len(stub.requests) == ASKED + 1  # refused once
    assert ask("--json")[1:] == (out, "")  # all is kept
    assert len(stub.requests) == ASKED + 1


def test_a_question_about_temperature_that_is_refused_changes_nothing(stub, tmp_path):
    pairs = [*PAIRS, Pair("What temperature?", "a", "bb")]

    def say(asked):
        if "What temperature?" in stub.requests[-1][2]["messages"][0]["content"]:
            return 400, {}, {"error": {"message": "filtered: 'What temperature?'"}}
        return longer(asked)

    stub.say = say
    endpoint = stub.endpoint()
    assert compare(pairs, endpoint, "c", tmp_path, parallel=1).unparseable == 2
    assert endpoint.temperature
    assert sum("temperature" not in body for _, _, body in stub.requests) == 2 * 2  # and reminders


TEXT = {"type": "text", "text": "A"}


def message(**fields):
    return 200, {}, {"choices": [{"message": {"role": "assistant", **fields}}]}


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (message(content="verdict: A"), "verdict: A"),
        (message(content=[TEXT | {"text": "ver"}, TEXT | {"text": "dict"}]), "verdict"),
        (message(content=[{"type": "reasoning", "text": "hm"}, TEXT]), "A"),
        (message(content=[TEXT | {"type": "output_text"}]), "A"),
        (message(content=["a", {"text": "b"}, {"type": "image_url"}, 3]), "ab"),
        (message(content=None, reasoning_content="verdict: A"), ""),
        (message(content="", reasoning="verdict: A"), ""),
        (message(content=None, refusal="I will not."), "I will not."),
        (message(), ""),
    ],
)
def test_the_words_of_a_reply(said, words, stub):
    stub.say = lambda _: said
    assert stub.endpoint().ask([{"role": "user", "content": "hi"}]) == words


@pytest.mark.parametrize(
    ("fields", "verdict"),
    [
        ({"content": "<think>verdict: A\nBut wait"}, None),
        ({"content": "Let me see.\nverdict: A\nBut wait"}, None),
        ({"content": None, "reasoning_content": "verdict: A"}, None),
        ({"content": "It is kinder.\nverdict: A"}, "A"),
    ],
)
def test_a_reply_that_is_cut_off(fields, verdict, stub):
    said = {"choices": [{"message": {"role": "assistant", **fields}, "finish_reason": "length"}]}
    stub.say = lambda _: (200, {}, said)
    words = stub.endpoint().ask([{"role": "user", "content": "hi"}])
    assert words.endswith(CUT)
    assert read_verdict(words) == verdict


@pytest.mark.parametrize("ending", ["", "/", "/v1", "/v1/", "/v1/chat/completions"])
def test_an_address_with_and_without_its_version(ending, stub, tmp_path):
    def say(asked):
        found = stub.requests[-1][0] == "/v1/chat/completions"
        return longer(asked) if found else (404, {}, {"detail": "Not Found"})

    stub.say = say
    endpoint = stub.endpoint(url=stub.url.removesuffix("/v1") + ending)
    assert compare(PAIRS, endpoint, "c", tmp_path, parallel=1).wins == 4
    assert len(stub.requests) == ASKED + (ending in ("", "/"))  # looked for once


def test_nothing_at_an_address_without_its_version(stub):
    stub.say = lambda _: (404, {}, "nothing here")
    with pytest.raises(LookupError, match=r"is wrong or knows no model 'm' \(HTTP 404: nothing"):
        stub.endpoint(url=stub.url.removesuffix("/v1")).ask([{"role": "user", "content": "hi"}])
    assert len(stub.requests) == 2


def test_nobody_there(stub, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    waits = []
    url = f"http://me:{KEY}@127.0.0.1:{port}/v1?token={KEY}"
    with pytest.raises(ConnectionError) as caught:
        compare(PAIRS, stub.endpoint(url=url, wait=waits.append), "c", tmp_path, parallel=1)
    message = str(caught.value)
    assert f"no answer from http://127.0.0.1:{port}/v1 (" in message
    assert "refused" in message
    assert "Finished verdicts" not in message  # there are none
    assert KEY not in message
    assert waits == [*PAUSES]


def test_a_server_that_hangs(stub):
    stub.say = lambda _: stub.over.wait() and None
    with pytest.raises(ConnectionError, match="timed out"):
        stub.endpoint(timeout=0.02).ask([{"role": "user", "content": "hi"}])


def test_a_killed_run_goes_on(stub, tmp_path):
    lives = iter(range(5))
    stub.say = lambda asked: longer(asked) if next(lives, None) is not None else None
    with pytest.raises(ConnectionError, match="the same command resumes from there"):
        compare(PAIRS, stub.endpoint(), "c", tmp_path, parallel=2)
    file = tmp_path / "verdicts.jsonl"
    assert len(file.read_text().splitlines()) == 5
    file.write_bytes(file.read_bytes()[:-9])  # killed while it wrote
    stub.requests.clear()
    stub.say = longer
    whole = compare(PAIRS, stub.endpoint(), "c", tmp_path)
    assert len(stub.requests) == ASKED - 4
    assert whole == compare(PAIRS, stub.endpoint(), "c", tmp_path / "unbroken")
    stub.say = lambda _: None
    assert compare(PAIRS, stub.endpoint(), "c", tmp_path) == whole  # nobody needs to be there


def test_what_is_in_flight_when_one_fails_is_kept(stub, tmp_path):
    failed = Event()

    def say(asked):
        if "prompt 0" in asked:
            failed.set()
            return 401, {}, "no"
        failed.wait()
        return longer(asked)

    stub.say = say
    pairs = [Pair("prompt 1", "a", "bb"), Pair("prompt 0", "a", "bb")]
    with pytest.raises(PermissionError):
        compare(pairs, stub.endpoint(), "c", tmp_path, parallel=4)
    assert len((tmp_path / "verdicts.jsonl").read_text().splitlines()) == 2


def test_another_question_is_asked_anew(stub, tmp_path):
    compare(PAIRS, stub.endpoint(), "kinder", tmp_path)
    compare(PAIRS, stub.endpoint(), "shorter", tmp_path)
    assert len(stub.requests) == 2 * ASKED
    compare(PAIRS, stub.endpoint(model="other"), "kinder", tmp_path)
    assert len(stub.requests) == 3 * ASKED
    compare([*PAIRS, *PAIRS], stub.endpoint(), "kinder", tmp_path)
    compare([Pair(p.prompt, p.second, p.first) for p in PAIRS], stub.endpoint(), "kinder", tmp_path)
    assert len(stub.requests) == 3 * ASKED  # the same questions


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ((401, {}, {"error": {"message": f"bad key {KEY}"}}), r"OPENAI_API_KEY.* \(HTTP 401: bad"),
        ((403, {}, {"detail": "not you"}), r"OPENAI_API_KEY.* \(HTTP 403: not you\)"),
        ((404, {}, {"message": "no model\nm"}), r"knows no model 'm' \(HTTP 404: no model m\)"),
        ((404, {}, f"<html>{KEY * 99}"), r"HTTP 404: <html>"),
        ((200, {}, "<html>"), r"does not answer as a chat endpoint \(HTTP 200: <html>\)"),
        ((200, {}, {"error": {"message": "overloaded"}}), r"endpoint \(HTTP 200: overloaded\)"),
        ((200, {}, {"choices": []}), r"does not answer as a chat endpoint \(HTTP 200: {"),
        ((302, {"Location": "/v2"}, ""), r"does not answer as a chat endpoint \(HTTP 302"),
    ],
)
def test_errors_are_one_line_and_keep_the_key(said, message, ask, stub, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY + "\n")
    stub.say = lambda _: said
    status, out, err = ask("--parallel", "1")
    assert status in (1, 2)
    assert (out, err.count("\n"), KEY in err) == ("", 1, False)
    assert re.search(message, err)
    assert len(stub.requests) == 1
    assert stub.requests[0][1]["Authorization"] == f"Bearer {KEY}"


def test_secrets_are_written_nowhere(ask, stub, monkeypatch, tmp_path, caplog):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    other = "p%40ssword"
    stub.say = lambda asked: f"{stub.requests[-1][0]} {KEY} p@ssword\n{longer(asked)}"
    url = stub.url.replace("//", f"//someone:{other}@") + "?api-version=1&token=in-the-query"
    caplog.set_level("DEBUG")
    status, out, err = ask("--url", url)
    assert status == 0
    assert stub.requests[0][0] == "/v1/chat/completions?api-version=1&token=in-the-query"
    assert stub.requests[0][1]["Authorization"].startswith("Basic ")
    files = [path.read_text() for path in Path(tmp_path).rglob("*") if path.is_file()]
    assert len(files) == 3
    shown = repr(stub.endpoint(url=url, key=KEY))
    for text in (*files, out, err, caplog.text, shown):
        assert not re.search(f"{KEY}|{other}|p@ssword|in-the-query", text)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--url", f"localhost:8000/{KEY}"], "url must be http(s)://HOST"),
        (["--url", f"http://host:{KEY}/v1"], "url must be http(s)://HOST"),
        (["--url", "http://"], "url must be http(s)://HOST"),
        (["--model", ""], "model must be the name"),
        (["--timeout", "0"], "timeout must be a number of seconds above 0, got 0"),
        (["--parallel", "0"], "parallel must be at least 1"),
        (["--seed=-1"], "seed must be at least 0, got -1"),
        (["--criterion", " "], "criterion must not be empty"),
    ],
)
def test_bad_settings(words, message, ask, stub):
    status, out, err = ask(*words)
    assert (status, out, stub.requests) == (2, "", [])
    assert message in err
    assert KEY not in err


def test_what_is_missing(ask, files, stub, monkeypatch, capsys):
    assert main(["judge", *files]) == 2
    assert "model is missing: add --model NAME" in capsys.readouterr().err
    assert main(["judge", files[0], files[1] + "x", "--model", "m"]) == 2
    assert "there is no such file" in capsys.readouterr().err
    monkeypatch.setenv("OPENAI_API_KEY", "sk-\u2026")
    assert "OPENAI_API_KEY must be plain characters" in ask()[2]
    assert stub.requests == []
