"""Classifiers of many families: each text's logit in a batch is what plain transformers gives."""

import json

import pytest
import torch
import transformers
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from mavis.classifier import ClassifierReward
from mavis.hub import locate

PAIRS = {"single": "<|user|> $A <|end|>", "pair": "<|user|> $A <|end|> $B:1 <|end|>:1"}
VOCABULARY, PAD, END = 1024, 0, 1  # of the embedded models
TEXTS = [
    "So.",
    "A longer reply, which the others are padded to.",
    "It goes on and on. " * 30,
    "the end<|end|>",
    "<|pad|>a<|pad|>b",
    "a pad at the end<|pad|>",
    "one<|end|>two<|end|>",
    " e",
]
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}
OFFSET = dict(SIZES, max_position_embeddings=66, pad_token_id=1)
LLAMA = dict(SIZES, max_position_embeddings=64, bos_token_id=None, eos_token_id=END)
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "short_factor": [1.0] * 8,
    "long_factor": [4.0] * 8,
    "original_max_position_embeddings": 24,
}

FAMILIES = {  # (class of the config, its arguments, how many tokens fit)
    "bert": ("Bert", dict(SIZES, max_position_embeddings=64, pad_token_id=PAD), 64),
    "roberta": ("Roberta", OFFSET, 64),
    "roberta, pad 0": ("Roberta", OFFSET | {"pad_token_id": 0}, 65),
    "roberta, pad -1": ("Roberta", OFFSET | {"pad_token_id": -1}, 66),
    "camembert": ("Camembert", OFFSET, 64),
    "mpnet": ("MPNet", OFFSET, 64),
    "longformer": ("Longformer", OFFSET | {"attention_window": 8}, 64),
    "deberta": (
        "DebertaV2",
        dict(SIZES, max_position_embeddings=64, relative_attention=True, pos_att_type=["p2c"]),
        64,
    ),
    "convbert": ("ConvBert", dict(SIZES, embedding_size=32, max_position_embeddings=64), 64),
    "fnet": (
        "FNet",
        {k: v for k, v in SIZES.items() if "heads" not in k} | {"max_position_embeddings": 64},
        64,
    ),
    "xlnet": ("XLNet", {"d_model": 32, "n_layer": 1, "n_head": 2, "d_inner": 48}, None),
    "t5": (
        "T5",
        {
            "d_model": 32,
            "d_kv": 16,
            "d_ff": 48,
            "num_layers": 1,
            "num_heads": 2,
            "eos_token_id": END,
        }
        | {"decoder_start_token_id": 0},
        None,
    ),
    "bart": (
        "Bart",
        {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "max_position_embeddings": 64}
        | {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 48}
        | {"decoder_ffn_dim": 48, "eos_token_id": END, "pad_token_id": PAD},
        64,
    ),
    "opt": (
        "OPT",
        {"hidden_size": 32, "ffn_dim": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
        | {"max_position_embeddings": 64, "word_embed_proj_dim": 32, "pad_token_id": 1},
        64,
    ),
    "mpt": ("Mpt", {"d_model": 32, "n_layers": 1, "n_heads": 2, "max_seq_len": 64}, 64),
    "llama, pad is end": ("Llama", LLAMA | {"pad_token_id": END}, 64),
    "llama, pad": ("Llama", LLAMA | {"pad_token_id": PAD}, 64),
    "llama, no pad": ("Llama", LLAMA | {"pad_token_id": None}, 64),
    "llama, pad -1": ("Llama", LLAMA | {"pad_token_id": -1}, 64),
    "phi3, longrope": (
        "Phi3",
        LLAMA
        | {"pad_token_id": PAD, "rope_parameters": LONGROPE}
        | {"original_max_position_embeddings": 24},
        64,
    ),
}


def embedded_tokenizer(**templates):
    """The embedded models' tokenizer, which adds no tokens and knows no limit."""
    tokenizer = AutoTokenizer.from_pretrained(locate("sandbox/humor"))
    tokenizer.model_max_length = int(1e30)
    if templates:
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            **templates, special_tokens=[("<|end|>", END), ("<|user|>", 2)]
        )
    return tokenizer


def save(folder, family, arguments, tokenizer=None):
    """A tiny random classifier of a family, with its tokenizer."""
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(
        vocab_size=VOCABULARY, num_labels=1, **arguments
    )
    model = AutoModelForSequenceClassification.from_config(config)
    for weight in model.parameters():
        if weight.dim() > 1:
            torch.nn.init.normal_(weight, std=0.15)
    model.save_pretrained(folder)
    (tokenizer or embedded_tokenizer()).save_pretrained(folder)
    return str(folder)


def alone(folder, texts, limit):
    """Each text by plain transformers, one at a time, from weights that have seen no other."""
    tokenizer = AutoTokenizer.from_pretrained(folder, truncation_side="left")
    found = []
    for text in texts:
        model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
        ids = tokenizer(text, truncation=limit is not None, max_length=limit)["input_ids"]
        with torch.no_grad():
            found.append(model(torch.tensor([ids])).logits[0, 0])
    return torch.stack(found)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_text_in_a_batch_has_the_logit_it_has_alone(name, tmp_path):
    family, arguments, limit = FAMILIES[name]
    ended = family in ("T5", "Bart")  # which take their logit at the end token
    tokenizer = embedded_tokenizer(**({"single": "$A <|end|>"} if ended else {}))
    folder = save(tmp_path / "m", family, arguments, tokenizer)
    reward = ClassifierReward(folder)
    scores = reward([""] * len(TEXTS), TEXTS)

    assert reward._classifier.limit == limit
    expected = alone(folder, TEXTS, limit)
    assert expected.std() > 0.01
    torch.testing.assert_close(scores, expected, atol=1e-5, rtol=1e-5)


def test_a_pad_that_was_added_to_the_tokenizer_alone(tmp_path):
    tokenizer = embedded_tokenizer()
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    folder = save(tmp_path / "m", "Llama", LLAMA | {"pad_token_id": None}, tokenizer)
    reward = ClassifierReward(folder)

    assert tokenizer.pad_token_id == VOCABULARY
    scores = reward([""] * len(TEXTS), TEXTS)
    torch.testing.assert_close(scores, alone(folder, TEXTS, 64), atol=1e-5, rtol=1e-5)
    assert reward([""], [""]).isfinite()  # a text without tokens has none of its own
    with pytest.raises(
        ValueError, match=r"no embedding for the token '\[PAD\]' \(id 1024 of 1024\)"
    ):
        reward(["", ""], ["so", "a [PAD] b"])


def test_a_pad_that_was_added_to_the_config_alone(tmp_path):
    folder = save(tmp_path / "m", "Llama", LLAMA | {"pad_token_id": None})
    expected = alone(folder, TEXTS, 64)
    file = tmp_path / "m" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"pad_token_id": VOCABULARY}))

    scores = ClassifierReward(folder)([""] * len(TEXTS), TEXTS)
    torch.testing.assert_close(scores, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_pair_is_cut_on_the_stated_side_to_what_fits(side, tmp_path):
    folder = save(tmp_path / "m", "Roberta", OFFSET, embedded_tokenizer(**PAIRS))
    prompts = ["a question that is far too long to fit in, as it goes on and on" * 3] * 2
    replies = ["an answer that is as long as the question, and then some more words" * 3, "So."]
    scores = ClassifierReward(folder, text="both", template="pair", truncation_side=side)(
        prompts, replies
    )

    tokenizer = AutoTokenizer.from_pretrained(folder, truncation_side=side)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    for prompt, reply, score in zip(prompts, replies, scores, strict=True):
        ids = tokenizer(prompt, reply, truncation=True, max_length=64)["input_ids"]
        with torch.no_grad():
            expected = model(torch.tensor([ids])).logits.item()
        assert score.item() == pytest.approx(expected, abs=1e-5)


def test_a_row_may_use_every_token_of_a_small_vocabulary(tmp_path):
    folder = save(tmp_path / "m", "Llama", LLAMA | {"pad_token_id": None})
    classifier = ClassifierReward(folder)._classifier
    rows = [{"input_ids": list(range(start, start + 20))} for start in range(0, 1020, 20)]
    rows += [{"input_ids": [1020, 1021]}, {"input_ids": [1022]}, {"input_ids": [1023]}]

    together = classifier.logits(rows, 64)
    torch.testing.assert_close(together, torch.cat([classifier.logits([r], 1) for r in rows]))


# what cannot be scored


@pytest.fixture
def llama(tmp_path):
    return save(tmp_path / "m", "Llama", LLAMA | {"pad_token_id": None})


def test_a_logit_that_is_not_finite_names_model_and_text(llama):
    model = AutoModelForSequenceClassification.from_pretrained(llama)
    broken = embedded_tokenizer()("zzz")["input_ids"]
    with torch.no_grad():
        model.get_input_embeddings().weight[broken] = float("nan")
    model.save_pretrained(llama)

    assert ClassifierReward(llama)([""], ["fine"]).isfinite()
    with pytest.raises(ValueError, match=r"reward model .*/m' gives the logit nan") as caught:
        ClassifierReward(llama)(["", ""], ["fine", "zzz"])
    assert "for the text 'zzz'" in str(caught.value)


def test_half_a_character_names_the_text(llama):
    with pytest.raises(ValueError, match=r"/m' cannot read the text 'b\\ud800'\."):
        ClassifierReward(llama)(["", ""], ["a", "b\ud800"])


def test_what_a_model_fails_on_names_the_text(llama):
    reward = ClassifierReward(llama)
    reward.load()
    reward._classifier.model.score = torch.nn.Linear(7, 1)  # as a damaged head would be

    with pytest.raises(ValueError, match=r"/m' fails on the text 'a' \(RuntimeError: ") as caught:
        reward(["", ""], ["a", "bc"])
    assert "\n" not in str(caught.value)


def test_a_limit_that_leaves_no_room_for_the_text(tmp_path):
    folder = save(tmp_path / "m", "Bert", FAMILIES["bert"][1], embedded_tokenizer(**PAIRS))

    with pytest.raises(ValueError, match=r"max_length must be at least 3 for .* adds 2 tokens"):
        ClassifierReward(folder, max_length=2)([""], ["a"])


def test_damaged_weights_name_the_model(llama, tmp_path):
    (tmp_path / "m" / "model.safetensors").write_bytes(b"not what it was")

    with pytest.raises(ValueError, match=r"/m' cannot be loaded as a classifier \(") as caught:
        ClassifierReward(llama).load()
    assert "\n" not in str(caught.value)


def test_a_template_that_refuses_a_dialogue_names_model_and_prompt(llama):
    template = "{{ raise_exception('System role not supported') }}"

    with pytest.raises(ValueError, match=r"/m': its chat template refuses the prompt 'Why\?'"):
        ClassifierReward(llama, text="both", template=template)(["Why?"], ["So."])
