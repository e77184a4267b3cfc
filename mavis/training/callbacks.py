"""The rounds of a fit: restart the optimizer, measure the policy, keep everything, say a line."""

import hashlib
import json
import math
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from mavis.checksums import check
from mavis.decoding.model_card import read_card
from mavis.evaluation.collect import collected
from mavis.evaluation.kl_matching import at_kl
from mavis.evaluation.metrics import distinct, mean_reward
from mavis.evaluation.samples import ScoredSamples
from mavis.loudness import quiet, verbose
from mavis.prompts import digest, plain
from mavis.reward import described
from mavis.storage import read_json, write_json, write_whole
from mavis.tracking.mlflow_logger import Tracking
from mavis.training import plots
from mavis.training.checkpoint import save_checkpoint
from mavis.training.data import RolloutDataModule
from mavis.training.module import ValueModule
from mavis.training.progress_bar import aside
from mavis.training.run_settings import LAST, METRICS

VALUE = "value"
SUMMARY = ("kl", "kl_sampled", "kl_truncation", "length", "distinct_3", "repetition")
SEEN = "prompts.json"  # digests of the prompts that a value model was trained on


class Rounds(Callback):
    """Turns epochs into rounds, and leaves behind what a run is for."""

    def __init__(self) -> None:
        self._entries: list[dict[str, Any]] = []  # of `metrics.json`, for the rounds that are over
        self._started = 0.0
        self._cpu = 0.0  # of this process but for collecting, when the round began

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Begin to count, behind what the data module measures of the reference policy."""
        del stage
        data, _ = _parts(trainer, pl_module)
        self._restart(data)

    def state_dict(self) -> dict[str, Any]:
        """What the finished rounds came to."""
        return {"entries": self._entries}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on behind the finished rounds."""
        self._entries = state_dict["entries"]

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note what is trained on, and mend what earlier rounds left behind."""
        data, module = _parts(trainer, pl_module)
        if trainer.is_global_zero:
            self._mend(data, module)
            if len(self._entries) >= data.rounds and not quiet():
                print("mavis: this run is finished: nothing is left to train.", file=sys.stderr)
        prompts = data.prompts["train"]
        digest = hashlib.sha256(json.dumps(prompts).encode()).hexdigest()[:32]
        for logger in trainer.loggers:
            if isinstance(logger, Tracking):
                logger.log_data(Path(data.source).name, data.source, len(prompts), digest)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """At the start of a round, restart the optimizer and its schedule."""
        data, _ = _parts(trainer, pl_module)
        if trainer.current_epoch % data.epochs == 0:
            self._started = time.perf_counter()
            if trainer.current_epoch > 0:
                trainer.strategy.setup_optimizers(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """At the end of a round, measure and keep it."""
        data, module = _parts(trainer, pl_module)
        ended = trainer.current_epoch + 1
        if ended % data.epochs and ended != trainer.max_epochs:
            return
        data.facts["seconds_train"] = time.perf_counter() - self._started
        folder = data.folder / "rollouts" / f"round-{data.round}"
        data.facts["seconds_cpu"] = self._spent(data, folder, trainer)
        entry, guided = _measure(trainer, module, "validation", folder / "evaluation")
        if trainer.is_global_zero:
            self._keep(data, module, entry, guided, trainer)
        data.round += 1
        trainer.strategy.barrier()
        save_checkpoint(trainer, data.folder / LAST)
        self._restart(data)  # measuring is no training

    def _restart(self, data: RolloutDataModule) -> None:
        self._cpu = time.process_time() - data.collector.seconds["cpu"]

    def _spent(self, data: RolloutDataModule, folder: Path, trainer: Trainer) -> float:
        """CPU seconds of a round: rollouts, rewards and training, of all processes.

        What was rolled out and scored says itself what it took, be it before an interruption.
        """
        trained = time.process_time() - self._cpu - data.collector.seconds["cpu"]
        mine = torch.tensor(trained, device=trainer.strategy.root_device)
        every = trainer.strategy.reduce(mine, reduce_op="sum")
        return float(every) + sum(collected(folder / split) for split in ("train", "validation"))

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep Lightning's table of metrics for `-v`."""
        del pl_module
        trainer.validate_loop.verbose = trainer.test_loop.verbose = verbose()

    on_test_start = on_validation_start

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say what `mavis validate` has found; in a fit the round's line comes later."""
        del pl_module
        if trainer.state.fn == "validate" and trainer.is_global_zero:
            found = {name: float(value) for name, value in trainer.callback_metrics.items()}
            with aside(trainer):
                print(
                    f"validation: loss {found['val_loss']:.2f}, R² {found['r2']:z.2f}, "
                    f"rank correlation of siblings {found['sibling_rank_correlation']:z.2f}",
                    flush=True,
                )

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure the policy on the test prompts."""
        data, module = _parts(trainer, pl_module)
        entry, _ = _measure(trainer, module, "test", data.folder / "test" / f"{data.round}")
        if trainer.is_global_zero:
            write_json(data.folder / "test.json", entry)
            with aside(trainer):
                print(f"test: {_line(entry)}", flush=True)

    def _keep(
        self,
        data: RolloutDataModule,
        module: ValueModule,
        entry: dict[str, Any],
        guided: ScoredSamples,
        trainer: Trainer,
    ) -> None:
        """Write metrics, value model and plots; track them; say a line."""
        self._entries = [old for old in self._entries if old["round"] < data.round] + [entry]
        _save(data, module, entry)
        pictures = _plots(data, module, self._entries, guided)
        write_json(data.folder / METRICS, self._entries)
        for logger in trainer.loggers:
            if isinstance(logger, Tracking):
                logger.log_round(entry, pictures, _table(data, guided))
                logger.log_model(data.folder / VALUE, f"mavis-{data.objective.name}")
        with aside(trainer):
            print(f"round {data.round}: {_line(entry)}", flush=True)
            if told := data.collector.thoughts():
                print(f"round {data.round}: {told}", flush=True)

    def _mend(self, data: RolloutDataModule, module: ValueModule) -> None:
        """Write again, from the checkpoint, what is missing or damaged of the finished rounds."""
        file, value = data.folder / METRICS, data.folder / VALUE
        if (
            data.round and not self._entries and file.is_file()
        ):  # a checkpoint from before it held them
            self._entries = [old for old in read_json(file) if old["round"] < data.round]
        if not self._entries:
            return
        again = "written again from the checkpoint"
        try:
            read_json(file)
        except (OSError, ValueError):
            print(f"mavis: {file} is missing or damaged: {again}.", file=sys.stderr)
            write_json(file, self._entries)
        try:
            read_card(value)
            check(value)
            read_json(value / SEEN)
        except (OSError, ValueError):
            print(f"mavis: {value} is missing or damaged: {again}.", file=sys.stderr)
            _save(data, module, self._entries[-1])


def _parts(trainer: Trainer, module: LightningModule) -> tuple[RolloutDataModule, ValueModule]:
    data = trainer.datamodule  # type: ignore[attr-defined]
    if not isinstance(data, RolloutDataModule) or not isinstance(module, ValueModule):
        raise TypeError("Rounds works on a ValueModule and a RolloutDataModule.")
    return data, module


def _save(data: RolloutDataModule, module: ValueModule, entry: dict[str, Any]) -> None:
    """Write the value model as it is after the round of an entry."""
    module.network.card = replace(module.network.card, rounds=entry["round"] + 1)
    text = _card(data, module, entry)

    def save(draft: Path) -> None:
        module.network.save_pretrained(draft, text)
        write_json(draft / SEEN, sorted(map(digest, data.prompts["train"])))

    write_whole(data.folder / VALUE, save)


def _measure(
    trainer: Trainer, module: ValueModule, split: str, folder: Path
) -> tuple[dict[str, Any], ScoredSamples]:
    """What the policy comes to on the prompts of a split, and its answers to them."""
    with aside(trainer):
        guided = module.data.evaluate(module.network, split, folder)
        baseline = module.data.baseline(split)
    entry = _entry(module.data, guided, baseline, trainer)
    best = at_kl(baseline.best_of_n(module.data.units, [1.0]), entry["kl"])
    return entry | {"best_of_n_at_kl": None if best is None else float(best.rewards[0])}, guided


def _entry(
    data: RolloutDataModule, guided: ScoredSamples, baseline: ScoredSamples, trainer: Trainer
) -> dict[str, Any]:
    """What `metrics.json` says of a round."""
    reference = mean_reward(baseline.standard(data.units))
    tokens = [answer for answers in baseline.tokens for answer in answers]
    as_many = tokens[:: max(1, len(tokens) // len(guided.tokens))][: len(guided.tokens)]
    logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
    return {
        "round": data.round,
        **mean_reward(guided.standard(data.units)),
        **{name: guided.summary[name] for name in SUMMARY},
        "reward_reference": reference["reward"],
        "reward_reference_se": reference["reward_se"],
        "length_reference": baseline.summary["length"],
        "distinct_3_reference": distinct(as_many, 3),
        "repetition_reference": baseline.summary["repetition"],
        **data.facts,
        "r2": logged.get("r2", math.nan),
        "val_loss": logged.get("val_loss", math.nan),
        "sibling_rank_correlation": logged.get("sibling_rank_correlation", math.nan),
    }


def _line(entry: dict[str, Any]) -> str:
    """A round, in a line."""
    best = entry["best_of_n_at_kl"]
    best_of_n = "no best-of-N at this KL" if best is None else f"best-of-N at this KL {best:z.2f}"
    return (
        f"reward {entry['reward']:z.2f} ± {entry['reward_se']:.2f} "  # z: no "-0.00"
        f"(reference {entry['reward_reference']:z.2f}, {best_of_n}), KL {entry['kl']:.1f} nats"
    )


def _table(data: RolloutDataModule, guided: ScoredSamples, count: int = 50) -> list[dict[str, Any]]:
    """Prompts with the reference's answer and the guided one."""
    columns = [[plain(prompt) for prompt in data.prompts["validation"][:count]]]
    both = (data.baseline("validation"), guided)
    columns += [[texts[0] for texts in one.responses] for one in both]
    columns += [one.standard(data.units)[:, 0, 0].tolist() for one in both]
    names = ("prompt", "reference", "guided", "reward_reference", "reward_guided")
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=False)]


def _plots(
    data: RolloutDataModule,
    module: ValueModule,
    entries: list[dict[str, Any]],
    guided: ScoredSamples,
) -> list[Path]:
    name = data.objective.name
    samples = (data.baseline("validation"), guided)
    before, after = (one.standard(data.units).ravel().tolist() for one in samples)
    points = enumerate(samples[0].best_of_n(data.units, [1.0]), 1)
    curve = [(n, point.mean_kl, float(point.mean_rewards[0])) for n, point in points]
    pictures = [
        plots.reward_kl(data.folder / "reward_kl.png", entries, curve, name),
        plots.reward_histograms(data.folder / "rewards.png", before, after, name),
    ]
    for depth, predicted, target in module.calibration:
        file = data.folder / "calibration.png"
        pictures.append(plots.calibration(file, depth, predicted, target, name))
    return pictures


def _card(data: RolloutDataModule, module: ValueModule, entry: dict[str, Any]) -> str:
    """The value model's card, for people."""
    (units,), name = data.units, data.objective.name
    return f"""# Value model: {name}

Tilts `{data.reference.name}` towards {name}, with `mavis generate "…" --weights.{name} 1`.

| | |
|---|---|
| source of values | `{module.source}` |
| reward model | `{described(data.objective.reward)}` |
| standard units | (reward − {units.mean:.4g}) / {units.std:.4g} |
| prompts | `{data.source}` |
| rounds | {entry["round"] + 1} |
| η, β in rollouts | {data.eta:g}, {data.beta:g} |
| reward on held-out prompts | {entry["reward"]:z.2f} ± {entry["reward_se"]:.2f} (reference {
        entry["reward_reference"]:.2f}) |
| KL to the reference | {entry["kl"]:.2f} nats per response |
"""
