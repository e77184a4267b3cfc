"""Methods look the same everywhere, in one order, and are compared by one indicator."""

import math

import pytest

from mavis.report.style import (
    LOOKS,
    fixed,
    is_compared,
    is_single,
    look,
    main_indicator,
    measured,
    number,
    ordered,
    ratio,
)


def found(methods=("mod", "mavis"), weightings=((0.5, 0.5),), undefined=None):
    one = {"indicators": {"hypervolume": "volume", "weighted_gain": "gain"}, "rewards": [["first"]]}
    return {
        "methods": dict.fromkeys(methods, one),
        "weightings": weightings,
        "hypervolume_undefined": undefined,
    }


def test_known_methods_come_first_and_always_in_one_order():
    names = ("mine", "parm", "mavis", "best_of")
    assert ordered(found(names)) == ["best_of", "mavis", "parm", "mine"]
    assert ordered(found(names[::-1])) == ["best_of", "mavis", "parm", "mine"]


def test_an_unknown_method_has_its_own_name():
    assert look("mine").name == "mine"
    assert look("mine")[1:] not in [one[1:] for one in LOOKS.values()]


@pytest.mark.parametrize(
    ("weightings", "undefined", "name", "cell"),
    [
        (((0.5, 0.5), (1.0, 0.0)), None, "hypervolume", "volume"),
        (((0.5, 0.5),), "flat", "weighted gain", "gain"),
        (((1.0,),), "one objective", "reward", "first"),
        (((1.0,), (2.0,)), "one objective", "weighted gain", "gain"),
    ],
)
def test_what_methods_are_compared_by(weightings, undefined, name, cell):
    given = found(weightings=weightings, undefined=undefined)
    assert main_indicator(given).name == name
    assert measured(given, "mod") == cell
    assert is_single(given) == (name == "reward")


def test_a_method_that_does_not_get_to_the_kl_is_not_compared():
    assert is_compared({"indicators": {"weighted_gain": {"value": 1.0}}})
    assert not is_compared({"indicators": {"weighted_gain": None}})


@pytest.mark.parametrize(
    ("mine", "theirs", "expected"),
    [(0.0, 2.0, 0.0), (3.0, 2.0, 1.5), (1.0, 0.0, math.nan), (-0.1, 2.0, math.nan)],
)
def test_a_ratio_is_that_of_gains(mine, theirs, expected):
    assert ratio(mine, theirs) == pytest.approx(expected, nan_ok=True)


def test_numbers_for_people():
    assert [fixed(-0.004), fixed(1.005, 1), fixed(math.nan)] == ["0.00", "1.0", "nan"]
    assert math.isnan(number(None))
