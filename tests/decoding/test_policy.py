"""The guided policy as people use it: settings per prompt, errors that teach, loading."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from mavis.decoding.policy import GuidedPolicy
from mavis.decoding.prompt_requests import Completion
from mavis.decoding.reference import ReferencePolicy
from mavis.decoding.request import Request, SamplingParams
from mavis.decoding.value_model import ValueModel
from mavis.prompts import Prompt

Make = Callable[..., ValueModel]
Build = Callable[..., ReferencePolicy]

PROMPTS: list[Prompt] = ["had a bun?", "um", [{"role": "user", "content": "or not? why not?"}]]


@pytest.fixture(scope="module")
def policy(tiny_reference: ReferencePolicy, tiny_network: Make) -> GuidedPolicy:
    networks = (
        tiny_network(tiny_reference, "action", ("humor", "kind"), seed=1),
        tiny_network(tiny_reference, "state", ("sense",), seed=2),
    )
    return GuidedPolicy(tiny_reference, networks)


def assert_same(found: list[Completion], expected: list[Completion]) -> None:
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        numbers = ("kl", "kl_sampled", "kl_truncation", "log_ref")
        for name in numbers:
            assert getattr(ours, name) == pytest.approx(getattr(theirs, name), abs=1e-4)
        same = dict.fromkeys(numbers, 0.0)
        assert replace(ours, **same) == replace(theirs, **same)


def test_an_answer_is_the_plain_loop_s(policy: GuidedPolicy, naive: Any) -> None:
    weights = {"sense": -0.5, "humor": 1.5}
    answers = policy.generate(PROMPTS, weights, beta=0.8, top_k=7, max_tokens=6, n=2, seed=5)
    slow = naive(policy.reference, policy.guides)
    assert [answer.prompt for answer in answers] == [p for p in PROMPTS for _ in range(2)]
    sampling = SamplingParams((1.5, 0.0, -0.5), 0.8, top_k=7)
    for at, answer in enumerate(answers):
        tokens = policy.reference.encode(answer.prompt).tokens
        said = slow.run(Request(tokens, 6, sampling, (5, *tokens, "sample", at % 2)))
        assert answer.tokens == said
        assert answer.text == policy.reference.decode(said)
        steps = [slow.step([*tokens, *said[:t]], sampling) for t in range(len(said))]
        ratios = [s.log_pi[a] - s.log_ref[a] for s, a in zip(steps, said, strict=True)]
        assert answer.kl == pytest.approx(sum(step.kl for step in steps), abs=1e-4)
        assert answer.kl_sampled == pytest.approx(sum(ratios), abs=1e-4)
        log_ref = sum(s.log_ref[a] for s, a in zip(steps, said, strict=True))
        assert answer.log_ref == pytest.approx(log_ref, abs=1e-4)
        assert answer.kl_truncation == pytest.approx(sum(s.truncation for s in steps), abs=1e-4)
        assert answer.reason == ("end" if said[-1] == 0 else "length")


def test_every_setting_may_be_one_per_prompt(policy: GuidedPolicy) -> None:
    columns: dict[str, Any] = {
        "weights": [{"humor": 1.0}, {}, {"kind": -2.0, "sense": 1.0}],
        "beta": [0.5, 2, 1.0],
        "temperature": (0.8, 1, 1.5),
        "top_k": [3, 0, 40],
        "top_p": [1, 0.9, 0.6],
        "max_tokens": [9, 2, 5],
        "seed": [1, 2, 3],
    }
    together = policy.generate(PROMPTS, **columns, n=2)
    alone = []
    for at, prompt in enumerate(PROMPTS):
        setting = {name: column[at] for name, column in columns.items()}
        alone += policy.generate([prompt], **setting, n=2, rows=1)
    assert_same(together, alone)
    lengths = [len(answer.tokens) for answer in together]
    assert all(found <= most for found, most in zip(lengths, [9, 9, 2, 2, 5, 5], strict=True))


@pytest.mark.parametrize(
    "changed",
    [
        {"weights": {"humor": -3.0}},
        {"beta": 0.0},
        {"temperature": 3.0},
        {"top_k": 1},
        {"top_p": 0.2},
        {"max_tokens": 1},
        {"seed": 1},
    ],
)
def test_every_setting_changes_something(policy: GuidedPolicy, changed: dict[str, Any]) -> None:
    setting: dict[str, Any] = {"weights": {"humor": 1.0}, "beta": 1.0, "max_tokens": 8}
    usual = policy.generate(PROMPTS, **setting)
    other = policy.generate(PROMPTS, **(setting | changed))
    assert [answer.tokens for answer in usual] != [answer.tokens for answer in other]


def test_answers_depend_on_nothing_beside_them(policy: GuidedPolicy) -> None:
    whole = policy.generate(PROMPTS, max_tokens=5, n=3, rows=2)
    assert_same(policy.generate(PROMPTS[::-1], max_tokens=5, n=3)[-3:], whole[:3])
    assert_same(policy.generate([PROMPTS[1]], max_tokens=5, n=1), whole[3:4])
    assert len({tuple(answer.tokens) for answer in whole[:3]}) == 3
    assert_same(policy.generate(["um", "um"], max_tokens=5), whole[3:4] * 2)


def test_all_objectives_weigh_one_unless_said_otherwise(policy: GuidedPolicy) -> None:
    assert policy.objectives == ("humor", "kind", "sense")
    assert policy.vector({"kind": 2}) == (0.0, 2.0, 0.0)
    explicit = policy.generate(PROMPTS, dict.fromkeys(policy.objectives, 1.0), max_tokens=4)
    assert_same(policy.generate(PROMPTS, max_tokens=4), explicit)


def test_beta_is_one_over_the_eta_of_training(
    tiny_reference: ReferencePolicy, tiny_network: Make
) -> None:
    network = tiny_network(tiny_reference)
    network.card = replace(network.card, eta=4.0)
    policy = GuidedPolicy(tiny_reference, (network,))
    assert policy.beta == 0.25
    quarter = policy.generate(PROMPTS, beta=0.25, max_tokens=6)
    assert_same(policy.generate(PROMPTS, max_tokens=6), quarter)
    assert GuidedPolicy(tiny_reference).beta == SamplingParams().beta


def test_without_value_models_it_is_the_reference(
    policy: GuidedPolicy, tiny_reference: ReferencePolicy
) -> None:
    plain = GuidedPolicy(tiny_reference).generate(PROMPTS, max_tokens=6, top_k=0)
    assert_same(plain, policy.generate(PROMPTS, beta=0.0, max_tokens=6, top_k=0))
    assert [answer.kl for answer in plain] == pytest.approx([0.0] * 3, abs=1e-5)


def test_a_vocabulary_smaller_than_the_default_top_k(build_reference: Build) -> None:
    """More candidates than there are tokens: that is all of them."""
    policy = GuidedPolicy(build_reference(vocab=6))
    want = [answer.tokens for answer in policy.generate(["as"], n=9, top_k=0, max_tokens=5)]
    for setting in ({}, {"top_k": 6}, {"top_k": 7}, {"top_k": 10**9}):
        found = policy.generate(["as"], n=9, max_tokens=5, **setting)
        assert [answer.tokens for answer in found] == want
    beams = [policy.beam_search(["as"], top_k=top_k, beams=3, max_tokens=4) for top_k in (0, 6, 40)]
    assert beams[0] == beams[1] == beams[2]


def test_at_temperature_0_the_likeliest_token_is_taken(
    policy: GuidedPolicy, naive: Any, tiny_reference: ReferencePolicy
) -> None:
    """Of the guided policy, whose numbers are those of temperature 1; beside rows that sample."""
    found = policy.generate(
        [*PROMPTS, PROMPTS[0]], beta=1.5, temperature=[0.0, 0.0, 0.0, 0.8], top_k=9, max_tokens=8
    )
    slow = naive(tiny_reference, policy.guides)
    weights = (1.0,) * len(policy.objectives)
    for answer in found[:3]:
        tokens, kl, log_ref, ratio = (
            list(tiny_reference.encode(answer.prompt).tokens),
            0.0,
            0.0,
            0.0,
        )
        for token in answer.tokens:
            step = slow.step(tokens, SamplingParams(weights, 1.5, 1.0, 9))
            assert token == max(step.log_pi, key=lambda a: step.log_pi[a])
            kl += step.kl
            log_ref += step.log_ref[token]
            ratio += step.log_pi[token] - step.log_ref[token]
            tokens.append(token)
        assert answer.kl == pytest.approx(kl, abs=1e-3)
        assert answer.log_ref == pytest.approx(log_ref, abs=1e-3)
        assert answer.kl_sampled == pytest.approx(ratio, abs=1e-3)
    alone = policy.generate(PROMPTS[:1], beta=1.5, temperature=0.8, top_k=9, max_tokens=8)
    assert found[3].tokens == alone[0].tokens
    same = policy.generate(PROMPTS[:1], beta=1.5, temperature=0, top_k=9, max_tokens=8, n=4, seed=7)
    assert [answer.tokens for answer in same] == [found[0].tokens] * 4


def test_leading_white_space_is_a_part_of_an_answer(build_reference: Build) -> None:
    reference = build_reference(hidden_size=64)
    ids, model = reference.tokenizer.get_vocab(), reference.model
    for name, weight in model.named_parameters():
        torch.nn.init.ones_(weight) if "norm" in name else torch.nn.init.zeros_(weight)
    for token, follower in {"a": "\n", "\n": " ", " ": "b", "b": "\n"}.items():
        model.get_input_embeddings().weight[ids[token], ids[token]] = 1
        model.get_output_embeddings().weight[ids[follower], ids[token]] = 9
    (answer,) = GuidedPolicy(reference).generate(["a"], temperature=0, max_tokens=5)
    assert (reference.tokenizer.decode(answer.tokens), answer.text) == ("\n b\n ", "\n b")


def test_no_prompts_no_answers(policy: GuidedPolicy) -> None:
    assert policy.generate([]) == []


def test_a_dialogue_stops_at_the_next_turn(build_reference: Build) -> None:
    """The model says " a", some line breaks, "Human:", and begins again."""
    reference = build_reference(hidden_size=64)
    follow = {":": " ", " ": "a", "a": "\n", "\n": "\nH", "H": ["um"], "um": ["an"], "an": ":"}
    ids, model = reference.tokenizer.get_vocab(), reference.model
    for name, weight in model.named_parameters():
        torch.nn.init.ones_(weight) if "norm" in name else torch.nn.init.zeros_(weight)
    for token, successors in follow.items():
        model.get_input_embeddings().weight[ids[token], ids[token]] = 1
        for successor in successors:
            model.get_output_embeddings().weight[ids[successor], ids[token]] = 3

    prompt = "\n\nHuman: why?\n\nAssistant:"
    answers = GuidedPolicy(reference).generate([prompt], n=20, top_k=2, max_tokens=60)
    for answer in answers:
        said = reference.tokenizer.decode(answer.tokens)
        stopped = answer.reason == "stop"
        assert said.count("\n\nHuman:") == stopped
        assert said.endswith("\n\nHuman:") == stopped
        assert answer.text == said.removesuffix("\n\nHuman:").rstrip()
    assert {" a", " a\nHuman: a"} <= {answer.text for answer in answers}


# Errors


@pytest.mark.parametrize("prompt", [None, 3, [{"role": "user"}], ["Hi."], [{"role": 1}]])
def test_prompts_that_are_none(policy: GuidedPolicy, prompt: Any) -> None:
    with pytest.raises(ValueError, match="prompt 0: prompt must be text, or a list of messages"):
        policy.generate([prompt])


@pytest.mark.parametrize(
    ("setting", "error"),
    [
        ({"weights": {"sad": 1.0}}, r"loaded: humor, kind, sense\), got 'sad'. `mavis fit --objec"),
        ({"weights": {"kind": float("nan")}}, r"weights.kind must be a finite number, got nan"),
        ({"weights": {"humor": float("-inf")}}, r"weights.humor must be a finite number, got -inf"),
        ({"weights": [{"humor": 1.0}]}, r"weights must be one or one per prompt \(3\), got 1"),
        ({"beta": float("inf")}, r"beta must be a finite number, got inf"),
        ({"beta": [1.0, 2.0]}, r"beta must be one or one per prompt \(3\), got 2"),
        ({"temperature": [1.0, -1.0, 1.0]}, r"prompt 1: temperature must be 0 .* got -1.0"),
        ({"temperature": float("nan")}, r"temperature must be a finite number, got nan"),
        ({"top_k": -1}, r"top_k must be at least 0 \(all\), got -1"),
        ({"top_p": 0.0}, r"top_p must be in \(0, 1\], got 0.0"),
        ({"top_p": 1.5}, r"top_p must be in \(0, 1\], got 1.5"),
        ({"max_tokens": 0}, r"max_tokens must be at least 1, got 0 for prompt 0"),
        ({"max_tokens": [3, 3, -2]}, r"max_tokens must be at least 1, got -2 for prompt 2"),
        ({"max_tokens": 151}, r"prompt 0 \(10 tokens\) and max_tokens \(151\) must fit .* of 160"),
        ({"weights": {"humor": 1e38}}, r"beta · weights.humor must be at most 10000 in size"),
        ({"beta": -1e300}, r"beta · weights.humor must be at most 10000 in size"),
        ({"temperature": 1e-38}, r"temperature must be 0 .* or 0.0001 to 10000, got 1e-38"),
        ({"top_k": 5.5}, r"top_k must be a whole number, got 5.5"),
        ({"max_tokens": 3.5}, r"max_tokens must be a whole number, got 3.5"),
        ({"n": 0}, r"n must be at least 1, got 0"),
        ({"rows": 0}, r"rows must be at least 1, got 0"),
    ],
)
def test_settings_that_cannot_be(policy: GuidedPolicy, setting: dict[str, Any], error: str) -> None:
    with pytest.raises(ValueError, match=error):
        policy.generate(PROMPTS, **setting)


@pytest.mark.parametrize(
    ("prompts", "error"),
    [
        (None, r"prompts must be a text, a chat or a list of these, got a NoneType"),
        (b"um", r"prompts must be a text, a chat or a list of these, got a bytes"),
        ({"um", "an"}, r"prompts must be a text, a chat or a list of these, got a set"),
        ({"role": "user", "content": "um"}, r"a chat or a list of these, got a dict"),
        (["um", {"role": "user", "content": "um"}], r"prompt 1 must be .* got a dict"),
        (["um", None], r"prompt 1: prompt must be text"),
        (["um", "  "], r"prompt 1: prompt must not be empty"),
        (["um", []], r"prompt 1: prompt must not be empty"),
        (["b" * 160], r"prompt 0: prompt must leave room for a reply .* 160 tokens .* got 160"),
    ],
)
def test_prompts_that_cannot_be(policy: GuidedPolicy, prompts: Any, error: str) -> None:
    with pytest.raises(ValueError, match=error):
        policy.generate(prompts)


def test_weights_without_any_value_model(tiny_reference: ReferencePolicy) -> None:
    with pytest.raises(ValueError, match=r"loaded: none\), got 'humor'"):
        GuidedPolicy(tiny_reference).generate(["um"], {"humor": 1.0})


def test_one_objective_twice(tiny_reference: ReferencePolicy, tiny_network: Make) -> None:
    with pytest.raises(ValueError, match="different objectives, got humor twice"):
        GuidedPolicy(tiny_reference, (tiny_network(tiny_reference), tiny_network(tiny_reference)))


def test_numbers_of_numpy_are_numbers(policy: GuidedPolicy) -> None:
    usual = policy.generate(["um"], {"kind": 0.5}, beta=0.5, seed=3, max_tokens=4)
    numbers = {"beta": np.float64(0.5), "seed": np.int64(3), "max_tokens": np.int64(4)}
    assert_same(policy.generate(["um"], {"kind": np.float32(0.5)}, **numbers), usual)


def test_one_prompt_needs_no_list(policy: GuidedPolicy) -> None:
    for one in PROMPTS:
        assert_same(
            policy.generate(one, max_tokens=4, n=2), policy.generate([one], max_tokens=4, n=2)
        )
    rows = (prompt for prompt in PROMPTS)
    assert_same(policy.generate(rows, max_tokens=4), policy.generate(PROMPTS, max_tokens=4))
    texts = np.array(["um", "had a bun?"])
    assert_same(policy.generate(texts, max_tokens=4), policy.generate(texts.tolist(), max_tokens=4))


def test_a_stream_is_generate_in_turn(policy: GuidedPolicy) -> None:
    settings: dict[str, Any] = {"max_tokens": [9, 2, 5], "seed": [1, 2, 3], "n": 2}
    whole = policy.generate(PROMPTS * 3, **(settings | {"max_tokens": 5, "seed": 1}))
    for rows in (1, 2, 64):
        found = policy.stream(PROMPTS * 3, **(settings | {"max_tokens": 5, "seed": 1}), rows=rows)
        assert_same(list(found), whole)
    assert_same(list(policy.stream(PROMPTS, **settings)), policy.generate(PROMPTS, **settings))
    assert list(policy.stream([])) == []


def test_a_stream_does_not_wait_for_the_last_prompt(policy: GuidedPolicy) -> None:
    steps = 0

    def counted(*states: torch.Tensor) -> torch.Tensor:
        nonlocal steps
        steps += 1
        return policy.rule(*states)

    watched = replace(policy, rule=counted)
    # The longest prompt is the first: it must not be left for the end.
    asked: list[Prompt] = ["had a bun? had a bun?", *["um"] * 19]
    answers = watched.stream(asked, max_tokens=3, rows=1)
    first = next(answers)
    at_first = steps
    assert [first.prompt, *(answer.prompt for answer in answers)] == asked
    assert at_first < steps / 2


def test_a_stream_refuses_before_it_begins(policy: GuidedPolicy) -> None:
    with pytest.raises(ValueError, match="prompt 1: prompt must not be empty"):
        policy.stream(["um", " "])
    refused: dict[int, str] = {}

    def refuse(at: int, error: ValueError) -> None:
        refused[at] = str(error)

    asked: list[Prompt] = [" ", "um", "b" * 200, "had a bun?"]
    answers = policy.stream(asked, max_tokens=3, seed=[1, 2, 3, 4], refuse=refuse)
    assert list(refused) == [0, 2]
    assert refused[2].startswith("prompt 2: prompt must leave room")
    assert_same(list(answers), policy.generate([asked[1], asked[3]], max_tokens=3, seed=[2, 4]))


def test_stop_strings_end_a_reply(policy: GuidedPolicy) -> None:
    usual = policy.generate(PROMPTS, max_tokens=12, n=3)
    cut = policy.generate(PROMPTS, max_tokens=12, n=3, stop=["a", "n"])
    ended = 0
    for before, after in zip(usual, cut, strict=True):
        places = [before.text.find(one) for one in ("a", "n") if one in before.text]
        assert after.text == before.text[: min(places, default=None)].rstrip()
        assert before.tokens[: len(after.tokens)] == after.tokens
        assert (after.reason == "stop") == bool(places)
        ended += bool(places)
    assert 0 < ended < len(usual)


def test_stop_strings_per_prompt(policy: GuidedPolicy) -> None:
    stop = [["a"], [], ("n", "b")]
    together = policy.generate(PROMPTS, max_tokens=12, stop=stop)
    alone = []
    for prompt, mine in zip(PROMPTS, stop, strict=True):
        alone += policy.generate([prompt], max_tokens=12, stop=mine)
    assert_same(together, alone)
    assert_same(
        policy.generate(PROMPTS, max_tokens=12, stop="a"),
        policy.generate(PROMPTS, max_tokens=12, stop=("a",)),
    )


def test_temperature_0_takes_the_likeliest_token(policy: GuidedPolicy, naive: Any) -> None:
    weights = {"humor": 1.5, "sense": -0.5}
    settings: dict[str, Any] = {"beta": 0.8, "top_k": 7, "max_tokens": 8}
    answers = policy.generate(PROMPTS, weights, temperature=0, n=2, seed=5, **settings)
    slow, sampling = (
        naive(policy.reference, policy.guides),
        SamplingParams((1.5, 0.0, -0.5), 0.8, top_k=7),
    )
    for answer in answers:
        tokens = policy.reference.encode(answer.prompt).tokens
        for t, token in enumerate(answer.tokens):
            step = slow.step([*tokens, *answer.tokens[:t]], sampling)
            assert token == max(step.log_pi, key=lambda a: step.log_pi[a])
    mixed = policy.generate(PROMPTS, weights, temperature=[0, 1.0, 0.0], seed=5, **settings)
    assert_same([mixed[0], mixed[2]], [answers[0], answers[4]])
    assert mixed[1].tokens == policy.generate(PROMPTS[1], weights, seed=5, **settings)[0].tokens


def test_settings_that_a_method_does_not_take_are_refused(policy: GuidedPolicy) -> None:
    calls: list[tuple[Callable[..., Any], str]] = [
        (policy.generate, "tempreature"),
        (policy.stream, "tempreature"),
        (policy.beam_search, "seed"),  # it draws nothing
        (partial(policy.score, completions=["a"]), "max_tokens"),
    ]
    for call, name in calls:
        with pytest.raises(TypeError, match=name):
            call("um", **{name: 1})
