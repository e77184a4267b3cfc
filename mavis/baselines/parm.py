"""PARM, and GenARM as its case of one objective: an autoregressive reward model as a guide.

One language model, steered by a preference α on the simplex of M objectives, rewards every next
token by its log-probability (PARM, arXiv 2505.06274; GenARM, arXiv 2410.08193):

    π(a|s) ∝ π_ref(a|s) · π_arm(a|s; α)^(1/β_arm)

In the decoding core that is the ordinary tilt: α = λ / Σλ of a row's weights λ, its values are
log π_arm for every objective, and β·Σλ is 1/β_arm. Several guides with an objective each make
GenARM for many: log π_ref + β·Σ_m λ_m log π_arm_m.

Saved as a folder: `parm.json`, `pblora.safetensors`, and README.md for people.
"""
# ruff: noqa: ARG002 - a state is passed everything, and uses what it needs

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Self

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from mavis.baselines.adapter_bases import base_of, check_vocabulary, find_base
from mavis.baselines.pblora import SCALE, Preference, adapt, adapters, set_adapters
from mavis.cards import TrainedCard
from mavis.checksums import DRAFT, check, install
from mavis.decoding.guides import GuideState, Reading
from mavis.decoding.kv_cache import CachedRows, Index
from mavis.decoding.model_folders import loading
from mavis.decoding.policy import GuidedPolicy
from mavis.decoding.reference import ReferencePolicy
from mavis.decoding.tilt import tilt
from mavis.hub import locate
from mavis.reward import Units

CARD, WEIGHTS = "parm.json", "pblora.safetensors"


@dataclass(frozen=True)
class AutoregressiveRewardModel:
    """An autoregressive reward model as a guide.

    Args:
        model: a causal LM with adapters.
        preference: of the rows that are read, for its layers.
        objectives: the M names by which weights are given.
        vocabulary: V of the reference policy.
    """

    model: PreTrainedModel
    preference: Preference
    objectives: tuple[str, ...]
    vocabulary: int

    kind = "reward model"  # for errors
    needs_hidden = False
    natural_beta = 1.0
    units: ClassVar[Mapping[str, Units]] = MappingProxyType({})

    def start(self, rows: int) -> "AutoregressiveRewards":
        """Its state, with room for `rows` rows."""
        return AutoregressiveRewards(self, rows)


class AutoregressiveRewards(GuideState):
    """log π_arm(a|s; α) of the candidates, α from the row's weights.

    It is a reward: a request's temperature is for the reference policy, not for this.
    """

    rows: CachedRows
    reads_weights = True

    def __init__(self, arm: AutoregressiveRewardModel, rows: int) -> None:
        self.arm = arm
        self.rows = CachedRows(arm.model, rows)
        self._log_probs = torch.empty(0)

    def extend(self, read: Reading) -> None:
        """Read the same tokens, every row under its own preference."""
        rows, tokens, output, settings, every = read
        silent = output.logits is None
        # With `every`, settings are of each token, those of a row being all the same.
        each = len(tokens[0]) if every else 1
        self.arm.preference.rows = self._preferences(settings.weights[::each])
        logits = self.rows.extend(rows, tokens, silent, every).logits
        if logits is not None:
            logits = logits[..., : self.arm.vocabulary].flatten(0, -2)
            self._log_probs = torch.log_softmax(logits, -1)  # [R, V]

    def values(self, rows: Index, candidates: Tensor) -> Tensor:
        """Gather the candidates' log-probabilities, once for each objective [R, K, M]."""
        chosen = self._log_probs.gather(1, candidates)
        return chosen[..., None].expand(-1, -1, len(self.arm.objectives))

    def _preferences(self, weights: Tensor) -> Tensor:
        """α [R, M] from the weights [R, M] of a request's rows."""
        names = self.arm.objectives
        if len(names) == 1:  # its preference is always the same, whatever guides beside it
            return weights.new_ones(len(weights), 1)
        if weights.shape[1] != len(names):
            raise ValueError(
                f"a reward model of {', '.join(names)} must be the only guide: its preference is "
                "made from all weights. Train one per objective to combine it with others."
            )
        return preferences(weights)


def preferences(weights: Tensor) -> Tensor:
    """The preferences α on the simplex for weights λ [R, M]: λ / Σλ.

    Raises:
        ValueError: a weight is negative, or all of a row's are 0.

    >>> preferences(torch.tensor([[2.0, 2.0], [0.0, 0.3]]))
    tensor([[0.5000, 0.5000],
            [0.0000, 1.0000]])
    """
    total = weights.sum(-1, keepdim=True)
    wrong = (weights < 0).any(-1) | (total[:, 0] <= 0)
    if wrong.any():
        given = ", ".join(f"{weight:g}" for weight in weights[wrong][0].tolist())
        raise ValueError(
            "weights must not be negative, nor all 0, where they are a preference among "
            f"objectives, got {given}."
        )
    return weights / total


def preference_tilt(log_ref: Tensor, values: Tensor, weights: Tensor, beta: Tensor) -> Tensor:
    """`tilt` by log π_arm, with weights that are checked to be preferences."""
    preferences(weights)
    return tilt(log_ref, values, weights, beta)


def guided_by(reference: ReferencePolicy, *arms: AutoregressiveRewardModel) -> GuidedPolicy:
    """The reference policy, guided by one reward model, or by several with an objective each.

    Returns:
        a policy whose weights are the preference, and whose β (default 1) is 1/β_arm.
    """
    single = all(len(arm.objectives) == 1 for arm in arms)
    return GuidedPolicy(reference, arms, tilt if single else preference_tilt)


@dataclass(frozen=True, kw_only=True)
class ParmCard(TrainedCard):
    """Where an autoregressive reward model comes from; preferences are in the objectives' order.

    The reference policy wrote its training answers, and is what it adapts.

    Args:
        ranks: LoRA ranks of the shared and of the preference-conditioned adapter.
        scale: of the adapters.
        targets: names of the adapted layers, without their numbers.
        beta_r: factor β_r of the log-probabilities in the preference loss.
        measured: by preference.
    """

    FILE: ClassVar[str] = CARD
    KIND: ClassVar[str] = "reward model"
    MAKER: ClassVar[str] = "mavis parm"

    ranks: tuple[int, int]
    beta_r: float
    scale: float = SCALE
    targets: tuple[str, ...] = ()
    measured: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def read(cls, folder: str | Path) -> Self:
        """Read the card, and check that the weights beside it are those that were written."""
        card = super().read(folder)
        remedy = f"delete {CARD} beside it, and `mavis parm` trains it again."
        check(Path(folder) / WEIGHTS, remedy)
        return card

    def for_people(self) -> str:
        """The card as text."""
        rows = []
        for row in self.measured:
            alpha = ", ".join(f"{share:.2g}" for share in row["preference"])
            rewards = " | ".join(f"{row['reward'][name]:+.2f}" for name in self.objectives)
            rows.append(f"| {alpha} | {row['beta']:g} | {rewards} | {row['kl']:.2f} |\n")
        return f"""# An autoregressive reward model of {", ".join(self.objectives)}

PBLoRA (ranks {self.ranks[0]} + {self.ranks[1]}, {self.parameters:,} parameters) over \
{self.reference}; method PARM, arXiv 2505.06274 (GenARM, 2410.08193, for one objective).

Trained on answers to {len(self.prompts)} prompts in {self.train_seconds:.0f} s \
({self.cpu_seconds:.0f} s of CPU). Settings: `{json.dumps(self.settings)}`.

Held-out prompts; rewards in standard units, KL in nats per response:

| preference | 1/β_arm | {" | ".join(self.objectives)} | KL |
|---|---{"|---" * (len(self.objectives) + 1)}|
{"".join(rows)}"""


def new_arm(
    reference: ReferencePolicy, base: str, objectives: Sequence[str], ranks: tuple[int, int],
    scale: float = SCALE, seed: int = 0,
) -> AutoregressiveRewardModel:  # fmt: skip
    """A reward model that is still the same policy as its base; its adapters can be trained."""
    model = base_of(reference, base)
    check_vocabulary(reference, f"the base {base}", model)
    preference = adapt(model.eval().requires_grad_(False), len(objectives), ranks, seed, scale)
    return AutoregressiveRewardModel(model, preference, tuple(objectives), reference.vocabulary)


def save_parm(arm: AutoregressiveRewardModel, card: ParmCard, folder: Path) -> None:
    """Write a reward model as a folder; the card is last: with it the folder is complete."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CARD).unlink(missing_ok=True)
    tensors = {name: part.detach().contiguous().cpu() for name, part in adapters(arm.model)}
    draft = folder / (WEIGHTS + DRAFT)
    save_file(tensors, draft)
    install(draft, folder / WEIGHTS)
    card.save(folder)


def load_parm(
    reference: ReferencePolicy, folder: str | Path, base: str | None = None
) -> AutoregressiveRewardModel:
    """Load a reward model, to guide a reference policy with the same tokenizer.

    That may be another policy than it was trained under: a large one, guided by a small one. The
    adapters are put on `base`, or else on the policy that they were trained on; where that is gone,
    on the reference itself, if they fit, with a warning.

    Raises:
        FileNotFoundError: the folder is missing, or holds no reward model.
        ValueError: it has another tokenizer, or one of its files is broken.
    """
    place = Path(locate(str(folder), "reward model"))
    card = ParmCard.read(place)
    if not reference.knows(card.fingerprint):
        raise ValueError(
            f"reward model {place} and reference {reference.name} have different tokenizers: it "
            f"was trained under {card.reference}. Use that one as the reference."
        )
    with loading(f"{place / WEIGHTS}"):
        tensors = load_file(place / WEIGHTS)

    def put_on(base: str) -> AutoregressiveRewardModel:
        arm = new_arm(reference, base, card.objectives, card.ranks, card.scale)
        with loading(f"the adapters of reward model {place}"):
            set_adapters(arm.model, tensors)
        arm.model.requires_grad_(False)
        return arm

    what = f"reward model {place}"
    return put_on(find_base(reference, card.reference, what, base, lambda: put_on(reference.name)))
