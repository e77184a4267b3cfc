"""What is written beside a value model, for people, and the KL that its strengths cost."""

from typing import Any

from mavis.reward import described
from mavis.training.data import RolloutDataModule
from mavis.training.judgement import SHARES
from mavis.training.module import ValueModule


def strengths(entry: dict[str, Any]) -> tuple[tuple[float, float], ...]:
    """Pairs of a strength and the KL expected at it, in nats per answer; none in older runs."""
    known = [share for share in SHARES if f"kl_expected_{share:g}" in entry]
    return tuple((share * entry["beta"], entry[f"kl_expected_{share:g}"]) for share in known)


def for_people(data: RolloutDataModule, module: ValueModule, entry: dict[str, Any]) -> str:
    """The value model's card, for people."""
    (units,), name = data.units, data.objective.name
    card = module.network.card
    layers = f", layers {', '.join(map(str, card.layers))} (0: embeddings)" if card.layers else ""
    row = "| at strength {:.3g} | a KL of {:.2f} nats is expected, beside truncation |\n"
    curve = "".join(row.format(*pair) for pair in strengths(entry))
    return f"""# Value model: {name}

Tilts `{data.reference.name}` towards {name}, with `mavis generate "…" --weights.{name} 1`.

| | |
|---|---|
| source of values | `{card.source}`{layers} |
| reward model | `{described(data.objective.reward)}` |
| standard units | (reward − {units.mean:.4g}) / {units.std:.4g} |
| prompts | `{data.source}` |
| rounds | {entry["round"] + 1} |
| η, β in rollouts | {data.strength.eta:.3g}, {data.strength.beta:.3g} |
| reward on held-out prompts | {entry["reward"]:z.2f} ± {entry["reward_se"]:.2f} (reference {
        entry["reward_reference"]:z.2f}) |
| KL to the reference | {entry["kl"]:.2f} nats per response |
{curve}"""
