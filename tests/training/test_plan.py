"""`mavis fit --plan`: it counts what a fit then does, and leaves nothing behind."""

import json
import re
import tempfile

import numpy as np
import pytest

from mavis.cli.main import main
from mavis.reward import score
from mavis.storage import Shards
from mavis.training import plan

PARTS = ("loading", "reference answers", "rollouts", "rewards", "training", "evaluation")


@pytest.fixture
def planned(fit_words, capsys, monkeypatch, tmp_path):
    """`planned(out, *words)`: status, stdout and stderr of a plan, and the plan itself."""
    seen = []
    made = plan.Plan.report
    monkeypatch.setattr(plan.Plan, "report", lambda self: (seen.append(self), made(self))[1])
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))

    def run(out, *words, command="fit"):
        status = main([*fit_words(out, *words, command=command), "--plan"])
        said = capsys.readouterr()
        assert not list((tmp_path / "temporary").iterdir())
        return status, said.out, said.err, seen[-1] if seen else None

    return run


def test_a_table_and_nothing_left_behind(planned, tmp_path):
    status, out, err, _ = planned(tmp_path / "run")
    assert status == 0, err
    lines = out.splitlines()
    assert [next(p for p in PARTS if line.startswith(p)) for line in lines[1:7]] == list(PARTS)
    number = r"\d+(\.\d+)?"
    last = rf"in all about {number} (s|minutes?|hours?), {number} GB of memory, {number} GB of disk"
    assert re.fullmatch(last, lines[-1])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["temporary"]
    assert err.splitlines()[-1].startswith("mavis: probing")


def test_quiet_prints_the_table_only(planned, tmp_path):
    status, out, err, _ = planned(tmp_path / "run", "-q")
    assert (status, err) == (0, "")
    assert out.splitlines()[-1].startswith("in all about")


def test_its_counts_are_those_of_the_fit(planned, tiny_fit, tmp_path):
    found = planned(tmp_path / "run")[3]
    size = found.size()
    entries = json.loads((tiny_fit / "metrics.json").read_text())
    assert [size.trees] * size.rounds == [entry["trees"] for entry in entries]
    answers = Shards(tiny_fit / "reference" / "validation" / "made").rows()
    assert size.baseline == len(answers)
    assert {len(row["tokens"]) for row in answers} == {size.best_of}
    held_out = Shards(tiny_fit / "rollouts" / "round-0" / "evaluation" / "made").rows()
    assert size.held_out == len(held_out)
    trees = Shards(tiny_fit / "rollouts" / "round-0" / "validation" / "made").rows()
    assert size.validation_trees == len(trees)
    lengths = [len(tokens) for row in answers for tokens in row["tokens"]]
    assert found.rates().lengths.mean(8) == pytest.approx(np.mean(lengths), rel=0.4)
    expected = plan.tree_size(size.shapes[0], found.lengths)[0] * size.trees
    assert expected == pytest.approx(entries[0]["tokens"], rel=0.4)


def test_two_plans_count_the_same(planned, tmp_path):
    one, other = (planned(tmp_path / "run")[3] for _ in range(2))
    assert one.lengths == other.lengths
    assert one.size() == other.size()


def test_a_fit_after_a_plan_is_as_without(planned, fit_words, tiny_fit, tmp_path, same_run):
    planned(tmp_path / "run")
    assert main(fit_words(tmp_path / "run")) == 0
    same_run(tmp_path / "run", tiny_fit)
    assert "plan" not in (tmp_path / "run" / "config.yaml").read_text().split("model:")[0]


def test_seconds_come_from_the_clock(planned, monkeypatch, tmp_path):
    """Every reading of the clock is a second later than the one before."""
    time = iter(range(10**9))
    monkeypatch.setattr(plan.Plan.__init__, "__defaults__", (0.0, lambda: float(next(time))))
    found = planned(tmp_path / "run")[3]
    rates = found.rates()
    assert (rates.reference.step, rates.reference.row) == (1.0, 0.0)  # each step takes a second
    assert rates.reward == pytest.approx(1 / len(found._outputs))
    assert rates.growth == 1.0  # trees would take longer than a probe may
    assert rates.solve == 1.0


@pytest.mark.parametrize(("credit", "source"), [("joint", "state"), ("token", "shared")])
def test_other_ways_to_learn(planned, tmp_path, credit, source):
    status, out, err, found = planned(
        tmp_path / "run", "--model.source", source, "--model.credit", credit
    )
    assert status == 0, err
    assert "in all about" in out
    assert len(found._passes) == 2


def test_a_finished_run_says_so(planned, tiny_fit):
    before = {path: path.stat().st_mtime_ns for path in tiny_fit.rglob("*")}
    status, out, _, _ = planned(tiny_fit)
    assert status == 0
    assert out == f"the run in {tiny_fit} is finished: nothing is left to train.\n"
    assert before == {path: path.stat().st_mtime_ns for path in tiny_fit.rglob("*")}


def test_rounds_that_are_left(planned, tiny_fit):
    _, out, _, found = planned(tiny_fit, "--data.rounds", "3")
    size = found.size()
    assert (size.rounds, size.first, size.baseline) == (1, None, 0)
    assert "in all about" in out


@pytest.mark.parametrize("command", ["validate", "test"])
def test_other_commands_refuse(planned, tiny_fit, command):
    status, out, err, _ = planned(tiny_fit, command=command)
    assert (status, out) == (2, "")
    assert err == "mavis: error: --plan estimates a whole `mavis fit`: give it to that alone.\n"


def test_another_run_in_the_folder_is_refused(planned, tiny_fit):
    status, _, err, _ = planned(tiny_fit, "--data.seed", "4")
    assert status == 2
    assert len(err.splitlines()) == 1


def test_too_few_prompts(planned, tmp_path):
    for split in ("train", "validation"):
        (tmp_path / f"{split}.jsonl").write_text('{"prompt": "a tum is"}\n')
    status, out, err, _ = planned(tmp_path / "run", "--data.prompts", str(tmp_path))
    assert (status, out) == (2, "")
    assert "give two or more" in err.splitlines()[-1]
    assert not (tmp_path / "run").exists()


def test_a_reward_that_fails(planned, tmp_path, monkeypatch):
    def broken(*_):
        raise KeyError("x")

    def scored(name, _, *rest):
        return score(name, broken, *rest)

    monkeypatch.setattr(plan, "score", scored)
    status, out, err, _ = planned(tmp_path / "run")
    assert (status, out) == (2, "")
    assert "objective 'trial': the reward raised KeyError" in err.splitlines()[-1]
