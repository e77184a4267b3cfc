"""Which of the runs' value models is taken for which objectives."""

import pytest

from mavis.value_places import places, together


@pytest.fixture
def runs(tmp_path):
    """`runs("a", "a+b")`: a folder of such runs."""

    def make(*names):
        for name in names:
            (tmp_path / name / "value").mkdir(parents=True)
        return tmp_path

    return make


def named(found):
    return {name: place.parent.name for name, place in found.items()}


def test_the_order_of_names_is_of_no_account(runs):
    folder = runs("b+a")
    assert together(folder, ["a", "b"]) == folder / "b+a" / "value"
    assert together(folder, ["a"]) is None
    assert together(folder, ["a", "b", "c"]) is None


def test_one_of_just_these_comes_before_one_of_each(runs):
    assert named(places(runs("a", "b", "a+b", "a+b+c"), ["b", "a"])) == {"b": "a+b", "a": "a+b"}


def test_one_of_each_comes_before_one_of_more(runs):
    folder = runs("a", "b", "a+b+c")
    assert named(places(folder, ["a", "b"])) == {"a": "a", "b": "b"}
    assert named(places(folder, ["a"])) == {"a": "a"}
    assert named(places(folder, ["b", "c"])) == {"b": "a+b+c", "c": "a+b+c"}


def test_of_more_the_fewest_are_taken(runs):
    assert named(places(runs("a+b+c", "a+b"), ["a"])) == {"a": "a+b"}


def test_what_has_none_of_its_own_is_taken_from_one_of_several(runs):
    """Which then stands for all that it has, as no objective may be there twice."""
    folder = runs("a", "c", "a+b")
    assert named(places(folder, ["a", "b", "c"])) == {"a": "a+b", "b": "a+b", "c": "c"}
    assert named(places(folder, ["b", "d"])) == {"b": "a+b", "d": "d"}  # which is missing


def test_what_is_missing_is_where_a_fit_would_put_it(runs):
    assert named(places(runs("c", "a+b"), ["d", "c"])) == {"d": "d", "c": "c"}
