"""The answers that a sweep leaves to be read and judged."""

import json

from mavis.comparison.answers import write_answers
from mavis.judge.pairs import read_pairs


def test_every_method_has_a_file_for_each_weighting(analysis, tmp_path):
    given = analysis(("best_of", "mavis", "mod"))
    stale = tmp_path / "answers" / "soup" / "humor1_helpfulness0.jsonl"
    stale.parent.mkdir(parents=True)
    stale.touch()
    write_answers(tmp_path, given)
    files = {str(f.relative_to(tmp_path / "answers")) for f in tmp_path.rglob("*.jsonl")}
    weightings = ("humor1_helpfulness0", "humor0.5_helpfulness0.5", "humor0_helpfulness1")
    assert files == {
        "reference/all.jsonl",
        *(f"{method}/{w}.jsonl" for method in ("best_of", "mavis", "mod") for w in weightings),
    }
    nearest = given.nearest("mavis")[1]
    lines = (tmp_path / "answers" / "mavis" / f"{weightings[1]}.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert [row["prompt"] for row in rows] == list(given.prompts)
    assert [row["text"] for row in rows] == [texts[0] for texts in nearest.responses]
    assert rows[3]["weights"] == {"humor": 0.5, "helpfulness": 0.5}
    assert rows[3]["rewards"]["humor"] == nearest.rewards[3, 0, 0]
    assert rows[3]["kl"] == nearest.kl[3, 0]


def test_a_judge_can_read_them(analysis, tmp_path):
    write_answers(tmp_path, analysis(("mavis", "mod")))
    mine, theirs = (
        tmp_path / "answers" / name / "humor1_helpfulness0.jsonl" for name in ("mavis", "mod")
    )
    pairs = read_pairs(mine, theirs)
    assert len(pairs) == 24
    assert (pairs[0].first, pairs[0].second) == ("mavis says 0.0", "mod says 0.0")
