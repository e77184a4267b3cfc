"""What a fit will take, from rates: counts, and the arithmetic."""

from dataclasses import replace

import numpy as np
import pytest

from mavis.training.drawn_trees import Lengths, draw_tree, tree_size
from mavis.training.estimate import Rates, Size, Speed, duration, parts, report, total
from mavis.training.rollout import Shape

NEVER, AT_ONCE = Lengths((0.0,) * 16), Lengths((1.0,) * 16)
FREE = Speed(0.0, 0.0, 0.0)
SHAPE = Shape((4, 2, 2), 16)
SIZE = Size(
    ceiling=0,
    rounds=3,
    first=SHAPE,
    later=Shape((2, 2), 16),
    trees=10,
    first_trees=10,
    validation_trees=2,
    baseline=4,
    judged=4,
    best_of=6,
    held_out=12,
    epochs=3,
    rows=8,
    prompt=5.0,
)
NOTHING = Rates(
    lengths=NEVER,
    reference=FREE,
    guided=FREE,
    growth=1.0,
    reward=0.0,
    learn=0.0,
    again=0.0,
    solve=0.0,
    keep=0.0,
    load=0.0,
)

LEAVES = 12 * (tree_size(SHAPE, NEVER)[1] + 2 * tree_size(SIZE.later, NEVER)[1])


def test_lengths_of_replies_that_were_all_cut_short_or_all_ended():
    assert Lengths.measure([(3, False), (5, False)], 8).mean(8) == 8
    assert Lengths.measure([(1, True), (1, True)], 8).mean(8) == 1


def test_beginnings_of_training_replies_are_scored_where_it_is_asked_for():
    rates = replace(NOTHING, reward=1.0)
    sizes = (SIZE, replace(SIZE, prefixes=True))
    without, scored = (parts(size, rates)["rewards"].seconds for size in sizes)
    shapes = [SIZE.first, SIZE.later, SIZE.later]
    inside = sum(tokens - leaves for tokens, leaves in (tree_size(s, NEVER) for s in shapes))
    assert scored - without == pytest.approx(SIZE.trees * inside)


def test_a_round_that_rereads_learns_from_all_earlier_trees_once():
    """Also from those of rounds that are finished."""
    rates = replace(NOTHING, again=1.0)
    first, later = (tree_size(s, NEVER)[0] + SIZE.prompt for s in (SHAPE, SIZE.later))
    size = replace(SIZE, first_trees=30)
    once, anew = (parts(replace(size, rereads=each), rates)["training"] for each in (False, True))
    read = 30 * first + (30 * first + 10 * later)  # in the second round, and in the third
    assert anew.seconds - once.seconds == pytest.approx(read)
    assert anew.tokens - once.tokens == pytest.approx(read)
    left = replace(size, first=None, rounds=1, finished=2)
    once, anew = (parts(replace(left, rereads=each), rates)["training"] for each in (False, True))
    assert anew.seconds - once.seconds == pytest.approx(40 * later)


def test_trees_of_another_run_are_scored_but_not_grown():
    rates = replace(
        NOTHING, reward=1.0, reference=Speed(1.0, 1.0, 1.0), guided=Speed(1.0, 1.0, 1.0)
    )
    all_new, two = (parts(replace(SIZE, taken=each), rates) for each in (0, 2))
    assert two["rewards"] == all_new["rewards"]
    assert two["reference answers"].seconds == 0
    tokens, leaves = tree_size(SIZE.later, NEVER)
    assert two["rollouts"].answers == pytest.approx(12 * leaves)  # of the third round
    assert two["rollouts"].tokens == pytest.approx(12 * tokens)


def test_the_first_round_may_have_more_trees():
    more = parts(replace(SIZE, first_trees=30), NOTHING)["rollouts"]
    usual = parts(SIZE, NOTHING)["rollouts"]
    assert more.tokens - usual.tokens == pytest.approx(20 * tree_size(SHAPE, NEVER)[0])


def test_lengths_do_not_take_what_was_cut_short_for_an_end():
    """Ends are drawn with a probability of 0.2; half of the replies are cut at random."""
    random = np.random.default_rng(0)
    whole = random.geometric(0.2, 20_000).clip(max=16)
    cut = np.where(random.random(20_000) < 0.5, random.integers(1, 17, 20_000), 16)
    seen = np.minimum(whole, cut)
    replies = [(int(n), bool(n == w and w < 16)) for n, w in zip(seen, whole, strict=True)]
    assert Lengths.measure(replies, 16).mean(16) == pytest.approx(whole.mean(), rel=0.03)


def test_a_tree_whose_replies_never_end_has_all_its_leaves():
    tree = draw_tree([3, 4], np.array([7]), SHAPE, NEVER, (0,))
    assert len(tree.leaves) == 16
    assert tree.start[1] == 2
    assert set(tree.reasons) == {"length"}
    assert tree.depth()[tree.start[tree.leaves + 1] - 1].tolist() == [17] * 16


def test_a_tree_whose_replies_end_at_once_has_one_token_for_each():
    assert tree_size(SHAPE, AT_ONCE) == (4, 4)


def test_draws_are_keyed():
    lengths = Lengths((0.1,) * 16)
    one, again, other = (
        draw_tree([3], np.arange(9), SHAPE, lengths, (key,)).tokens.tolist() for key in (1, 1, 2)
    )
    assert one == again != other


def test_speed_of_steps_of_one_size_and_of_noise():
    assert Speed.measure(0.0, [(4, 2.0), (4, 4.0)]) == Speed(0.0, 3.0, 0.0)
    falling = Speed.measure(0.0, [(1, 5.0), (3, 1.0)])
    assert (falling.step, falling.row) == (3.0, 0.0)
    steep = Speed.measure(0.0, [(1, 0.0), (3, 6.0)])
    assert steep.step == 0.0


def test_seconds_of_decoding():
    speed = Speed(read=1.0, step=10.0, row=0.5)
    # One reply takes a step for each of its tokens; many fill their rows until the last ones.
    assert speed.seconds(3, 8, 1, 8) == 3 + 10 * (8 + 4) + 4
    assert speed.seconds(0, 8, 8, 8) == 10 * 8 + 4


def test_answers_and_tokens_of_every_part():
    found = parts(SIZE, NOTHING)
    assert (found["reference answers"].answers, found["reference answers"].tokens) == (24, 24 * 16)
    assert (found["evaluation"].answers, found["evaluation"].tokens) == (36, 36 * 16)
    first, later = (tree_size(shape, NEVER) for shape in (SHAPE, SIZE.later))
    assert found["rollouts"].tokens == pytest.approx(12 * (first[0] + 2 * later[0]))
    assert found["rollouts"].answers == pytest.approx(12 * (first[1] + 2 * later[1]))
    assert found["rewards"].answers == 24 + found["rollouts"].answers + 36


@pytest.mark.parametrize(
    ("name", "rate", "part", "seconds"),
    [
        ("reward", 1.0, "rewards", 24 + LEAVES + 36),
        ("keep", 2.0, "keeping results", 6),
        ("load", 5.0, "loading", 5),
        ("solve", 4.0, "training", 12),
    ],
)
def test_each_rate_counts_where_it_belongs(name, rate, part, seconds):
    rates = replace(NOTHING, **{name: rate})
    assert parts(SIZE, rates)[part].seconds == pytest.approx(seconds)
    assert total(SIZE, rates) == pytest.approx(seconds)


def test_values_are_judged_and_measured():
    """On all 6 answers to 4 prompts, which are fewer than 8, and on 12, in each of 3 rounds."""
    rates = replace(NOTHING, guided=Speed(0.0, 0.0, 1.0))
    assert parts(SIZE, rates)["evaluation"].seconds == 3 * 16 * (4 * 6 + 12)


def test_training_passes():
    one = replace(SIZE, rounds=1, validation_trees=0)
    tokens = 10 * (tree_size(SHAPE, NEVER)[0] + 5)
    rates = replace(NOTHING, learn=1.0, again=0.1)
    assert total(one, rates) == pytest.approx(1.2 * tokens)


def test_the_first_round_is_not_guided_and_a_resumed_one_is():
    slow = replace(NOTHING, guided=Speed(0.0, 0.0, 1.0))
    one = replace(SIZE, rounds=1, held_out=0, judged=0)
    assert total(one, slow) == 0
    assert total(replace(one, first=None), slow) > 0


def test_a_long_fit_says_what_shortens_it():
    rates = replace(NOTHING, reward=100.0)
    text = report(SIZE, rates, 2e9, 1e8).splitlines()
    assert "that is long" in text[-2]
    named = text[-2].partition(": ")[2].split(", ")
    assert named[0].startswith("--data.rounds 1 saves")  # most replies are those of rounds
    saved = total(SIZE, rates) - total(replace(SIZE, trees=5, first_trees=5), rates)
    assert f"--data.trees 5 saves {duration(saved)}" in named
    assert any(words.startswith("--data.best_of 3 saves 20 minutes") for words in named)
    assert text[-1] == "in all about 9.5 hours, 2.0 GB of memory, 0.1 GB of disk"
    assert "that is long" not in report(SIZE, NOTHING, 2e9, 1e8)


def test_halved_options_halve_what_they_are():
    shorter = SIZE.shorter()
    assert shorter["--data.rounds 1"].rounds == 1
    assert shorter["--data.max_tokens 8"].first.max_tokens == 8
    assert shorter["--data.held_out 6"].baseline == 2
    assert "--data.rounds 0" not in replace(SIZE, rounds=1).shorter()


def test_trees_that_a_fit_may_add_are_said():
    rates = replace(NOTHING, learn=1.0, again=0.5)
    said = report(replace(SIZE, ceiling=40), rates, 1e9, 1e9)
    longer = duration(total(replace(SIZE, trees=40, first_trees=40), rates))
    assert f"trees are doubled while that explains much more, up to 40: {longer} then" in said
    assert "are doubled" not in report(SIZE, rates, 1e9, 1e9)
