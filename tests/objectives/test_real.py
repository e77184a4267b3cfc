"""The objectives whose reward and prompts nobody here made."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import mavis_objectives
from mavis.cli.objectives import check_objective
from mavis.objective import find
from mavis.prompts import plain, read_prompts
from mavis.reward import score
from mavis_objectives.plain_words import reward as plainness

NAMES = ("plain-words", "cheerful")
SPLITS = ("train", "validation", "test")


def scores(name, *replies):
    return score(name, find(name).reward, ["Why?"] * len(replies), replies).tolist()


@pytest.mark.parametrize("name", NAMES)
def test_each_prefers_its_good_replies(name, capsys):
    check_objective(name)

    said = capsys.readouterr().out
    assert "bad " in said
    wrong = [line for line in said.splitlines() if line.startswith("looks wrong")]
    assert all("abstained for 1 of" in line and line.endswith("first ''.") for line in wrong)


def test_plainness_is_the_mean_number_of_letters_of_a_word():
    assert plainness(["?"] * 3, ["I am not.", "Don't!", "42 naïve_snake"]) == [-2.0, -4.0, -5.0]


@pytest.mark.parametrize("reply", ["", " \n", "42", "?!", "🌇"])
def test_plainness_abstains_where_there_is_no_word(reply):
    assert plainness(["Why?"], [reply]) == [None]


def test_good_spirits_are_those_of_the_lexicon():
    bad, none, good = scores("cheerful", "I hate it, it is awful.", "", "I love it, it is great!")
    assert bad < none == 0 < good


def test_a_reply_is_scored_by_itself():
    replies = ["Great!", "", "Awful.", "It is a table."]
    alone = [scores("cheerful", reply)[0] for reply in replies]
    assert scores("cheerful", *replies) == alone


def test_a_missing_package_is_one_line_that_says_what_to_install():
    code = (
        "import importlib.util as u; found = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == 'vaderSentiment' else found(name, *a)\n"
        "from mavis.cli.main import main\n"
        "raise SystemExit(main(['fit', '--objective', 'cheerful']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode != 0
    assert done.stderr.count("\n") == 1
    assert "vaderSentiment is missing: pip install 'mavis[real]'" in done.stderr


def test_the_splits_are_the_files_and_share_no_prompt():
    parts = [read_prompts(find(NAMES[0]).prompts, split) for split in SPLITS]
    assert [len(part) for part in parts] == [492, 118, 133]
    texts = [plain(prompt) for part in parts for prompt in part]
    assert len(set(texts)) == len(texts)
    assert max(len(text.split()) for text in texts) <= 60
    assert find(NAMES[0]).prompts == find(NAMES[1]).prompts == mavis_objectives.INSTRUCTIONS


def test_the_readme_counts_what_is_there():
    """Its tables are the attribution that the licences ask for."""
    folder = Path(mavis_objectives.INSTRUCTIONS)
    rows = [
        json.loads(line)
        for split in SPLITS
        for line in (folder / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    readme = (folder / "README.md").read_text(encoding="utf-8")
    counts = Counter(row["source"] for row in rows)
    assert set(counts) == {"self-instruct", "xstest", "mt-bench", "vicuna-bench"}
    for source, count in counts.items():
        assert f"| `{source}` | {count} |" in readme
    assert f"\n{len(rows)} short" in readme
