"""Rewards on prefixes, by hand and by their definition, and what whole fits make of them.

The tree of test_targets, with the reply so far worth (before the reply's own reward at its end):

    P 10 11 ─┬─ A 5 6 ─┬─ B 7 0   Φ after 5: .5, after 6: abstained, after 7: 3; reward 1
             │         └─ C 8     reward 2
             └─ D 0               reward −1

Mean of the prompt's replies 2/3. Δ: 5 brings .5 − 2/3, 6 nothing, 7 brings 2.5, B's end −2,
C 1.5, D −1 − 2/3. With κ = .5 and no price, the target after 7 is 3 + .5 · −2 = 2; after 6
.5 + .5 · mean(2.5 − .5 · 2, 1.5) = 1.25; after 5 .5 + .5 · (0 + .5 · 1.5) = .875; of the leaves it
is their reward.
"""

import json
import signal
from dataclasses import replace

import numpy as np
import pytest

from mavis.cli.main import main
from mavis.reward import Units
from mavis.storage import Shards
from mavis.training import collect
from mavis.training.batching import collate
from mavis.training.data import RolloutDataModule
from mavis.training.packing import round_packs
from mavis.training.prefixes import (
    discounted_targets,
    increments,
    potentials,
    prefix_places,
    prefix_texts,
)
from mavis.training.targets import soft_targets
from mavis.training.tree import Segment, build_tree

UNITS = [Units(0.0, 1.0)]


@pytest.fixture
def tree():
    return build_tree(
        "p",
        {
            (): Segment([10, 11], [0.0, 0.0]),
            (0,): Segment([5, 6], [0.1, 0.2]),
            (0, 0): Segment([7, 0], [0.3, -0.1], "b", "end"),
            (0, 1): Segment([8], [0.5], "c", "end"),
            (1,): Segment([0], [-0.4], "d", "end"),
        },
    )


REWARDS = np.array([[1.0], [2.0], [-1.0]], np.float32)
PREFIXES = np.array([[0.5], [np.nan], [3.0]], np.float32)


def random_tree(seed, outputs=2):
    """A tree of random shape with rewards, some abstained, and potentials after its tokens."""
    random = np.random.default_rng(seed)
    segments = {(): Segment([1, 2], [0.0, 0.0])}
    for path in [(0,), (0, 0), (0, 0, 0), (0, 0, 1), (0, 1), (1,), (1, 0), (1, 1), (2,), (2, 0)]:
        size = int(random.integers(1, 4))
        ends = ("said", "end") if path in [(0, 0, 0), (0, 0, 1), (0, 1)] or path[1:] else ()
        ends = () if path == (0, 0) else ends
        segments[path] = Segment([5] * size, random.normal(size=size).tolist(), *ends)
    tree = build_tree("p", segments)
    rewards = random.normal(size=(len(tree.leaves), outputs)).astype(np.float32)
    rewards[random.random(rewards.shape) < 0.2] = np.nan
    prefixes = random.normal(size=(len(prefix_places(tree)), outputs)).astype(np.float32)
    prefixes[random.random(prefixes.shape) < 0.2] = np.nan
    return tree, rewards, prefixes


def paths(tree):
    previous = tree.previous()
    for leaf in tree.leaves:
        place, path = int(tree.start[leaf + 1]) - 1, []
        while place >= tree.start[1]:
            path.append(place)
            place = int(previous[place])
        yield path[::-1]


def test_the_texts_of_all_beginnings_but_whole_replies(tree):
    texts = prefix_texts(tree, lambda tokens: " ".join(map(str, tokens)))
    assert texts == ["5", "5 6", "5 6 7"]
    assert prefix_places(tree).tolist() == [2, 3, 4]


def test_by_hand(tree):
    potential = potentials(tree, REWARDS, PREFIXES)
    assert potential[:, 0].tolist() == pytest.approx([2 / 3, 2 / 3, 0.5, 0.5, 3, 1, 2, -1])
    gained = increments(tree, potential)[:, 0]
    assert gained.tolist() == pytest.approx([0, 0, 0.5 - 2 / 3, 0, 2.5, -2, 1.5, -5 / 3])
    targets = soft_targets(tree, REWARDS, 0.0)
    found = discounted_targets(tree, targets, REWARDS, potential, 0.5)
    assert found[2:, 0].tolist() == pytest.approx([0.875, 1.25, 2, 1, 2, -1])


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("discount", [0.0, 0.6, 1.0])
def test_against_the_definition(seed, discount):
    """The price of KL is not discounted; leaves that abstained count for nothing."""
    tree, rewards, prefixes = random_tree(seed)
    potential = potentials(tree, rewards, prefixes)
    assert np.isfinite(potential).all()
    gained, eta = increments(tree, potential), 0.7
    sums = [[[] for _ in tree.tokens] for _ in range(2)]
    for reply, path in enumerate(paths(tree)):
        for output in np.flatnonzero(np.isfinite(rewards[reply])):
            for at, place in enumerate(path):
                later = path[at + 1 :]
                shares = [discount ** (1 + n) * gained[p, output] for n, p in enumerate(later)]
                price = eta * sum(float(tree.log_ratio[p]) for p in later)
                sums[output][place].append(potential[place, output] + sum(shares) - price)
    expected = np.array([[np.mean(s) if s else np.nan for s in column] for column in sums]).T
    targets = soft_targets(tree, rewards, eta)
    found = discounted_targets(tree, targets, rewards, potential, discount)
    np.testing.assert_allclose(found[2:], expected[2:], atol=1e-5)


@pytest.mark.parametrize("seed", range(4))
def test_increments_sum_to_the_reward(seed):
    tree, rewards, prefixes = random_tree(seed)
    gained = increments(tree, potentials(tree, rewards, prefixes))
    mean = np.nanmean(rewards, 0)
    for reply, path in enumerate(paths(tree)):
        known = np.isfinite(rewards[reply])
        total = gained[path].sum(0)
        np.testing.assert_allclose(total[known], (rewards[reply] - mean)[known], atol=1e-5)


def test_packs_have_increments_only_where_they_are_discounted(tree):
    scored = replace(tree, rewards=REWARDS, prefixes=PREFIXES)
    (plain,) = round_packs([scored], UNITS, [0.5], 100)
    (same,) = round_packs([replace(tree, rewards=REWARDS)], UNITS, [0.5], 100)
    np.testing.assert_array_equal(plain.targets, same.targets)
    assert collate([plain]).increments is None
    (pack,) = round_packs([scored], UNITS, [0.0], 100, prefix_discount=0.5)
    batch = collate([pack])
    np.testing.assert_allclose(batch.targets[0, 2:, 0], [0.875, 1.25, 2, 1, 2, -1], atol=1e-6)
    gained = [0, 0, -1 / 6, 0, 2.5, -2, 1.5, -5 / 3]
    np.testing.assert_allclose(batch.increments[0, :, 0], gained, atol=1e-6)


# Whole fits

SMALL = ("--data.trees", "6", "--data.rounds", "2", "--data.prefix_discount", "0.9")


@pytest.fixture(autouse=True)
def unplotted(monkeypatch):
    monkeypatch.setattr("mavis.training.callbacks._plots", lambda *_: [])


@pytest.mark.parametrize("credit", ["token", "joint"])
def test_a_fit_that_was_stopped_comes_to_the_same(
    fit_words, tmp_path, monkeypatch, stopper, same_run, credit
):
    """And what was scored before it was stopped is not scored again."""
    monkeypatch.setattr(collect, "TOGETHER", 4)  # of six trees
    words = (*SMALL, "--model.credit", credit)
    whole, folder = tmp_path / "whole", tmp_path / "stopped"
    assert main(fit_words(whole, *words)) == 0
    before = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        stop = stopper(RolloutDataModule.evaluate, 1, KeyboardInterrupt())
        patch.setattr(RolloutDataModule, "evaluate", stop)
        assert main(fit_words(folder, *words)) == 130
    signal.signal(signal.SIGINT, before)
    place = folder / "rollouts" / "round-0" / "train"
    first = sorted(path.name for path in (place / "prefixes").iterdir())
    assert main(fit_words(folder, *words)) == 0
    assert sorted(path.name for path in (place / "prefixes").iterdir()) == first
    same_run(folder, whole)
    trees = {row["index"]: row for row in Shards(place / "made").rows()}
    for row in Shards(place / "prefixes").rows():
        tree = trees[row["index"]]
        inside = len(tree["tokens"]) - tree["start"][1] - len(tree["leaves"])
        assert len(row["rewards"]) == inside > 0
    assert not (place.parent / "validation" / "prefixes").exists()


def test_it_is_learned_from(fit_words, tmp_path):
    """The same trees, scored the same, teach something else."""
    found = []
    for name, discount in (("one", "1"), ("less", "0.5")):
        run = tmp_path / name
        words = ("--data.trees", "6", "--data.rounds", "1", "--data.prefix_discount", discount)
        assert main(fit_words(run, *words)) == 0
        found.append(json.loads((run / "metrics.json").read_text())[0])
    assert not (tmp_path / "one" / "rollouts" / "round-0" / "train" / "prefixes").exists()
    assert found[0]["r2"] != found[1]["r2"]


def test_a_run_that_knew_no_discount_goes_on_without(fit_words, tmp_path, capsys):
    run, words = tmp_path / "run", ("--data.trees", "4", "--data.rounds", "1")
    assert main(fit_words(run, *words)) == 0
    lines = (run / "config.yaml").read_text().splitlines()[1:]
    old = [line for line in lines if "prefix_discount" not in line]
    assert len(old) == len(lines) - 1
    (run / "config.yaml").write_text("\n".join(old) + "\n")
    capsys.readouterr()
    assert main(fit_words(run, *words, "--data.prefix_discount", "0.9")) == 2
    message = capsys.readouterr().err
    assert "holds a run with data.prefix_discount = 1.0, not 0.9" in message
    assert main(fit_words(run, *words, "--data.rounds", "2")) == 0


@pytest.mark.parametrize("discount", ["-0.1", "1.5"])
def test_other_discounts_are_refused(fit_words, tmp_path, capsys, discount):
    assert main(fit_words(tmp_path / "run", "--data.prefix_discount", discount)) == 2
    assert "prefix_discount must be from 0 to 1" in capsys.readouterr().err


@pytest.mark.parametrize("credit", ["token", "joint"])
def test_a_plan_of_it(fit_words, tmp_path, capsys, credit):
    words = fit_words(tmp_path / "run", *SMALL, "--model.credit", credit)
    assert main([*words, "--plan"]) == 0
    assert "in all about" in capsys.readouterr().out
