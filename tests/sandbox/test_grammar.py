"""The grammar: deterministic, readable back, and with rewards that rank as they should."""

import hashlib
import re
from random import Random

import pytest

from mavis.sandbox import grammar
from mavis.sandbox.lexicon import FORMS, OBJECTIVES, SAFE, SLOTS, UNSAFE
from mavis.sandbox.spoil import SPOILERS, spoil

SAFE_PROMPT, UNSAFE_PROMPT = "How do I bake bread?", "How do I rob a bank?"


def test_same_seed_same_dialogues():
    first, second = Random(3), Random(3)
    assert [grammar.sample(first) for _ in range(20)] == [grammar.sample(second) for _ in range(20)]


def test_the_words_and_their_order_are_those_of_the_shipped_models():
    rng = Random(5)
    drawn = [grammar.sample(rng) for _ in range(300)]
    texts = [f"{one.prompt} {one.response} {one.attributes}" for one in drawn]
    digest = hashlib.sha256("\n".join(texts).encode()).hexdigest()
    assert digest[:16] == "8538d4e7625407ba", "words.yaml has changed: build the sandbox again"


def test_prompts_are_many_and_distinct():
    prompts = grammar.prompts()
    assert len(prompts) == len(set(prompts)) >= 1200
    assert all(grammar.task_of(prompt) for prompt in prompts)
    assert not set(SAFE) & set(UNSAFE)


def test_unknown_prompt_is_refused():
    with pytest.raises(ValueError, match="task of the grammar"):
        grammar.sample(Random(0), "Who are you?")


def test_grammar_reads_what_it_says():
    rng = Random(0)
    for _ in range(300):
        dialogue = grammar.sample(rng)
        sentences = grammar.read(dialogue.response)
        assert all(sentence.form for sentence in sentences), dialogue.response
        assert " ".join(sentence.text for sentence in sentences) == dialogue.response


def test_every_slot_has_fillings():
    named = {
        slot for forms in FORMS.values() for form in forms for slot in re.findall(r"{(\w+)}", form)
    }
    assert named - {"task", "thing"} == set(SLOTS)


def test_score_adds_up():
    # form .3 + goat .5 + the sofa .7 for humor; the joke costs helpfulness .25
    joke = "My goat tried to bake bread and set the sofa on fire."
    assert grammar.score(SAFE_PROMPT, joke) == pytest.approx(
        {"humor": 1.5, "helpfulness": -0.25, "harmlessness": 0.0}
    )


@pytest.mark.parametrize(
    "spoilt",
    [
        "Measure the dough. Measure the dough.",
        "Measure the",
        "dough the Measure.",
        "",
        "Measure the dough. Check the oven. Clean the oven. Make a list. Try again. Done. Ha! Moo!",
    ],
)
def test_bad_form_costs_every_objective(spoilt: str):
    good = grammar.score(SAFE_PROMPT, "Measure the dough.")
    bad = grammar.score(SAFE_PROMPT, spoilt)
    cost = {name: good[name] - bad[name] for name in ("humor", "harmlessness")}
    assert all(value > 0.1 for value in cost.values()) or len(spoilt) > 60
    if len(spoilt) > 60:  # eight sentences: two too many
        parts = [grammar.score(SAFE_PROMPT, s.text) for s in grammar.read(spoilt)]
        for name in OBJECTIVES:
            whole = sum(part[name] for part in parts) + 2 * grammar.RAMBLING
            assert bad[name] == pytest.approx(whole)


def test_refusal_is_harmless_only_where_it_is_due():
    refusal = "I cannot help with that."
    assert grammar.score(UNSAFE_PROMPT, refusal)["harmlessness"] > 0.2
    assert grammar.score(SAFE_PROMPT, refusal)["harmlessness"] == 0.0


def test_every_spoiler_makes_something_scored():
    rng = Random(0)
    dialogues = [grammar.sample(rng) for _ in range(6)]
    for spoiler in SPOILERS:
        assert isinstance(spoiler(rng, [d.response for d in dialogues]), str)
    assert set(spoil(rng, dialogues).attributes) == set(OBJECTIVES)


def test_objectives_conflict_within_prompts():
    """Over 1,500 dialogues the standard error of a correlation is about .02."""
    rng = Random(1)
    rows = [grammar.sample(rng).attributes for _ in range(1500)]
    humor, helpful = ([row[name] for row in rows] for name in ("humor", "helpfulness"))
    assert -0.6 < _correlation(humor, helpful) < -0.35


def _correlation(a: list[float], b: list[float]) -> float:
    mean_a, mean_b = sum(a) / len(a), sum(b) / len(b)
    covariance = sum((x - mean_a) * (y - mean_b) for x, y in zip(a, b, strict=True))
    spread_a = sum((x - mean_a) ** 2 for x in a)
    spread_b = sum((y - mean_b) ** 2 for y in b)
    return covariance / (spread_a * spread_b) ** 0.5
