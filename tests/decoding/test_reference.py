"""The reference policy: its folders, how it writes prompts, and where replies end."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers.processors import TemplateProcessing
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from mavis.decoding.backbone import load_trunk
from mavis.decoding.policy import GuidedPolicy
from mavis.decoding.reference import SMALL, Encoded, ReferencePolicy, _to_halve
from mavis.decoding.request import Request, SamplingParams
from mavis.decoding.tokenizers import fingerprint
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
    with pytest.raises(FileNotFoundError, match="is missing"):
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


def test_a_model_that_cannot_be_guided_is_refused_before_weights_are_read(folder: Path) -> None:
    config("mamba").save_pretrained(folder)
    with pytest.raises(ValueError, match="mamba models cannot be guided"):
        ReferencePolicy.load(str(folder))


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.json", b"{"),
        ("tokenizer.json", b'{"version": "1.0", "model": {'),
        ("tokenizer.json", b"\xff\xfe"),
        ("tokenizer_config.json", b"[1"),
        ("generation_config.json", b"{'"),
        ("generation_config.json", b"null"),
        ("config.json", b"[1, 2]"),
        ("model.safetensors", None),
    ],
)
def test_a_damaged_file_is_named(folder: Path, file: str, content: bytes | None) -> None:
    whole = (folder / file).read_bytes()
    (folder / file).write_bytes(whole[: len(whole) // 2] if content is None else content)
    with pytest.raises(ValueError, match=rf"model/{file} is damaged: ") as caught:
        ReferencePolicy.load(str(folder))
    assert "\n" not in str(caught.value)


def test_missing_weights_are_not_made_up(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    for load in (ReferencePolicy.load, load_trunk):
        with pytest.raises(ValueError, match=r"lacks 1 of its weights \(.*layers.1.mlp.up_proj"):
            load(str(folder))


def test_weights_of_another_shape_are_not_made_up(folder: Path) -> None:
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | {"intermediate_size": 64}))
    for load in (ReferencePolicy.load, load_trunk):
        with pytest.raises(ValueError, match=r"are not those of its config.json \(.*mlp") as caught:
            load(str(folder))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("setting", "error"),
    [
        ({"model_type": "nonsense"}, "nonsense"),
        ({"num_attention_heads": 3}, "hidden size|attention heads"),
        ({"hidden_size": "x"}, "hidden_size"),
        ({"hidden_act": "nonsense"}, "KeyError 'nonsense'"),
    ],
)
def test_a_config_that_makes_no_model(folder: Path, setting: dict[str, Any], error: str) -> None:
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | setting))
    with pytest.raises(ValueError, match=rf"model cannot be loaded: .*({error})") as caught:
        ReferencePolicy.load(str(folder))
    assert "\n" not in str(caught.value)


def test_the_digest_of_the_weights(folder: Path, build_reference: Build) -> None:
    """The same in every type they are saved in, another one after any training."""
    reference = ReferencePolicy.load(str(folder), device="cpu")
    digest = reference.weights_digest
    assert len(digest) == 16
    assert build_reference().weights_digest == digest
    assert build_reference(seed=1).weights_digest != digest
    reference.model.bfloat16().save_pretrained(folder)
    short = ReferencePolicy.load(str(folder), device="cpu")
    assert short.weights_digest != digest  # these numbers are other ones …
    assert replace(short, model=short.model.bfloat16()).weights_digest == short.weights_digest
    changed = build_reference()
    changed.model.lm_head.weight[7, 5] += 1e-6
    assert changed.weights_digest != digest


def test_the_digest_of_a_large_model_is_a_sample(
    build_reference: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = build_reference().weights_digest
    monkeypatch.setattr("mavis.decoding.reference.SMALL", 0)
    small, again, other = build_reference(), build_reference(), build_reference(seed=1)
    assert small.weights_digest == again.weights_digest != other.weights_digest
    assert digest == small.weights_digest  # no tensor here has more than 4,096 elements


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


def wrapped(reference: ReferencePolicy, single: str) -> None:
    """Let the tokenizer put special tokens around a text, such as `<end> $A <pad>`."""
    special = [(token, reference.tokenizer.get_vocab()[token]) for token in ("<end>", "<pad>")]
    process = TemplateProcessing(single=single, special_tokens=special)
    reference.tokenizer.backend_tokenizer.post_processor = process


def test_a_start_token_is_what_the_tokenizer_adds(build_reference: Build) -> None:
    reference = build_reference()
    bare = reference.encode("a bun").tokens
    reference.tokenizer.bos_token = "<end>"
    assert reference.encode("a bun").tokens == bare  # it has one, and adds none by itself …
    wrapped(reference, "<end> $A")
    assert reference.encode("a bun").tokens == [0, *bare]  # … and now it does
    assert reference.encode("<end>a bun").tokens == [0, *bare]  # once
    reference.tokenizer.chat_template = CHAT  # which writes a start token itself, if it wants one
    assert reference.encode("a bun").tokens[0] != 0
    reference.tokenizer.chat_template = "<end>" + CHAT
    assert reference.encode("a bun").tokens.count(0) == 1


@pytest.mark.parametrize("single", ["$A <end>", "<end> $A <pad>", "<end> $A <end>", "$A:0 <pad>"])
@pytest.mark.parametrize("prompt", ["a bun", DIALOGUE, "<end>", "<end><end>a", "a<end>"])
def test_nothing_is_put_behind_a_text_that_is_to_be_continued(
    build_reference: Build, single: str, prompt: str
) -> None:
    reference = build_reference()
    bare = reference.tokenizer(prompt, add_special_tokens=False).input_ids
    wrapped(reference, single)
    front = [0] if single.startswith("<end>") and bare[0] != 0 else []
    assert reference.encode(prompt).tokens == front + bare
    assert reference.length(prompt) == len(front + bare)


REFUSES = "{{ raise_exception('no system\nhere') }}"


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        (
            "{% if messages[0].role == 'system' %}" + REFUSES + "{% endif %}" + CHAT,
            "refuses .*be a bun.*: no system here",
        ),
        (
            CHAT + "{% if messages[1] %}{{ messages[0].name.first }}{% endif %}",
            "fails for .*be a bun.*: UndefinedError: .*name",
        ),
        (
            CHAT + "{% if messages[1] %}{{ 'a' + 1 }}{% endif %}",
            "fails for .*be a bun.*: TypeError: can only concatenate",
        ),
        (
            CHAT + "{% if messages[1] %}{{ 1 / 0 }}{% endif %}",
            "fails for .*be a bun.*: ZeroDivisionError: division",
        ),
    ],
)
def test_a_template_that_refuses_a_prompt_is_a_line_that_names_it(
    build_reference: Build, template: str, reason: str
) -> None:
    reference = build_reference(chat_template=template)
    assert reference.encode("a bun").tokens
    chat = [{"role": "system", "content": "be a bun"}, {"role": "user", "content": "hi"}]
    for ask in (reference.encode, reference.length):
        with pytest.raises(ValueError, match=rf"tiny llama {reason}") as caught:
            ask(chat)
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=r"prompt 1: the chat template"):
        GuidedPolicy(reference).generate(["a", chat])
    with pytest.raises(ValueError, match=r"prompt 1: the chat template"):
        GuidedPolicy(reference).beam_search(["a", chat], max_tokens=2)


def test_a_template_may_refuse_bare_text(build_reference: Build) -> None:
    strict = "{% if messages[0].role != 'system' %}" + REFUSES + "{% endif %}" + CHAT
    reference = build_reference(chat_template=strict)
    chat = [{"role": "system", "content": "be a bun"}, {"role": "user", "content": "hi"}]
    assert spell(reference, reference.encode(chat)) == "s:be a bun\nu:hi\na:"


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{% for m in messages %}", "TemplateSyntaxError: .*endfor"),
        ("{{ nothing.there }}", "UndefinedError: 'nothing' is undefined"),
        ("{{ 1 / 0 }}", "ZeroDivisionError: division by zero"),
    ],
)
def test_a_broken_template_is_found_out_at_once(
    build_reference: Build, template: str, reason: str
) -> None:
    said = rf"^the chat template of tiny llama fails, for text and for a chat alike: {reason}"
    with pytest.raises(ValueError, match=said) as caught:
        build_reference(chat_template=template)
    assert "'?'" not in str(caught.value)
    assert "\n" not in str(caught.value)


def failing(prompt: Prompt) -> str:
    """A template with a bug for some prompts."""
    return {"?": "?"}[str(prompt)]


def broken(prompt: Prompt) -> str:
    """A template with a bug for every prompt."""
    raise LookupError(f"no {len(prompt)}\nhere.")


def for_chats(prompt: Prompt) -> str:
    """A template that takes no text."""
    assert not isinstance(prompt, str)
    return prompt[-1]["content"]


def test_a_template_function_that_always_fails_is_found_out_at_once(build_reference: Build) -> None:
    said = r"broken fails, for text and for a chat alike: LookupError: no 1 here\.$"
    with pytest.raises(ValueError, match=said) as caught:
        build_reference(template=f"{__name__}.broken")
    assert "'?'" not in str(caught.value)


def test_a_template_function_for_chats_alone(build_reference: Build) -> None:
    reference = build_reference(template=f"{__name__}.for_chats")
    assert reference.render([{"role": "user", "content": "a bun"}]) == "a bun"
    with pytest.raises(ValueError, match=r"for_chats fails for the prompt 'a': AssertionError"):
        reference.encode("a")


def test_a_template_function_that_fails_is_named_with_the_prompt(build_reference: Build) -> None:
    reference = build_reference(template=f"{__name__}.failing")
    with pytest.raises(ValueError, match=r"template .*failing fails for the prompt 'a': KeyError"):
        reference.encode("a")


THINKS = CHAT + "{% if enable_thinking is defined and not enable_thinking %}um{% endif %}"


def test_template_arguments_reach_the_chat_template(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text(THINKS)
    load = ReferencePolicy.load
    assert load(str(folder)).render("a bun") == "u:a bun\na:"
    quick = load(str(folder), template_args={"enable_thinking": False})
    assert quick.render("a bun") == "u:a bun\na:um"
    assert quick.template_args == {"enable_thinking": False}


@pytest.mark.parametrize(
    ("template", "arguments", "error"),
    [
        (THINKS, {"enable_thought": False}, r"tiny llama reads, got 'enable_thought'"),
        (THINKS, {"add_generation_prompt": False}, r"reads, got 'add_generation_prompt'"),
        (THINKS, {"tokenize": True}, r"reads, got 'tokenize'"),
        (None, {"enable_thinking": False}, r"prompts of tiny llama are written out"),
    ],
)
def test_template_arguments_that_nothing_reads(
    build_reference: Build, template: str | None, arguments: dict[str, Any], error: str
) -> None:
    plain = build_reference(chat_template=template)
    with pytest.raises(ValueError, match=error):
        replace(plain, template_args=arguments)
    with pytest.raises(ValueError, match=r"written by .*shouted"):
        replace(plain, template=f"{__name__}.shouted", template_args=arguments)


@pytest.mark.parametrize("half", [chr(0xD83D), chr(0xDE00)], ids=["first", "second"])
@pytest.mark.parametrize("chat_template", [None, CHAT])
def test_half_a_character_is_no_text(
    build_reference: Build, half: str, chat_template: str | None
) -> None:
    reference = build_reference(chat_template=chat_template)
    for prompt in (f"a bun {half}", [{"role": "user", "content": f"a {half} bun"}]):
        with pytest.raises(ValueError, match=r"prompt has half a character") as caught:
            reference.encode(prompt)
        str(caught.value).encode()
    with pytest.raises(ValueError, match=r"stop strings must be text"):
        Request([3], 4, SamplingParams(), (0,), (half,))


def test_tokens_without_an_embedding(build_reference: Build) -> None:
    reference = build_reference()
    reference.tokenizer.add_tokens(["zebra"])
    with pytest.raises(ValueError, match=r"prompt 'a zebra' has the token 'zebra' \(id 40\), and"):
        reference.encode("a zebra")
    assert reference.encode("a bun").tokens


def test_ids_beyond_the_tokens_spell_nothing(
    tiny_lm: Callable[..., PreTrainedModel], tiny_tokenizer: Callable[..., PreTrainedTokenizerBase]
) -> None:
    """Models with padded vocabularies say ids that their tokenizers do not know."""
    reference = ReferencePolicy(tiny_lm(vocab=64), tiny_tokenizer())
    answers = GuidedPolicy(reference).generate(["a bun"], n=20, top_k=0, max_tokens=8)
    assert any(token >= 40 for answer in answers for token in answer.tokens)
    for answer in answers:
        said = [token for token in answer.tokens if 2 < token < 40]
        assert answer.text == reference.tokenizer.decode(said).rstrip()


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
    assert tiny_reference.decode([*tokens, 0]) == " a bun.\n\nHuman: or"
    assert tiny_reference.decode(tokens, ("\n\nHuman:",)) == " a bun."
    assert tiny_reference.decode([]) == ""


def test_all_end_tokens_of_the_generation_config_count(
    tiny_lm: Callable[..., PreTrainedModel], tiny_tokenizer: Callable[..., PreTrainedTokenizerBase]
) -> None:
    model = tiny_lm()
    model.generation_config.eos_token_id = [4, 7]
    assert ReferencePolicy(model, tiny_tokenizer()).ends == {0, 4, 7}
    model.generation_config.eos_token_id = None
    assert ReferencePolicy(model, tiny_tokenizer()).ends == {0}


def test_a_large_model_in_float32_is_halved_where_it_runs_faster(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU; here the rule alone is set aside, which asks for one."""
    plain = ReferencePolicy.load(str(folder), device="cpu")
    monkeypatch.setattr("mavis.decoding.reference._to_halve", lambda *_: True)
    halved = ReferencePolicy.load(str(folder), device="cpu")
    assert {parameter.dtype for parameter in halved.model.parameters()} == {torch.bfloat16}
    kept = {name: buffer.dtype for name, buffer in plain.model.named_buffers()}
    assert {name: buffer.dtype for name, buffer in halved.model.named_buffers()} == kept
    assert halved.weights_digest == plain.weights_digest  # a run goes on on another device
    assert halved.model.get_output_embeddings().weight.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("dtype", "parameters", "place", "knows", "expected"),
    [
        (torch.float32, SMALL, "cuda", True, True),
        (torch.float32, SMALL - 1, "cuda", True, False),
        (torch.float16, SMALL, "cuda", True, False),  # as it was saved
        (torch.float32, SMALL, "cuda", False, False),
        (torch.float32, SMALL, "cpu", True, False),
    ],
)
def test_which_models_are_halved(
    dtype: torch.dtype,
    parameters: int,
    place: str,
    knows: bool,
    expected: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda *_: knows)
    model: Any = SimpleNamespace(dtype=dtype, num_parameters=lambda: parameters)
    assert _to_halve(model, torch.device(place)) == expected
