"""Cards of tuned policies: written, read, refused; and where policies lie."""

import dataclasses
import json

import pytest

from mavis.baselines.policy_card import TunedCard, label, tuned_folder
from mavis.reward import Units

CARD = TunedCard(
    method="rloo",
    objectives=("humor", "helpfulness"),
    weights=(0.25, 0.75),
    units=(Units(0.5, 2.0), Units(-1.0, 0.1)),
    reference="sandbox/reference",
    fingerprint="0123456789abcdef",
    template=None,
    divergence="reverse_kl",
    eta=0.5,
    seed=0,
    train_seconds=12.5,
    cpu_seconds=12.0,
    parameters=1000,
    lora=False,
    prompts=("aa", "bb"),
    settings={"steps": 2},
    measured={"reward": 1.0, "kl": 2.0},
)


def test_a_card_comes_back_as_it_was_written(tmp_path):
    CARD.save(tmp_path)
    assert TunedCard.read(tmp_path) == CARD
    assert TunedCard.read(str(tmp_path)).label == "humor0.25_helpfulness0.75"


def test_a_folder_without_a_card_is_no_policy(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"no tuned policy: tuned.json is mi.* `mavis tune`"
    ):
        TunedCard.read(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is no card of a tuned policy: Expecting"),
        ("[1]", "is no card of a tuned policy: "),
        ("{}", "is no card of a tuned policy: it lacks 'objectives'"),
        (json.dumps(dataclasses.asdict(CARD) | {"units": [{"mean": 0, "std": -1}]}), "std above 0"),
        (json.dumps(dataclasses.asdict(CARD) | {"weights": [1]}), "equally many, got 2, 1 and 2"),
    ],
)
def test_a_broken_card_is_a_line(content, message, tmp_path):
    (tmp_path / "tuned.json").write_text(content)
    with pytest.raises(ValueError, match=message) as caught:
        TunedCard.read(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("names", "weights", "expected"),
    [
        (["humor"], [1.0], "humor"),
        (["humor"], [2.0], "humor2"),
        (["humor", "kind"], [0.5, 0.5], "humor0.5_kind0.5"),
        (["humor", "kind"], [1.0, 0.0], "humor"),
        (["humor", "kind"], [-1.0, 0.3], "humor-1_kind0.3"),
        ([], [], ""),
    ],
)
def test_labels(names, weights, expected):
    assert label(names, weights) == expected


def test_no_two_policies_share_a_folder():
    def name(*args, **more):
        return tuned_folder("runs/tuned", ["humor"], [1.0], *args, **more).as_posix()

    assert name() == "runs/tuned/rloo-humor"
    assert name("grpo") == "runs/tuned/grpo-humor"
    assert name("dpo", divergence="jsd") == "runs/tuned/dpo-humor-jsd"
    assert name("dpo", lora=True) == "runs/tuned/dpo-humor-lora"
    assert tuned_folder("runs/tuned", [], [], "sft").as_posix() == "runs/tuned/sft"


def test_the_card_for_people_says_what_it_is():
    text = CARD.for_people()
    assert text.startswith("---\nlibrary_name: transformers\n")
    assert "humor × 0.25, helpfulness × 0.75" in text
    assert "| kl | 2.000 |" in text
    assert "An adapter for" in dataclasses.replace(CARD, lora=True).for_people()
