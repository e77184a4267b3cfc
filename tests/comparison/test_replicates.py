"""Every seed by itself: the same numbers as a sweep of that seed alone, in the units of all."""

from dataclasses import replace

import numpy as np
import pytest

from mavis.comparison.analysis import replicates


def with_seeds(point, shifts):
    """The point with one column of answers for each shift of its rewards."""
    many = len(shifts)
    rewards = np.concatenate([point.rewards[:, [0]] + shift for shift in shifts], 1)
    return replace(
        point,
        responses=[said * many for said in point.responses],
        tokens=[said * many for said in point.tokens],
        rewards=rewards,
        numbers={name: np.repeat(column, many, 1) for name, column in point.numbers.items()},
    )


@pytest.fixture
def seeds(analysis):
    """Findings of three seeds, of which the second's models have gained more."""

    def make(shifts=(0.0, 0.5, -0.2)):
        one = analysis(methods=("mavis", "mod"))
        return one, replace(
            one,
            reference=with_seeds(one.reference, [0.0] * len(shifts)),
            curves={
                m: [[with_seeds(p, shifts if m == "mavis" else [0.0] * len(shifts)) for p in c]
                    for c in curves]
                for m, curves in one.curves.items()
            },
        )  # fmt: skip

    return make


def test_one_seed_has_nothing_beside_it(analysis):
    assert replicates(analysis(), (-3.0, -3.0)) == []


def test_a_seed_by_itself_is_a_sweep_of_that_seed(seeds):
    one, three = seeds()
    corner = (-3.0, -3.0)
    found = replicates(three, corner)
    assert len(found) == 3
    alone = replace(one, corner=corner, given=three.units).at_equal_kl(1)
    for name in ("hypervolume", "weighted_gain"):
        assert found[0]["mavis"][name] == pytest.approx(alone.value("mavis", name))
        assert [f["mod"][name] for f in found] == pytest.approx([alone.value("mod", name)] * 3)
    gains = np.array([f["mavis"]["weighted_gain"] for f in found])
    # A shift of all rewards at both points is the same shift between them; weights average 1/2.
    rate = np.mean([1 / units.std for units in three.units])
    np.testing.assert_allclose(gains - gains[0], np.array([0, 0.5, -0.2]) * rate)
    assert found[1]["mavis"]["hypervolume"] > found[0]["mavis"]["hypervolume"]


def test_a_seed_that_does_not_get_there_is_left_out(seeds):
    _, three = seeds()
    slow = {
        m: [[replace(p, numbers=p.numbers | {"kl": p.kl * np.array([[1.0, 1.0, 0.1]])}) for p in c]
            for c in curves]
        for m, curves in three.curves.items()
    }  # fmt: skip
    found = replicates(replace(three, curves=three.curves | {"mod": slow["mod"]}), (-3.0, -3.0))
    assert [sorted(f) for f in found] == [["mavis", "mod"], ["mavis", "mod"], ["mavis"]]
