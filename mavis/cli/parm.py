"""`parm`: train the autoregressive reward model that PARM (or GenARM) decodes with."""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mavis.cli.options import at_least, listed, positive
from mavis.devices import check_device
from mavis.hub import lasting, locate
from mavis.objective import Objective, common_source, find
from mavis.reward import identity

if TYPE_CHECKING:
    from mavis.baselines.parm import AutoregressiveRewardModel
    from mavis.baselines.parm_card import ParmCard
    from mavis.decoding.reference import ReferencePolicy
    from mavis.prompts import Prompt
    from mavis.reward import Units

SETTINGS = "settings.json"  # of a run that is under way, or done
MEASURED_AT = 0.5  # 1/β_arm


def parm(
    objectives: str | list[str] = "",
    reference: str = "sandbox/reference",
    template: str | None = None,
    template_args: dict[str, Any] | None = None,
    prompts: str | None = None,
    column: str | None = None,
    out: str | None = None,
    limit: int | None = None,
    answers: int = 8,
    epochs: int = 6,
    batch: int = 8,
    lr: float = 5e-3,
    beta_r: float = 0.05,
    rank: int = 16,
    max_tokens: int = 64,
    rows: int = 128,
    held_out: int = 200,
    best_of: int = 32,
    seed: int = 0,
    device: str | None = None,
    tracking: str | None = None,
) -> None:
    """Train one reward model that speaks for any preference among objectives: the rival PARM.

    Args:
        objectives: names of installed objectives, with commas between; one alone is GenARM
        reference: the policy to be guided, which writes the training answers
        template: dotted name of a function prompt -> text, in place of the chat template
        template_args: arguments of the chat template, such as '{enable_thinking: false}'
        prompts: where training prompts come from (default: the objectives' own)
        column: column of the data set that holds them
        out: folder to keep the model in (default: runs/tuned/parm-OBJECTIVES)
        limit: how many training prompts (default: all)
        answers: answers to each, of which any two make a pair
        epochs: passes over them
        batch: prompts per step
        lr: learning rate
        beta_r: the reward of a nat, in the loss
        rank: of the adapters: as much for all preferences, and as much steered by them
        max_tokens: longest answer
        rows: answers that are written side by side
        held_out: validation prompts to measure on
        best_of: answers of the reference to a third of them, for standard units
        seed: of the random draws
        device: where to run, such as cpu or cuda:1 (default: an accelerator if there is one)
        tracking: MLflow tracking URI (default: MLFLOW_TRACKING_URI, or mlflow.db beside OUT)
    """
    names = listed("objectives", objectives)
    if not names:
        raise ValueError("objectives must be named: add --objectives NAME[,NAME …].")
    found = [find(name) for name in names]
    positive(lr=lr, beta_r=beta_r)
    at_least(2, answers=answers, held_out=held_out, best_of=best_of)
    at_least(1, rank=rank, epochs=epochs, batch=batch, max_tokens=max_tokens, rows=rows)
    at_least(1, limit=1 if limit is None else limit)
    locate(reference, "reference")
    check_device(device)
    from mavis.baselines.parm_card import CARD, read_parm
    from mavis.decoding.reference import ReferencePolicy, spare_threads
    from mavis.storage import alone_in, check_same, read_json

    settings: dict[str, Any] = {
        "objectives": names,
        "reference": lasting(reference),
        "template": template,
        "template_args": template_args,
        "prompts": lasting(common_source("prompts", prompts, found)),
        "column": column,
        "limit": limit,
        "answers": answers,
        "epochs": epochs,
        "batch": batch,
        "lr": lr,
        "beta_r": beta_r,
        "rank": rank,
        "max_tokens": max_tokens,
        "rewards": [identity(one) for one in found],
        "held_out": held_out,
        "best_of": best_of,
        "seed": seed,
    }
    folder = Path(out or f"runs/tuned/parm-{'+'.join(names)}")
    policy = ReferencePolicy.load(settings["reference"], template, device, template_args)
    settings["reference_weights"] = policy.weights_digest
    with alone_in(folder):
        if (folder / SETTINGS).is_file():
            check_same(folder, "run", read_json(folder / SETTINGS), settings)
        if (folder / CARD).is_file() and read_parm(folder).measured:
            print(f"reward model  {folder} (is there already)")
            return
        spare_threads(policy.model)
        if not (folder / CARD).is_file():
            _train(policy, found, settings, rows, folder, tracking)
        card = _measured(policy, found, rows, folder)
    print("\n".join([*map(_line, card.measured), f"reward model  {folder}"]))


def _line(row: dict[str, Any]) -> str:
    """What a preference got, in a line."""
    rewards = {name: round(reward, 2) + 0.0 for name, reward in row["reward"].items()}  # no "-0.00"
    said = ", ".join(f"{name} {reward:+.2f}" for name, reward in rewards.items())
    shares = ", ".join(f"{share:.2g}" for share in row["preference"])
    return f"preference {shares}: {said} at KL {row['kl']:.2f} (1/β_arm = {row['beta']:g})"


def _train(
    policy: "ReferencePolicy",
    objectives: Sequence[Objective],
    settings: dict[str, Any],
    rows: int,
    folder: Path,
    uri: str | None,
) -> None:
    """Sample, score, train on what was preferred, and save."""
    from mavis.baselines.parm import new_arm, save_parm
    from mavis.baselines.parm_card import ParmCard
    from mavis.baselines.pblora import adapters
    from mavis.baselines.train.parm import train_arm
    from mavis.baselines.train.preferences import collect
    from mavis.decoding.policy import GuidedPolicy
    from mavis.decoding.request import SamplingParams
    from mavis.evaluation.collect import collected
    from mavis.evaluation.evaluate import evaluate
    from mavis.prompts import digest
    from mavis.storage import write_json
    from mavis.tracking.mlflow_logger import Tracking

    length, seed = settings["max_tokens"], settings["seed"]
    asked = _prompts(policy, settings, "train")[: settings["limit"]]
    held_out = _prompts(policy, settings, "validation")[: settings["held_out"]]
    write_json(folder / SETTINGS, settings)
    third = held_out[: -(-len(held_out) // 3)]
    drawn = {"max_tokens": length, "n": settings["best_of"], "seed": seed, "rows": rows}
    units = evaluate(GuidedPolicy(policy), third, objectives, SamplingParams(), **drawn).units
    log = Tracking(str(folder), uri=uri)
    log.log_hyperparams(settings)
    wall, answers = time.perf_counter(), folder / "answers"
    groups = collect(policy, objectives, asked, settings["answers"], length, seed, rows, answers)
    cpu = time.process_time()
    ranks = (settings["rank"], settings["rank"])
    arm = new_arm(policy, policy.name, settings["objectives"], ranks, seed=seed)
    how = {name: settings[name] for name in ("beta_r", "lr", "epochs", "batch", "seed")}
    train_arm(arm, groups, **how, tracking=log)
    cpu = time.process_time() - cpu + collected(answers)  # be it of a run before this one
    wall = time.perf_counter() - wall
    names = [name for name, _ in adapters(arm.model)]
    card = ParmCard(
        objectives=arm.objectives,
        units=tuple(units),
        reference=policy.name,
        fingerprint=policy.fingerprint,
        template=policy.template,
        ranks=ranks,
        beta_r=settings["beta_r"],
        seed=seed,
        targets=tuple(dict.fromkeys(name.split(".")[-2] for name in names)),
        parameters=sum(part.numel() for _, part in adapters(arm.model)),
        train_seconds=wall,
        cpu_seconds=cpu,
        prompts=tuple(digest(prompt) for prompt in asked),
        settings=settings,
    )
    save_parm(arm, card, folder)


def _prompts(policy: "ReferencePolicy", settings: dict[str, Any], split: str) -> "list[Prompt]":
    from mavis.decoding.prompt_filter import fitting_prompts

    room = (settings["column"], settings["max_tokens"], settings["seed"])
    return fitting_prompts(policy, settings["prompts"], split, *room)


def _measured(
    policy: "ReferencePolicy", objectives: Sequence[Objective], rows: int, folder: Path
) -> "ParmCard":
    """Measure a model that is saved, and write down what comes out."""
    from mavis.baselines.parm import load_parm
    from mavis.baselines.parm_card import read_parm, write_card

    arm, card = load_parm(policy, folder), read_parm(folder)
    held_out = _prompts(policy, card.settings, "validation")[: card.settings["held_out"]]
    length, seed = card.settings["max_tokens"], card.settings["seed"]
    found = _measure(policy, arm, objectives, card.units, held_out, length, seed, rows)
    card = replace(card, measured=found)
    write_card(card, folder)
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
    """Rewards and KL at every corner of the simplex and in its middle, one answer a prompt."""
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
