"""What a fit says of values that are not as they should be, and what it advises."""

import math
from types import SimpleNamespace

import pytest

from mavis import SamplingParams
from mavis.training.advice import doubts, few_hint, more_trees, share_hint, truncation_hint
from mavis.training.judgement import overspent


def data_of(kl_budget=None, pooled=False, round_=0, rounds=3, first=40, rereads=False):
    return SimpleNamespace(
        trees=40,
        first_trees=first,
        prompts={"train": range(500)},
        kl_budget=kl_budget,
        max_tokens=8,
        pooled=pooled,
        rereads=rereads,
        round=round_,
        rounds=rounds,
        facts={},
    )


DATA = data_of()


def entry(low, high, slope, kl=1.5, beta=2.0):
    """As of a round whose policy is `kl` nats from the reference, one of them by truncation."""
    ends = {"advantage_correlation_low": low, "advantage_correlation_high": high}
    spent = {"kl": kl, "kl_truncation": 1.0}
    return ends | spent | {"advantage_slope": slope, "beta": beta}


def test_good_values_raise_no_doubt():
    assert doubts(entry(0.3, 0.5, 0.9), DATA, "humor") == ""


@pytest.mark.parametrize(("low", "high"), [(-0.1, 0.2), (-0.4, -0.2)])
def test_values_within_their_noise(low, high):
    said = doubts(entry(low, high, 1.0), DATA, "humor")
    assert "nothing shows that the values have learned humor yet" in said
    assert f"between {low:z.2f} and {high:z.2f}" in said
    assert "--data.trees 80" in said


def test_values_that_are_all_the_same():
    said = doubts(entry(math.nan, math.nan, math.nan), DATA, "humor")
    assert "nothing shows that the values have learned humor yet" in said
    assert "they tell no answer from another" in said


def test_values_that_are_too_large():
    said = doubts(entry(0.1, 0.3, 0.16), DATA, "humor")
    assert "6.2 times as large" in said
    assert "--beta 0.32" in said
    # Where the strength follows from the KL budget, their size does not matter.
    assert doubts(entry(0.1, 0.3, 0.16), data_of(2.0), "humor") == ""


def test_a_policy_beyond_its_budget():
    """Truncation is not charged; up to half more than the budget is no matter."""
    assert doubts(entry(0.3, 0.5, 0.9, kl=2.9), data_of(2.0), "humor") == ""
    assert not overspent(entry(0.3, 0.5, 0.9, kl=2.9), data_of(2.0))
    said = doubts(entry(0.3, 0.5, 0.9, kl=3.1), data_of(2.0), "humor")
    assert overspent(entry(0.3, 0.5, 0.9, kl=3.1), data_of(2.0))
    assert "3.1 nats from the reference where 2 were to be spent" in said
    assert "smaller --data.kl_budget" in said
    assert "--data.trees 80" in said
    assert not overspent(entry(0.3, 0.5, 0.9, kl=99.0), DATA)  # a given strength has no budget


def test_a_budget_that_no_strength_spends():
    said = doubts({**entry(0.3, 0.5, 0.9), "kl_expected": 0.1}, data_of(500.0), "humor")
    assert "no strength spends the KL budget of 500 nats" in said
    assert "0.1 are expected. Give a smaller --data.kl_budget." in said
    assert doubts({**entry(0.3, 0.5, 0.9), "kl_expected": 2.0}, data_of(2.0), "humor") == ""


def test_truncation_that_is_dear_is_hinted_at():
    data = SimpleNamespace(sampling=lambda: SamplingParams(top_k=40))
    hint = truncation_hint({"kl_truncation": 3.4, "length": 31.0}, data)
    assert "--data.top_k 40 and --data.top_p 1 alone cost 0.11 nats a token" in hint
    assert truncation_hint({"kl_truncation": 0.07, "length": 31.0}, data) == ""


def siblings(low, value, high):
    names = ("reward_explainable_low", "reward_explainable", "reward_explainable_high")
    return dict(zip(names, (low, value, high), strict=True))


def test_only_siblings_say_that_there_is_nothing_to_learn():
    noise = doubts(entry(-0.1, 0.2, 1.0) | siblings(-0.05, 0.0, 0.04), DATA, "humor")
    assert "there is nothing to learn of humor that 40 trees show" in noise
    assert "(correlation between -0.05 and 0.04)" in noise
    unknown = siblings(math.nan, math.nan, math.nan)
    wide = siblings(-0.3, 0.1, 0.5)  # too few trees to say so
    for found in (siblings(0.3, 0.4, 0.5), wide, unknown, dict.fromkeys(unknown), {}):
        said = doubts(entry(-0.1, 0.2, 1.0) | found, DATA, "humor")
        assert "nothing to learn" not in said
        assert "nothing shows that the values have learned humor yet" in said
        assert ("while 40 % of it can be explained" in said) == (
            found.get("reward_explainable") == 0.4
        )
    # Values that foretell rewards have learned what siblings do not show.
    assert doubts(entry(0.1, 0.2, 1.0) | siblings(-0.05, 0.0, 0.04), DATA, "humor") == ""


def test_how_many_more_trees():
    """As many as bring the share to a half, or four times as many; with the time they take."""
    seconds = {"seconds_rollout": 350.0, "seconds_score": 25.0}
    many = more_trees({"advantage_share_explained": 0.06, **seconds}, DATA)
    assert many.startswith("4 × as many trees, about 25 minutes a round: --data.trees 160, and")
    some = more_trees({"advantage_share_explained": 0.4, **seconds}, DATA)
    assert some.startswith("2 × as many trees, about 12 minutes a round: --data.trees 80, and")
    # Of what was read from disk nothing is known.
    assert more_trees({**seconds, "seconds_rollout": 0.1, "seconds_score": 0.1}, DATA).startswith(
        "2 × as many trees: --data.trees 80, and another --out"
    )


def test_more_rounds_where_the_trees_of_all_of_them_count():
    """A run that has come to its end goes on: nothing that it sampled is lost."""
    little = {"advantage_share_explained": 0.06, "seconds_rollout": 350.0, "seconds_score": 25.0}
    said = more_trees(little, data_of(pooled=True, rounds=1))
    assert said.startswith(
        "4 × as many trees, at least 19 minutes more of rollouts: the same command with "
    )
    assert "--data.rounds 4, which goes on from here" in said
    said = more_trees(little, data_of(pooled=True, round_=2))
    assert said.startswith(
        "4 × as many trees, about 56 minutes more of rollouts: the same command with "
    )
    assert "--data.rounds 12, which goes on from here" in said
    # Of several objectives the first round has more of them: 120 and 40, of which 480 are lacking.
    said = more_trees(little, data_of(rereads=True, round_=1, rounds=2, first=120))
    assert said.startswith("4 × as many trees, about 75 minutes more of rollouts: ")
    assert "--data.rounds 14, which goes on from here" in said
    said = more_trees(little, data_of(rereads=True, rounds=1, first=900))  # there are 500 prompts
    assert said.startswith("4 × as many trees, at least 19 minutes more of rollouts: ")
    assert "--data.rounds 39, which goes on from here" in said
    some = little | {"advantage_share_explained": 0.4}
    said = more_trees(some, data_of(pooled=True))
    assert said == "the 2 rounds to come add trees to those of this one"
    said = more_trees(some, data_of(pooled=True, rounds=2))
    assert said == "the round to come adds trees to those of this one"


def test_more_trees_are_not_advised_where_the_folds_say_that_they_add_little():
    some = entry(0.1, 0.3, 1.0) | {"advantage_share_explained": 0.2}
    said = share_hint(some | {"explained_per_doubling": 1.05}, DATA)
    assert said.startswith(
        "the values explain 20 % of what can be explained, and more trees would hardly change that "
        "(4 × as many: about 22 %)."
    )
    assert "--data.trees" not in said
    # Luck may make values of fewer trees the better ones.
    assert "(4 × as many: about 20 %)" in share_hint(some | {"explained_per_doubling": 0.9}, DATA)
    assert "--data.trees 160" in share_hint(some | {"explained_per_doubling": 1.2}, DATA)


def test_objectives_that_share_their_trees_get_one_advice():
    """However much each lacks; and the time of the trees, which a mix does not have by itself."""
    growing = {"explained_per_doubling": 1.14}
    for share in (0.16, 0.35):
        part = entry(0.1, 0.3, 1.0) | growing | {"advantage_share_explained": share}
        assert "more trees would hardly change that" in share_hint(part, DATA)
    data = data_of()
    data.facts = {"seconds_rollout": 350.0, "seconds_score": 25.0}
    part = entry(0.1, 0.3, 1.0) | {"advantage_share_explained": 0.4}
    assert "about 12 minutes a round" in share_hint(part, data)


def test_values_that_explain_little():
    said = share_hint(entry(0.1, 0.3, 1.0) | {"advantage_share_explained": 0.06}, DATA)
    assert said.startswith("the values explain 6 % of what can be explained: 4 × as many trees")
    assert share_hint(entry(0.1, 0.3, 1.0) | {"advantage_share_explained": 0.7}, DATA) == ""
    assert share_hint(entry(0.1, 0.3, 1.0) | {"advantage_share_explained": None}, DATA) == ""
    # Of values that have not learned a warning is given.
    assert share_hint(entry(-0.1, 0.3, 1.0) | {"advantage_share_explained": 0.06}, DATA) == ""


def test_figures_of_few_held_out_prompts_say_so():
    def held(count, wanted):
        data = data_of()
        data.source, data.prompts, data.held_out = "mine.jsonl", {"validation": "a" * count}, wanted
        return few_hint(data)

    said = held(5, 12)
    assert "on 4 held-out prompts, so that these figures say little" in said
    assert "mine.jsonl has 5, as a single file gives about a tenth of its prompts" in said
    assert "--data.held_out 45 or more" in said
    assert "mine.jsonl" not in held(60, 12)
    assert held(60, 60) == ""
