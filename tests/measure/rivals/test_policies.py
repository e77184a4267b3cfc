"""MOD and tuned policies in the decoding core, against full forwards and formulas written out."""

import itertools
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model

from mavis.guide.policy import GuidedPolicy
from mavis.guide.reference import ReferencePolicy
from mavis.guide.trunk import adapting
from mavis.measure.rivals.divergence import mixture
from mavis.measure.rivals.policies import base_of, guide, load_policies, mod

PROMPTS = ["an um", "the sun is", "a", "Human: is it?", "mis"]


def save(reference, folder):
    reference.model.save_pretrained(folder)
    reference.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory, build_reference):
    """The reference and two policies, one of them smaller and of another family."""
    root = tmp_path_factory.mktemp("policies")
    return {
        "reference": save(build_reference(seed=0), root / "reference"),
        "humor": save(build_reference(seed=3), root / "humor"),
        "kind": save(build_reference("gpt2", layers=1, seed=4), root / "kind"),
    }


def adapter(reference, seed, **options):
    """A peft model over the reference with a random adapter."""
    torch.manual_seed(seed)
    options = {"r": 3, "lora_alpha": 5, "target_modules": ["q_proj", "down_proj"]} | options
    with adapting():
        model = get_peft_model(base_of(reference, reference.name), LoraConfig(**options))
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


@pytest.fixture(scope="module")
def adapters(tmp_path_factory, folders):
    root = tmp_path_factory.mktemp("adapters")
    reference = ReferencePolicy.load(str(folders["reference"]))
    for seed, name in enumerate(["humor", "kind", "calm"], 1):
        adapter(reference, seed).save_pretrained(root / name)
    return {name: root / name for name in ("humor", "kind", "calm")}


@pytest.fixture(scope="module")
def reference(folders):
    return ReferencePolicy.load(str(folders["reference"]))


def log_probs(model, tokens):
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([tokens]), use_cache=False).logits
    return torch.log_softmax(logits[0, -1].double(), -1)


def assert_follows(policy, answers, models, weights, rule, top_k):
    """Each answer's KL and log-ratios, from whole sequences: no cache, no batch."""
    reference = policy.reference
    for answer in answers:
        tokens = reference.encode(answer.prompt).tokens
        kl = ratio = log_ref_sum = 0.0
        for step, token in enumerate(answer.tokens):
            seen = [*tokens, *answer.tokens[:step]]
            log_ref = log_probs(reference.model, seen)
            ratios = torch.stack([log_probs(m, seen) - log_ref for m in models], -1)
            top = log_ref.topk(top_k or len(log_ref)).indices
            log_pi = rule(log_ref[top][None], ratios[top][None], weights[None], torch.ones(1))[0]
            kl += (log_pi.exp() * (log_pi - log_ref[top])).sum().item()
            at = top.tolist().index(token)
            ratio += (log_pi[at] - log_ref[token]).item()
            log_ref_sum += log_ref[token].item()
        assert answer.kl == pytest.approx(kl, abs=2e-4)
        assert answer.kl_sampled == pytest.approx(ratio, abs=2e-4)
        assert answer.log_ref == pytest.approx(log_ref_sum, abs=2e-4)


@pytest.mark.parametrize(
    ("divergence", "alpha"),
    [("reverse_kl", None), ("forward_kl", None), ("jsd", None), ("alpha", 0.4), ("jeffrey", None)],
)
@pytest.mark.parametrize("top_k", [0, 9])
def test_mod_of_full_models(reference, folders, divergence, alpha, top_k):
    policy = mod(
        reference, {n: folders[n] for n in ("humor", "kind")}, divergence=divergence, alpha=alpha
    )
    weights = {"humor": 0.6, "kind": 0.3}
    answers = policy.generate(PROMPTS, weights, top_k=top_k, max_tokens=5, n=2, seed=1)
    models = [network.model for network in policy.networks]
    rule = mixture(divergence, alpha)
    assert_follows(policy, answers, models, torch.tensor([0.6, 0.3]), rule, top_k)
    assert len({tuple(a.tokens) for a in answers}) > 5


def test_adapters_of_one_base_and_full_models_together(reference, folders, adapters):
    places = {"humor": adapters["humor"], "full": folders["kind"], "calm": adapters["calm"]}
    policy = mod(reference, places)
    assert [n.objectives for n in policy.networks] == [("full",), ("humor", "calm")]
    weights = {"humor": 0.5, "calm": -0.4, "full": 0.9}
    answers = policy.generate(PROMPTS, weights, top_k=0, max_tokens=5, seed=2, rows=3)
    full, both = (network.model for network in policy.networks)
    alone = [load_policies(reference, {n: adapters[n]})[0].model for n in ("humor", "calm")]
    models = [full, *alone]
    assert_follows(policy, answers, models, torch.tensor([0.9, 0.5, -0.4]), mixture(), 0)
    shared = {id(p) for p in reference.model.parameters()} & {id(p) for p in both.parameters()}
    assert len(shared) == len(list(reference.model.parameters()))  # one base in memory
    assert not any("lora" in name for name, _ in reference.model.named_modules())


def test_a_policy_at_weight_one_is_itself(reference, folders):
    """At full vocabulary a mixed policy draws what it would draw alone, by the same draws."""
    alone = GuidedPolicy(ReferencePolicy.load(str(folders["humor"])))
    mixed = mod(reference, {"humor": folders["humor"]})
    assert mixed.beta == 1.0
    ours = mixed.generate(PROMPTS, max_tokens=8, top_k=0, n=3)
    # Draws invert the distribution in the order of the reference: compare the distributions.
    for answer in ours:
        tokens = reference.encode(answer.prompt).tokens
        want = sum(
            log_probs(alone.reference.model, [*tokens, *answer.tokens[:t]])[token].item()
            for t, token in enumerate(answer.tokens)
        )
        assert answer.kl_sampled + answer.log_ref == pytest.approx(want, abs=2e-4)


def test_temperature_is_for_every_policy(reference, folders):
    policy = mod(reference, {"humor": folders["humor"]})
    answers = policy.generate(PROMPTS, max_tokens=4, top_k=0, temperature=0.7)
    model = policy.networks[0].model
    for answer in answers:
        tokens = reference.encode(answer.prompt).tokens
        want = 0.0
        for t, token in enumerate(answer.tokens):
            with torch.no_grad():
                ids = torch.tensor([[*tokens, *answer.tokens[:t]]])
                logits = model(input_ids=ids, use_cache=False).logits[0, -1].double()
            want += torch.log_softmax(logits / 0.7, -1)[token].item()
        assert answer.kl_sampled + answer.log_ref == pytest.approx(want, abs=2e-4)


def test_batch_is_single(reference, folders, adapters):
    places = {"humor": adapters["humor"], "kind": adapters["kind"], "full": folders["kind"]}
    policy = mod(reference, places, "jsd")
    weights = {"humor": 0.5, "kind": 0.2, "full": 0.3}
    together = policy.generate(PROMPTS, weights, max_tokens=6, n=2, seed=3)
    alone = [a for p in PROMPTS for a in policy.generate([p], weights, max_tokens=6, n=2, seed=3)]
    for ours, theirs in zip(together, alone, strict=True):
        assert ours.tokens == theirs.tokens
        assert ours.kl == pytest.approx(theirs.kl, abs=1e-4)


def test_mod_of_two_tokens_is_the_enumerated_distribution(reference, folders):
    """All two-token replies of a mixture: their odds sum to 1 and are those of the formula."""
    models = [ReferencePolicy.load(str(folders[n])).model for n in ("humor", "kind")]
    tokens = reference.encode("an um").tokens
    vocabulary = reference.vocabulary
    rule, weights = mixture("forward_kl"), torch.tensor([[0.5, 0.5]])

    def step(seen):
        log_ref = log_probs(reference.model, seen)
        ratios = torch.stack([log_probs(m, seen) - log_ref for m in models], -1)
        return rule(log_ref[None], ratios[None], weights, torch.ones(1))[0].double()

    first = step(tokens)
    odds = {}
    for a, b in itertools.product(range(vocabulary), repeat=2):
        if b == 0:
            second = step([*tokens, a])
        odds[a, b] = math.exp(first[a] + second[b])
    assert sum(odds.values()) == pytest.approx(1, abs=1e-5)
    policy = mod(reference, {n: folders[n] for n in ("humor", "kind")}, "forward_kl")
    draws = 3000
    answers = policy.generate(
        ["an um"], {"humor": 0.5, "kind": 0.5}, top_k=0, max_tokens=2, n=draws
    )
    starts = np.bincount([a.tokens[0] for a in answers], minlength=vocabulary) / draws
    error = np.abs(starts - first.exp().numpy()).max()
    assert error < 4.5 * math.sqrt(0.25 / draws)  # 4.5 sigma of the widest: once in 1e5


def test_bad_input_is_said_before_anything_is_decoded(reference, folders, tmp_path, tiny_tokenizer):
    policy = mod(reference, {"humor": folders["humor"]}, "forward_kl")
    with pytest.raises(ValueError, match="weights must not be negative"):
        policy.generate(PROMPTS, [{"humor": 1.0}] * 4 + [{"humor": -1.0}], max_tokens=3)
    with pytest.raises(FileNotFoundError, match=r"policy of humor .* is a missing folder"):
        mod(reference, {"humor": tmp_path / "none"})
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"config\.json is missing"):
        mod(reference, {"humor": tmp_path / "empty"})
    other = save(replace(reference, tokenizer=tiny_tokenizer(20)), tmp_path / "other")
    with pytest.raises(ValueError, match="have different tokenizers"):
        mod(reference, {"humor": other})
    with pytest.raises(ValueError, match="knows 20 tokens, the reference"):
        guide(reference, "small", build_small(20))


def build_small(vocab):
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=vocab, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def test_an_adapter_of_nothing_is_refused(reference, adapters, tmp_path):
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match="does not say which model"):
        mod(reference, {"humor": broken})
    config = json.loads((adapters["humor"] / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = "./nowhere"
    (broken / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(FileNotFoundError, match="nowhere"):
        mod(reference, {"humor": broken})
