"""GGUF files as references, against the model and the tokenizer that were written into them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf import quants
from transformers import PreTrainedModel

from mavis.cli.main import main
from mavis.decoding import gguf_files
from mavis.decoding.gguf_files import check_gguf, is_gguf
from mavis.decoding.loading import load
from mavis.decoding.model_folders import load_config
from mavis.decoding.policy import GuidedPolicy
from mavis.decoding.reference import ReferencePolicy
from mavis.decoding.value_model import ValueModel, build_network

# A byte-level vocabulary as GPT-2 spells it: the printable bytes, and a space as Ġ.
LETTERS = [chr(code) for code in range(33, 127)]
MERGES = ["u m", "a n", "Ġ a"]
CONTROL = ["<unk>", "<end>", "<turn>"]
VOCABULARY = [*CONTROL, *LETTERS, "Ġ", "Ċ", *(merge.replace(" ", "") for merge in MERGES)]
TEMPLATE = (
    "{% for m in messages %}{{ m['role'] + ': ' + m['content'] }}"
    "{{ '<turn>' if m['role'] == 'assistant' else ' ' }}{% endfor %}"
    "{{ 'assistant:' if add_generation_prompt else '' }}"
)
NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def gguf_name(name: str) -> str:
    for ours, theirs in NAMES.items():
        name = name.replace(ours, theirs)
    ends = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    for ours, theirs in ends.items():
        name = name.replace(ours, theirs)
    return name.replace("model.layers", "blk")


Q4 = gguf.GGMLQuantizationType.Q4_0


def write_gguf(file: Path, model: PreTrainedModel, kind: str = "llama", **said: Any) -> None:
    """Write a llama as llama.cpp's converter does; `model` gets the weights as they are packed."""
    config, writer = model.config, gguf.GGUFWriter(file, kind)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(VOCABULARY)
    normal = len(VOCABULARY) - len(CONTROL)
    writer.add_token_types(
        [gguf.TokenType.CONTROL] * len(CONTROL) + [gguf.TokenType.NORMAL] * normal
    )
    writer.add_token_merges(MERGES)
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    if "template" in said:
        writer.add_chat_template(said["template"])
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for name, tensor in model.state_dict().items():
        array = tensor.numpy()
        packed = array.ndim == 2 and array.shape[1] % 32 == 0
        if packed:
            tensor.copy_(torch.from_numpy(quants.dequantize(quants.quantize(array, Q4), Q4)))
        count = next((count for part, count in heads.items() if part in name), None)
        if count:  # llama.cpp rotates neighbours, not halves
            halves = array.reshape(count, 2, -1, array.shape[1])
            array = np.ascontiguousarray(halves.swapaxes(1, 2).reshape(array.shape))
        data = quants.quantize(array, Q4) if packed else array.copy()
        writer.add_tensor(gguf_name(name), data, raw_dtype=Q4 if packed else None)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture
def model(tiny_lm: Callable[..., PreTrainedModel]) -> PreTrainedModel:
    return tiny_lm(vocab=len(VOCABULARY))


@pytest.fixture
def file(model: PreTrainedModel, tmp_path: Path) -> Path:
    file = tmp_path / "tiny.gguf"
    write_gguf(file, model, template=TEMPLATE)
    return file


def test_it_is_the_model_that_was_written(file: Path, model: PreTrainedModel) -> None:
    reference = ReferencePolicy.load(str(file), device="cpu")
    assert reference.name == str(file)
    ids = torch.tensor([[5, 9, 40, 77, 9, 9, 30]])
    with torch.inference_mode():
        found, want = reference.model(ids).logits, model(ids).logits
    torch.testing.assert_close(found, want, atol=1e-5, rtol=1e-5)
    assert reference.context == model.config.max_position_embeddings
    assert reference.model.dtype == torch.float32
    assert reference.model.num_parameters() == model.num_parameters()
    state = {name: tuple(tensor.shape) for name, tensor in reference.model.state_dict().items()}
    assert state == {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def test_its_tokenizer_and_its_ends(file: Path) -> None:
    reference = ReferencePolicy.load(str(file), device="cpu")
    text = "user: an umm assistant:"
    assert reference.render("an umm") == text
    tokens = reference.encode("an umm").tokens
    assert reference.decode(tokens) == text
    assert len(tokens) == len(text) - 4  # merged: "um", " a", "an" twice
    # The file names <end> alone; the template ends a reply with <turn>.
    assert reference.ends == {VOCABULARY.index("<end>"), VOCABULARY.index("<turn>")}
    assert reference.tokenizer.eos_token == "<end>"


def test_what_lies_beside_it_is_not_its_own(
    file: Path, tiny_tokenizer: Callable[..., Any], tiny_lm: Callable[..., PreTrainedModel]
) -> None:
    before = ReferencePolicy.load(str(file), device="cpu")
    tiny_tokenizer().save_pretrained(file.parent)
    tiny_lm("gpt2", seed=3).save_pretrained(file.parent)
    after = ReferencePolicy.load(str(file), device="cpu")
    assert (after.fingerprint, after.weights_digest) == (before.fingerprint, before.weights_digest)
    assert after.ends == before.ends


def test_a_file_that_was_replaced_is_read_anew(
    file: Path, tiny_lm: Callable[..., PreTrainedModel]
) -> None:
    assert load_config("it", str(file)).num_hidden_layers == 2
    write_gguf(file, tiny_lm(vocab=len(VOCABULARY), layers=3))
    assert load_config("it", str(file)).num_hidden_layers == 3
    assert ReferencePolicy.load(str(file), device="cpu").tokenizer.chat_template is None


def test_it_may_be_a_trunk(file: Path, tiny_network: Callable[..., ValueModel]) -> None:
    reference = ReferencePolicy.load(str(file), device="cpu")
    trunk = build_network(tiny_network(reference).card, reference, str(file)).trunk
    assert trunk is not None
    ids = torch.tensor([[5, 9, 40, 77]])
    with torch.inference_mode():
        found = trunk(ids).last_hidden_state
        want = reference.model.base_model(ids).last_hidden_state
    torch.testing.assert_close(found, want, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("source", ["action", "shared"])
def test_a_value_model_is_copied_from_it_saved_and_found_again(
    file: Path, tiny_network: Callable[..., ValueModel], tmp_path: Path, source: str
) -> None:
    reference = ReferencePolicy.load(str(file), device="cpu")
    network = tiny_network(reference, source)
    network.save_pretrained(tmp_path / "value")
    again = load({"humor": tmp_path / "value"}, device="cpu")  # the card says where the file is
    assert again.reference.name == str(file)
    prompts = ["an umm", "b" * 20]
    asked = {"weights": {"humor": 1.0}, "max_tokens": 6}
    want = GuidedPolicy(reference, (network,)).generate(prompts, **asked)
    assert [one.tokens for one in again.generate(prompts, **asked)] == [one.tokens for one in want]


def cut(file: Path, share: float) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * share)])


@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 0.9])
def test_a_damaged_file_is_a_line_with_the_next_step(
    file: Path, share: float, capsys: pytest.CaptureFixture[str]
) -> None:
    cut(file, share)
    assert main(["generate", "hi", "--reference", str(file)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert str(file) in line
    assert "damaged" in line
    assert "Fetch it again, or give a transformers folder of the model." in line


def test_something_else_by_that_name(tmp_path: Path) -> None:
    other = tmp_path / "other.gguf"
    other.write_bytes(b"weights")
    with pytest.raises(ValueError, match=r"other\.gguf is no GGUF file, or damaged"):
        ReferencePolicy.load(str(other))


def test_an_architecture_that_transformers_does_not_know(
    model: PreTrainedModel, tmp_path: Path
) -> None:
    file = tmp_path / "odd.gguf"
    write_gguf(file, model, "rarebird")
    with pytest.raises(ValueError, match=r"cannot be read \(.*rarebird is not supported") as caught:
        ReferencePolicy.load(str(file))
    assert "\n" not in str(caught.value)


def test_an_architecture_that_cannot_be_guided_is_refused_before_weights_are_read(
    tmp_path: Path,
) -> None:
    writer = gguf.GGUFWriter(tmp_path / "recurrent.gguf", "mamba")
    writer.add_block_count(2)
    writer.add_vocab_size(8)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(ValueError, match="mamba models cannot be guided"):
        ReferencePolicy.load(str(tmp_path / "recurrent.gguf"))


@pytest.mark.parametrize("missing", ["gguf", "accelerate"])
def test_without_the_extra(file: Path, missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    find = gguf_files.find_spec
    monkeypatch.setattr(
        gguf_files, "find_spec", lambda name: None if name == missing else find(name)
    )
    with pytest.raises(ModuleNotFoundError, match=rf'{missing} .*: pip install "mavis\[gguf\]"'):
        check_gguf(str(file))


def test_a_folder_of_gguf_files_says_which_to_name(file: Path) -> None:
    assert not is_gguf(str(file.parent))
    with pytest.raises(FileNotFoundError, match=r"or one of its files, such as tiny\.gguf"):
        ReferencePolicy.load(str(file.parent))
