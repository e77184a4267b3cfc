"""MOD and tuned policies in the decoding core, against full forwards and formulas written out."""

import itertools
import json
import math
import shutil
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from mavis.baselines.adapter_bases import base_of
from mavis.baselines.mod_divergences import mixture
from mavis.baselines.policy_guides import guide, load_policies, mod
from mavis.baselines.soup import soup
from mavis.decoding.backbone import adapting
from mavis.decoding.policy import GuidedPolicy
from mavis.decoding.reference import ReferencePolicy

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
    models = [network.model for network in policy.guides]
    rule = mixture(divergence, alpha)
    assert_follows(policy, answers, models, torch.tensor([0.6, 0.3]), rule, top_k)
    assert len({tuple(a.tokens) for a in answers}) > 5


def test_adapters_of_one_base_and_full_models_together(reference, folders, adapters):
    places = {"humor": adapters["humor"], "full": folders["kind"], "calm": adapters["calm"]}
    policy = mod(reference, places)
    assert [n.objectives for n in policy.guides] == [("full",), ("humor", "calm")]
    weights = {"humor": 0.5, "calm": -0.4, "full": 0.9}
    answers = policy.generate(PROMPTS, weights, top_k=0, max_tokens=5, seed=2, rows=3)
    full, both = (network.model for network in policy.guides)
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
    model = policy.guides[0].model
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


def test_bad_input_is_said_before_anything_is_decoded(
    reference, folders, tmp_path, tiny_tokenizer, tiny_lm
):
    policy = mod(reference, {"humor": folders["humor"]}, "forward_kl")
    with pytest.raises(ValueError, match="weights must not be negative"):
        policy.generate(PROMPTS, [{"humor": 1.0}] * 4 + [{"humor": -1.0}], max_tokens=3)
    with pytest.raises(FileNotFoundError, match=r"policy of humor .* is missing"):
        mod(reference, {"humor": tmp_path / "none"})
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"config\.json is missing"):
        mod(reference, {"humor": tmp_path / "empty"})
    other = save(replace(reference, tokenizer=tiny_tokenizer(20)), tmp_path / "other")
    with pytest.raises(ValueError, match="have different tokenizers"):
        mod(reference, {"humor": other})
    with pytest.raises(ValueError, match="knows 20 tokens, the reference"):
        guide(reference, "small", build_small(20))
    short = tiny_lm("gpt2", max_position_embeddings=48)
    with pytest.raises(ValueError, match=r"policy short has learned positions for 48 tokens"):
        guide(reference, "short", short)
    short = save(replace(reference, model=short), tmp_path / "short")
    with pytest.raises(ValueError, match=r"base .*short has learned positions for 48 tokens"):
        base_of(reference, str(short))


@pytest.mark.parametrize(
    "given", ["folder", Path("folder"), ["folder"], ("folder",), None, 3, {"a": None}, {"a": " "}]
)
def test_policies_are_named_by_their_objectives(reference, given):
    right = r"policies must be folders by objective, as in {\"humor\": \"runs/tuned/rloo-humor\"}"
    for make in (mod, load_policies, lambda *both: soup(*both, {"a": 1.0})):
        with pytest.raises(ValueError, match=f"{right}, got .*") as error:
            make(reference, given)
        assert len(str(error.value).splitlines()) == 1


def build_small(vocab):
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=vocab, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def test_an_adapter_of_nothing_is_refused(reference, adapters, tmp_path):
    file = tmp_path / "adapter_config.json"
    config = json.loads((adapters["humor"] / "adapter_config.json").read_text())
    for content, message in [
        ("{}", "does not say which kind"),
        (json.dumps({"peft_type": "LORA"}), "does not say which model"),
        ("[]", "no configuration of an adapter"),
        ("{", "cannot be read"),
        (json.dumps(config | {"peft_type": "PBLORA"}), "adapter_config.json cannot be loaded"),
        (json.dumps(config | {"task_type": "SEQ_CLS"}), "is a LORA adapter for SEQ_CLS"),
    ]:
        file.write_text(content)
        with pytest.raises(ValueError, match=message) as error:
            mod(reference, {"humor": tmp_path})
        assert str(tmp_path) in str(error.value)
    file.write_text(json.dumps(config))
    with pytest.raises(FileNotFoundError, match=f"{tmp_path} holds no weights"):
        mod(reference, {"humor": tmp_path})
    weights = adapters["humor"] / "adapter_model.safetensors"
    (tmp_path / weights.name).write_bytes(weights.read_bytes()[:-200])
    with pytest.raises(ValueError, match=f"adapter {tmp_path} cannot be loaded"):
        mod(reference, {"humor": tmp_path})
    tensors = load_file(weights)
    first, *others = sorted(tensors)
    save_file({name: tensors[name] for name in others}, tmp_path / weights.name)
    with pytest.raises(ValueError, match=f"adapter {tmp_path} is not whole: it lacks {first}"):
        mod(reference, {"humor": tmp_path})
    save_file(tensors | {"of.another": torch.ones(1)}, tmp_path / weights.name)
    with pytest.raises(ValueError, match=r"does not fit its base: of\.another has no place"):
        mod(reference, {"humor": tmp_path})


@pytest.fixture
def moved(adapters, tmp_path):
    """`moved(name)`: an adapter that says it is for a model of this name."""

    def rename(base, source=adapters["humor"]):
        folder = tmp_path / "moved"
        shutil.copytree(source, folder, dirs_exist_ok=True)
        file = folder / "adapter_config.json"
        config = json.loads(file.read_text())
        file.write_text(json.dumps(config | {"base_model_name_or_path": base}))
        return folder

    return rename


@pytest.mark.parametrize("base", ["/cluster/team/base-v2", "./nowhere", "some/model", None, ""])
def test_an_adapter_whose_base_is_gone_is_put_on_the_reference(reference, adapters, moved, base):
    folder = moved(base)
    with pytest.warns(UserWarning, match=f"{folder} .*it is put on the reference {reference.name}"):
        result = mod(reference, {"humor": folder})
    want = mod(reference, {"humor": adapters["humor"]})
    ours, theirs = (p.generate(PROMPTS, {"humor": 1.0}, max_tokens=4) for p in (result, want))
    assert [(a.tokens, a.kl) for a in ours] == [(a.tokens, a.kl) for a in theirs]


def test_a_base_that_is_named_is_taken_at_its_word(reference, folders, moved):
    folder = moved("/cluster/team/base-v2")
    (on_other,) = load_policies(reference, {"humor": folder}, base=str(folders["humor"]))
    model = ReferencePolicy.load(str(folders["humor"])).model
    with adapting():
        want = log_probs(PeftModel.from_pretrained(model, folder).eval(), [3, 4, 5])
    torch.testing.assert_close(log_probs(on_other.model, [3, 4, 5]), want)
    with pytest.raises(FileNotFoundError, match=f"base of adapter {folder} './gone' is missing"):
        load_policies(reference, {"humor": folder}, base="./gone")


def test_an_adapter_that_fits_nothing_here_is_refused(reference, tmp_path, tiny_lm, moved):
    with adapting():
        wide = get_peft_model(tiny_lm(hidden_size=48), LoraConfig(r=2, target_modules=["q_proj"]))
    wide.save_pretrained(tmp_path / "wide")
    folder = moved("/cluster/wide", tmp_path / "wide")
    with pytest.raises(ValueError, match="'/cluster/wide', which is not on this machine") as error:
        mod(reference, {"humor": folder})
    assert "does not fit the reference" in str(error.value)
    assert str(folder) in str(error.value)
    folder = moved("some/model", tmp_path / "wide")  # only now the hub is asked
    with pytest.raises(FileNotFoundError, match="'some/model' is no local file or folder"):
        mod(reference, {"humor": folder})


def test_adapters_of_all_kinds_and_vocabularies_in_one_batch(reference, adapters, tmp_path):
    """Plain ones side by side; DoRA, saved modules and one with tokens of its own by themselves."""
    torch.manual_seed(3)
    bigger = deepcopy(reference.model)
    bigger.resize_token_embeddings(reference.vocabulary + 2, mean_resizing=False)
    tokenizer = deepcopy(reference.tokenizer)
    tokenizer.add_tokens(["[ONE]", "[TWO]"])
    bases = {"dora": reference.model, "norm": reference.model, "tokens": bigger}
    options = {
        "dora": {"use_dora": True},
        "norm": {"modules_to_save": ["norm"]},
        "tokens": {"modules_to_save": ["embed_tokens", "lm_head"]},
    }
    places, models = {n: adapters[n] for n in ("humor", "calm")}, []
    for name, base in bases.items():
        config = LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM", **options[name])
        with adapting():
            model = get_peft_model(deepcopy(base), config)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data += 0.3 * torch.randn_like(parameter)
        places[name] = tmp_path / name
        model.save_pretrained(places[name], save_embedding_layers=False)
        models.append(model.eval())
    tokenizer.save_pretrained(places["tokens"])
    with adapting():
        models += [
            PeftModel.from_pretrained(deepcopy(reference.model), adapters[n]).eval()
            for n in ("humor", "calm")
        ]
    policy = mod(reference, places)
    assert [n.objectives for n in policy.guides] == [
        ("dora",), ("norm",), ("tokens",), ("humor", "calm"),
    ]  # fmt: skip
    shares = {"dora": 0.3, "norm": 0.4, "tokens": 0.5, "humor": 0.2, "calm": -0.3}
    answers = policy.generate(PROMPTS, shares, top_k=0, max_tokens=4, rows=3)

    class Cut:
        def __init__(self, model):
            self.model = model

        def __call__(self, **given):
            output = self.model(**given)
            output.logits = output.logits[..., : reference.vocabulary]
            return output

    weights = torch.tensor(list(shares.values()))
    assert_follows(policy, answers, [Cut(model) for model in models], weights, mixture(), 0)


def test_a_policy_may_know_more_tokens_but_not_others(reference, folders, tmp_path):
    """One more, as a padding token that was added, is left out of the policy's distribution."""
    policy = ReferencePolicy.load(str(folders["humor"]))
    policy.tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    policy.model.resize_token_embeddings(len(policy.tokenizer), mean_resizing=False)
    more = save(policy, tmp_path / "more")
    assert len(policy.tokenizer) == reference.vocabulary + 1
    both = [mod(reference, {"humor": place}) for place in (more, folders["humor"])]
    ours, theirs = (p.generate(PROMPTS, max_tokens=5, top_k=0) for p in both)
    assert [a.tokens for a in ours] == [a.tokens for a in theirs]
    for one, other in zip(ours, theirs, strict=True):
        assert one.kl == pytest.approx(other.kl, abs=1e-5)


def test_forbidden_tokens_have_no_probability(build_reference, tmp_path):
    """Biases of -inf in the head, as exports with a padded vocabulary have them."""
    banned = {"reference": [37, 38, 39], "humor": [38, 39], "kind": [36, 37, 38, 39]}
    places = {}
    for seed, (name, tokens) in enumerate(banned.items()):
        made = build_reference("phi", seed=seed)
        made.model.lm_head.bias.data[tokens] = -torch.inf
        places[name] = save(made, tmp_path / name)
    reference = ReferencePolicy.load(str(places.pop("reference")))
    policy = mod(reference, places)
    answers = policy.generate(PROMPTS, {"humor": 0.6, "kind": 0.3}, top_k=0, max_tokens=4, seed=4)
    models = [reference.model, *(network.model for network in policy.guides)]
    for answer in answers:
        tokens, kl = reference.encode(answer.prompt).tokens, 0.0
        for step in range(len(answer.tokens)):
            seen = [*tokens, *answer.tokens[:step]]
            log_ref, humor, kind = (log_probs(model, seen)[:36] for model in models)
            log_pi = (0.1 * log_ref + 0.6 * humor + 0.3 * kind).log_softmax(-1)
            kl += (log_pi.exp() * (log_pi - log_ref)).sum().item()
        assert answer.kl == pytest.approx(kl, abs=3e-4)
        assert max(answer.tokens) < 36
