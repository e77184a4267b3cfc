"""PARM, and GenARM as its case of one objective: an autoregressive reward model as a guide.

One language model, steered by a preference α on the simplex of M objectives, rewards every next
token by its log-probability (PARM, arXiv 2505.06274; GenARM, arXiv 2410.08193):

    π(a|s) ∝ π_ref(a|s) · π_arm(a|s; α)^(1/β_arm)

In the decoding core that is the ordinary tilt: a row's weights λ say α = λ / Σλ, its values are
log π_arm for every objective, and β·Σλ is 1/β_arm. Several guides with an objective each make
GenARM for many: log π_ref + β·Σ_m λ_m log π_arm_m.

Saved as a folder: `parm.json`, `pblora.safetensors`, and README.md for people.
"""
# ruff: noqa: ARG002 - a source hears of everything, and takes what it needs

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from mavis.checksums import DRAFT, check, install
from mavis.guide.folders import loading
from mavis.guide.policy import GuidedPolicy
from mavis.guide.reference import ReferencePolicy
from mavis.guide.rows import Index, Reading, Rows
from mavis.guide.tilt import Settings, tilt
from mavis.guide.values import ValueSource
from mavis.learn.store import write_json
from mavis.measure.rivals.bases import base_of, find_base
from mavis.measure.rivals.pblora import SCALE, Preference, adapt, adapters, set_adapters
from mavis.names import locate
from mavis.reward import Units

CARD, WEIGHTS = "parm.json", "pblora.safetensors"


@dataclass(frozen=True)
class ParmCard:
    """Where an autoregressive reward model comes from.

    Args:
        objectives: what it knows of, in the order of its preferences.
        units: standard units of each objective's reward.
        reference: the policy that wrote its training answers, and that it adapts.
        fingerprint: of the tokenizer.
        template: dotted name of the function that wrote the prompts out, if not a chat template.
        ranks: of its layers' adapters: for all preferences, and steered by them.
        scale: of the adapters.
        targets: names of the adapted layers, without their numbers.
        beta_r: the reward of a nat, in the training loss.
        seed: of every random draw.
        parameters: how many were trained.
        train_seconds: wall-clock time of the training, sampling and scoring included.
        cpu_seconds: of the process, for the same.
        prompts: digests of what it was trained on (see `prompts.digest`).
        settings: every option that decides what comes out.
        measured: on held-out prompts, by preference: rewards in standard units and KL in nats.
    """

    objectives: tuple[str, ...]
    units: tuple[Units, ...]
    reference: str
    fingerprint: str
    template: str | None
    ranks: tuple[int, int]
    beta_r: float
    seed: int = 0
    scale: float = SCALE
    targets: tuple[str, ...] = ()
    parameters: int = 0
    train_seconds: float = 0.0
    cpu_seconds: float = 0.0
    prompts: tuple[str, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)
    measured: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Arm:
    """An autoregressive reward model; it guides through `open`.

    Args:
        model: a causal LM with adapters.
        preference: where its layers look for the rows' preferences.
        objectives: the M names by which weights are given.
        vocabulary: V of the reference policy.
    """

    model: PreTrainedModel
    preference: Preference
    objectives: tuple[str, ...]
    vocabulary: int

    def open(self, rows: int) -> "ArmValues":
        """A source with room for `rows` rows."""
        return ArmValues(self, rows)


class ArmValues(ValueSource):
    """log π_arm(a|s; α) of the candidates, α from the row's weights.

    It is a reward: a request's temperature is for the reference policy, not for this.
    """

    def __init__(self, arm: Arm, rows: int) -> None:
        self.arm = arm
        self.rows = Rows(arm.model, rows)
        self._log_probs = torch.empty(0)

    def extend(
        self, rows: Index, tokens: Sequence[Sequence[int]], reading: Reading, settings: Settings
    ) -> None:
        """Read the same tokens, every row under its own preference."""
        silent = reading.logits is None
        self.arm.preference.rows = self._preferences(settings.weights)
        logits = self.rows.extend(rows, tokens, silent).logits
        if logits is not None:
            self._log_probs = torch.log_softmax(logits[:, : self.arm.vocabulary], -1)  # [R, V]

    def values(self, rows: Index, candidates: Tensor) -> Tensor:
        """Gather the candidates' log-probabilities, once for each objective [R, K, M]."""
        chosen = self._log_probs.gather(1, candidates)
        return chosen[..., None].expand(-1, -1, len(self.arm.objectives))

    def commit(self, rows: Index, chosen: Tensor) -> None:
        """Nothing to keep: the token is read with the next step."""

    def copy(self, dst: Index, src: Index) -> None:
        """Copy the rows."""
        self.rows.copy(dst, src)

    def clear(self, rows: Index) -> None:
        """Clear the rows."""
        self.rows.clear(rows)

    def _preferences(self, weights: Tensor) -> Tensor:
        """α [R, M] from the weights [R, M] of a request's rows."""
        names = self.arm.objectives
        if len(names) == 1:  # its preference is always the same, whatever else guides
            return weights.new_ones(len(weights), 1)
        if weights.shape[1] != len(names):
            raise ValueError(
                f"a reward model of {', '.join(names)} must be the only guide: its preference is "
                "made from all weights. Train one per objective to combine it with others."
            )
        return preferences(weights)


def preferences(weights: Tensor) -> Tensor:
    """The preferences α on the simplex that weights λ [R, M] stand for: λ / Σλ.

    Raises:
        ValueError: weights without a direction on the simplex.

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
    """`tilt` by log π_arm, for weights that are preferences; arguments as there."""
    preferences(weights)
    return tilt(log_ref, values, weights, beta)


def guided_by(reference: ReferencePolicy, *arms: Arm) -> GuidedPolicy:
    """The reference policy, guided by one reward model, or by several with an objective each.

    Returns:
        a policy whose weights are the preference, and whose β (default 1) is 1/β_arm.
    """
    single = all(len(arm.objectives) == 1 for arm in arms)
    return GuidedPolicy(reference, arms, tilt if single else preference_tilt)


def new_arm(
    reference: ReferencePolicy, base: str, objectives: Sequence[str], ranks: tuple[int, int],
    scale: float = SCALE, seed: int = 0,
) -> Arm:  # fmt: skip
    """A reward model that still says what its base says; only its adapters can be trained."""
    model = base_of(reference, base)
    if len(model.get_output_embeddings().weight) < reference.vocabulary:
        raise ValueError(f"{base} knows fewer tokens than the reference {reference.name}.")
    preference = adapt(model.eval().requires_grad_(False), len(objectives), ranks, seed, scale)
    return Arm(model, preference, tuple(objectives), reference.vocabulary)


def save_parm(arm: Arm, card: ParmCard, folder: Path) -> None:
    """Write a reward model as a folder; the card last, which says that the folder is whole."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CARD).unlink(missing_ok=True)
    tensors = {name: part.detach().contiguous().cpu() for name, part in adapters(arm.model)}
    draft = folder / (WEIGHTS + DRAFT)
    save_file(tensors, draft)
    install(draft, folder / WEIGHTS)
    write_card(card, folder)


def write_card(card: ParmCard, folder: Path) -> None:
    """Write what is said of a reward model, for people and for `read_parm`."""
    (folder / "README.md").write_text(_for_people(card), encoding="utf-8")
    write_json(folder / CARD, asdict(card))


def load_parm(reference: ReferencePolicy, folder: str | Path, base: str | None = None) -> Arm:
    """Load a reward model, to guide a reference policy with the same tokenizer.

    That may be another policy than it was trained under: a large one, guided by a small one. The
    adapters are put on `base`, or else on the policy that they were trained on; where that is gone,
    on the reference itself, if they fit, with a warning.

    Raises:
        FileNotFoundError: the folder is missing, or holds no reward model.
        ValueError: it has another tokenizer, or one of its files is broken.
    """
    place = Path(locate(str(folder), "reward model"))
    card = read_parm(place)
    if not reference.knows(card.fingerprint):
        raise ValueError(
            f"reward model {place} and reference {reference.name} have different tokenizers: it "
            f"was trained under {card.reference}. Use that one as the reference."
        )
    with loading(f"{place / WEIGHTS}"):
        tensors = load_file(place / WEIGHTS)

    def put_on(base: str) -> Arm:
        arm = new_arm(reference, base, card.objectives, card.ranks, card.scale)
        with loading(f"the adapters of reward model {place}"):
            set_adapters(arm.model, tensors)
        arm.model.requires_grad_(False)
        return arm

    what = f"reward model {place}"
    return put_on(find_base(reference, card.reference, what, base, lambda: put_on(reference.name)))


def read_parm(folder: Path) -> ParmCard:
    """Read the card of a reward model, and see that its weights are those that were written.

    Raises:
        FileNotFoundError: the folder holds none: no reward model, or one still in training.
        ValueError: the card or the weights are damaged.
    """
    file = folder / CARD
    if not file.is_file():
        raise FileNotFoundError(f"{folder} holds no reward model of PARM: {CARD} is missing.")
    check(file)
    check(folder / WEIGHTS, f"delete {CARD} beside it, and `mavis parm` trains it again.")
    try:
        content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        known = {name.name: content[name.name] for name in fields(ParmCard)}
        known["units"] = tuple(Units(**units) for units in known["units"])
        for name in ("objectives", "ranks", "targets", "prompts"):
            known[name] = tuple(known[name])
        return ParmCard(**known)
    except KeyError as error:
        raise ValueError(f"{file} is no card of a reward model: it lacks {error}.") from error
    except (OSError, TypeError, ValueError) as error:
        raise ValueError(f"{file} is no card of a reward model: {error}") from error


def _for_people(card: ParmCard) -> str:
    lines = [
        f"# An autoregressive reward model of {', '.join(card.objectives)}",
        "",
        f"PBLoRA (ranks {card.ranks[0]} + {card.ranks[1]}, {card.parameters:,} parameters) over "
        f"{card.reference}; method PARM, arXiv 2505.06274 (GenARM, 2410.08193, where there is one "
        "objective).",
        "",
        f"Trained on answers to {len(card.prompts)} prompts in {card.train_seconds:.0f} s "
        f"({card.cpu_seconds:.0f} s of CPU). Settings: `{json.dumps(card.settings)}`.",
        "",
        "Held-out prompts; rewards in standard units, KL in nats per response:",
        "",
        f"| preference | 1/β_arm | {' | '.join(card.objectives)} | KL |",
        "|---|---" + "|---" * (len(card.objectives) + 1) + "|",
    ]
    for row in card.measured:
        alpha = ", ".join(f"{share:.2g}" for share in row["preference"])
        rewards = " | ".join(f"{row['reward'][name]:+.2f}" for name in card.objectives)
        lines.append(f"| {alpha} | {row['beta']:g} | {rewards} | {row['kl']:.2f} |")
    return "\n".join([*lines, ""])
