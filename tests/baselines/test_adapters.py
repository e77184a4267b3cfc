"""Adapters of every kind that PEFT knows, mixed and stirred, against plain PEFT."""

import warnings
from copy import deepcopy

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

from mavis.baselines.policy_guides import load_policies, mod
from mavis.baselines.soup import soup
from mavis.decoding.guidance import PolicyRows
from mavis.decoding.reference import ReferencePolicy
from mavis.decoding.tilt import RowSettings

# What a kind needs beside the layers that it is put on.
OPTIONS = {
    "ADALORA": {"total_step": 10},
    "ADAPTION_PROMPT": {"adapter_len": 2, "adapter_layers": 1, "target_modules": "self_attn"},
    "C3A": {"block_size": 8},
    "FOURIERFT": {"n_frequency": 16},
    "IA3": {"target_modules": ["q_proj", "down_proj"], "feedforward_modules": ["down_proj"]},
    "OFT": {"oft_block_size": 8},
    "MISS": {"r": 4},
    "PSOFT": {"r": 4},
    "ROAD": {"group_size": 8},
    "SHIRA": {"r": 4},
    "TRAINABLE_TOKENS": {"target_modules": ["embed_tokens"], "token_indices": [5, 6, 7]},
    "VBLORA": {"vector_length": 8},
    "WAVEFT": {"n_frequency": 16},
}
LORA = {
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "pattern": {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"v_proj": 5}},
    "one layer": {"layers_to_transform": [1]},
    "head": {"target_modules": ["q_proj", "lm_head"]},
    "embeddings": {"target_modules": ["q_proj", "embed_tokens"]},
    "both ends": {"target_modules": ["embed_tokens", "lm_head"]},
    "tied ends": {"target_modules": ["q_proj", "embed_tokens"], "ensure_weight_tying": True},
    "dora head": {"target_modules": ["q_proj", "lm_head"], "use_dora": True},
    "saved norm": {"modules_to_save": ["norm"]},
    "saved head": {"modules_to_save": ["lm_head"]},
    "saved embeddings": {"modules_to_save": ["embed_tokens"]},
    "saved and tied": {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
    "tokens": {"trainable_token_indices": [5, 6, 7]},
    "biases": {"bias": "all"},
    "own biases": {"bias": "lora_only"},
    "new biases": {"lora_bias": True},
    "pissa": {"init_lora_weights": "pissa"},
    "olora": {"init_lora_weights": "olora"},
    "activated": {"alora_invocation_tokens": [5]},
    "replicated": {"layer_replication": [[0, 2], [1, 2]]},
}
# What cannot be a policy at all, and what can, but has no weights of its own that could be summed.
NEVER = {
    *("ADAPTION_PROMPT", "CARTRIDGE", "CPT", "MULTITASK_PROMPT_TUNING", "POLY", "PREFIX_TUNING"),
    *("PROMPT_TUNING", "P_TUNING", "SHADOW", "XLORA", "activated", "replicated"),
    "LILY",  # routes by the mean of all tokens that are read at once
}
WITH_BIASES = ("BEFT", "biases", "own biases", "new biases")
KINDS = [(kind.value, "tied") for kind in PEFT_TYPE_TO_CONFIG_MAPPING]
KINDS += [(kind, "tied") for kind in LORA] + [(kind, "biased") for kind in WITH_BIASES]


@pytest.fixture(scope="module")
def references(build_reference, tmp_path_factory):
    more = {"tied": {"tie_word_embeddings": True}, "biased": {"attention_bias": True}}
    root = tmp_path_factory.mktemp("references")
    return {name: saved(build_reference(**one), root / name) for name, one in more.items()}


def saved(reference, folder):
    reference.model.save_pretrained(folder)
    reference.tokenizer.save_pretrained(folder)
    return ReferencePolicy.load(str(folder))


def fresh(reference):
    return deepcopy(reference.model)


def configured(kind):
    """The configuration of a kind, over the layers that most of them can be put on."""
    if kind in LORA:
        more = {"r": 3, "lora_alpha": 6, "target_modules": ["q_proj", "v_proj"]} | LORA[kind]
        return LoraConfig(task_type=TaskType.CAUSAL_LM, **more)
    made = PEFT_TYPE_TO_CONFIG_MAPPING[kind]
    known = made.__dataclass_fields__
    more = {"target_modules": ["q_proj", "v_proj"]} if "target_modules" in known else {}
    more |= {"num_virtual_tokens": 2} if "num_virtual_tokens" in known else {}
    return made(task_type=TaskType.CAUSAL_LM, **(more | OPTIONS.get(kind, {})))


def trained(reference, config, folder, seed=1):
    """Save an adapter with noise in all that it trains; return what plain PEFT makes of it."""
    with warnings.catch_warnings(), torch.random.fork_rng():
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        model = get_peft_model(fresh(reference), config)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data += 0.1 * torch.randn_like(parameter)
        model.save_pretrained(folder)
        return last_log_probs(PeftModel.from_pretrained(fresh(reference), folder).eval(), reference)


def last_log_probs(model, reference):
    tokens = torch.tensor([reference.encode("the sun is an umm").tokens])
    with torch.no_grad():
        return model(input_ids=tokens).logits[0, -1, : reference.vocabulary].log_softmax(-1)


def first_step(policy, weights):
    """log π of the whole vocabulary after a prompt, by the decoding core."""
    vocabulary, one = policy.reference.vocabulary, torch.ones(1)
    states = PolicyRows(policy.reference, policy.guides, policy.rule, 1)
    tokens = policy.reference.encode("the sun is an umm").tokens
    settings = RowSettings(torch.tensor([weights]), one, one, torch.tensor([vocabulary]), one)
    with torch.inference_mode():
        options, log_pi = states.step(np.array([0]), [tokens], settings)
    result = torch.empty(vocabulary)
    result[options.tokens[0]] = log_pi[0]
    return result


@pytest.mark.parametrize(("kind", "base"), KINDS)
def test_a_kind_is_what_peft_makes_of_it_or_is_refused_by_name(references, kind, base, tmp_path):
    name, reference = "LORA" if kind in LORA else kind, references[base]
    before = last_log_probs(reference.model, reference)
    try:
        config = configured(kind)
        want = trained(reference, config, tmp_path)
    except Exception as error:
        if kind not in NEVER:
            raise
        pytest.skip(f"PEFT itself cannot: {error}")
    if kind in NEVER:
        for load in (ReferencePolicy.load, lambda place: load_policies(reference, {"a": place})):
            with pytest.raises(ValueError, match=f"{tmp_path} is a {name} adapter"):
                load(str(tmp_path))
        return
    mixture = mod(reference, {"a": tmp_path})
    torch.testing.assert_close(first_step(mixture, [1.0]), want, atol=1e-3, rtol=0)
    assert (want - before).abs().max() > 1e-2  # or their agreement would mean nothing
    if kind in {"BEFT", "new biases"} and base == "tied":  # no bias there that could take theirs
        for whole in (
            lambda: soup(reference, mixture.guides, {"a": 1.0}),
            lambda: ReferencePolicy.load(str(tmp_path)),
        ):
            with pytest.raises(ValueError, match=f"{tmp_path} is a {name} .* cannot be merged"):
                whole()
    else:
        alone = ReferencePolicy.load(str(tmp_path))
        torch.testing.assert_close(last_log_probs(alone.model, alone), want, atol=1e-3, rtol=0)
        result = soup(reference, mixture.guides, {"a": 1.0}).guides[0].model
        torch.testing.assert_close(last_log_probs(result, reference), want, atol=1e-3, rtol=0)
    assert torch.equal(last_log_probs(reference.model, reference), before)  # nothing was done to it
