"""`mavis serve` as a process: what it says, what it refuses, and how it ends."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys

import httpx2
import openai
import pytest

from mavis.cli.main import main
from mavis.cli.serve import _keys
from mavis.serving.run import listen


@pytest.fixture
def start(tmp_path):
    """`start(*words, **environment)`: a server, once it listens, and its base URL."""
    children = []

    def begun(*words, **environment):
        command = [sys.executable, "-m", "mavis", "serve", "--port", "0", "--device", "cpu", *words]
        child = subprocess.Popen(
            command,
            cwd=tmp_path,
            env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        children.append(child)
        for line in child.stderr:
            if found := re.search(r"serving .* on (http://\S+)/v1", line):
                return child, found[1], line
        raise AssertionError("it has ended without a line")

    yield begun
    for child in children:
        child.kill()
        child.wait()
        child.stderr.close()


def test_with_nothing_named_it_serves_the_sandbox(start):
    """With the `openai` package, and a key from the environment."""
    child, url, line = start(MAVIS_API_KEY="secret")
    assert "the reference alone" in line
    assert "secret" not in line
    with openai.OpenAI(base_url=f"{url}/v1", api_key="secret") as client:
        found = client.chat.completions.create(
            model="mavis", messages=[{"role": "user", "content": "How do I cook rice?"}], seed=1
        )
    assert found.choices[0].message.content
    child.terminate()
    assert child.wait(60) == 0
    rest = child.stderr.read()
    assert "Traceback" not in rest
    assert "secret" not in rest


def test_what_lies_in_runs_and_is_of_the_reference(start, tiny_fit, tmp_path, capsys):
    runs = tmp_path / "some"
    shutil.copytree(tiny_fit / "value", runs / "trial" / "value")
    reference = json.loads((tiny_fit / "value" / "value.json").read_text())["reference"]
    _, _, line = start("--runs", str(runs), "--reference", reference)
    assert "serving trial on" in line
    # Of another reference it is left out, and that is said before the line of the server.
    words = ["--runs", str(runs), "--max_model_len", "100000"]
    assert main(["serve", "--port", "0", *words]) != 0
    said = capsys.readouterr().err
    assert f"{runs / 'trial' / 'value'} is left out, as it is of {reference}: serve that by" in said


def test_it_ends_when_what_has_begun_has_ended(start):
    child, url, _ = start("--max_rows", "1")
    body = json.dumps(
        {"messages": [{"role": "user", "content": "How do I cook rice?"}], "n": 8, "stream": True}
    )
    with httpx2.stream("POST", f"{url}/v1/chat/completions", content=body, timeout=60) as response:
        lines = response.iter_lines()
        next(lines)
        child.send_signal(signal.SIGTERM)
        rest = list(lines)
    ended = [line for line in rest if '"finish_reason":"' in line]
    assert len(ended) == 8
    assert rest[-2:] == ["data: [DONE]", ""]
    assert child.wait(60) == 0


def test_values_that_are_named(start, tiny_fit):
    _, url, line = start("--values.trial", str(tiny_fit), "--preset.half", "{trial: 0.5}")
    assert "serving trial" in line
    names = [one["id"] for one in httpx2.get(f"{url}/v1/models").json()["data"]]
    assert names == ["mavis", "mavis:trial", "mavis:half", "reference"]


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--max_rows", "0"], "max_rows must be at least 1"),
        (["--max_model_len", "100000"], "must fit into the context"),
        (["--api_key", "sk-123"], "must be a file with one key a line"),
        (["--preset.kind", "{kind: 1}", "--runs", "none"], "preset.kind names 'kind'"),
        (["--values.humor", "nowhere"], "holds no value model"),
        (["--port", "99999"], "port must be 0 to 65535, got 99999"),
        (["--front", "nothing.json"], "nothing.json is no file"),
        (["--host", "999.1.1.1"], "is no address of this machine"),
    ],
)
def test_what_cannot_be_served_is_a_line(words, why, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["serve", "--port", "0", *words]) != 0
    (line,) = capsys.readouterr().err.splitlines()
    assert why in line


def test_a_port_that_is_taken(capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["serve", "--port", str(port)]) != 0
    assert "is another server there?" in capsys.readouterr().err


def test_keys_come_from_a_file_that_nobody_else_can_read(tmp_path, monkeypatch):
    file = tmp_path / "keys"
    file.write_text("one\n\n two \n")
    file.chmod(0o644)
    with pytest.raises(ValueError, match="chmod 600"):
        _keys(str(file))
    file.chmod(0o600)
    assert _keys(str(file)) == ("one", "two")
    file.write_text("\n")
    with pytest.raises(ValueError, match="holds no key"):
        _keys(str(file))
    monkeypatch.delenv("MAVIS_API_KEY", raising=False)
    assert _keys(None) == ()
    monkeypatch.setenv("MAVIS_API_KEY", " three ")
    assert _keys(None) == ("three",)


def test_half_open_connections_keep_nobody_waiting(start):
    _, url, _ = start()
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as silent:
        silent.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{"
        )
        assert httpx2.get(f"{url}/health").status_code == 200


def test_an_address_of_the_sixth_version():
    try:
        opened = listen("::1", 0)
    except OSError:
        pytest.skip("this machine has none")
    with opened:
        assert opened.family == socket.AF_INET6
