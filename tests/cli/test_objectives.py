import random

import pytest

from mavis.cli import objectives
from mavis.cli.objectives import check_objective, list_objectives, new_objective
from mavis.objective import Listing, Objective

EXAMPLES = (("Why?", "a good reply", "bad"), ("How?", "another good reply", "bad too"))


def lengths(_prompts, responses):
    return [float(len(response)) for response in responses]


@pytest.fixture
def check(monkeypatch, capsys):
    """Check a reward as if it were installed: the lines, and whether it is usable.

    Without `prefixes`, no replies are sampled for them.
    """

    def run(reward, examples=EXAMPLES, prefixes=None):
        objective = Objective("mine", reward, examples=examples)
        monkeypatch.setattr(objectives, "find", {"mine": objective}.__getitem__)
        if prefixes is None:
            monkeypatch.setattr(objectives, "_prefixes", lambda *_: [])
        status = 0
        try:
            check_objective("mine", **(prefixes or {}))
        except SystemExit as stop:
            status = stop.code
        return capsys.readouterr().out, {0: True, 1: False}[status]

    return run


# list


def test_list_shows_what_is_installed_and_what_fails(monkeypatch, capsys):
    entries = [
        Listing("a", "m:a", "dist-a", "1.0", None),
        Listing("longer", "m2:b", "dist", "2.0", "cannot be imported"),
    ]
    monkeypatch.setattr(objectives, "listing", lambda: entries)
    list_objectives()

    assert capsys.readouterr().out.splitlines() == [
        "name    target  distribution  version  state",
        "a       m:a     dist-a        1.0      loads",
        "longer  m2:b    dist          2.0      cannot be imported",
    ]


def test_list_of_nothing_says_what_to_do(monkeypatch, capsys):
    monkeypatch.setattr(objectives, "listing", list)
    list_objectives()

    assert "mavis objectives new NAME" in capsys.readouterr().out


# check


def test_a_good_reward_is_well(check):
    lines, usable = check(lengths)

    assert usable
    assert lines.splitlines()[0].split() == ["score", "kind", "prompt", "reply"]
    assert lines.splitlines()[1].split(maxsplit=3) == ["12", "good", "'Why?'", "'a good reply'"]
    assert "replies/s" in lines
    assert "looks wrong" not in lines
    assert lines.splitlines()[-1] == "all well: mavis fit --objective mine"


def test_only_results_are_on_stdout(check, capsys):
    check(lengths)

    assert capsys.readouterr().err == ""


def test_without_examples_built_in_replies_are_scored(check):
    lines, usable = check(lengths, ())

    assert usable
    assert "good" not in lines


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        (lambda _, r: [1.0] * len(r), "constant scores: all 15 are 1"),
        (lambda *_: [0.0], "one number per reply, [B = 15], got 1"),
        (lambda _, r: ["high"] * len(r), "got 'high' in it"),
        (lambda _, r: [None] * len(r), "abstained for all 15"),
        (lambda _, r: [float("inf")] * len(r), "must be finite, got inf"),
        (lambda _, r: [1 / len(text) for text in r], "raised ZeroDivisionError"),
        (lambda _, r: lengths(_, r) if len(r) > 1 else [], "[B = 1], got 0"),
    ],
)
def test_what_cannot_be_used_exits_with_status_1(check, reward, message):
    lines, usable = check(reward)

    assert not usable
    [last] = [line for line in lines.splitlines() if line.startswith("unusable: ")]
    assert "objective 'mine'" in last
    assert message in last


def test_constant_scores_on_built_in_replies_ask_for_examples(check):
    lines, usable = check(lambda _, r: [float("squirrel" in text) for text in r], ())

    assert not usable
    assert "`examples` of the Objective" in lines


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        (lambda p, r: [-x for x in lengths(p, r)], "good reply 'a good reply' gets -12, bad -3."),
        (lambda _, r: [len(text) or None for text in r], "abstained for 1 of 15 replies"),
        (lambda _, r: [random.random() for _ in r], "scores change from call to call"),
        (lambda p, r: [x / len(r) for x in lengths(p, r)], "scores change with the batch size"),
        (
            lambda p, r: [x + place for place, x in enumerate(lengths(p, r))],
            "scores change with the order of replies",
        ),
    ],
)
def test_what_looks_wrong_is_said(check, reward, message):
    lines, usable = check(reward)

    assert usable
    assert f"looks wrong: {message}" in lines


def test_a_slow_reward_is_told_how_long_a_fit_takes(check, monkeypatch):
    monkeypatch.setattr(objectives, "_speed", lambda *_: 2.0)
    lines, usable = check(lengths)

    assert usable
    assert "looks wrong: slow: 10,000 replies, a small fit, take about 83 minutes." in lines


def test_thoughts_are_counted(check):
    examples = (("Why?", "<think>Because?</think>a good reply", "bad"), *EXAMPLES[1:])
    lines, usable = check(lengths, examples)

    assert usable
    assert lines.splitlines()[1].split()[0] == "12"
    assert "thoughts: 1 of 15 replies contain some, which are not scored." in lines
    assert "thoughts" not in check(lengths)[0]


def test_rewards_of_prefixes(check, tiny_folder):
    """What was found and what it means, in two lines before the last."""
    paths = {name: str(tiny_folder / name) for name in ("reference", "prompts")}
    lines, usable = check(lengths, prefixes=paths)

    assert usable
    found, meaning, last = lines.splitlines()[-3:]
    assert found.startswith(f"prefixes: half a reply of {paths['reference']} correlates by 0.")
    assert "foretells the whole: --data.prefix_discount 0.5 may help" in meaning
    assert "held-out figures" in meaning
    given = "".join(f" --data.{name} {path}" for name, path in paths.items())
    assert last == f"all well: mavis fit --objective mine{given}"


def test_a_reward_that_fails_for_prefixes_is_usable_without(check, tiny_folder):
    def picky(_, replies):
        if len(replies) > 100:
            raise RuntimeError("too many")
        return lengths(_, replies)

    paths = {name: str(tiny_folder / name) for name in ("reference", "prompts")}
    lines, usable = check(picky, prefixes=paths)
    assert usable
    assert "prefixes: leave --data.prefix_discount at 1, for objective 'mine': the reward" in lines


def test_prefixes_of_a_slow_reward_are_not_scored(check, monkeypatch):
    monkeypatch.setattr(objectives, "_speed", lambda *_: 30.0)
    lines, usable = check(lengths, prefixes={"reference": "no/such/model"})
    assert usable
    assert "prefixes: not tried, as 3,000 texts would take 100 s." in lines


# new


def test_new_says_what_it_wrote_and_what_comes_next(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    new_objective("squirrel")

    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "wrote mavis-squirrel/README.md"
    assert lines[-3:] == [
        "  pip install -e mavis-squirrel",
        "  mavis objectives check squirrel",
        "  mavis fit --objective squirrel",
    ]
