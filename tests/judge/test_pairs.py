"""Pairs: the same prompts, whatever their order; and the count of verdicts, by hand."""

import json

import pytest

from mavis.judge.pairs import Pair, count, read_pairs

CHAT = [{"role": "user", "content": "hats"}]


@pytest.fixture
def files(tmp_path):
    """`files([("prompt", "text"), …], […])`: two files of answers."""

    def write(*sets):
        paths = [tmp_path / f"{name}.jsonl" for name in ("first", "second")]
        for path, answers in zip(paths, sets, strict=True):
            rows = [json.dumps({"prompt": p, "text": t, "kl": 0.5}) for p, t in answers]
            path.write_text("\n".join(rows) + "\n")
        return paths

    return write


def test_answers_are_paired_by_prompt_and_occurrence(files):
    ours = [("an ant", "a1"), (CHAT, "h1"), ("an ant", "a2")]
    theirs = [("hats", "H1"), ("an ant", "A1"), ("an ant", "A2")]
    assert read_pairs(*files(ours, theirs)) == [
        Pair("an ant", "a1", "A1"),
        Pair("an ant", "a2", "A2"),
        Pair("hats", "h1", "H1"),
    ]


def test_a_mismatch_names_the_first_prompt(files):
    first, second = files([("a", "x"), ("b", "x"), ("b", "y")], [("a", "x"), ("b", "x")])
    with pytest.raises(ValueError, match=r"'b' has answers 2 times in .*first.jsonl and 1 times"):
        read_pairs(first, second)
    first, second = files([("a", "x")], [("c", "x"), ("a", "x")])
    with pytest.raises(ValueError, match="'c' has answers 0 times"):
        read_pairs(first, second)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2 of .*second.jsonl is not JSON"),
        ("[" * 99_999, "line 2 of .*second.jsonl is not JSON"),
        ("[1]", r"must be an object with a prompt and a text, got \[1\]"),
        ('{"prompt": "a", "reply": "x"}', "line 2 of .* has no 'text', only prompt, reply"),
        ("{}", "has no 'prompt', only nothing"),
        ('{"prompt": 3, "text": "x"}', "prompt must be a string or a chat, got 3"),
        ('{"prompt": [], "text": "x"}', "prompt must be a string or a chat"),
        ('{"prompt": [{"role": "user"}], "text": "x"}', "prompt must be a string or a chat"),
        ('{"prompt": "a", "text": null}', "text must be a string, got None"),
    ],
)
def test_lines_that_are_no_answers(line, message, files):
    first, second = files([("a", "x")], [("a", "x")])
    second.write_text(second.read_text() + line + "\n")
    with pytest.raises(ValueError, match=message):
        read_pairs(first, second)


def test_missing_and_empty_files(files, tmp_path):
    first, second = files([("a", "x")], [])
    with pytest.raises(FileNotFoundError, match=r"nothing\.jsonl': there is no such file"):
        read_pairs(first, tmp_path / "nothing.jsonl")
    with pytest.raises(ValueError, match=r"this is a folder; give a file"):
        read_pairs(first, tmp_path)
    with pytest.raises(ValueError, match=r"no answers in .*second.jsonl"):
        read_pairs(first, second)


def test_count():
    pairs = [Pair(prompt, "x", "y") for prompt in "aabcde"] + [Pair("f", "same", "same")]
    said = [("A", "B"), ("A", "B"), ("B", "A"), ("A", "A"), ("tie", "A"), (None, "B")]
    result = count(pairs, [*said, (None, None)])
    assert (result.pairs, result.wins, result.ties, result.losses) == (7, 2, 4, 1)
    assert (result.equal, result.unparseable) == (1, 1)
    assert result.win_rate == pytest.approx((2 + 4 / 2) / 7)
    assert result.shown_first == pytest.approx(6 / 10)  # A of A and B
    assert 0 <= result.low < result.win_rate < result.high <= 1
    assert count(pairs, [*said, (None, None)], seed=1).win_rate == result.win_rate


def test_prompts_are_the_draws_of_the_interval():
    # Ten answers to each of two prompts say little more than one answer to each.
    pairs = [Pair(prompt, "x", "y") for prompt in "ab" for _ in range(10)]
    result = count(pairs, [("A", "B")] * 10 + [("B", "A")] * 10)
    assert (result.low, result.win_rate, result.high) == (0, 0.5, 1)


def test_without_a_preference_there_is_no_bias():
    result = count([Pair("a", "x", "y")], [("tie", None)])
    assert result.shown_first is None
    assert (result.low, result.win_rate, result.high) == (0.5, 0.5, 0.5)
