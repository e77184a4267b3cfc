"""Soups against weights merged by hand."""

import math
from copy import deepcopy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import GPT2Config, LlamaConfig

from mavis.baselines.adapter_bases import base_of
from mavis.baselines.policy_guides import PolicyGuide, guide, save_policy
from mavis.baselines.soup import differing, fill, fitted, soup, untie
from mavis.decoding.backbone import adapting
from mavis.decoding.reference import ReferencePolicy

WEIGHTS = [{"humor": 0.7, "kind": 0.3}, {"humor": 1.5, "kind": -0.5}, {"humor": 0.2, "kind": 0.1}]
TARGETS = ["q_proj", "down_proj"]


@pytest.fixture(scope="module")
def reference(build_reference, tmp_path_factory):
    folder = tmp_path_factory.mktemp("soup")
    made = build_reference(seed=0)
    made.model.save_pretrained(folder)
    made.tokenizer.save_pretrained(folder)
    return ReferencePolicy.load(str(folder))


@pytest.fixture
def full(reference, tiny_lm):
    models = {"humor": tiny_lm(seed=3), "kind": tiny_lm(seed=4)}
    return tuple(guide(reference, name, model) for name, model in models.items())


@pytest.fixture
def lora(reference):
    """Two random adapters of different scale over one base."""
    options = LoraConfig(r=3, lora_alpha=6, target_modules=TARGETS)
    with adapting():
        model = get_peft_model(base_of(reference, reference.name), options, adapter_name="humor")
    model.add_adapter("kind", LoraConfig(r=3, lora_alpha=3, target_modules=TARGETS))
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return (PolicyGuide(model.eval(), ("humor", "kind"), reference.vocabulary, ("humor", "kind")),)


def save(policy, folder):
    save_policy(policy.guides[0].model, policy.reference, folder)


def weights_of(policy):
    return policy.guides[0].model.state_dict()


@pytest.mark.parametrize("weights", WEIGHTS, ids=str)
def test_full_weights_are_the_hand_merged_ones(reference, full, weights):
    result = weights_of(soup(reference, full, weights))
    start = reference.model.state_dict()
    for name, theta in start.items():
        want = (1 - sum(weights.values())) * theta.double()
        for policy in full:
            want += weights[policy.objectives[0]] * policy.model.state_dict()[name].double()
        torch.testing.assert_close(result[name].double(), want, atol=1e-6, rtol=1e-6)


def factors(model, adapter):
    """name of a weight -> (scaled B, A) of one adapter."""
    state, result = model.state_dict(), {}
    scale = {"humor": 6 / 3, "kind": 3 / 3}[adapter]
    for name, up in state.items():
        if f"lora_B.{adapter}" in name:
            down = state[name.replace("lora_B", "lora_A")]
            plain = name.removeprefix("base_model.model.").split(".lora_B")[0] + ".weight"
            result[plain] = (scale, up.double(), down.double())
    assert result
    return result


@pytest.mark.parametrize("weights", WEIGHTS, ids=str)
def test_adapters_are_summed_by_their_products(reference, lora, weights):
    result = weights_of(soup(reference, lora, weights))
    start = {name: tensor.double() for name, tensor in reference.model.state_dict().items()}
    for adapter, weight in weights.items():
        for name, (scale, up, down) in factors(lora[0].model, adapter).items():
            start[name] = start[name] + weight * scale * up @ down
    for name, want in start.items():
        torch.testing.assert_close(result[name].double(), want, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("weights", WEIGHTS, ids=str)
def test_the_product_of_sums_is_another_thing(reference, lora, weights):
    """√|λs| on either factor and the sign on one: what is published as `linear`."""
    result = weights_of(soup(reference, lora, weights, how="factors"))
    exact = weights_of(soup(reference, lora, weights))
    both = {adapter: factors(lora[0].model, adapter) for adapter in weights}
    for name, start in reference.model.state_dict().items():
        if name not in both["humor"]:
            torch.testing.assert_close(result[name], start)
            continue
        ups = downs = 0
        for adapter, weight in weights.items():
            scale, up, down = both[adapter][name]
            root = math.sqrt(abs(weight * scale))
            ups, downs = ups + root * up, downs + math.copysign(root, weight) * down
        want = start.double() + ups @ downs
        torch.testing.assert_close(result[name].double(), want, atol=1e-5, rtol=1e-5)
    assert max((result[name] - exact[name]).abs().max() for name in exact) > 0.05


def test_a_soup_leaves_its_ingredients_alone_and_can_be_kept(reference, lora, full, tmp_path):
    for policies in (lora, full):
        before = [{n: t.clone() for n, t in p.model.state_dict().items()} for p in policies]
        start = {n: t.clone() for n, t in reference.model.state_dict().items()}
        policy = soup(reference, policies, WEIGHTS[1])
        for one, was in zip(policies, before, strict=True):
            for name, tensor in one.model.state_dict().items():
                assert torch.equal(tensor, was[name])
        assert all(torch.equal(t, start[n]) for n, t in reference.model.state_dict().items())
        save(policy, tmp_path / "soup")
        again = ReferencePolicy.load(str(tmp_path / "soup"))
        for name, tensor in again.model.state_dict().items():
            torch.testing.assert_close(tensor, weights_of(policy)[name])
        answers = policy.generate(["an um", "sun"], top_k=0, max_tokens=4)
        assert len(answers) == 2


def test_a_flipped_bit_in_a_soup_that_was_kept_is_named(reference, full, tmp_path):
    policy = soup(reference, full, WEIGHTS[1])
    save(policy, tmp_path)
    weights = tmp_path / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ValueError, match=rf"{weights} is damaged or was changed"):
        ReferencePolicy.load(str(tmp_path))
    save(policy, tmp_path)
    ReferencePolicy.load(str(tmp_path))


def test_policies_may_be_named_by_their_folders(reference, full, tmp_path):
    for policy in full:
        policy.model.save_pretrained(tmp_path / policy.objectives[0])
        reference.tokenizer.save_pretrained(tmp_path / policy.objectives[0])
    folders = {name: tmp_path / name for name in ("humor", "kind")}
    weights = {"humor": 0.3, "kind": 0.7}
    result, want = (weights_of(soup(reference, given, weights)) for given in (folders, full))
    for name, tensor in want.items():
        torch.testing.assert_close(result[name], tensor)


def test_one_hot_is_the_policy_and_nothing_is_the_reference(reference, full, lora):
    for policies in (full, lora):
        nothing = weights_of(soup(reference, policies, {"humor": 0.0, "kind": 0.0}))
        for name, tensor in reference.model.state_dict().items():
            torch.testing.assert_close(nothing[name], tensor)
    one = weights_of(soup(reference, full, {"kind": 1.0}))
    for name, tensor in full[1].model.state_dict().items():
        torch.testing.assert_close(one[name], tensor, atol=1e-6, rtol=1e-6)


def test_what_cannot_be_stirred_is_said(reference, full, tiny_lm):
    with pytest.raises(ValueError, match="weights must be for humor, kind, got 'sad'"):
        soup(reference, full, {"sad": 1.0})
    with pytest.raises(ValueError, match=r'weights must be by name, as in {"humor": 0\.5}, got \['):
        soup(reference, full, [0.5, 0.5])
    for other, message in [
        (tiny_lm(layers=1), r"num_hidden_layers \(2 and 1\)"),
        (tiny_lm("gpt2"), r"model_type \(llama and gpt2\)"),
        (tiny_lm(rope_parameters={"rope_type": "default", "rope_theta": 9.0}), "rope_parameters"),
        (tiny_lm(hidden_act="gelu"), r"hidden_act \(silu and gelu\)"),
        (tiny_lm(rms_norm_eps=0.1), "rms_norm_eps"),
    ]:
        with pytest.raises(ValueError, match=f"the policy other and .* differ in {message}"):
            soup(reference, (full[0], guide(reference, "other", other)), {"other": 1.0})
    hooked = tiny_lm(seed=5)
    hooked.lm_head.register_forward_hook(lambda *given: 2 * given[-1])
    with pytest.raises(ValueError, match="the policy other is more than its weights"):
        soup(reference, (guide(reference, "other", hooked),), {"other": 1.0})


def test_factors_are_of_plain_adapters_alone(reference, full):
    with pytest.raises(ValueError, match="must be of plain LoRA adapters of one base"):
        soup(reference, full, {"humor": 1.0}, how="factors")
    with adapting():
        options = LoraConfig(r=3, use_rslora=True, target_modules=TARGETS)
        model = get_peft_model(base_of(reference, reference.name), options, adapter_name="humor")
    scaled = PolicyGuide(model.eval(), ("humor",), reference.vocabulary, ("humor",), ("here",))
    with pytest.raises(ValueError, match="humor at here one is LORA with use_rslora"):
        soup(reference, (scaled,), {"humor": 1.0}, how="factors")


def test_adapters_and_full_models_in_one_soup(reference, full, lora):
    """Each is the full weights that it makes."""
    one, two = full[0], lora[0]
    mixed = (guide(reference, "full", one.model), two)
    weights = {"full": 0.4, "humor": 0.7, "kind": -0.2}
    result = weights_of(soup(reference, mixed, weights))
    for name, start in reference.model.state_dict().items():
        want = start.double() + 0.4 * (one.model.state_dict()[name].double() - start.double())
        for adapter in ("humor", "kind"):
            if name in (parts := factors(two.model, adapter)):
                scale, up, down = parts[name]
                want = want + weights[adapter] * scale * up @ down
        torch.testing.assert_close(result[name].double(), want, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("tied", ["reference", "policy"])
def test_ends_that_have_come_apart_stay_apart(build_reference, tiny_lm, tmp_path, tied):
    """The head and the embeddings, of which one model has one matrix and the other two."""
    models = {name: {"tie_word_embeddings": name == tied} for name in ("reference", "policy")}
    reference = build_reference(seed=1, **models["reference"])
    policies = (guide(reference, "humor", tiny_lm(seed=2, **models["policy"])),)
    policy = soup(reference, policies, {"humor": 0.6})
    result, start = weights_of(policy), reference.model.state_dict()
    for name, theta in policies[0].model.state_dict().items():
        torch.testing.assert_close(result[name], 0.4 * start[name] + 0.6 * theta)
    assert not torch.equal(result["lm_head.weight"], result["model.embed_tokens.weight"])
    save(policy, tmp_path)
    again = ReferencePolicy.load(str(tmp_path))
    for name, theta in again.model.state_dict().items():
        torch.testing.assert_close(theta, result[name])
    assert not again.model.config.tie_word_embeddings


def test_ends_that_are_tied_stay_tied(build_reference, tiny_lm, tmp_path):
    reference = build_reference(seed=1, tie_word_embeddings=True)
    policies = (guide(reference, "humor", tiny_lm(seed=2, tie_word_embeddings=True)),)
    model = (policy := soup(reference, policies, {"humor": 0.6})).guides[0].model
    assert model.lm_head.weight is model.model.embed_tokens.weight
    save(policy, tmp_path)
    assert ReferencePolicy.load(str(tmp_path)).model.config.tie_word_embeddings


def test_tokens_that_the_reference_does_not_know_are_left_out(reference, tiny_lm):
    more = tiny_lm(vocab=reference.vocabulary + 3, seed=4)
    result = weights_of(soup(reference, (guide(reference, "humor", more),), {"humor": 1.0}))
    for name, theta in more.state_dict().items():
        torch.testing.assert_close(result[name], theta[: len(result[name])])


def test_half_precision_is_summed_in_full(reference, full):
    """Weights of 16 bits, as on an accelerator: rounded once, at the end."""
    halves = deepcopy(reference)
    halves.model.to(torch.bfloat16)
    models = {n: deepcopy(p.model).to(torch.bfloat16) for n, p in zip("ab", full, strict=True)}
    policies = tuple(guide(halves, name, model) for name, model in models.items())
    result = weights_of(soup(halves, policies, {"a": 0.3, "b": 0.4}))
    for name, start in halves.model.state_dict().items():
        parts = [model.state_dict()[name].float() for model in models.values()]
        want = 0.3 * start.float() + 0.3 * parts[0] + 0.4 * parts[1]
        torch.testing.assert_close(result[name], want.to(torch.bfloat16), atol=1e-6, rtol=1e-2)
        assert result[name].dtype == torch.bfloat16


@pytest.fixture
def tied(tiny_lm):
    return tiny_lm(layers=1, tie_word_embeddings=True)


def copy_of(tiny_lm, model):
    other = tiny_lm(layers=1, seed=5, tie_word_embeddings=True)
    untie(other)
    return other, {name: tensor.clone() for name, tensor in model.state_dict().items()}


def test_untied_parts_have_the_same_numbers_and_are_apart(tied):
    table, head = tied.get_input_embeddings(), tied.get_output_embeddings()
    assert table.weight is head.weight
    untie(tied)
    assert table.weight is not head.weight
    assert torch.equal(table.weight, head.weight)


def test_equal_parts_are_tied_again(tied, tiny_lm):
    other, weights = copy_of(tiny_lm, tied)
    fill(other, tied, weights)
    assert other.get_input_embeddings().weight is other.get_output_embeddings().weight
    assert torch.equal(other.get_input_embeddings().weight, tied.get_input_embeddings().weight)
    assert not any(p.requires_grad for p in other.parameters())


def test_a_head_that_came_apart_stays_apart(tied, tiny_lm):
    other, weights = copy_of(tiny_lm, tied)
    weights["lm_head.weight"] += 1.0
    fill(other, tied, weights)
    assert other.config.tie_word_embeddings is False
    gap = other.get_output_embeddings().weight - other.get_input_embeddings().weight
    torch.testing.assert_close(gap, torch.ones_like(gap))


def test_weights_of_more_tokens_are_cut_and_others_do_not_fit(tiny_lm):
    small, large = tiny_lm(vocab=30, layers=1), tiny_lm(vocab=35, layers=1)
    result = fitted(large.state_dict(), small)
    assert result is not None
    assert result["lm_head.weight"].shape == (30, 32)
    assert torch.equal(result["lm_head.weight"], large.state_dict()["lm_head.weight"][:30])
    assert fitted(tiny_lm(vocab=30, layers=2).state_dict(), small) is None


def test_options_that_matter():
    assert differing(LlamaConfig(), LlamaConfig(vocab_size=5, use_cache=False)) is None
    assert differing(LlamaConfig(), LlamaConfig(hidden_act="gelu")) == "hidden_act (silu and gelu)"
    assert differing(LlamaConfig(), GPT2Config()) == "model_type (llama and gpt2)"
