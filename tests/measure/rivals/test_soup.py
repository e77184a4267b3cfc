"""Soups against weights merged by hand."""

import math

import pytest
import torch
from peft import LoraConfig, get_peft_model

from mavis.guide.reference import ReferencePolicy
from mavis.guide.trunk import adapting
from mavis.measure.rivals.policies import Policies, base_of, guide
from mavis.measure.rivals.soup import save, soup

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
    return (Policies(model.eval(), ("humor", "kind"), reference.vocabulary, ("humor", "kind")),)


def stirred(policy):
    return policy.networks[0].model.state_dict()


@pytest.mark.parametrize("weights", WEIGHTS, ids=str)
def test_full_weights_are_the_hand_merged_ones(reference, full, weights):
    found = stirred(soup(reference, full, weights))
    start = reference.model.state_dict()
    for name, theta in start.items():
        want = (1 - sum(weights.values())) * theta.double()
        for policy in full:
            want += weights[policy.objectives[0]] * policy.model.state_dict()[name].double()
        torch.testing.assert_close(found[name].double(), want, atol=1e-6, rtol=1e-6)


def factors(model, adapter):
    """name of a weight -> (scaled B, A) of one adapter."""
    state, found = model.state_dict(), {}
    scale = {"humor": 6 / 3, "kind": 3 / 3}[adapter]
    for name, up in state.items():
        if f"lora_B.{adapter}" in name:
            down = state[name.replace("lora_B", "lora_A")]
            plain = name.removeprefix("base_model.model.").split(".lora_B")[0] + ".weight"
            found[plain] = (scale, up.double(), down.double())
    assert found
    return found


@pytest.mark.parametrize("weights", WEIGHTS, ids=str)
def test_adapters_are_summed_by_their_products(reference, lora, weights):
    found = stirred(soup(reference, lora, weights))
    start = {name: tensor.double() for name, tensor in reference.model.state_dict().items()}
    for adapter, weight in weights.items():
        for name, (scale, up, down) in factors(lora[0].model, adapter).items():
            start[name] = start[name] + weight * scale * up @ down
    for name, want in start.items():
        torch.testing.assert_close(found[name].double(), want, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("weights", WEIGHTS, ids=str)
def test_the_product_of_sums_is_another_thing(reference, lora, weights):
    """√|λs| on either factor and the sign on one: what is published as `linear`."""
    found = stirred(soup(reference, lora, weights, how="factors"))
    exact = stirred(soup(reference, lora, weights))
    both = {adapter: factors(lora[0].model, adapter) for adapter in weights}
    for name, start in reference.model.state_dict().items():
        if name not in both["humor"]:
            torch.testing.assert_close(found[name], start)
            continue
        ups = downs = 0
        for adapter, weight in weights.items():
            scale, up, down = both[adapter][name]
            root = math.sqrt(abs(weight * scale))
            ups, downs = ups + root * up, downs + math.copysign(root, weight) * down
        want = start.double() + ups @ downs
        torch.testing.assert_close(found[name].double(), want, atol=1e-5, rtol=1e-5)
    assert max((found[name] - exact[name]).abs().max() for name in exact) > 0.05


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
            torch.testing.assert_close(tensor, stirred(policy)[name])
        answers = policy.generate(["an um", "sun"], top_k=0, max_tokens=4)
        assert len(answers) == 2


def test_one_hot_is_the_policy_and_nothing_is_the_reference(reference, full, lora):
    for policies in (full, lora):
        nothing = stirred(soup(reference, policies, {"humor": 0.0, "kind": 0.0}))
        for name, tensor in reference.model.state_dict().items():
            torch.testing.assert_close(nothing[name], tensor)
    one = stirred(soup(reference, full, {"kind": 1.0}))
    for name, tensor in full[1].model.state_dict().items():
        torch.testing.assert_close(one[name], tensor, atol=1e-6, rtol=1e-6)


def test_what_cannot_be_stirred_is_said(reference, full, lora, tiny_lm):
    with pytest.raises(ValueError, match="weights must be for humor, kind, got 'sad'"):
        soup(reference, full, {"sad": 1.0})
    with pytest.raises(ValueError, match="full models alone or of adapters of one base"):
        soup(reference, (*lora, full[0]), {"humor": 1.0})
    small = guide(reference, "small", tiny_lm(layers=1))
    with pytest.raises(ValueError, match="policy small has not the shape of"):
        soup(reference, (full[0], small), {"humor": 1.0})
