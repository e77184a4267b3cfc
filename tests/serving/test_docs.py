"""The blocks of docs/serving.md, against a server of the sandbox."""

import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from mavis.cli.main import main
from mavis.serving.contents import HARMLESS
from mavis.serving.fields import MOST_COPIES, MOST_STOPS, MOST_TOP

TEXT = (Path(__file__).parents[2] / "docs" / "serving.md").read_text(encoding="utf-8")
HERE = "http://127.0.0.1:8000"


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def sandbox(serving, tiny_network):
    """A server of the embedded reference and two objectives; the network is random."""
    from mavis.decoding.policy import GuidedPolicy
    from mavis.decoding.reference import ReferencePolicy

    reference = ReferencePolicy.load("sandbox/reference", None, "cpu")
    network = tiny_network(reference, "shared", ("humor", "helpfulness"))
    with serving(of=GuidedPolicy(reference, (network,)), longest=256) as server:
        yield server


def test_the_python(sandbox, tmp_path, monkeypatch, capsys):
    (network,) = sandbox.policy.guides
    network.save_pretrained(tmp_path / "runs" / "humor" / "value")
    monkeypatch.chdir(tmp_path)
    names = {}
    for block in blocks("python"):
        exec(compile(block.replace(HERE, sandbox.url), "serving.md", "exec"), names)
        assert capsys.readouterr().out.strip()
    assert names["reply"].mavis["weights"] == {"humor": 1.0, "helpfulness": -0.5}
    names["client"].close()


def test_the_shell(sandbox):
    (block,) = blocks("sh")
    words = shlex.split(block.replace(HERE, sandbox.url))
    said = json.loads(subprocess.run(words, capture_output=True, check=True).stdout)
    assert said["choices"][0]["mavis"]["attribution"][0]["parts"].keys() == {
        "humor",
        "helpfulness",
    }


def test_the_commands_are_understood(capsys):
    (block,) = blocks("bash")
    for line in block.splitlines()[1:]:
        words = shlex.split(line, comments=True)[1:]
        assert main([*words, "--max_rows", "0"]) == 2  # refused after the options were read
        assert "max_rows must be at least 1" in capsys.readouterr().err


def test_the_numbers_and_names():
    assert f"`n` up to {MOST_COPIES}, `stop` up to {MOST_STOPS} strings" in TEXT
    assert f"up to {MOST_TOP} beside each token" in TEXT
    for name in ("user", "metadata", "store", "service_tier", "reasoning", "verbosity"):
        assert name in HARMLESS
        assert f"`{name}`" in TEXT
