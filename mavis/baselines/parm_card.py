"""A folder with a reward model of PARM: what its card says, for programs and for people."""

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from mavis.baselines.pblora import SCALE
from mavis.checksums import check
from mavis.reward import Units
from mavis.storage import write_json

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


def write_card(card: ParmCard, folder: Path) -> None:
    """Write what is said of a reward model, for people and for `read_parm`."""
    (folder / "README.md").write_text(_for_people(card), encoding="utf-8")
    write_json(folder / CARD, asdict(card))


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
