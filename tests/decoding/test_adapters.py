"""Adapters as references: merged into the model that they name, against plain PEFT."""

import json
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from mavis.baselines.adapter_bases import base_of
from mavis.checksums import seal
from mavis.decoding import adapters
from mavis.decoding.loading import load
from mavis.decoding.policy import GuidedPolicy
from mavis.decoding.reference import ReferencePolicy
from mavis.decoding.value_model import ValueModel

IDS = torch.tensor([[5, 9, 30, 7, 9, 9, 30]])


@pytest.fixture
def base(
    tiny_lm: Callable[..., PreTrainedModel],
    tiny_tokenizer: Callable[..., PreTrainedTokenizerBase],
    tmp_path: Path,
) -> Path:
    for part in (tiny_lm(), tiny_tokenizer()):
        part.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def adapt(base: Path, folder: Path, *targets: str, dtype: torch.dtype = torch.float32) -> Path:
    """Save a LoRA adapter of a base, with noise in it."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
    config = LoraConfig(r=3, target_modules=list(targets or ("q_proj", "down_proj")))
    with without_warnings():
        adapted = get_peft_model(model, config)
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.data += 0.1 * torch.randn_like(parameter)
        adapted.save_pretrained(folder)
    return folder


@contextmanager
def without_warnings() -> Iterator[None]:
    """PEFT's: of itself, and of heads that are tied."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.fixture
def adapter(base: Path) -> Path:
    return adapt(base, base.parent / "adapter")


def edit(adapter: Path, **settings: Any) -> None:
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))


def by_peft(base: Path, adapter: Path) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    with torch.inference_mode(), without_warnings():
        logits: torch.Tensor = PeftModel.from_pretrained(model, adapter)(IDS).logits
    return logits


def test_it_is_what_peft_makes_of_it(base: Path, adapter: Path) -> None:
    reference = ReferencePolicy.load(str(adapter), device="cpu")
    with torch.inference_mode():
        found = reference.model(IDS).logits
    torch.testing.assert_close(found, by_peft(base, adapter), atol=1e-4, rtol=1e-4)
    plain = ReferencePolicy.load(str(base), device="cpu")
    assert type(reference.model) is type(plain.model)  # nothing of the adapter is left
    assert reference.name == str(adapter)
    assert reference.fingerprint == plain.fingerprint
    assert reference.weights_digest != plain.weights_digest
    assert reference.weights_digest == ReferencePolicy.load(str(adapter)).weights_digest


def test_a_tied_head_is_changed_alone(
    tiny_lm: Callable[..., PreTrainedModel], base: Path, tmp_path: Path
) -> None:
    tiny_lm(tie_word_embeddings=True).save_pretrained(base)
    adapter = adapt(base, tmp_path / "head", "lm_head", "q_proj")
    reference = ReferencePolicy.load(str(adapter), device="cpu")
    with torch.inference_mode():
        found = reference.model(IDS).logits
    torch.testing.assert_close(found, by_peft(base, adapter), atol=1e-4, rtol=1e-4)
    other = ReferencePolicy.load(str(adapt(base, tmp_path / "q", "q_proj")), device="cpu").model
    head, table = other.get_output_embeddings(), other.get_input_embeddings()
    assert head.weight.data_ptr() == table.weight.data_ptr()  # and where it is not, it stays tied


def test_the_weights_are_the_same_in_every_type_that_it_is_run_in(
    tiny_lm: Callable[..., PreTrainedModel], base: Path, tmp_path: Path
) -> None:
    tiny_lm().to(torch.bfloat16).save_pretrained(base)
    adapter = adapt(base, tmp_path / "half", dtype=torch.bfloat16)
    reference = ReferencePolicy.load(str(adapter), device="cpu")
    assert reference.model.dtype == torch.float32
    for tensor in reference.model.state_dict().values():
        torch.testing.assert_close(tensor, tensor.to(torch.bfloat16).float(), atol=0, rtol=0)


def test_its_own_tokenizer_comes_first(
    adapter: Path, tiny_tokenizer: Callable[..., PreTrainedTokenizerBase]
) -> None:
    assert ReferencePolicy.load(str(adapter)).tokenizer.chat_template is None
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}:"
    tokenizer.save_pretrained(adapter)
    reference = ReferencePolicy.load(str(adapter))
    assert reference.render("a bun") == "a bun:"


@pytest.mark.parametrize("source", ["action", "shared"])
def test_a_value_model_is_copied_from_it_saved_and_found_again(
    adapter: Path, tiny_network: Callable[..., ValueModel], tmp_path: Path, source: str
) -> None:
    reference = ReferencePolicy.load(str(adapter), device="cpu")
    network = tiny_network(reference, source)
    network.save_pretrained(tmp_path / "value")
    again = load({"humor": tmp_path / "value"}, device="cpu")
    assert again.reference.name == str(adapter)
    asked = {"weights": {"humor": 1.0}, "max_tokens": 6}
    (found,), (want,) = (
        policy.generate(["a bun"], **asked)
        for policy in (again, GuidedPolicy(reference, (network,)))
    )
    assert found.tokens == want.tokens


def test_what_is_trained_on_it_says_so(adapter: Path, base: Path) -> None:
    reference = ReferencePolicy.load(str(adapter), device="cpu")
    assert reference.model.name_or_path == str(adapter)
    other = ReferencePolicy.load(str(base), device="cpu")
    with torch.inference_mode():
        found, want = (base_of(one, str(adapter))(IDS).logits for one in (other, reference))
    torch.testing.assert_close(found, want)


@pytest.mark.parametrize("name", ["gone/far/base", "./gone", "OWNER/NAME"])
def test_a_base_that_is_not_there(adapter: Path, name: str) -> None:
    edit(adapter, base_model_name_or_path=name)
    with pytest.raises(
        FileNotFoundError, match=rf"the base of adapter {adapter} '{name}'"
    ) as caught:
        ReferencePolicy.load(str(adapter))
    where = adapter / "adapter_config.json"
    remedy = f"Write into {where}, as base_model_name_or_path, where it is now."
    assert str(caught.value).endswith(remedy)
    assert "\n" not in str(caught.value)


def test_a_base_that_is_not_named(adapter: Path) -> None:
    edit(adapter, base_model_name_or_path=None)
    with pytest.raises(ValueError, match="does not say which model it is for"):
        ReferencePolicy.load(str(adapter))


def test_a_base_of_another_shape(
    adapter: Path, tiny_lm: Callable[..., PreTrainedModel], base: Path
) -> None:
    tiny_lm(hidden_size=48).save_pretrained(base)
    with pytest.raises(ValueError, match=f"adapter {adapter} .*size mismatch"):
        ReferencePolicy.load(str(adapter))


def test_a_damaged_adapter(adapter: Path) -> None:
    seal(adapter)
    weights = adapter / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    with pytest.raises(ValueError, match=r"adapter_model\.safetensors is damaged"):
        ReferencePolicy.load(str(adapter))


def test_an_adapter_of_an_adapter(adapter: Path, base: Path, tmp_path: Path) -> None:
    second = adapt(base, tmp_path / "second")
    edit(second, base_model_name_or_path=str(adapter))
    with pytest.raises(ValueError, match=f"is an adapter, too: merge {adapter} first"):
        ReferencePolicy.load(str(second))


def test_without_the_extra(adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapters, "find_spec", lambda _: None)
    with pytest.raises(ModuleNotFoundError, match=r'peft .*: pip install "mavis\[lora\]"'):
        ReferencePolicy.load(str(adapter))
