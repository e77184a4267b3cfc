"""Cards of all models: one way to write and read them, those of earlier versions included."""

import json
import math

import pytest

from mavis.baselines.parm import WEIGHTS, ParmCard
from mavis.baselines.policy_card import TunedCard
from mavis.decoding.model_card import ModelCard
from mavis.reward import Units
from mavis.storage import write_json

COMMON = {
    "objectives": ["humor"],
    "units": [{"mean": 0.5, "std": 2.0}],
    "reference": "sandbox/reference",
    "fingerprint": "62a4f2a301c65db3",
    "template": None,
}
SETTINGS = {"template_args": {"loud": True}, "reference_weights": "ab", "rewards": ["cd"], "lr": 1}
COSTS = {"seed": 0, "parameters": 9, "train_seconds": 2.0, "cpu_seconds": 1.0, "prompts": ["x"]}
VALUE = {"source": "action", "eta": 0.5, "rounds": 1}
TUNED = {"method": "rloo", "weights": [1.0], "divergence": "reverse_kl", "eta": 0.5, "lora": False}
PARM = {"ranks": [2, 2], "beta_r": 0.1, "scale": 1.0, "targets": ["q_proj"]}
KINDS = {  # as they were written before all cards had the common entries
    ModelCard: COMMON | VALUE,
    TunedCard: COMMON | TUNED | COSTS | {"settings": SETTINGS, "measured": {"kl": 1.0, "se": None}},
    ParmCard: COMMON | PARM | COSTS | {"settings": SETTINGS, "measured": [{"kl": None}]},
}


@pytest.fixture
def write(tmp_path):
    """`write(ModelCard, content)`: a folder with such a card, and weights beside it."""

    def build(kind, content):
        (tmp_path / WEIGHTS).touch()
        write_json(tmp_path / kind.FILE, content)
        return tmp_path

    return build


@pytest.mark.parametrize("kind", KINDS)
def test_a_card_of_before_is_read(kind, write):
    card = kind.read(write(kind, KINDS[kind]))
    assert (card.objectives, card.units) == (("humor",), (Units(0.5, 2.0),))
    assert card.template is None
    if kind is ModelCard:
        assert (card.template_args, card.rewards, card.reference_weights) == (None, (), None)
    else:
        assert (card.template_args, card.rewards) == ({"loud": True}, ("cd",))
        assert (card.reference_weights, card.prompts) == ("ab", ("x",))
        assert card.settings == SETTINGS


@pytest.mark.parametrize("kind", [TunedCard, ParmCard])
def test_what_is_written_comes_back(kind, write, tmp_path):
    card = kind.read(write(kind, KINDS[kind] | {"measured": [] if kind is ParmCard else {}}))
    card.save(tmp_path)
    assert kind.read(tmp_path) == card
    assert "humor" in (tmp_path / "README.md").read_text()


def test_a_model_that_is_not_measured_yet(write):
    content = {name: value for name, value in KINDS[ParmCard].items() if name != "measured"}
    assert ParmCard.read(write(ParmCard, content)).measured == []


def test_a_number_that_json_has_not_is_nan_again(write):
    assert math.isnan(TunedCard.read(write(TunedCard, KINDS[TunedCard])).measured["se"])
    assert math.isnan(ParmCard.read(write(ParmCard, KINDS[ParmCard])).measured[0]["kl"])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda card: card.pop("reference"), "it lacks 'reference'"),
        (lambda card: card.update(mood="good"), "it has the unexpected entry 'mood'"),
        (lambda card: card.update(units=[{"mean": 0}]), "std"),
        (lambda card: card.update(units=[]), r"units must be equally many, got 1.* and 0"),
        (lambda card: card.update(units=3), "not iterable"),
    ],
)
def test_a_broken_card_is_named(kind, change, message, write):
    content = json.loads(json.dumps(KINDS[kind]))
    change(content)
    with pytest.raises(ValueError, match=rf"{kind.FILE} is no card of a {kind.KIND}: .*{message}"):
        kind.read(write(kind, content))


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_without_a_card(kind, tmp_path):
    with pytest.raises(FileNotFoundError, match=rf"{kind.FILE} is missing\. `{kind.MAKER}` makes"):
        kind.read(tmp_path)
