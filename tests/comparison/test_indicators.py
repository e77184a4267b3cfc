"""Methods at one KL: indicators, intervals and leads, on made-up readings."""

import numpy as np
import pytest

from mavis.comparison.indicators import INDICATORS, AtEqualKL
from mavis.evaluation import pareto
from mavis.evaluation.kl_matching import RewardsAtKL

WEIGHTS = [(1.0, 0.0), (0.5, 0.5), (0.0, 1.0)]
GOOD = np.array([[2.0, -1.0], [1.2, 1.2], [-1.0, 2.0]])


def readings(rewards, noise=0.0, seed=0):
    rng = np.random.default_rng(seed)
    return [RewardsAtKL(r, r + noise * rng.normal(size=(200, 2))) for r in rewards]


@pytest.fixture
def comparison():
    baseline = RewardsAtKL(np.array([0.1, 0.0]), np.tile([0.1, 0.0], (200, 1)))
    found = {
        "mavis": readings(GOOD, 0.1),
        "mod": readings(GOOD - 0.3, 0.1),
        "soup": [*readings(GOOD[:2]), None],
    }
    return AtEqualKL(2.0, WEIGHTS, baseline, found)


def test_who_does_not_get_so_far_is_left_out(comparison):
    assert comparison.methods == ["mavis", "mod"]


def test_indicators_are_those_of_the_mean_rewards(comparison):
    corner = comparison.reference_point
    np.testing.assert_allclose(corner, pareto.reference_point([GOOD, GOOD - 0.3]))
    want = {
        "hypervolume": pareto.hypervolume(GOOD, corner),
        "weighted_gain": np.mean([2.0 - 0.1, 1.2 - 0.05, 2.0]),
        "inner_product": np.mean([2.0, 1.2, 2.0]),
        "worst_case": np.mean([-1.0, 1.2, -1.0]),
        "igd_plus": 0.0,
        "epsilon": 0.0,
        "maximin": pareto.maximin(GOOD, GOOD),
    }
    assert want.keys() == INDICATORS.keys()
    for name, value in want.items():
        assert comparison.indicator("mavis", name).value == pytest.approx(value, abs=1e-12), name
    assert comparison.indicator("mod", "epsilon").value == pytest.approx(0.3)


def test_intervals_hold_their_value_and_the_lead_is_paired(comparison):
    volume = comparison.indicator("mavis", "hypervolume")
    assert volume.low < volume.value < volume.high
    assert comparison.against("mavis", "mod", "hypervolume").low > 1
    gain = comparison.against("mavis", "mod", "weighted_gain", by="difference")
    assert gain.value == pytest.approx(0.3)
    # Both have the same noise: paired, nothing of it is left.
    assert gain.high - gain.low < 1e-9


def test_a_resample_is_held_against_the_front_of_its_own_world(comparison):
    """Against the one front of the means, a point's own copy on it would be another point."""
    for name in ("maximin", "epsilon", "igd_plus"):
        found = comparison.indicator("mavis", name)
        assert found.low <= found.value <= found.high, name
    assert comparison.indicator("mavis", "epsilon").high == 0  # nobody is ahead in any world


def test_a_reference_point_may_be_given(comparison):
    fixed = AtEqualKL(2.0, WEIGHTS, comparison.reference, comparison.readings, [-2.0, -2.0])
    assert fixed.indicator("mavis", "hypervolume").value == pytest.approx(
        pareto.hypervolume(GOOD, [-2, -2])
    )


def test_resamples_without_a_reward_are_left_out(comparison):
    """Few prompts were scored: in some resamples there are none of them."""
    for reading in comparison.readings["mod"]:
        reading.samples[:5] = np.nan
    holes = comparison.indicator("mod", "hypervolume")
    assert np.isfinite([holes.value, holes.low, holes.high]).all()
    assert len(comparison.samples("mavis")) == 195  # the same ones of all methods
    assert comparison.against("mavis", "mod", "weighted_gain", by="difference").low > 0.29


def test_a_method_without_a_reward_is_left_out(comparison):
    comparison.readings["mod"][1].rewards[0] = np.nan
    assert comparison.methods == ["mavis"]


def test_a_single_point_has_a_volume(comparison):
    """The range is that from the reference policy to it."""
    one = AtEqualKL(2.0, WEIGHTS[:1], comparison.reference, {"mavis": readings(GOOD[:1])})
    np.testing.assert_allclose(one.reference_point, [0.1 - 0.19, -1.0 - 0.1])
    assert one.indicator("mavis", "hypervolume").value == pytest.approx(2.09 * 0.1)
