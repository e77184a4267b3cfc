import itertools
import pickle
import random

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    DistilBertConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    PreTrainedTokenizerFast,
)

from mavis import classifier
from mavis.classifier import ClassifierReward

TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}</s>{% endfor %}"
PROMPTS = ["Why?", "\n\nHuman: Hi.\n\nAssistant: Yes?\n\nHuman: Why?\n\nAssistant:", "So long"]
REPLIES = ["Because it is so, and always was so.", "No.", ""]


def byte_tokenizer(pad=None, pairs=False, **options):
    """One token per byte; `</s>`, `<pad>`, `[CLS]` and `[SEP]` behind them."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [*alphabet, "</s>", "<pad>", "[CLS]", "[SEP]"]
    tokenizer = Tokenizer(models.BPE({word: index for index, word in enumerate(words)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["</s>", "<pad>", "[CLS]", "[SEP]"])
    if pairs:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]",
            pair="[CLS] $A [SEP] $B:1 [SEP]:1",
            special_tokens=[("[CLS]", 258), ("[SEP]", 259)],
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="</s>", pad_token=pad, **options
    )


CONFIGS = {
    "gpt2": lambda **k: GPT2Config(n_embd=32, n_layer=2, n_head=2, n_positions=128, **k),
    "llama": lambda **k: LlamaConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        **k,
    ),
    "bert": lambda **k: BertConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=128,
        **k,
    ),
    "distilbert": lambda **k: DistilBertConfig(
        dim=32, hidden_dim=48, n_layers=2, n_heads=2, max_position_embeddings=128, **k
    ),
}


def save(folder, family, tokenizer, labels=1, dtype=torch.float32, **options):
    """A tiny random classifier whose logits differ visibly."""
    torch.manual_seed(0)
    ids = {"bos_token_id": None, "eos_token_id": 256, "pad_token_id": None, **options}
    config = CONFIGS[family](vocab_size=260, num_labels=labels, **ids)
    model = AutoModelForSequenceClassification.from_config(config).to(dtype)
    for name, weight in model.named_parameters():
        if weight.dim() > 1:
            torch.nn.init.normal_(weight, std=0.3)
        assert weight.isfinite().all(), name
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def gpt2(tmp_path):
    return save(tmp_path / "gpt2", "gpt2", byte_tokenizer())


def logits(folder, ids):
    """The reference: one row, no padding, the model's own call."""
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0]


def bytes_of(text):
    return byte_tokenizer()(text, add_special_tokens=False)["input_ids"]


def many_replies(count=40):
    draw = random.Random(0)
    return ["".join(draw.choices("abc .\n", k=draw.randrange(60))) for _ in range(count)]


# loading


def test_nothing_is_loaded_before_the_first_call(gpt2, monkeypatch):
    loads = []
    original = classifier.Classifier
    monkeypatch.setattr(
        classifier, "Classifier", lambda *wanted: loads.append(wanted) or original(*wanted)
    )
    reward = ClassifierReward(gpt2)
    assert loads == []

    reward(PROMPTS, REPLIES)
    reward(PROMPTS, REPLIES)
    reward.load()

    assert len(loads) == 1
    assert len(repr(reward)) < 250
    assert reward == ClassifierReward(gpt2)


def test_it_is_plain_data_until_loaded():
    reward = ClassifierReward("sandbox/humor", text="both")

    assert pickle.loads(pickle.dumps(reward)) == reward


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sign": 2}, "sign must be 1 or -1, got 2"),
        ({"text": "prompt"}, "text must be 'response' or 'both'"),
        ({"text": "both", "template": "chat"}, "template must be 'dialogue', 'pair' or a Jinja"),
        ({"template": "pair"}, "needs text='both'"),
        ({"truncation_side": "middle"}, "truncation_side must be"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"max_length": -1}, "max_length must be at least 1, got -1"),
    ],
)
def test_a_wrong_argument_is_refused_at_once(options, message):
    with pytest.raises(ValueError, match=message):
        ClassifierReward("sandbox/humor", **options)


@pytest.mark.parametrize("name", ["./no", "/no/such/folder"])
def test_a_missing_folder_is_said_to_be_missing(name):
    with pytest.raises(FileNotFoundError, match=r"reward model .* is missing"):
        ClassifierReward(name).load()


def test_a_folder_that_is_no_model_is_said_to_be_none(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"is no model folder: it has no config\.json"):
        ClassifierReward(str(tmp_path)).load()


def test_a_model_without_a_trained_classifier_is_refused(tmp_path):
    config = CONFIGS["gpt2"](vocab_size=260)
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)

    with pytest.raises(ValueError, match=r"no trained sequence classifier: it lacks score\.weight"):
        ClassifierReward(str(tmp_path), label=0).load()


def test_a_model_without_tokenizer_is_refused(tmp_path, gpt2):
    model = AutoModelForSequenceClassification.from_pretrained(gpt2)
    model.save_pretrained(tmp_path / "bare")

    with pytest.raises(ValueError, match="has no tokenizer"):
        ClassifierReward(str(tmp_path / "bare")).load()


# labels


@pytest.fixture
def two_labels(tmp_path):
    names = {0: "NO_HUMOR", 1: "HUMOR"}
    return save(
        tmp_path / "two", "distilbert", byte_tokenizer("<pad>", pairs=True), labels=2,
        id2label=names, label2id={name: index for index, name in names.items()}, pad_token_id=257,
    )  # fmt: skip


@pytest.mark.parametrize(("label", "index"), [(0, 0), (1, 1), ("HUMOR", 1), ("no_humor", 0)])
def test_a_label_is_an_index_or_a_name(two_labels, label, index):
    scores = ClassifierReward(two_labels, label=label)(PROMPTS[:1], REPLIES[:1])

    expected = logits(two_labels, [258, *bytes_of(REPLIES[0]), 259])
    assert scores.tolist() == pytest.approx([expected[index].item()], abs=1e-5)


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (None, "label must be given: .* has 2 .0 = NO_HUMOR, 1 = HUMOR"),
        (2, "label 2 is none of .* 1 = HUMOR"),
        (-1, "label -1 is none of"),
        ("funny", "label 'funny' is none of"),
    ],
)
def test_a_wrong_label_lists_those_there_are(two_labels, label, message):
    with pytest.raises(ValueError, match=message):
        ClassifierReward(two_labels, label=label).load()


def test_sign_turns_the_score_around(gpt2):
    more, less = ClassifierReward(gpt2), ClassifierReward(gpt2, sign=-1)

    assert torch.equal(more(PROMPTS, REPLIES), -less(PROMPTS, REPLIES))


# batching


@pytest.mark.parametrize(
    ("family", "tokenizer"),
    [
        ("gpt2", byte_tokenizer()),
        ("gpt2", byte_tokenizer("<pad>")),
        ("llama", byte_tokenizer()),
        ("bert", byte_tokenizer("<pad>", pairs=True)),
    ],
)
@pytest.mark.parametrize("text", ["response", "both"])
def test_scores_do_not_depend_on_the_batch(tmp_path, family, tokenizer, text):
    """GPT-2 and Llama have neither a padding token nor a pad_token_id in their config here."""
    folder = save(tmp_path / "m", family, tokenizer)
    replies = many_replies()
    prompts = list(itertools.islice(itertools.cycle(PROMPTS), len(replies)))
    reward = ClassifierReward(folder, text=text, batch_size=7)
    scores = reward(prompts, replies)

    assert (scores.shape, scores.dtype) == ((40,), torch.float32)
    assert scores.std() > 0.05
    singly = torch.cat([reward([p], [r]) for p, r in zip(prompts, replies, strict=True)])
    torch.testing.assert_close(scores, singly, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(reward(prompts[::-1], replies[::-1]).flip(0), scores)
    assert torch.equal(ClassifierReward(folder, text=text, batch_size=7)(prompts, replies), scores)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_padded_batch_equals_the_models_own_single_rows(tmp_path, family):
    folder = save(tmp_path / "m", family, byte_tokenizer())
    replies = [reply for reply in many_replies() if reply]
    scores = ClassifierReward(folder)([""] * len(replies), replies)

    expected = torch.cat([logits(folder, bytes_of(reply)) for reply in replies])
    torch.testing.assert_close(scores, expected, atol=1e-5, rtol=1e-5)


def test_half_precision_weights_are_run_in_float32(tmp_path):
    folder = save(tmp_path / "m", "llama", byte_tokenizer(), dtype=torch.float16)
    reward = ClassifierReward(folder)

    assert reward(PROMPTS, REPLIES).dtype == torch.float32
    assert reward._classifier.model.dtype == torch.float32


def test_an_empty_reply_has_a_score_and_no_replies_have_none(gpt2):
    reward = ClassifierReward(gpt2)

    expected = logits(gpt2, [256])
    assert reward(["x", "x"], ["", "longer"])[0].item() == pytest.approx(expected.item(), abs=1e-5)
    assert reward([], []).shape == (0,)


def test_it_leaves_no_gradients_behind(gpt2):
    assert not ClassifierReward(gpt2)(PROMPTS, REPLIES).requires_grad


# texts


def score(reward):
    return reward(["Why?"], ["So."]).item()


def of_text(folder, text):
    """The score of exactly these characters."""
    return pytest.approx(logits(folder, bytes_of(text)).item(), abs=1e-5)


def test_response_alone_ignores_the_prompt(gpt2):
    assert score(ClassifierReward(gpt2)) == of_text(gpt2, "So.")


def test_without_a_chat_template_both_are_a_dialogue(gpt2):
    assert score(ClassifierReward(gpt2, text="both")) == of_text(
        gpt2, "\n\nHuman: Why?\n\nAssistant: So."
    )


def test_a_prompt_that_is_a_dialogue_is_continued(gpt2):
    reward = ClassifierReward(gpt2, text="both", template="dialogue")

    expected = logits(gpt2, bytes_of(PROMPTS[1] + " So."))
    assert reward([PROMPTS[1]], ["So."]).item() == pytest.approx(expected.item(), abs=1e-5)


def test_the_tokenizers_own_chat_template_is_used(tmp_path):
    folder = save(tmp_path / "m", "gpt2", byte_tokenizer("<pad>", chat_template=TEMPLATE))
    reward = ClassifierReward(folder, text="both")

    assert score(reward) == of_text(folder, "<user>Why?</s><assistant>So.</s>")
    whole = "<user>Hi.</s><assistant>Yes?</s><user>Why?</s><assistant>So.</s>"
    expected = logits(folder, bytes_of(whole)).item()
    assert reward([PROMPTS[1]], ["So."]).item() == pytest.approx(expected, abs=1e-5)
    dialogue = ClassifierReward(folder, text="both", template="dialogue")
    assert score(dialogue) == of_text(folder, "\n\nHuman: Why?\n\nAssistant: So.")


def test_a_chat_template_can_be_given(gpt2):
    template = "{{ messages[0].content }} -> {{ messages[-1].content }}"

    assert score(ClassifierReward(gpt2, text="both", template=template)) == of_text(
        gpt2, "Why? -> So."
    )


def test_a_pair_goes_to_the_tokenizer_as_one(tmp_path):
    names = ["input_ids", "token_type_ids", "attention_mask"]
    tokenizer = byte_tokenizer("<pad>", pairs=True, model_input_names=names)
    folder = save(tmp_path / "m", "bert", tokenizer, pad_token_id=257)
    ids = [258, *bytes_of("Why?"), 259, *bytes_of("So."), 259]
    kinds = [0] * 6 + [1] * 4
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        expected = model(torch.tensor([ids]), token_type_ids=torch.tensor([kinds])).logits.item()

    reward = ClassifierReward(folder, text="both", template="pair")
    assert reward(["Why?"], ["So."]).item() == pytest.approx(expected, abs=1e-5)


# length


@pytest.mark.parametrize(("side", "kept"), [("left", "ghij"), ("right", "abcd")])
def test_a_long_text_loses_the_stated_end(gpt2, side, kept):
    reward = ClassifierReward(gpt2, max_length=4, truncation_side=side)

    expected = logits(gpt2, bytes_of(kept))
    assert reward([""], ["abcdefghij"]).item() == pytest.approx(expected.item(), abs=1e-5)


def test_the_models_own_limit_holds_by_default(gpt2):
    reply = "ab" * 300

    expected = logits(gpt2, bytes_of(reply)[-128:])
    score = ClassifierReward(gpt2)([""], [reply]).item()
    assert score == pytest.approx(expected.item(), abs=1e-5)


def test_the_tokenizers_limit_holds_when_it_is_smaller(tmp_path):
    folder = save(tmp_path / "m", "gpt2", byte_tokenizer(model_max_length=5))

    expected = logits(folder, bytes_of("fghij"))
    score = ClassifierReward(folder)([""], ["abcdefghij"]).item()
    assert score == pytest.approx(expected.item(), abs=1e-5)


def test_a_limit_beyond_the_model_is_refused(gpt2):
    with pytest.raises(ValueError, match="max_length must be at most 128"):
        ClassifierReward(gpt2, max_length=129).load()
