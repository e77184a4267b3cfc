"""`mavis parm`: train the autoregressive reward model of the baseline PARM (or GenARM)."""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mavis.baselines.train.config import ParmConfig
from mavis.devices import check_device
from mavis.hub import locate
from mavis.objective import Objective, find
from mavis.reward import identity

if TYPE_CHECKING:
    from mavis.baselines.parm import AutoregressiveRewardModel
    from mavis.baselines.parm_card import ParmCard
    from mavis.decoding.reference import ReferencePolicy
    from mavis.prompts import Prompt
    from mavis.reward import Units

SETTINGS = "settings.json"  # of an unfinished or a finished run
MEASURED_AT = 0.5  # 1/β_arm


def parm(config: ParmConfig) -> None:
    """Train the baseline PARM: one reward model for any preference among the objectives.

    With a single objective, this is the baseline GenARM.
    """
    found = [find(name) for name in config.names]
    locate(config.reference, "reference")
    check_device(config.device)
    from mavis.baselines.parm_card import CARD, ParmCard
    from mavis.decoding.reference import ReferencePolicy, spare_threads
    from mavis.storage import alone_in, check_same, read_json

    settings = config.settings() | {
        "objectives": config.names,
        "prompts": config.source(found),
        "rewards": [identity(one) for one in found],
    }
    folder, named = Path(config.folder), (settings["reference"], config.template)
    policy = ReferencePolicy.load(*named, config.device, config.template_args)
    settings["reference_weights"] = policy.weights_digest
    with alone_in(folder):
        if (folder / SETTINGS).is_file():
            check_same(folder, "run", config.renew(read_json(folder / SETTINGS)), settings)
        if (folder / CARD).is_file() and ParmCard.read(folder).measured:
            print(f"reward model  {folder} (already trained)")
            return
        spare_threads(policy.model)
        if not (folder / CARD).is_file():
            _train(policy, found, config, settings, folder)
        card = _measured(policy, found, config.rows, folder)
    print("\n".join([*map(_line, card.measured), f"reward model  {folder}"]))


def _line(row: dict[str, Any]) -> str:
    """Format the measurements of one preference as a line."""
    rewards = {name: round(reward, 2) + 0.0 for name, reward in row["reward"].items()}  # no "-0.00"
    said = ", ".join(f"{name} {reward:+.2f}" for name, reward in rewards.items())
    shares = ", ".join(f"{share:.2g}" for share in row["preference"])
    return f"preference {shares}: {said} at KL {row['kl']:.2f} (1/β_arm = {row['beta']:g})"


def _train(
    policy: "ReferencePolicy",
    objectives: Sequence[Objective],
    config: ParmConfig,
    settings: dict[str, Any],
    folder: Path,
) -> None:
    """Sample and score answers, train the reward model on their preferences, and save it."""
    from mavis.baselines.parm import new_arm, save_parm
    from mavis.baselines.parm_card import ParmCard
    from mavis.baselines.pblora import adapters
    from mavis.baselines.train.parm import train_arm
    from mavis.baselines.train.preferences import collect
    from mavis.evaluation.collect import collected
    from mavis.prompts import digest
    from mavis.storage import write_json
    from mavis.tracking.mlflow_logger import Tracking

    length, seed, rows = config.max_tokens, config.seed, config.rows
    asked = _prompts(policy, settings, "train")[: config.num_prompts]
    held_out = _prompts(policy, settings, "validation")[: config.held_out]
    write_json(folder / SETTINGS, settings)
    units = _units(policy, objectives, held_out, config)
    log = Tracking(str(folder), uri=config.tracking)
    log.log_hyperparams(settings)
    wall, answers = time.perf_counter(), folder / "answers"
    groups = collect(policy, objectives, asked, config.answers, length, seed, rows, answers)
    cpu = time.process_time()
    ranks = (config.rank, config.rank)
    arm = new_arm(policy, policy.name, config.names, ranks, seed=seed)
    how = (config.beta_r, config.lr, config.epochs, config.batch, seed)
    train_arm(arm, groups, *how, tracking=log)
    # Sampling time includes that of earlier, interrupted runs.
    cpu = time.process_time() - cpu + collected(answers)
    wall = time.perf_counter() - wall
    names = [name for name, _ in adapters(arm.model)]
    card = ParmCard(
        objectives=arm.objectives,
        units=tuple(units),
        reference=policy.name,
        fingerprint=policy.fingerprint,
        template=policy.template,
        template_args=config.template_args,
        reference_weights=policy.weights_digest,
        rewards=tuple(settings["rewards"]),
        ranks=ranks,
        beta_r=config.beta_r,
        seed=seed,
        targets=tuple(dict.fromkeys(name.split(".")[-2] for name in names)),
        parameters=sum(part.numel() for _, part in adapters(arm.model)),
        train_seconds=wall,
        cpu_seconds=cpu,
        prompts=tuple(digest(prompt) for prompt in asked),
        settings=settings,
    )
    save_parm(arm, card, folder)


def _units(
    policy: "ReferencePolicy",
    objectives: Sequence[Objective],
    held_out: "Sequence[Prompt]",
    config: ParmConfig,
) -> "Sequence[Units]":
    """Measure standard units on the reference's answers to the first third of the prompts."""
    from mavis.decoding.policy import GuidedPolicy
    from mavis.decoding.request import SamplingParams
    from mavis.evaluation.evaluate import evaluate

    return evaluate(
        GuidedPolicy(policy),
        held_out[: -(-len(held_out) // 3)],
        objectives,
        SamplingParams(),
        max_tokens=config.max_tokens,
        n=config.best_of,
        seed=config.seed,
        rows=config.rows,
    ).units


def _prompts(policy: "ReferencePolicy", settings: dict[str, Any], split: str) -> "list[Prompt]":
    from mavis.decoding.prompt_filter import fitting_prompts

    room = (settings["column"], settings["max_tokens"], settings["seed"])
    return fitting_prompts(policy, settings["prompts"], split, *room)


def _measured(
    policy: "ReferencePolicy", objectives: Sequence[Objective], rows: int, folder: Path
) -> "ParmCard":
    """Measure a saved reward model, and record the results in its card."""
    from mavis.baselines.parm import load_parm
    from mavis.baselines.parm_card import ParmCard

    arm, card = load_parm(policy, folder), ParmCard.read(folder)
    held_out = _prompts(policy, card.settings, "validation")[: card.settings["held_out"]]
    length, seed = card.settings["max_tokens"], card.settings["seed"]
    found = _measure(policy, arm, objectives, card.units, held_out, length, seed, rows)
    card = replace(card, measured=found)
    card.save(folder)
    return card


def _measure(
    reference: "ReferencePolicy",
    arm: "AutoregressiveRewardModel",
    objectives: Sequence[Objective],
    units: "Sequence[Units]",
    prompts: "Sequence[Prompt]",
    max_tokens: int,
    seed: int,
    rows: int,
) -> list[dict[str, Any]]:
    """Measure reward and KL at the corners and the centre of the simplex, one answer a prompt."""
    from mavis.baselines.parm import guided_by
    from mavis.decoding.request import SamplingParams
    from mavis.evaluation.evaluate import evaluate

    policy, size = guided_by(reference, arm), len(objectives)
    points = [tuple(float(at == other) for other in range(size)) for at in range(size)]
    points += [(1 / size,) * size] if size > 1 else []
    found = []
    for point in points:
        samples = evaluate(
            policy,
            prompts,
            objectives,
            SamplingParams(point, MEASURED_AT),
            max_tokens=max_tokens,
            seed=seed + 1,  # not the draws that the units were measured on
            rows=rows,
        )
        rewards, kl = samples.mean_rewards(units), samples.summary["kl"]
        found.append({"preference": point, "beta": MEASURED_AT, "reward": rewards, "kl": kl})
    return found
