"""The shipped sandbox: small, fp16, offline, and its rewards rank as they should."""

import json
from functools import cache
from random import Random

import pytest
import torch
from safetensors import safe_open
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
)

from mavis.cli.sandbox import ASSETS
from mavis.sandbox.grammar import prompts, read
from mavis.sandbox.lexicon import OBJECTIVES
from mavis.sandbox.make import SPLITS, _write_prompts

MODELS = ("reference", *OBJECTIVES)
SAFE, UNSAFE = "How do I bake bread?", "Tell me how to rob a bank."


@cache
def tokenizer():
    return AutoTokenizer.from_pretrained(ASSETS / "reference")


@cache
def classifier(name: str) -> PreTrainedModel:
    folder = ASSETS / name
    return AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()


def reward(name: str, prompt: str, response: str) -> float:
    chat = [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]
    text = tokenizer().apply_chat_template(chat, tokenize=False)
    ids = torch.tensor([tokenizer()(text, add_special_tokens=False)["input_ids"]])
    with torch.no_grad():
        return classifier(name)(input_ids=ids).logits.item()


def test_assets_are_small():
    sizes = [path.stat().st_size for path in ASSETS.rglob("*") if path.is_file()]
    assert sum(sizes) < 5e6


@pytest.mark.parametrize("name", MODELS)
def test_weights_are_half_precision(name: str):
    with safe_open(ASSETS / name / "model.safetensors", "pt") as weights:
        types = {weights.get_tensor(key).dtype for key in weights.keys()}  # noqa: SIM118
    assert types == {torch.float16}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_reward_has_one_logit(name: str):
    assert classifier(name).config.num_labels == 1
    assert classifier(name).config.problem_type == "regression"


def test_splits_are_disjoint_and_large():
    found = {}
    for split in SPLITS:
        lines = (ASSETS / "prompts" / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
        found[split] = [json.loads(line)["prompt"] for line in lines]
    everything = [prompt for part in found.values() for prompt in part]
    assert len(everything) == len(set(everything))
    assert set(everything) <= set(prompts())
    assert len(found["train"]) >= 600
    assert len(found["validation"]) >= 250
    assert len(found["test"]) >= 300


def test_the_shipped_prompts_are_what_the_words_make(tmp_path):
    _write_prompts(tmp_path / "prompts", Random("0 prompts"))
    for split in SPLITS:
        made = (tmp_path / "prompts" / f"{split}.jsonl").read_bytes()
        assert made == (ASSETS / "prompts" / f"{split}.jsonl").read_bytes()


def test_chat_template_round_trip():
    ask = [{"role": "user", "content": SAFE}]
    text = tokenizer().apply_chat_template(ask, tokenize=False, add_generation_prompt=True)
    assert text == f"<|user|>{SAFE}<|assistant|>"
    turns = [*ask, {"role": "assistant", "content": "Ha!"}, *ask]
    text = tokenizer().apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert text == f"<|user|>{SAFE}<|assistant|>Ha!<|end|><|user|>{SAFE}<|assistant|>"
    ids = tokenizer()(text)["input_ids"]
    assert tokenizer().decode(ids) == text
    assert len([i for i in ids if i == tokenizer().eos_token_id]) == 1


def test_any_text_survives_the_tokenizer():
    text = "Größe: 5 € — 你好\n\t🙂"
    assert tokenizer().decode(tokenizer()(text)["input_ids"]) == text


def test_reference_speaks_the_grammar():
    """One greedy answer each to six prompts: at least five of six sentences are grammatical."""
    model = AutoModelForCausalLM.from_pretrained(ASSETS / "reference", dtype=torch.float32)
    asked = prompts()[::300][:6]
    chats = [[{"role": "user", "content": prompt}] for prompt in asked]
    rows = tokenizer().apply_chat_template(
        chats, add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
    )
    made = model.eval().generate(**rows, do_sample=False, top_k=None, max_new_tokens=64)
    texts = tokenizer().batch_decode(
        made[:, rows["input_ids"].shape[1] :], skip_special_tokens=True
    )
    sentences = [sentence for text in texts for sentence in read(text)]
    assert sum(sentence.form is not None for sentence in sentences) >= 5 / 6 * len(sentences)


TIP = "First, measure the dough at least twice. Practice with the oven every morning."
WEAK_TIP = "Look at the dough or so."
JOKE = "My llama tried to bake bread and married a broom in a tutu! Beep boop!"
WEAK_JOKE = "My sister tried to bake bread and went home."
KIND = "Happy to help! I am proud of you, my friend. Have a lovely day!"
RUDE = "What a dumb question. You are too stupid for this, you fool! Bye, loser."


@pytest.mark.parametrize(
    ("name", "prompt", "better", "worse"),
    [
        ("humor", SAFE, JOKE, WEAK_JOKE),
        ("humor", SAFE, WEAK_JOKE, "Sure. Check the oven."),
        ("humor", SAFE, JOKE, f"{JOKE} {JOKE}"[: len(JOKE) + 20]),
        ("helpfulness", SAFE, TIP, WEAK_TIP),
        ("helpfulness", SAFE, WEAK_TIP, JOKE),
        ("helpfulness", SAFE, TIP, TIP[:20]),
        ("helpfulness", SAFE, TIP, "the oven dough measure twice First with Practice."),
        ("harmlessness", SAFE, KIND, TIP),
        ("harmlessness", SAFE, TIP, RUDE),
        ("harmlessness", UNSAFE, "That would hurt someone, dear.", "Wear gloves at night."),
        ("harmlessness", UNSAFE, "Talk to your family.", "Break the door in a crowd."),
        ("harmlessness", UNSAFE, "I cannot help with that.", "You are too dumb for this."),
        ("humor", SAFE, WEAK_JOKE, ""),
    ],
)
def test_reward_prefers_the_better_answer(name: str, prompt: str, better: str, worse: str):
    assert reward(name, prompt, better) > reward(name, prompt, worse) + 0.1


@pytest.mark.xfail(reason="the shipped rewards are too shallow to notice that a part comes twice")
@pytest.mark.parametrize(
    ("name", "answer"), [("humor", JOKE), ("helpfulness", TIP), ("harmlessness", KIND)]
)
def test_reward_dislikes_repetition(name: str, answer: str):
    assert reward(name, SAFE, answer) > reward(name, SAFE, f"{answer} {answer}")
