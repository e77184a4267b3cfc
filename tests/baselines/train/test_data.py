"""What TRL is given: the same tokens, texts and rewards as in evaluation."""

import json
import math
from collections import Counter
from dataclasses import replace

import pytest
import torch

from mavis.baselines.policy_guides import guide
from mavis.baselines.train.data import (
    SHARPNESS,
    WeightedReward,
    demonstration_tokens,
    end_token,
    preference_pairs,
    read_dialogues,
    ready_tokenizer,
    reward_function,
    token_table,
)
from mavis.baselines.train.preferences import collect
from mavis.baselines.train.trl_trainers import end_at_strings, grpo_beta
from mavis.decoding.model_card import read_card
from mavis.decoding.policy import GuidedPolicy
from mavis.decoding.prompt_filter import fitting_prompts
from mavis.decoding.reference import ReferencePolicy
from mavis.decoding.request import SamplingParams
from mavis.evaluation.evaluate import evaluate
from mavis.objective import Objective
from mavis.options import TrainingOptions
from mavis.prompts import plain
from mavis.reward import Units, score

DIALOGUE = "\n\nHuman: is it\n\nAssistant:"
CHAT = [{"role": "user", "content": "am I"}]


def count_letters(prompts, responses):
    return [
        float("nan") if "z" in r else 3.0 * len(r) - len(p)
        for p, r in zip(prompts, responses, strict=True)
    ]


LETTERS = Objective("letters", count_letters)
SCALE = WeightedReward(LETTERS, Units(2.0, 4.0), 0.5)


@pytest.mark.parametrize("prompt", ["a tum", DIALOGUE, CHAT])
def test_a_reward_sees_the_same_text_in_training_as_in_evaluation(prompt, tiny_reference):
    answers = GuidedPolicy(tiny_reference).generate([prompt], n=16, max_tokens=12)
    # A stop string in the middle of a reply: tokens behind it are the human's.
    late = tiny_reference.tokenizer("is it\n\nHuman: no", add_special_tokens=False).input_ids
    stop = tiny_reference.encode(prompt).stop
    tokens = [*(a.tokens for a in answers), list(late)]
    texts = [*(a.text for a in answers), tiny_reference.decode(late, stop)]
    assert texts[-1] == ("is it" if stop else "is it\n\nHuman: no")
    reward = reward_function(SCALE, tiny_reference)
    got = reward(
        completion_ids=tokens,
        text=[plain(prompt)] * 17,
        stop=[list(stop)] * 17,
        prompts=["0"] * 17,
        completions=["something else"] * 17,
    )
    evaluated = score("letters", count_letters, [plain(prompt)] * 17, texts)
    expected = SCALE.units.standard(evaluated).tolist()
    assert got == [None if math.isnan(r) else r for r in expected]
    assert reward.__name__ == "letters"


@pytest.mark.parametrize("template", [None, "{% for m in messages %}{{ m.content }}: {% endfor %}"])
def test_trl_reads_prompts_as_decoding_does(template, build_reference):
    reference = build_reference(chat_template=template)
    table = {str(at): reference.encode(p).tokens for at, p in enumerate(["a tum", DIALOGUE, CHAT])}
    tokenizer = token_table(reference, table)
    assert tokenizer(text=["0", "1", "2"])["input_ids"] == list(table.values())
    assert tokenizer("1<end>")["input_ids"] == table["1"]  # DPO puts an end token behind texts
    assert tokenizer.batch_decode([[5, 6]]) == reference.tokenizer.batch_decode([[5, 6]])
    assert reference.tokenizer("a").input_ids != table["0"]  # the original still reads


def test_units_are_those_of_a_fit(tiny_fit, tiny_folder):
    card = read_card(tiny_fit / "value")
    reference = ReferencePolicy.load(str(tiny_folder / "reference"))
    prompts = fitting_prompts(reference, str(tiny_folder / "prompts"), "validation", None, 8, 0)
    sampling = SamplingParams(top_k=12)
    policy = GuidedPolicy(reference)
    samples = evaluate(policy, prompts[:2], ["trial"], sampling, max_tokens=8, n=4, rows=16)
    assert card.units == tuple(samples.units)
    standard = samples.standard(samples.units)
    assert standard.shape == (2, 4, 1)
    assert standard.mean() == pytest.approx(0, abs=1e-6)
    assert standard.std(ddof=1) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("pad", ["<pad>", "<end>", None])
def test_dialogue_replies_end_where_they_should(pad, build_reference):
    """<end> is 0, <pad> is 1; where there is none, end tokens are the padding."""
    reference = build_reference()
    reference.tokenizer.pad_token = pad
    tokenizer = ready_tokenizer(reference)
    fill = 1 if pad == "<pad>" else 0
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id) == (0, fill)
    assert reference.tokenizer.pad_token == pad  # the original is as it was

    class Model:
        def generate(self, tokenizer, **_):
            assert tokenizer is reference.tokenizer
            return torch.tensor([[9, 4, 5, fill, fill], [9, 4, 0, fill, fill], [9, 4, 5, 6, 7]])

    model = Model()
    end_at_strings(model, reference, tokenizer)
    made = model.generate(input_ids=torch.tensor([[9]] * 3), generation_config=None)
    assert made.tolist() == [[9, 4, 5, 0, fill], [9, 4, 0, fill, fill], [9, 4, 5, 6, 7]]


def test_padding_has_an_embedding_and_texts_have_an_end(build_reference):
    reference = build_reference()
    reference.tokenizer.add_special_tokens({"pad_token": "[PAD]"})  # and no row for it
    assert ready_tokenizer(reference).pad_token_id == 0
    reference.tokenizer.eos_token = None
    assert end_token(reference) == 0  # by the model's generation config
    assert ready_tokenizer(reference).eos_token == "<end>"
    endless = replace(build_reference(eos_token_id=None), tokenizer=reference.tokenizer)
    with pytest.raises(ValueError, match="tiny llama has no end-of-text token"):
        end_token(endless)


def test_pairs_are_preferred_by_the_odds_of_their_rewards(tiny_reference, tmp_path):
    short = Objective("short", lambda _, responses: [-1.0 * len(r) for r in responses])
    scale = WeightedReward(short, Units(-5.0, 2.0), 1.0)
    prompts = ["a tum", "is it"]
    config = TrainingOptions(max_tokens=5, rows=32)
    groups = collect(tiny_reference, [short], prompts, 200, config, tmp_path)
    pairs = list(preference_pairs(groups, [scale], (0, 200)))
    assert {tuple(p.start) for p in pairs} == {
        tuple(tiny_reference.encode(p).tokens) for p in prompts
    }
    chosen, odds = Counter(), Counter()
    for pair in pairs:
        gap = len(tiny_reference.decode(pair.rejected)) - len(tiny_reference.decode(pair.chosen))
        chosen[gap > 0] += 1 if gap else 0
        odds[True] += 1 / (1 + math.exp(-SHARPNESS * abs(gap) / 2)) if gap else 0
    # Binomial around the odds: four standard deviations of at most half the root of the count.
    count = chosen.total()
    assert count > 100
    assert abs(chosen[True] - odds[True]) < 2 * math.sqrt(count)
    again = collect(tiny_reference, [short], prompts, 200, config, tmp_path)
    assert list(preference_pairs(again, [scale], (0, 200))) == pairs


def test_grpo_charges_what_a_nat_of_kl_costs():
    """TRL's loss, written out for answers of one token and summed over all pairs of them.

    Its gradient must be −(1 − 1/G) times that of E[r] − η·KL(π ‖ π_ref).
    """
    eta, rewards = 0.3, torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)
    log_ref = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64).log()
    logits = torch.tensor([0.3, -0.4, 0.9], dtype=torch.float64, requires_grad=True)
    log_pi = logits.log_softmax(-1)
    goal = (log_pi.exp() * (rewards - eta * (log_pi - log_ref))).sum()
    (wanted,) = torch.autograd.grad(goal, logits, retain_graph=True)
    loss = torch.zeros((), dtype=torch.float64)
    for first in range(3):
        for second in range(3):
            odds = (log_pi[first] + log_pi[second]).exp().detach()
            mean = (rewards[first] + rewards[second]) / 2
            for token in (first, second):
                ratio = (log_pi[token] - log_pi[token].detach()).exp()
                gap = log_ref[token] - log_pi[token]
                kl = (gap.exp() - gap - 1) * ratio
                loss = loss + odds / 2 * (grpo_beta(eta, 2) * kl - ratio * (rewards[token] - mean))
    (given,) = torch.autograd.grad(loss, logits)
    assert torch.allclose(given, -(1 - 1 / 2) * wanted)


def test_kl_of_a_tuned_policy_is_the_naive_sum_along_its_answers(build_reference):
    reference, other = build_reference(), build_reference(seed=3)
    policy = GuidedPolicy(reference, (guide(reference, "other", other.model),))
    prompts, sampling = ["a tum", "is"], SamplingParams((1.0,), beta=1.0)
    samples = evaluate(policy, prompts, (), sampling, max_tokens=6, n=3)
    for prompt, several, kls in zip(prompts, samples.tokens, samples.kl, strict=True):
        for answer, kl in zip(several, kls, strict=True):
            tokens, total = reference.encode(prompt).tokens, 0.0
            for token in answer:
                ids = torch.tensor([tokens])
                log_pi = other.model(input_ids=ids).logits[0, -1].log_softmax(-1)
                log_ref = reference.model(input_ids=ids).logits[0, -1].log_softmax(-1)
                total += (log_pi.exp() * (log_pi - log_ref)).sum().item()  # V is within top-k
                tokens = [*tokens, token]
            assert kl == pytest.approx(total, abs=1e-4)


@pytest.mark.parametrize(
    ("row", "prompt"),
    [
        ({"prompt": "Why?", "answer": "Ho."}, "Why?"),
        ({"question": DIALOGUE, "response": "Ho."}, DIALOGUE),
        ({"chosen": f"{DIALOGUE} Ho.", "rejected": f"{DIALOGUE} No."}, DIALOGUE),
        ({"messages": [*CHAT, {"role": "assistant", "content": "Ho."}]}, CHAT),
        ({"text": f"{DIALOGUE} No.\n\nHuman: Yes\n\nAssistant: Ho."}, None),
    ],
)
def test_replies_are_found_in_all_shapes_of_rows(row, prompt, tmp_path):
    (tmp_path / "train.jsonl").write_text(json.dumps(row))
    (tmp_path / "validation.jsonl").write_text('{"prompt": "not this", "answer": "No."}')
    (tmp_path / "test.jsonl").write_text('{"prompt": "nor this", "answer": "No."}')
    prompt = prompt or f"{DIALOGUE} No.\n\nHuman: Yes\n\nAssistant:"
    assert read_dialogues(str(tmp_path), None) == [(prompt, "Ho.")]


def test_a_reply_is_learned_up_to_its_end(tiny_reference):
    start, reply = demonstration_tokens(tiny_reference, DIALOGUE, "it is")
    assert start == tiny_reference.encode(DIALOGUE).tokens
    assert tiny_reference.tokenizer.decode(reply) == " it is<end>"
    assert demonstration_tokens(tiny_reference, "a tum", "it")[1][0] != reply[0]  # no space


def test_prompts_alone_are_no_replies(tiny_folder):
    with pytest.raises(ValueError, match="prompts must be whole dialogues for sft, got none in"):
        read_dialogues(str(tiny_folder / "prompts"), None)
