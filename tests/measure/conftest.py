"""Tiny trained models of every method, where `mavis fit` and `mavis tune` put them."""

from dataclasses import replace

import pytest
import torch

from mavis.guide.reference import ReferencePolicy
from mavis.measure.tuned import TunedCard, tuned_folder
from mavis.objective import Objective
from mavis.prompts import digest, read_prompts
from mavis.reward import Units


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
    """Runs of `trial` and `rival`: value models, single-objective policies, one for both."""
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
            "rloo", names, weights, units, disk_reference.name, disk_reference.fingerprint,
            None, "reverse_kl", 0.5, 0, 60.0, 50.0, 1000, False, trained_on,
        ).save(place)  # fmt: skip
    return folder
