"""Verdicts: found in whatever a judge says, and kept through kills."""

import json

import pytest

from mavis.judge.verdicts import CUT, Question, Verdicts, read_verdict

QUESTION = Question("m", "kinder", "Hi?", "Hello {prompt}!", "Go.\nverdict: B")


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        ("verdict: A", "A"),
        ("A is kind.\nVERDICT: b\n", "B"),
        ("reason\n\n**Verdict:** Tie.", "tie"),
        ("**verdict: [[B]]**  \n\n", "B"),
        ("### My final verdict is: `Answer A`", "A"),
        ("_Verdict_ – (a tie)", "tie"),
        ("<think>verdict: A\nor\r\nverdict: B</think>\nverdict: tie", "tie"),
        ("<think>At first sight:\nverdict: A\nBut wait", None),
        ("<thinking>verdict: A</thinking>\nBoth are fine.", None),
        ("<reasoning>verdict: A", None),
        ("verdict: A\nor\n</think>\nHm.", None),
        ("verdict: B\n</think>verdict: A", "A"),
        (f"Hm.\nverdict: A\n{CUT}", "A"),
        (f"verdict: A\nBut wait\n{CUT}", None),
        (CUT, None),
        ("verdict - B", "B"),
        ("<verdict>A</verdict>", "A"),
        ('{"verdict": "tie"}', "tie"),
        ("verdict: A\n\nThat is all.", "A"),
        ("The answer B says 'verdict: B'.\nverdict: A", "A"),
        ("verdict: A or B", None),
        ("verdict: A, verdict: B or verdict: tie", None),
        ("verdict: A/B", None),
        ("verdict: neither", None),
        ("My verdict: A is a bit better", None),
        ("A", None),
        ("", None),
        ("\n" * 100_000, None),
    ],
)
def test_read_verdict(reply, verdict):
    assert read_verdict(reply) == verdict


def test_a_question_shows_everything_and_is_known_by_it():
    for part in ("kinder", "Hi?", "<answer A>\nHello {prompt}!\n</answer A>", "Go.\nverdict: B"):
        assert part in QUESTION.text
    fields = ("model", "criterion", "prompt", "a", "b")
    others = [Question(**{**vars(QUESTION), name: "other"}) for name in fields]
    swapped = Question("m", "kinder", "Hi?", QUESTION.b, QUESTION.a)
    assert len({q.key for q in (QUESTION, *others, swapped)}) == 7
    assert Question(*vars(QUESTION).values()).key == QUESTION.key


def test_verdicts_are_kept(tmp_path):
    kept = Verdicts(tmp_path / "verdicts.jsonl")
    assert kept.read() == {}
    silent = Question("m", "kinder", "Ho? \ud800", "ä", "b")  # half a character is legal JSON
    kept.append(QUESTION, "Warm.\nverdict: A")
    kept.append(silent, "hm")
    assert kept.read() == {QUESTION.key: "A", silent.key: None}
    first = json.loads(kept.file.read_text().splitlines()[0])
    assert first["reply"] == "Warm.\nverdict: A"
    assert {name: first[name] for name in vars(QUESTION)} == vars(QUESTION)


@pytest.mark.parametrize("cut", [1, 9, 60])
def test_a_torn_line_counts_as_not_written(cut, tmp_path):
    kept = Verdicts(tmp_path / "verdicts.jsonl")
    kept.append(QUESTION, "verdict: A")
    whole = kept.file.read_bytes()
    other = Question("m", "kinder", "ö", "a", "b")
    kept.append(other, "verdict: B")
    kept.file.write_bytes(kept.file.read_bytes()[: len(whole) + cut])
    assert kept.read() == {QUESTION.key: "A"}
    kept.append(other, "verdict: tie")
    assert kept.read() == {QUESTION.key: "A", other.key: "tie"}


def test_other_lines_are_passed_over(tmp_path):
    kept = Verdicts(tmp_path / "verdicts.jsonl")
    kept.file.write_bytes(b'\n[]\n"A"\n\xff\xfe\n{"key": "x"}\n{"key": "y", "verdict": ["A"]}\n')
    assert kept.read() == {}
