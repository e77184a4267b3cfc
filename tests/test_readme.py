"""Every block of the README is run, with small settings where it would take minutes."""

import re
import shlex
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import pytest
import torch

from mavis.cli.main import main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
SMALL = shlex.split(
    "--data.trees 4 --data.held_out 4 --data.best_of 2 --data.max_tokens 8 --data.epochs 1"
    " --data.rounds 1 --data.first_branching [2,2] --trainer.logger false --trainer.accelerator cpu"
)
TUNE = shlex.split(
    "--steps 1 --batch 4 --generations 2 --held_out 4 --best_of 2 --max_tokens 8 --rows 8"
)
PARETO = shlex.split(
    "--num_prompts 3 --best_of 2 --max_tokens 6 --weights humor=0.5,helpfulness=0.5 --kl 0.1"
)
METADATA = "Metadata-Version: 2.1\nName: mavis-brevity\nVersion: 1.0\n"


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def commands():
    """Every line that begins with `mavis`, as words."""
    lines = [line.strip() for block in blocks("sh") for line in block.splitlines()]
    found = [shlex.split(line.removeprefix(".venv/bin/"), comments=True) for line in lines]
    return [words[1:] for words in found if words[:1] == ["mavis"]]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a small run of humor, as the reader has it after `make fit`."""
    folder = tmp_path_factory.mktemp("reader")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("mavis.training.callbacks._plots", lambda *_: [])
        (folder / "my_prompts.jsonl").write_text(
            "\n".join(f'{{"prompt": "How do I cook {n} eggs?"}}' for n in range(60))
        )
        (folder / "path" / "to").mkdir(parents=True)
        (folder / "configs").symlink_to(ROOT / "configs")
        reference = ROOT / "mavis" / "sandbox" / "assets" / "reference"
        (folder / "path" / "to" / "causal-lm").symlink_to(reference)
        with redirect_stdout(StringIO()), torch.random.fork_rng():
            assert main(["fit", "--objective", "humor", *SMALL]) == 0
        yield folder


def installed(folder):
    """Do what `pip install -e` does; the tests of the scaffold run pip itself."""
    info = folder / "mavis_brevity-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(METADATA)
    lines = re.search(
        r'^\[project\.entry-points\."mavis\.objectives"\]\n(.*?)(?=^\[|\Z)',
        (folder / "pyproject.toml").read_text(),
        re.MULTILINE | re.DOTALL,
    )
    (info / "entry_points.txt").write_text("[mavis.objectives]\n" + lines[1].replace('"', ""))


def test_the_commands_and_then_the_python(place, monkeypatch, capsys):
    assert len(commands()) >= 6
    for number, words in enumerate(commands()):
        if words[0] == "fit" and "--help" not in words:
            if "-c" in words:  # the tests of configs run them on stand-ins
                assert Path(words[words.index("-c") + 1]).is_file()
                continue
            kept = words[-1].replace(",", "+")  # where `pareto` and `generate` look for it
            there = kept in ("helpfulness", "humor+helpfulness")
            words += [*SMALL, "--out", f"runs/{kept if there else number}"]
        if words[0] == "serve":  # its own tests run it
            assert main([*words, "--max_rows", "0"]) == 2
            assert "max_rows must be" in capsys.readouterr().err
            continue
        words += {"generate": ["--max_tokens", "8"], "tune": TUNE, "pareto": PARETO}.get(
            words[0], []
        )
        assert main(words) == 0, (words, capsys.readouterr().err)
        assert capsys.readouterr().out
        if words[:2] == ["objectives", "new"]:
            installed(place / f"mavis-{words[2]}")
            monkeypatch.syspath_prepend(str(place / f"mavis-{words[2]}"))

    # The Python blocks use what the commands have left behind.
    assert blocks("python")
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), {})
        assert capsys.readouterr().out.strip()


def test_the_files_are_there():
    tree = next(block for block in blocks("text") if block.startswith("mavis/"))
    there = {path.name for path in ROOT.glob("mavis/**/*.py")}
    named = set(re.findall(r"\b(\w+\.py)\b", tree))
    assert named
    assert named <= there


def test_make_knows_its_targets():
    makefile = (ROOT / "Makefile").read_text()
    wanted = {
        line.split()[1] for b in blocks("sh") for line in b.splitlines() if line[:5] == "make "
    }
    assert wanted >= {"fit", "test"}
    for target in wanted:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)
