"""Tiny trained models of every method, and a sweep that nobody decoded.

The models lie where `mavis fit` and `mavis tune` put them; the sweep's points have rewards and KL
that are known.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch

from mavis.baselines.parm import ParmCard, new_arm, save_parm
from mavis.baselines.pblora import adapters
from mavis.baselines.policy_card import TunedCard, tuned_folder
from mavis.comparison.analysis import Analysis
from mavis.comparison.checkpoints import Models
from mavis.comparison.config import ParetoConfig
from mavis.comparison.setting import Setting
from mavis.comparison.sweep import Sweep
from mavis.decoding.reference import ReferencePolicy
from mavis.evaluation.samples import NUMBERS, ScoredSamples
from mavis.objective import Objective
from mavis.prompts import digest, read_prompts
from mavis.reward import Units

PROMPTS = ["an um", "the sun is", "a", [{"role": "user", "content": "mis"}]]
WEIGHTINGS = ((1.0, 0.0), (0.5, 0.5))
SKILL = {"mavis": 1.3, "mod": 1.1, "soup": 0.9, "morlhf": 1.2, "parm": 1.0}


def point(method, weights, strength, kl, gain, prompts, best_of=1):
    """Answers of `kl` nats whose rewards are `gain` [M] above those of the reference."""
    random = np.random.default_rng([len(method), prompts, int(1000 * kl), best_of])
    shape = (prompts, best_of)
    ease = np.random.default_rng(0).normal(0, 0.3, (prompts, 1, len(gain)))  # the prompts' own
    words = [[[1, 2, 3, 4 + p % 7, 5 + s] for s in range(best_of)] for p in range(prompts)]
    return ScoredSamples(
        objectives=("humor", "helpfulness", "harmlessness")[: len(gain)],
        method=method,
        weights=tuple(weights),
        strength=strength,
        responses=[[f"{method} says {p}.{s}" for s in range(best_of)] for p in range(prompts)],
        tokens=words,
        rewards=ease + random.normal(gain, 0.9, (*shape, len(gain))),
        numbers=dict.fromkeys(NUMBERS, np.full(shape, kl))
        | {"kl_truncation": np.full(shape, 0.05), "log_ref": np.full(shape, -9.0)},
        seconds=1.0,
    )


def curve(method, weights, kls, prompts):
    asked = np.asarray(weights) / np.linalg.norm(weights)
    towards = asked - 0.4 * (1 - asked)
    gains = [SKILL[method] * np.sqrt(kl) * towards for kl in kls]
    return [
        point(method, weights, kl**0.5, kl, g, prompts) for kl, g in zip(kls, gains, strict=True)
    ]


@pytest.fixture
def analysis():
    """Make analysis: which methods, which objectives, how many weightings on their simplex."""

    def make(
        methods=("best_of", "mavis", "mod"),
        objectives=("humor", "helpfulness"),
        steps=2,
        prompts=24,
        reach=(1.0, 3.0),
    ):
        grid = np.stack(np.meshgrid(*[np.arange(steps + 1)] * len(objectives)), -1)
        rows = grid.reshape(-1, len(objectives))
        weightings = sorted((tuple(r / steps) for r in rows if r.sum() == steps), reverse=True)
        flat = np.zeros(len(objectives))
        best = point("best_of", (), 0.0, 0.05, flat, prompts, 32) if "best_of" in methods else None
        return Analysis(
            objectives=objectives,
            weightings=weightings,
            kl=2.0,
            reference=point("reference", (), 0.0, 0.05, flat, prompts),
            best_of=best,
            curves={
                m: [curve(m, w, reach, prompts) for w in weightings] for m in methods if m in SKILL
            },
            prompts=[f"Question {p}?" for p in range(prompts)],
        )

    return make


# Tiny models


def many_a(prompts, responses):  # noqa: ARG001
    return [response.count("a") - 0.1 * len(response) for response in responses]


def many_m(prompts, responses):  # noqa: ARG001
    return [response.count("m") - 0.05 * len(response) for response in responses]


@pytest.fixture(scope="session")
def two_objectives():
    """Objectives as plugins make them: `trial` and `rival`."""
    return (Objective("trial", many_a), Objective("rival", many_m))


@pytest.fixture(scope="session")
def disk_reference(tiny_folder):
    """The tiny llama, from its folder."""
    return ReferencePolicy.load(str(tiny_folder / "reference"))


@pytest.fixture(scope="session")
def tiny_runs(tmp_path_factory, tiny_folder, disk_reference, tiny_network, tiny_lm):
    """Runs of `trial` and `rival`: value models, policies for one and for both, a PARM."""
    folder = tmp_path_factory.mktemp("measured")
    trained_on = tuple(
        digest(prompt) for prompt in read_prompts(str(tiny_folder / "prompts"), "train")
    )
    for seed, name in enumerate(["trial", "rival"], 1):
        network = tiny_network(disk_reference, objectives=(name,), seed=seed)
        network.card = replace(network.card, eta=0.5)
        network.save_pretrained(folder / name / "value")
    weightings = {("trial",): (1.0,), ("rival",): (1.0,), ("trial", "rival"): (0.5, 0.5)}
    for seed, (names, weights) in enumerate(weightings.items(), 5):
        place = tuned_folder(folder / "tuned", names, weights)
        model = tiny_lm(seed=0)
        noise = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.04 * torch.randn(parameter.shape, generator=noise)
        model.save_pretrained(place)
        disk_reference.tokenizer.save_pretrained(place)
        units = tuple(Units(0.0, 1.0) for _ in names)
        TunedCard(
            method="rloo",
            objectives=names,
            weights=weights,
            units=units,
            reference=disk_reference.name,
            fingerprint=disk_reference.fingerprint,
            divergence="reverse_kl",
            eta=0.5,
            train_seconds=60.0,
            cpu_seconds=50.0,
            parameters=1000,
            lora=False,
            prompts=trained_on,
        ).save(place)
    arm = new_arm(disk_reference, disk_reference.name, ("trial", "rival"), (2, 2))
    noise = torch.Generator().manual_seed(9)
    for _, part in adapters(arm.model):
        torch.nn.init.normal_(part, std=0.2, generator=noise)
    card = ParmCard(
        objectives=arm.objectives,
        units=(Units(0.0, 1.0),) * 2,
        reference=disk_reference.name,
        fingerprint=disk_reference.fingerprint,
        ranks=(2, 2),
        beta_r=0.1,
        train_seconds=30.0,
        prompts=trained_on,
    )
    save_parm(arm, card, folder / "tuned" / "parm-trial+rival")
    return folder


@pytest.fixture
def setting(disk_reference, two_objectives):
    config = ParetoConfig(seeds=2, best_of=3, max_tokens=6, top_k=20, rows=64)
    return Setting(disk_reference, two_objectives, PROMPTS, config)


@pytest.fixture
def sweep(tmp_path, setting, tiny_runs):
    return Sweep(tmp_path / "sweep", setting, Models(str(tiny_runs)), WEIGHTINGS)
