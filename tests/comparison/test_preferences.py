"""Weightings from a line or a file."""

import numpy as np
import pytest

from mavis.comparison.preferences import as_option, label, weightings

TWO = ["humor", "helpfulness"]


def test_a_grid_is_all_of_the_simplex_at_a_step():
    found = weightings("grid:0.1", TWO)
    assert len(found) == 11
    assert found[0] == (1.0, 0.0)
    assert found[-1] == (0.0, 1.0)
    three = weightings("grid:0.25", ["a", "b", "c"])
    assert len(three) == 15  # C(4 + 2, 2)
    assert all(sum(w) == 1 for w in three)
    assert weightings("grid:1", TWO) == [(1.0, 0.0), (0.0, 1.0)]


def test_draws_are_seeded_and_on_the_simplex():
    found = weightings("dirichlet:200", ["a", "b", "c"], seed=3)
    assert found == weightings("dirichlet:200", ["a", "b", "c"], seed=3)
    assert found != weightings("dirichlet:200", ["a", "b", "c"], seed=4)
    np.testing.assert_allclose(np.sum(found, axis=1), 1, atol=2e-4)
    # Uniform: each mean is 1/3, with a standard error of .236/√200 = .017.
    np.testing.assert_allclose(np.mean(found, axis=0), 1 / 3, atol=0.07)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_a_file_has_a_column_for_each_objective(tmp_path, suffix):
    text = {
        ".csv": "helpfulness,humor\n0.5,0.5\n-0.5,1.5\n0.5,0.5\n",
        ".jsonl": '{"humor": 0.5, "helpfulness": 0.5}\n{"humor": 1.5, "helpfulness": -0.5}\n',
    }[suffix]
    (tmp_path / f"w{suffix}").write_text(text)
    assert weightings(str(tmp_path / f"w{suffix}"), TWO) == [(0.5, 0.5), (1.5, -0.5)]


def test_several_forms_may_stand_side_by_side():
    found = weightings("grid:1; humor=0.5,helpfulness=0.5; grid:1", TWO)
    assert found == [(1.0, 0.0), (0.0, 1.0), (0.5, 0.5)]
    assert {(1, 0, 0), (0, 1, 0), (0, 0, 1)} <= set(weightings("grid:0.1", ["a", "b", "c"]))


def test_one_can_be_named_in_any_order():
    assert weightings("helpfulness=0.3,humor=0.7", TWO) == [(0.7, 0.3)]
    assert weightings(as_option((0.7, 0.3), TWO), TWO) == [(0.7, 0.3)]
    assert label((0.7, 0.3), TWO) == "humor0.7_helpfulness0.3"


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("grid:0.3", "step of a grid must divide 1"),
        ("grid:x", r"needs a step, as in grid:0\.1, got 'x'"),
        ("grid:0", "needs a step"),
        ("grid:-0.5", "must divide 1"),
        ("dirichlet:0", "needs a number of draws"),
        ("dirichlet:", "needs a number of draws"),
        ("grid:0.00001", "makes 100,001 weightings of these objectives, more than 10,000"),
        ("dirichlet:10001", "makes 10,001 weightings of these objectives"),
        ("humor=1", "must have the columns humor, helpfulness; .* has humor"),
        ("humor=1,sad=2", "has humor, sad"),
        ("humor=x,helpfulness=1", "must be finite numbers"),
        ("humor=nan,helpfulness=1", "must be finite numbers"),
    ],
)
def test_what_is_no_weighting_is_said(spec, said):
    with pytest.raises(ValueError, match=said):
        weightings(spec, TWO)


def test_bad_files_are_said(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no file 'nowhere\.csv'"):
        weightings("nowhere.csv", TWO)
    (tmp_path / "w.csv").write_text("humor,kindness\n1,0\n")
    with pytest.raises(ValueError, match=r"columns humor, helpfulness; row 1 of .*humor, kindness"):
        weightings(str(tmp_path / "w.csv"), TWO)
    (tmp_path / "w.csv").write_text("humor,helpfulness\n1,much\n")
    with pytest.raises(ValueError, match="must be finite numbers, got"):
        weightings(str(tmp_path / "w.csv"), TWO)
    (tmp_path / "w.csv").write_text("humor,helpfulness\n")
    with pytest.raises(ValueError, match="has no rows"):
        weightings(str(tmp_path / "w.csv"), TWO)


def test_weightings_that_would_share_a_name_are_refused():
    spec = "a=0.3333333,b=0.6666667;a=0.3333334,b=0.6666666"
    with pytest.raises(ValueError, match="are the same to six digits: leave one out"):
        weightings(spec, ["a", "b"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a,a,b\n1,0,1\n", "a column comes twice: a, a, b"),
        ("a,b\n1,0\n1,0,5\n", "row 2 has more cells than there are columns"),
    ],
)
def test_a_table_that_is_none_is_said(text, said, tmp_path):
    file = tmp_path / "w.csv"
    file.write_text(text)
    with pytest.raises(ValueError, match=rf"^file .*w\.csv' cannot be read: {said}"):
        weightings(str(file), ["a", "b"])


def test_an_objective_is_named_once():
    with pytest.raises(ValueError, match="weights must name each objective once"):
        weightings("a=1,a=0,b=1", ["a", "b"])
