"""Metrics against the functions they stand on, however the rewards come in."""

import math

import numpy as np
import pytest
import torch
from torchmetrics import MetricCollection

from mavis.measure.front import pareto
from mavis.measure.front.metrics import (
    EpsilonDominance,
    Hypervolume,
    IGDPlus,
    InnerProduct,
    Maximin,
    NonDominated,
    WorstCase,
)

POINTS, OBJECTIVES = 4, 3
FRONT = np.random.default_rng(9).normal(size=(5, OBJECTIVES)) + 1
WEIGHTS = np.random.default_rng(8).dirichlet(np.ones(OBJECTIVES), size=POINTS)
REFERENCE = np.full(OBJECTIVES, -4.0)

# Each metric, the function of the mean rewards [P, M] it stands for, and whether more is better.
CASES = {
    "hypervolume": (
        lambda: Hypervolume(POINTS, REFERENCE),
        lambda means: pareto.hypervolume(means, REFERENCE),
        True,
    ),
    "nondominated": (
        lambda: NonDominated(POINTS, OBJECTIVES),
        lambda means: pareto.union_front([means]),
        None,
    ),
    "igd_plus": (
        lambda: IGDPlus(POINTS, FRONT),
        lambda means: pareto.igd_plus(means, FRONT),
        False,
    ),
    "epsilon": (
        lambda: EpsilonDominance(POINTS, FRONT),
        lambda means: pareto.epsilon_dominance(means, FRONT),
        False,
    ),
    "maximin": (
        lambda: Maximin(POINTS, FRONT),
        lambda means: pareto.maximin(means, FRONT),
        False,
    ),
    "inner_product": (
        lambda: InnerProduct(WEIGHTS),
        lambda means: pareto.inner_product(means, WEIGHTS[: len(means)]),
        True,
    ),
    "worst_case": (lambda: WorstCase(POINTS, OBJECTIVES), pareto.worst_case, True),
}


@pytest.fixture(params=CASES)
def case(request):
    return CASES[request.param]


def draw(samples=80, seed=0):
    """Rewards [N, M], some of which abstained, and points in no order [N]."""
    random = np.random.default_rng(seed)
    rewards = random.normal(size=(samples, OBJECTIVES))
    rewards[random.random(rewards.shape) < 0.1] = math.nan
    point = random.permutation(np.arange(samples) % POINTS)
    return torch.from_numpy(rewards), torch.from_numpy(point)


def mean_rewards(rewards, point):
    return np.stack(
        [np.nanmean(rewards[point == p].numpy(), axis=0) for p in sorted(set(point.tolist()))]
    )


def test_a_metric_is_its_function_of_mean_rewards(case):
    make, function, better = case
    metric = make()
    rewards, point = draw()
    metric.update(rewards, point)
    assert metric.compute().dtype == torch.float64
    assert metric.compute().numpy() == pytest.approx(function(mean_rewards(rewards, point)))
    assert metric.higher_is_better is better


def test_several_updates_are_one(case):
    make = case[0]
    rewards, point = draw()
    whole, parts, called = make(), make(), make()
    whole.update(rewards, point)
    for some in torch.arange(len(point)).split(17):
        parts.update(rewards[some], point[some])
        called(rewards[some], point[some])  # as Lightning does
    expected = whole.compute().numpy()
    assert parts.compute().numpy() == pytest.approx(expected)
    assert called.compute().numpy() == pytest.approx(expected)
    parts.reset()
    parts.update(rewards, point)
    assert parts.compute().numpy() == pytest.approx(expected)


def test_merged_states_are_one(case):
    """What ranks do: each sees its share, the states are added up."""
    make = case[0]
    rewards, point = draw()
    whole, mine, theirs = make(), make(), make()
    whole.update(rewards, point)
    mine.update(rewards[::2], point[::2])
    theirs.update(rewards[1::2], point[1::2])
    mine.merge_state(theirs)
    assert mine.compute().numpy() == pytest.approx(whole.compute().numpy())


def test_points_not_seen_yet_are_left_out(case):
    make, function, _ = case
    metric = make()
    rewards, point = draw()
    first = point < 2
    metric.update(rewards[first], point[first])
    # Of the third point one objective is not known.
    metric.update(torch.tensor([[9.0, math.nan, 9.0]]), torch.tensor([2]))
    expected = function(mean_rewards(rewards[first], point[first]))
    assert metric.compute().numpy() == pytest.approx(expected)


def test_an_empty_batch_changes_nothing(case):
    metric = case[0]()
    metric.update(*draw())
    before = metric.compute()
    metric.update(torch.zeros(0, OBJECTIVES), torch.zeros(0, dtype=torch.long))
    assert torch.equal(metric.compute(), before)


def test_a_collection_of_all():
    rewards, point = draw()
    together = MetricCollection({name: make() for name, (make, _, _) in CASES.items()})
    for some in torch.arange(len(point)).split(17):
        together.update(rewards[some], point[some])
    assert len(together.compute_groups) == 1  # the state is kept once
    found = together.compute()
    for name, (_, function, _) in CASES.items():
        expected = function(mean_rewards(rewards, point))
        assert found[name].numpy() == pytest.approx(expected), name


def test_half_precision_rewards_are_summed_in_double():
    metric = WorstCase(1, 1)
    reward = torch.full((4096, 1), 0.1, dtype=torch.float16)
    metric.update(reward, torch.zeros(4096, dtype=torch.long))
    assert metric.compute().item() == pytest.approx(reward[0].item(), rel=1e-12)


def test_nothing_seen_is_an_error():
    metric = WorstCase(2, 2)
    metric.update(torch.zeros(0, 2), torch.zeros(0, dtype=torch.long))
    with pytest.raises(ValueError, match=r"rewards must be a matrix .* got shape \(0, 2\)\."):
        metric.compute()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.update(torch.zeros(3, 3), torch.zeros(3).long()), r"\[N, M = 2\], got \(3, 3"),
        (lambda m: m.update(torch.zeros(2), torch.zeros(2).long()), r"M = 2\], got \(2,\)\."),
        (lambda m: m.update(torch.zeros(3, 2), torch.zeros(2).long()), r"N = 3\), got \(2,\) of"),
        (lambda m: m.update(torch.zeros(1, 2), torch.zeros(1)), r"whole number .* torch.float32"),
        (lambda m: m.update(torch.zeros(1, 2), torch.tensor([4])), r"in 0 to 3, got 4 to 4\."),
        (lambda m: m.update(torch.zeros(1, 2), torch.tensor([-1])), r"in 0 to 3, got -1 to -1\."),
        (lambda _: WorstCase(0, 2), "points and objectives must be at least 1, got 0 and 2."),
        (lambda _: Hypervolume(2, [0, math.nan]), "reference must be one finite number"),
        (lambda _: IGDPlus(2, [1, 2]), "front must be a matrix"),
        (lambda _: InnerProduct([[math.nan, 1]]), "weights must be finite"),
    ],
)
def test_errors_say_what_is_wrong(call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call(WorstCase(4, 2))
    assert "\n" not in str(caught.value)
