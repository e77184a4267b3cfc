"""The reference policy: what it refuses, how it writes prompts, and where replies end."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from mavis.guide.architecture import check_architecture
from mavis.guide.reference import Encoded, ReferencePolicy, fingerprint
from mavis.prompts import Prompt, plain

Build = Callable[..., ReferencePolicy]

CHAT = (
    "{% for m in messages %}{{ m.role[0] }}:{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}a:{% endif %}"
)
DIALOGUE = "\n\nHuman: had a bun?\n\nAssistant: um.\n\nHuman: or not?\n\nAssistant:"


def shouted(prompt: Prompt) -> str:
    """A template of one's own."""
    return f"H: {plain(prompt)}.."


def config(kind: str, **settings: Any) -> PreTrainedConfig:
    return AutoConfig.for_model(kind, **settings)


@pytest.mark.parametrize(
    ("kind", "settings", "reason"),
    [
        ("mamba", {}, "recurrent"),
        ("mamba2", {}, "recurrent"),
        ("falcon_mamba", {}, "recurrent"),
        ("rwkv", {}, "recurrent"),
        ("recurrent_gemma", {}, "recurrent"),
        ("jamba", {}, "recurrent"),
        ("qwen3_next", {}, "recurrent"),
        ("falcon_h1", {}, "more than keys and values"),
        ("deepseek_v32", {}, "more than keys and values"),
        ("mistral", {"sliding_window": 8}, "sliding window"),
        ("qwen2", {"use_sliding_window": True, "max_window_layers": 0}, "sliding window"),
        ("gemma2", {}, "sliding window"),
        ("gemma3_text", {}, "sliding window"),
        ("gpt_oss", {}, "sliding window"),
        ("t5", {}, "encoder-decoder"),
        ("bart", {}, "encoder-decoder"),
        ("bloom", {}, "ALiBi"),
        ("mpt", {}, "ALiBi"),
        ("falcon", {"alibi": True}, "ALiBi"),
        ("roberta", {"is_decoder": True}, "position"),
        ("xlm-roberta", {"is_decoder": True}, "position"),
        ("gptj", {}, "mask"),
        ("gpt_neo", {}, "mask"),
        ("resnet", {}, "causal"),
        ("vit", {}, "causal"),
    ],
)
def test_refused_by_name_at_once(kind: str, settings: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=rf"{kind} models cannot be guided: .*{reason}") as caught:
        check_architecture(config(kind, **settings))
    assert len(str(caught.value)) < 200


def test_families_that_work_are_let_through(family: str) -> None:
    check_architecture(config(family))


@pytest.mark.parametrize("kind", ["mistral", "falcon", "phi3", "starcoder2"])
def test_others_are_let_through_without_a_window(kind: str) -> None:
    settings = {"sliding_window": None} if kind != "falcon" else {"alibi": False}
    check_architecture(config(kind, **settings))


def test_a_model_that_cannot_be_guided_makes_no_policy(
    tiny_lm: Callable[..., PreTrainedModel], tiny_tokenizer: Callable[..., PreTrainedTokenizerBase]
) -> None:
    windowed = tiny_lm("mistral", sliding_window=8)
    with pytest.raises(ValueError, match="mistral models cannot be guided"):
        ReferencePolicy(windowed, tiny_tokenizer())


def test_the_model_is_frozen(build_reference: Build) -> None:
    model = build_reference("gpt2").model
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())


# Folders


@pytest.fixture
def folder(tiny_reference: ReferencePolicy, tmp_path: Path) -> Path:
    tiny_reference.model.save_pretrained(tmp_path / "model")
    tiny_reference.tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_a_folder_is_loaded_as_it_was_saved(
    folder: Path, tiny_reference: ReferencePolicy, naive: Any
) -> None:
    loaded = ReferencePolicy.load(str(folder), device="cpu")
    assert loaded.name == str(folder)
    assert loaded.fingerprint == tiny_reference.fingerprint
    assert loaded.ends == {0}
    assert (loaded.vocabulary, loaded.context) == (40, 160)
    tokens = [5, 3, 9, 20]
    assert naive(loaded).logits(tokens) == naive(tiny_reference).logits(tokens)


def test_half_precision_is_read_as_float32_on_a_cpu(folder: Path) -> None:
    model = ReferencePolicy.load(str(folder), device="cpu").model
    model.half().save_pretrained(folder)
    again = ReferencePolicy.load(str(folder), device="cpu").model
    assert {str(p.dtype) for p in again.parameters()} == {"torch.float32"}


@pytest.mark.parametrize("name", ["./nowhere", "/no/such/folder", "~/nowhere/at/all"])
def test_a_missing_folder_is_a_missing_folder(name: str) -> None:
    with pytest.raises(FileNotFoundError, match="missing folder"):
        ReferencePolicy.load(name)


def test_a_folder_that_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"is no model folder: config.json is missing"):
        ReferencePolicy.load(str(tmp_path))


def test_a_model_without_a_tokenizer(folder: Path) -> None:
    for file in folder.glob("tokenizer*"):
        file.unlink()
    with pytest.raises((ValueError, FileNotFoundError), match=r"model.*tokenizer") as caught:
        ReferencePolicy.load(str(folder))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["missing", "broken"])
def test_a_model_without_weights(folder: Path, kind: str) -> None:
    weights = folder / "model.safetensors"
    weights.unlink() if kind == "missing" else weights.write_bytes(b"not weights")
    with pytest.raises((ValueError, OSError), match=str(folder)) as caught:
        ReferencePolicy.load(str(folder))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("auto", [AutoModel, AutoModelForSequenceClassification])
def test_a_model_that_is_no_causal_lm(folder: Path, auto: Any) -> None:
    """Loaded as one it would get a random head, and speak noise."""
    auto.from_config(AutoConfig.from_pretrained(folder)).save_pretrained(folder)
    with pytest.raises(ValueError, match=r"Llama\w+, not a causal"):
        ReferencePolicy.load(str(folder))


def test_sliding_windows_are_refused_before_weights_are_read(folder: Path) -> None:
    config("mistral", sliding_window=8).save_pretrained(folder)
    with pytest.raises(ValueError, match="mistral models cannot be guided"):
        ReferencePolicy.load(str(folder))


def test_fingerprints_tell_vocabularies_apart(
    folder: Path, tiny_tokenizer: Callable[..., PreTrainedTokenizerBase], tmp_path: Path
) -> None:
    assert fingerprint(tiny_tokenizer()) == fingerprint(tiny_tokenizer())
    assert fingerprint(tiny_tokenizer(20)) != fingerprint(tiny_tokenizer(21))
    shutil.copytree(folder, tmp_path / "swapped")
    text = (folder / "tokenizer.json").read_text()
    swapped = (
        text.replace('"a": 3', '"@": 3').replace('"n": 4', '"a": 4').replace('"@": 3', '"n": 3')
    )
    assert swapped != text
    (tmp_path / "swapped" / "tokenizer.json").write_text(swapped)
    ours, theirs = (ReferencePolicy.load(str(at)) for at in (folder, tmp_path / "swapped"))
    assert ours.fingerprint != theirs.fingerprint


# Prompts


def spell(reference: ReferencePolicy, encoded: Encoded) -> str:
    return str(reference.tokenizer.decode(encoded.tokens))


@pytest.mark.parametrize(
    ("prompt", "text", "stop"),
    [
        ("had a bun?", "had a bun?", ()),
        (DIALOGUE, DIALOGUE, ("\n\nHuman:",)),
        (
            [{"role": "user", "content": "had a bun?"}],
            "\n\nHuman: had a bun?\n\nAssistant:",
            ("\n\nHuman:",),
        ),
        (
            [
                {"role": "user", "content": "had a bun?"},
                {"role": "assistant", "content": "um."},
                {"role": "user", "content": "or not?"},
            ],
            DIALOGUE,
            ("\n\nHuman:",),
        ),
    ],
)
def test_without_a_chat_template_text_is_text_and_chats_are_dialogues(
    tiny_reference: ReferencePolicy, prompt: Prompt, text: str, stop: tuple[str, ...]
) -> None:
    encoded = tiny_reference.encode(prompt)
    assert spell(tiny_reference, encoded) == text
    assert encoded.stop == stop


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        ("a bun?", "u:a bun?\na:"),
        (DIALOGUE, "u:had a bun?\na:um.\nu:or not?\na:"),
        ([{"role": "user", "content": "a bun?"}], "u:a bun?\na:"),
        (
            [{"role": "system", "content": "hi"}, {"role": "user", "content": "a bun?"}],
            "s:hi\nu:a bun?\na:",
        ),
    ],
)
def test_a_chat_template_is_used_for_everything(
    build_reference: Build, prompt: Prompt, text: str
) -> None:
    reference = build_reference(chat_template=CHAT)
    encoded = reference.encode(prompt)
    assert spell(reference, encoded) == text
    assert encoded.stop == ()


def test_a_template_function_has_the_first_word(build_reference: Build) -> None:
    template = f"{__name__}.shouted"
    for chat_template in (None, CHAT):
        reference = build_reference(chat_template=chat_template, template=template)
        assert reference.render("a bun?") == "H: a bun?.."
        assert reference.render([{"role": "user", "content": "a bun?"}]) == "H: a bun?.."


@pytest.mark.parametrize(
    "template", ["nowhere.to.be.found", "mavis.prompts.nothing", "plain", "", "mavis.prompts."]
)
def test_a_template_that_is_not_there(build_reference: Build, template: str) -> None:
    with pytest.raises(ValueError, match=r"template .* cannot be imported"):
        build_reference(template=template)


def test_text_begins_with_the_start_token_once(build_reference: Build) -> None:
    reference = build_reference()
    assert reference.encode("a bun").tokens[0] != 0  # this tokenizer has no start token …
    reference.tokenizer.bos_token = "<end>"  # … and now it has
    assert reference.encode("a bun").tokens[:2] == [0, reference.tokenizer("a").input_ids[0]]
    assert reference.encode("<end>a bun").tokens == reference.encode("a bun").tokens
    reference.tokenizer.chat_template = CHAT  # which writes a start token itself, if it wants one
    assert reference.encode("a bun").tokens[0] != 0


@pytest.mark.parametrize(
    "prompt",
    ["", "  \n", [], [{"role": "user", "content": ""}], [{"role": "user", "content": " "}]],
)
@pytest.mark.parametrize("chat_template", [None, CHAT])
def test_empty_prompts(build_reference: Build, prompt: Prompt, chat_template: str | None) -> None:
    with pytest.raises(ValueError, match="prompt must not be empty"):
        build_reference(chat_template=chat_template).encode(prompt)


def test_prompts_that_fill_the_context(tiny_reference: ReferencePolicy) -> None:
    assert len(tiny_reference.encode("b" * 159).tokens) == 159
    with pytest.raises(ValueError, match=r"context of 160 tokens of tiny llama, got 160 tokens"):
        tiny_reference.encode("b" * 160)


# Replies


def test_replies_end_at_end_tokens_and_stop_strings(tiny_reference: ReferencePolicy) -> None:
    tokens = tiny_reference.tokenizer(" a bun.\n\nHuman: or").input_ids
    assert tiny_reference.decode([*tokens, 0]) == "a bun.\n\nHuman: or"
    assert tiny_reference.decode(tokens, ("\n\nHuman:",)) == "a bun."
    assert tiny_reference.decode([]) == ""


def test_all_end_tokens_of_the_generation_config_count(
    tiny_lm: Callable[..., PreTrainedModel], tiny_tokenizer: Callable[..., PreTrainedTokenizerBase]
) -> None:
    model = tiny_lm()
    model.generation_config.eos_token_id = [4, 7]
    assert ReferencePolicy(model, tiny_tokenizer()).ends == {0, 4, 7}
    model.generation_config.eos_token_id = None
    assert ReferencePolicy(model, tiny_tokenizer()).ends == {0}
