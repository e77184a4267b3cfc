"""What is refused by name, before weights are read and after: rows that their neighbours change."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from mavis.baselines.policy_guides import mod
from mavis.decoding import kv_cache
from mavis.decoding.architectures import check_architecture, try_rows
from mavis.decoding.backbone import load_trunk, sibling
from mavis.decoding.policy import GuidedPolicy
from mavis.decoding.reference import ReferencePolicy
from mavis.decoding.request import SamplingParams
from mavis.decoding.windows import windows_of

Build = Callable[..., ReferencePolicy]


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
        ("llama4_text", {"attn_temperature_tuning": False}, "chunked attention"),
        ("t5", {}, "encoder-decoder"),
        ("bart", {}, "encoder-decoder"),
        ("bloom", {}, "ALiBi"),
        ("mpt", {}, "ALiBi"),
        ("falcon", {"alibi": True}, "ALiBi"),
        ("roberta", {"is_decoder": True}, "position"),
        ("xlm-roberta", {"is_decoder": True}, "position"),
        ("gptj", {}, "mask"),
        ("llama4_text", {"layer_types": ["full_attention"] * 48}, "scaled by the longest row"),
        ("blt", {}, "no plain cache"),
        ("gpt_neo", {}, "from the end of the longest row"),
        ("resnet", {}, "causal"),
        ("vit", {}, "causal"),
    ],
)
def test_refused_by_name_at_once(kind: str, settings: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=rf"{kind} models cannot be guided: .*{reason}") as caught:
        check_architecture(config(kind, **settings))
    assert len(str(caught.value)) < 200


def says_the_same_alone(reference: ReferencePolicy) -> bool:
    """Whether a row is what it is by itself beside a longer one."""
    policy, prompts = GuidedPolicy(reference), ["a bun", "b" * 20]
    (alone,), (beside, _) = policy.generate(prompts[:1]), policy.generate(prompts)
    return beside.tokens == alone.tokens and abs(beside.log_ref - alone.log_ref) < 1e-3


def test_families_that_work_are_let_through(family: str, build_reference: Build) -> None:
    check_architecture(config(family))
    assert says_the_same_alone(build_reference(family))


@pytest.mark.parametrize("kind", ["mistral", "falcon", "phi3", "starcoder2"])
def test_others_are_let_through_without_a_window(kind: str, build_reference: Build) -> None:
    settings = {"sliding_window": None} if kind != "falcon" else {"alibi": False}
    check_architecture(config(kind, **settings))
    assert says_the_same_alone(build_reference(kind, **settings))


LAYERS = {"layer_types": ["sliding_attention", "full_attention"]}
LATER = {"use_sliding_window": True, "max_window_layers": 1}  # in the second layer alone


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("phi3", {}),
        ("starcoder2", {}),
        ("qwen2", LATER),
        ("qwen2", LATER | {"max_window_layers": 0}),
        ("qwen3", LATER),
        ("mixtral", {"num_local_experts": 2}),
        ("cohere2", LAYERS),
        ("olmo3", LAYERS),
        ("gpt_oss", LAYERS | {"num_local_experts": 2, "num_experts_per_tok": 1}),
    ],
)
def test_sliding_windows_are_those_of_a_plain_forward(
    kind: str, settings: dict[str, Any], build_reference: Build, naive: Any
) -> None:
    """Through windows of six tokens, beside a row that is much longer, far beyond the window."""
    reference = build_reference(kind, sliding_window=6, **settings)
    assert 6 in windows_of(reference.model.config).values()
    policy, slow = GuidedPolicy(reference), naive(reference)
    prompts = ["a bun", "b" * 40]
    for prompt, answer in zip(prompts, policy.generate(prompts, max_tokens=12), strict=True):
        tokens = list(reference.encode(prompt).tokens)
        total = 0.0
        for token in answer.tokens:
            total += slow.step(tokens, SamplingParams(top_k=0)).log_ref[token]
            tokens.append(token)
        assert answer.log_ref == pytest.approx(total, abs=1e-3)


def test_a_window_that_a_model_does_not_keep_is_found_out_when_it_is_loaded(
    tiny_lm: Callable[..., PreTrainedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows that are tried are shorter than any real window, which is narrowed for them."""
    model = tiny_lm("mistral", sliding_window=64)
    try_rows(model, "here")
    assert model.config.sliding_window == 64
    monkeypatch.setattr(kv_cache, "windows_of", lambda _: {"": None})
    with pytest.raises(ValueError, match=r"here cannot be guided \(mistral\): a row changes"):
        try_rows(model, "here")
    assert model.config.sliding_window == 64


LONG = {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [4.0] * 4}
LONG |= {"factor": 4.0, "original_max_position_embeddings": 40, "rope_theta": 10_000.0}
GROWS = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10_000.0}
FIXED = {"rope_type": "default", "rope_theta": 10_000.0}


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("llama", {"rope_parameters": GROWS}),
        ("llama", {"rope_scaling": {"type": "dynamic", "factor": 2.0}}),
        (
            "phi3",
            {"rope_parameters": LONG | {"short_factor": [1.0] * 48, "long_factor": [2.0] * 48}},
        ),
        ("gemma3_text", {"rope_parameters": {"full_attention": GROWS, "sliding_attention": FIXED}}),
        ("llava", {"text_config": {"model_type": "llama", "rope_parameters": GROWS}}),
    ],
)
def test_positions_that_are_scaled_by_the_longest_row(kind: str, settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=rf"{kind} models cannot .* 'dynamic|longrope' are scaled"):
        check_architecture(config(kind, **settings))


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_type": "linear", "factor": 4.0},
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 40},
        {"rope_type": "llama3", "factor": 4.0, "original_max_position_embeddings": 40}
        | {"low_freq_factor": 1.0, "high_freq_factor": 4.0},
    ],
)
def test_positions_that_are_scaled_once_and_for_all(
    rope: dict[str, Any],
    build_reference: Callable[..., ReferencePolicy],
    naive: Any,
) -> None:
    """Beside a row that is longer than the model was trained for: as it is by itself."""
    reference = build_reference(rope_parameters=rope | {"rope_theta": 10_000.0})
    policy = GuidedPolicy(reference)
    prompts = ["a bun", "b" * 90]
    alone, beside = policy.generate(prompts[:1]), policy.generate(prompts)
    assert beside[0].tokens == alone[0].tokens
    assert beside[0].log_ref == pytest.approx(alone[0].log_ref, abs=1e-4)
    slow, tokens = naive(reference), list(reference.encode(prompts[0]).tokens)
    total = 0.0
    for token in alone[0].tokens:
        total += slow.step(tokens, SamplingParams(top_k=0)).log_ref[token]
        tokens.append(token)
    assert alone[0].log_ref == pytest.approx(total, abs=1e-3)


@pytest.mark.parametrize("rope", [LONG, GROWS], ids=["longrope", "dynamic"])
def test_neither_references_nor_trunks_nor_policies_scale_by_the_longest_row(
    rope: dict[str, Any],
    tiny_lm: Callable[..., PreTrainedModel],
    tiny_tokenizer: Callable[..., PreTrainedTokenizerBase],
    tiny_reference: ReferencePolicy,
    tmp_path: Path,
) -> None:
    model = tiny_lm(rope_parameters=rope)
    for part in (model, tiny_tokenizer()):
        part.save_pretrained(tmp_path)
    for make in (
        lambda: ReferencePolicy(model, tiny_tokenizer()),
        lambda: ReferencePolicy.load(str(tmp_path)),
        lambda: load_trunk(str(tmp_path)),
        lambda: sibling(str(tmp_path), tiny_reference),
        lambda: mod(tiny_reference, {"humor": tmp_path}),
    ):
        with pytest.raises(ValueError, match=r"llama models cannot .* by the longest row"):
            make()


@pytest.mark.parametrize("deaf", ["position_ids", "attention_mask"])
def test_models_that_do_not_listen_are_found_out_when_they_are_loaded(
    deaf: str,
    tiny_lm: Callable[..., PreTrainedModel],
    tiny_tokenizer: Callable[..., PreTrainedTokenizerBase],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = tiny_lm()
    try_rows(model, "here")
    listen = model.forward
    monkeypatch.setattr(model, "forward", lambda **said: listen(**said | {deaf: None}))
    with pytest.raises(ValueError, match=r"reference cannot be guided \(llama\): a row changes"):
        ReferencePolicy(model, tiny_tokenizer())


def test_models_with_caches_of_their_own_are_found_out_when_they_are_loaded(
    tiny_lm: Callable[..., PreTrainedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    def forward(**said: Any) -> Any:
        if said["use_cache"]:
            raise ValueError("I want a cache of my own.\nSo there.")
        return listen(**said)

    model = tiny_lm()
    listen = model.forward
    monkeypatch.setattr(model, "forward", forward)
    with pytest.raises(ValueError, match=r"here cannot .* side by side: I want .* own\.$"):
        try_rows(model, "here")


def test_broken_weights_are_no_reason_to_refuse_an_architecture(
    tiny_lm: Callable[..., PreTrainedModel], tiny_tokenizer: Callable[..., PreTrainedTokenizerBase]
) -> None:
    """They are told where they are asked for."""
    model = tiny_lm()
    with torch.no_grad():
        model.lm_head.weight[4:] = torch.nan
    policy = GuidedPolicy(ReferencePolicy(model, tiny_tokenizer(), "here"))
    with pytest.raises(ValueError, match="reference here gave NaN for the token after 'a bun'"):
        policy.generate(["a bun"])
