"""PARM and GenARM in the decoding core, against full forwards and the formula written out."""

import json
from dataclasses import replace

import pytest
import torch

from mavis.baselines.parm import (
    CARD,
    WEIGHTS,
    ParmCard,
    guided_by,
    load_parm,
    new_arm,
    preferences,
    save_parm,
)
from mavis.baselines.pblora import adapters
from mavis.decoding.decoder import Decoder
from mavis.decoding.policy import GuidedPolicy
from mavis.decoding.reference import ReferencePolicy
from mavis.decoding.request import Request, SamplingParams
from mavis.reward import Units

PROMPTS = ["an um", "the sun is", "a", "Human: is it?", "mis"]
NAMES = ("humor", "kind")
MIXED = [
    {"humor": 1.0, "kind": 0.0},
    {"humor": 0.3, "kind": 0.7},
    {"humor": 0.0, "kind": 1.0},
    {"humor": 2.0, "kind": 2.0},
    {"humor": 0.9, "kind": 0.1},
]


@pytest.fixture(scope="module")
def reference(tmp_path_factory, build_reference):
    folder = tmp_path_factory.mktemp("reference")
    made = build_reference()
    made.model.save_pretrained(folder)
    made.tokenizer.save_pretrained(folder)
    return ReferencePolicy.load(str(folder))


def random_arm(reference, objectives=NAMES, seed=1, base=None):
    arm = new_arm(reference, base or reference.name, objectives, (2, 3), seed=seed)
    noise = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, part in adapters(arm.model):
            part += 0.15 * torch.randn(part.shape, generator=noise)
    return arm


def card_of(reference, objectives=NAMES):
    return ParmCard(
        objectives=objectives,
        units=tuple(Units(0.5, 2.0) for _ in objectives),
        reference=reference.name,
        fingerprint=reference.fingerprint,
        template=None,
        ranks=(2, 3),
        beta_r=0.1,
    )


def log_probs(model, tokens):
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([tokens]), use_cache=False).logits
    return torch.log_softmax(logits[0, -1].double(), -1)


def assert_follows(reference, answers, score, top_k):
    """Each answer's KL and log-ratios, by full forwards; `score(tokens, answer)` is added."""
    for at, answer in enumerate(answers):
        tokens = reference.encode(answer.prompt).tokens
        kl = ratio = 0.0
        for step, token in enumerate(answer.tokens):
            seen = [*tokens, *answer.tokens[:step]]
            log_ref = log_probs(reference.model, seen)
            top = log_ref.topk(top_k or len(log_ref)).indices
            log_pi = torch.log_softmax((log_ref + score(seen, at))[top], -1)
            kl += (log_pi.exp() * (log_pi - log_ref[top])).sum().item()
            place = top.tolist().index(token)
            ratio += (log_pi[place] - log_ref[token]).item()
        assert answer.kl == pytest.approx(kl, abs=2e-4)
        assert answer.kl_sampled == pytest.approx(ratio, abs=2e-4)


@pytest.mark.parametrize("top_k", [0, 9])
def test_every_row_has_its_own_preference(reference, top_k):
    arm = random_arm(reference)
    policy = guided_by(reference, arm)
    assert (policy.objectives, policy.beta) == (NAMES, 1.0)
    answers = policy.generate(PROMPTS, MIXED, beta=0.8, top_k=top_k, max_tokens=6, seed=1, rows=3)

    def score(seen, at):
        total = sum(MIXED[at].values())
        arm.preference.rows = torch.tensor([[MIXED[at][n] / total for n in NAMES]])
        return 0.8 * total * log_probs(arm.model, seen)

    assert_follows(reference, answers, score, top_k)
    assert {len(answer.tokens) for answer in answers} != {1}


def test_batch_is_single(reference):
    policy = guided_by(reference, random_arm(reference))
    together = policy.generate(PROMPTS, MIXED, max_tokens=6, n=2, seed=3)
    alone = [
        answer
        for prompt, weights in zip(PROMPTS, MIXED, strict=True)
        for answer in policy.generate([prompt], weights, max_tokens=6, n=2, seed=3)
    ]
    assert [a.tokens for a in together] == [a.tokens for a in alone]
    for ours, theirs in zip(together, alone, strict=True):
        assert ours.kl == pytest.approx(theirs.kl, abs=1e-4)
    assert len({tuple(a.tokens) for a in together}) > 5


def test_one_objective_is_genarm(reference):
    """log π = log π_ref + (1/β)·log π_arm, normalised; a negative weight pushes away."""
    arm = random_arm(reference, ("humor",))
    for weight, beta in ((1.0, 1 / 0.7), (-0.4, 1.0)):
        answers = guided_by(reference, arm).generate(
            PROMPTS, {"humor": weight}, beta=beta, top_k=0, max_tokens=5, seed=2
        )
        arm.preference.rows = torch.ones(1, 1)
        assert_follows(
            reference,
            answers,
            lambda seen, _, by=weight * beta: by * log_probs(arm.model, seen),
            0,
        )


def test_a_corner_of_the_simplex_is_genarm_too(reference):
    """At a one-hot preference nothing is left of the other objectives' weights."""
    arm = random_arm(reference)
    corner = random_arm(reference, ("humor",))
    theirs = dict(adapters(arm.model))
    with torch.no_grad():
        for name, part in adapters(corner.model):
            part.copy_(theirs[name][:1] if name.endswith("mix") else theirs[name])
    ours = guided_by(reference, arm).generate(PROMPTS, {"humor": 1.0}, max_tokens=6)
    genarm = guided_by(reference, corner).generate(PROMPTS, {"humor": 1.0}, max_tokens=6)
    assert [a.tokens for a in ours] == [a.tokens for a in genarm]
    assert [a.kl for a in ours] == pytest.approx([a.kl for a in genarm], abs=1e-4)


def test_several_reward_models_of_one_objective_each(reference):
    """GenARM for many: log π_ref + β·Σ_m λ_m log π_arm_m."""
    arms = [random_arm(reference, (name,), seed) for seed, name in enumerate(NAMES, 3)]
    answers = guided_by(reference, *arms).generate(
        PROMPTS, {"humor": 0.8, "kind": -0.3}, beta=0.9, top_k=9, max_tokens=5
    )
    for arm in arms:
        arm.preference.rows = torch.ones(1, 1)
    first, second = (arm.model for arm in arms)
    assert_follows(
        reference,
        answers,
        lambda seen, _: 0.9 * (0.8 * log_probs(first, seen) - 0.3 * log_probs(second, seen)),
        9,
    )


def test_temperature_is_for_the_reference_alone(reference):
    arm = random_arm(reference, ("humor",))
    answers = guided_by(reference, arm).generate(
        PROMPTS, max_tokens=1, top_k=0, beta=0.5, temperature=0.6
    )
    arm.preference.rows = torch.ones(1, 1)
    for answer in answers:
        tokens = reference.encode(answer.prompt).tokens
        log_ref = torch.log_softmax(log_probs(reference.model, tokens) / 0.6, -1)
        log_pi = torch.log_softmax(log_ref + 0.5 * log_probs(arm.model, tokens), -1)
        kl = (log_pi.exp() * (log_pi - log_ref)).sum().item()
        assert answer.kl == pytest.approx(kl, abs=1e-4)


def test_untrained_it_only_sharpens_the_reference(reference):
    arm = new_arm(reference, reference.name, NAMES, (2, 3))
    answers = guided_by(reference, arm).generate(
        PROMPTS, {"humor": 0.5, "kind": 0.5}, beta=1.0, top_k=0, max_tokens=5
    )
    assert_follows(reference, answers, lambda seen, _: log_probs(reference.model, seen), 0)
    assert not list(adapters(reference.model))  # which is left alone


def test_weights_that_are_no_preference_are_refused_before_anything_is_decoded(reference):
    arm = random_arm(reference)
    policy = guided_by(reference, arm)
    for bad in ({"humor": -0.5, "kind": 1.0}, {"humor": 0.0, "kind": 0.0}):
        with pytest.raises(ValueError, match="must not be negative, nor all 0") as caught:
            policy.generate(PROMPTS, [*MIXED[:4], bad], max_tokens=3)
        assert "\n" not in str(caught.value)
        with pytest.raises(ValueError, match="must not be negative"):  # under any other rule, too
            GuidedPolicy(reference, (arm,)).generate(PROMPTS[1:2], bad, max_tokens=3)
    with pytest.raises(ValueError, match="got -1, 2"):
        preferences(torch.tensor([[1.0, 1.0], [-1.0, 2.0]]))
    other = random_arm(reference, ("calm",))
    with pytest.raises(ValueError, match="humor, kind must be the only guide"):
        guided_by(reference, arm, other).generate(PROMPTS, max_tokens=2)


def test_a_saved_model_decodes_alike(reference, tmp_path):
    arm, card = random_arm(reference), card_of(reference)
    measured = {"preference": [1, 0], "beta": 0.5, "reward": {"humor": 1, "kind": 0}, "kl": 2}
    card = replace(card, prompts=("ab",), settings={"lr": 1.0}, measured=[measured])
    save_parm(arm, card, tmp_path / "parm")
    assert ParmCard.read(tmp_path / "parm") == card
    text = (tmp_path / "parm" / "README.md").read_text()
    assert "| 1, 0 | 0.5 | +1.00 | +0.00 | 2.00 |" in text
    files = {file.name for file in (tmp_path / "parm").iterdir()}
    assert files == {CARD, f".{CARD}.sha256", WEIGHTS, f".{WEIGHTS}.sha256", "README.md"}
    loaded = load_parm(reference, tmp_path / "parm")
    assert not any(p.requires_grad for p in loaded.model.parameters())
    ours = guided_by(reference, arm).generate(PROMPTS, MIXED, max_tokens=6)
    theirs = guided_by(reference, loaded).generate(PROMPTS, MIXED, max_tokens=6)
    assert [a.tokens for a in ours] == [a.tokens for a in theirs]
    assert [a.kl for a in ours] == [a.kl for a in theirs]
    # The base is the reference's own tensors, in memory once.
    shared = {id(p) for p in reference.model.parameters()}
    assert shared <= {id(p) for p in loaded.model.parameters()}


def test_a_small_model_guides_another_reference(reference, build_reference, tmp_path):
    large = build_reference("gpt2", layers=3, seed=5)
    save_parm(random_arm(reference, ("humor",)), card_of(reference, ("humor",)), tmp_path)
    arm = load_parm(large, tmp_path)
    answers = guided_by(large, arm).generate(PROMPTS, max_tokens=5, top_k=0)
    arm.preference.rows = torch.ones(1, 1)
    assert_follows(large, answers, lambda seen, _: log_probs(arm.model, seen), 0)


def test_a_reward_model_whose_base_is_gone_is_put_on_the_reference(reference, tmp_path):
    arm = random_arm(reference)
    save_parm(arm, replace(card_of(reference), reference="/cluster/base"), tmp_path)
    with pytest.warns(UserWarning, match=f"{tmp_path} is for the model '/cluster/base'"):
        loaded = load_parm(reference, tmp_path)
    ours = guided_by(reference, arm).generate(PROMPTS, MIXED, max_tokens=6)
    theirs = guided_by(reference, loaded).generate(PROMPTS, MIXED, max_tokens=6)
    assert [(a.tokens, a.kl) for a in ours] == [(a.tokens, a.kl) for a in theirs]


def test_what_is_no_reward_model_is_said(reference, tmp_path, tiny_tokenizer):
    with pytest.raises(FileNotFoundError, match=r"reward model .* is missing"):
        load_parm(reference, tmp_path / "none")
    with pytest.raises(FileNotFoundError, match=r"parm\.json is missing"):
        load_parm(reference, tmp_path)
    save_parm(random_arm(reference), card_of(reference), tmp_path)
    with pytest.raises(ValueError, match="have different tokenizers: it was trained under"):
        load_parm(replace(reference, tokenizer=tiny_tokenizer(20)), tmp_path)
    whole = (tmp_path / WEIGHTS).read_bytes()
    for broken in (b"nothing", whole[:-1] + bytes([whole[-1] ^ 1])):
        (tmp_path / WEIGHTS).write_bytes(broken)
        with pytest.raises(ValueError, match=r"pblora\.safetensors is damaged .* trains it again"):
            load_parm(reference, tmp_path)
    (tmp_path / WEIGHTS).write_bytes(whole)
    load_parm(reference, tmp_path)
    content = json.loads((tmp_path / CARD).read_text())
    (tmp_path / CARD).write_text(json.dumps(content | {"units": [{"mean": 0, "std": -1}]}))
    with pytest.raises(ValueError, match=r"parm\.json is damaged or was changed"):
        load_parm(reference, tmp_path)
    (tmp_path / f".{CARD}.sha256").unlink()
    with pytest.raises(ValueError, match="is no card of a reward model: mean must be finite"):
        load_parm(reference, tmp_path)
    del content["ranks"]
    (tmp_path / CARD).write_text(json.dumps(content))
    with pytest.raises(ValueError, match="it lacks 'ranks'"):
        load_parm(reference, tmp_path)


def test_its_replies_score_as_they_were_reported(reference):
    policy = guided_by(reference, random_arm(reference))
    answers = policy.generate(PROMPTS, MIXED, max_tokens=12, top_k=7)
    for answer, score in zip(answers, policy.score(PROMPTS, answers, MIXED, top_k=7), strict=True):
        ratio = sum(score.log_prob) - sum(score.log_ref)
        assert ratio == pytest.approx(answer.kl_sampled, abs=1e-4)
        assert sum(score.kl) == pytest.approx(answer.kl, abs=1e-4)


def test_a_row_that_was_read_under_a_preference_does_not_go_on_under_another(reference):
    policy = guided_by(reference, random_arm(reference))
    decoder = Decoder(reference, policy.guides, policy.rule)
    sampling = SamplingParams((1.0, 0.0))
    start = Request([3, 4, 5], 0, sampling, (0,), hold=True)
    number = decoder.add(start)
    decoder.step()
    other = replace(start, sampling=replace(sampling, weights=(0.0, 1.0)))
    with pytest.raises(ValueError, match=r"the same ones, \(1.0, 0.0\), or add them anew"):
        decoder.fork(number, [start, other])
    assert len(decoder.fork(number, [start, replace(start, key=(1,))])) == 2
