"""What is written beside a value model, for people, and the KL that its strengths cost."""

from typing import Any

from mavis.reward import described
from mavis.training.data import RolloutDataModule
from mavis.training.judgement import SHARES, parts
from mavis.training.module import ValueModule


def strengths(entry: dict[str, Any]) -> tuple[tuple[float, float], ...]:
    """Pairs of a strength and the KL expected at it, in nats per answer; none in older runs."""
    return tuple((share * entry["beta"], nats) for share, nats in _expected(entry))


def _expected(entry: dict[str, Any]) -> list[tuple[float, float]]:
    """Pairs of a share of the strength and the KL expected at it."""
    names = {share: f"kl_expected_{share:g}" for share in SHARES}
    return [(share, entry[name]) for share, name in names.items() if name in entry]


def for_people(data: RolloutDataModule, module: ValueModule, entry: dict[str, Any]) -> str:
    """The value model's card, for people."""
    names = [one.name for one in data.objectives]
    card = module.network.card
    layers = f", layers {', '.join(map(str, card.layers))} (0: embeddings)" if card.layers else ""
    weights = " ".join(f"--weights.{name} {1 / len(names):.2g}" for name in names)
    # The strength of a mix follows from its weights: of several objectives there is no one number.
    at = "{share:g} × the usual strength" if len(names) > 1 else "strength {beta:.3g}"
    row = f"| at {at} | a KL of {{nats:.2f}} nats is expected, beside truncation |\n"
    curve = "".join(
        row.format(beta=share * entry["beta"], share=share, nats=nats)
        for share, nats in _expected(entry)
    )
    mixed = ", over the spread of what is mixed" if len(names) > 1 else ""
    of = {name: f" of {name}" if len(names) > 1 else "" for name in names}
    rewards = "".join(
        f"| reward model{of[one.name]} | `{described(one.reward)}` |\n"
        f"| standard units{of[one.name]} | (reward − {units.mean:.4g}) / {units.std:.4g} |\n"
        for one, units in zip(data.objectives, data.units, strict=True)
    )
    reached = "".join(
        f"| reward on held-out prompts{f', {name}' if len(names) > 1 else ''} | "
        f"{part['reward']:z.2f} ± {part['reward_se']:.2f} (reference "
        f"{part['reward_reference']:z.2f}) at a KL of {part['kl']:.2f} nats per response |\n"
        for name, part in parts(entry, data).items()
    )
    return f"""# Value model: {", ".join(names)}

Tilts `{data.reference.name}` towards {" and ".join(names)}, with `mavis generate "…" {weights}`.

| | |
|---|---|
| source of values | `{card.source}`{layers} |
{rewards}| prompts | `{data.source}` |
| rounds | {entry["round"] + 1} |
| η, β in rollouts{mixed} | {data.strength.eta:.3g}, {data.strength.beta:.3g} |
{reached}{curve}"""
