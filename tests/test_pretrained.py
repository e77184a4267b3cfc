"""What a classifier allows: its labels, its positions, its longest text."""

from types import SimpleNamespace

import pytest
from transformers import (
    LlamaConfig,
    LlamaForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from mavis.pretrained import embedded, label_of, limit_of, load_model, load_tokenizer, positions

SMALL = {"vocab_size": 20, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
SMALL |= {"num_attention_heads": 2}


def llama(**more):
    return LlamaForSequenceClassification(LlamaConfig(**SMALL, pad_token_id=0, **more))


def roberta(pad=1):
    config = RobertaConfig(**SMALL, max_position_embeddings=34, pad_token_id=pad)
    return RobertaForSequenceClassification(config)


@pytest.mark.parametrize(("wanted", "index"), [(1, 1), ("good", 1), ("GOOD", 1), ("bad", 0)])
def test_a_label_by_index_or_name(wanted, index):
    model = llama(id2label={0: "bad", 1: "good"})
    assert label_of(wanted, model, "it") == index


@pytest.mark.parametrize(
    ("wanted", "message"),
    [(None, r"label must be given: it has 2 \(0 = bad, 1 = good\)"), (2, "label 2 is none of it")],
)
def test_a_label_that_is_not_there(wanted, message):
    with pytest.raises(ValueError, match=message):
        label_of(wanted, llama(id2label={0: "bad", 1: "good"}), "it")


def test_the_only_label_need_not_be_given():
    assert label_of(None, llama(id2label={0: "LABEL_0"}), "it") == 0


def test_positions_of_a_family_that_numbers_them_after_the_padding():
    assert positions(roberta()) == 32
    assert positions(llama(max_position_embeddings=50)) == 50


def test_the_longest_text_is_the_least_that_is_allowed():
    model = llama(max_position_embeddings=50)
    small, large = SimpleNamespace(model_max_length=30), SimpleNamespace(model_max_length=10**30)
    assert limit_of(None, model, small, "it") == 30
    assert limit_of(None, model, large, "it") == 50
    assert limit_of(20, model, small, "it") == 20
    with pytest.raises(ValueError, match="max_length must be at most 50 for it, got 51"):
        limit_of(51, model, small, "it")


def test_how_many_ids_have_an_embedding():
    assert embedded(llama()) == 20


def test_what_is_no_classifier_is_named(tmp_path):
    with pytest.raises(ValueError, match="it cannot be loaded as a classifier"):
        load_model(str(tmp_path), "it")
    llama().model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"it is no trained sequence classifier: it lacks score"):
        load_model(str(tmp_path), "it")
    with pytest.raises(ValueError, match="it has no tokenizer"):
        load_tokenizer(str(tmp_path), "right", "it")
