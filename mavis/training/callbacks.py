"""The rounds of a fit: restart the optimizer, measure the policy, save and print the results."""

import hashlib
import json
import re
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
from mavis.evaluation.samples import ScoredSamples
from mavis.loudness import quiet, verbose
from mavis.plot_style import save
from mavis.prompts import digest, plain
from mavis.storage import read_json, write_json, write_whole
from mavis.tracking.mlflow_logger import Tracking
from mavis.tracking.mlflow_run import SAMPLE_COLUMNS
from mavis.training import advice, judgement, plots
from mavis.training.data import RolloutDataModule
from mavis.training.module import ValueModule
from mavis.training.progress_bar import aside
from mavis.training.round_entry import best_of_n_curve, measure, reward_column
from mavis.training.run_folder import LAST, METRICS, save_checkpoint
from mavis.training.value_card import for_people, strengths
from mavis.training.weightings import Weighting, label

VALUE, VALID = "value", "validation"
SHOWN = 50  # answers that are tracked with a round
Answers = dict[Weighting, ScoredSamples]  # of the guided policy

SEEN = "prompts.json"  # digests of the prompts that a value model was trained on


class Rounds(Callback):
    """Ends each round of a fit: measures the policy, saves the results and prints a line."""

    def __init__(self) -> None:
        self._entries: list[dict[str, Any]] = []  # of `metrics.json`, for the finished rounds
        # What is learned, and the strength of its policy, as the round found them.
        self._before: tuple[list[torch.Tensor], dict[str, Any]] = [], {}
        self._started = 0.0
        self._cpu = 0.0  # of this process without collecting, when the round began

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Start the clock, after the data module has measured the reference policy."""
        del stage
        data = trainer.datamodule  # type: ignore[attr-defined]
        if not isinstance(data, RolloutDataModule) or not isinstance(pl_module, ValueModule):
            raise TypeError("Rounds works on a ValueModule and a RolloutDataModule.")
        self._data, self._module = data, pl_module
        self._restart()

    def state_dict(self) -> dict[str, Any]:
        """Return the measurements of the finished rounds."""
        return {"entries": self._entries}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resume after the finished rounds."""
        self._entries = state_dict["entries"]

    def on_fit_start(self, trainer: Trainer, _: LightningModule) -> None:
        """Track the training data, and repair what earlier rounds have written."""
        data = self._data
        if trainer.is_global_zero:
            self._repair()
            if len(self._entries) >= data.rounds and not quiet():
                print("mavis: this run is finished: nothing is left to train.", file=sys.stderr)
        prompts = data.prompts["train"]
        content = hashlib.sha256(json.dumps(prompts).encode()).hexdigest()[:32]
        for logger in trainer.loggers:
            if isinstance(logger, Tracking):
                logger.log_data(Path(data.source).name, data.source, len(prompts), content)

    def on_train_epoch_start(self, trainer: Trainer, _: LightningModule) -> None:
        """At the start of a round, restart the optimizer and its schedule."""
        if trainer.current_epoch % self._data.epochs == 0:
            copies = [tensor.detach().clone() for tensor in self._module.learned()]
            self._before = copies, self._data.strength.state()
            self._started = time.perf_counter()
            if trainer.current_epoch > 0:
                trainer.strategy.setup_optimizers(trainer)

    def on_train_epoch_end(self, trainer: Trainer, _: LightningModule) -> None:
        """At the end of a round, measure the policy and save everything."""
        data, ended = self._data, trainer.current_epoch + 1
        if ended % data.epochs and ended != trainer.max_epochs:
            return
        data.facts["seconds_train"] = time.perf_counter() - self._started
        folder = data.folder / "rollouts" / f"round-{data.round}"
        data.facts["seconds_cpu"] = self._cpu_seconds(folder, trainer)
        entry, guided = self._measure(trainer, "validation", folder / "evaluation")
        # Every process keeps the entries, and so comes to the same decision.
        earlier = [old for old in self._entries if old["round"] < data.round]
        kept = next((old for old in earlier[::-1] if old.get("promoted", True)), None)
        entry["promoted"] = kept is None or judgement.keeps_up(entry, kept, data)
        self._entries = [*earlier, entry]
        if not entry["promoted"]:
            self._take_back()
        if trainer.is_global_zero:
            self._keep(entry, guided, trainer)
        data.round += 1
        trainer.strategy.barrier()
        save_checkpoint(trainer, data.folder / LAST)
        self._restart()  # measuring is not training

    def _take_back(self) -> None:
        """Put back the values and the strength of the round before: the next starts from those."""
        copies, strength = self._before
        with torch.no_grad():
            for tensor, before in zip(self._module.learned(), copies, strict=True):
                tensor.copy_(before)
        self._data.strength.restore(strength)

    def _restart(self) -> None:
        self._cpu = time.process_time() - self._data.collector.seconds["cpu"]

    def _cpu_seconds(self, folder: Path, trainer: Trainer) -> float:
        """CPU seconds of a round in all processes: rollouts, rewards and training.

        Rows of rollouts and scores hold their own seconds, also those from before an interruption.
        """
        trained = time.process_time() - self._cpu - self._data.collector.seconds["cpu"]
        mine = torch.tensor(trained, device=trainer.strategy.root_device)
        every = trainer.strategy.reduce(mine, reduce_op="sum")
        return float(every) + sum(collected(folder / split) for split in ("train", "validation"))

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show Lightning's table of metrics only with `-v`."""
        del pl_module
        trainer.validate_loop.verbose = trainer.test_loop.verbose = verbose()

    on_test_start = on_validation_start

    def on_validation_end(self, trainer: Trainer, _: LightningModule) -> None:
        """Print the result of `mavis validate`; in a fit the round's line comes later."""
        if trainer.state.fn == "validate" and trainer.is_global_zero:
            result = {name: float(value) for name, value in trainer.callback_metrics.items()}
            with aside(trainer):
                print(
                    f"validation: loss {result['val_loss']:.2f}, R² {result['r2']:z.2f}, "
                    f"rank correlation of siblings {result['sibling_rank_correlation']:z.2f}",
                    flush=True,
                )

    def on_test_end(self, trainer: Trainer, _: LightningModule) -> None:
        """Measure the policy on the test prompts."""
        folder = self._data.folder
        entry = self._measure(trainer, "test", folder / "test" / f"{self._data.round}")[0]
        if trainer.is_global_zero:
            write_json(folder / "test.json", entry)
            with aside(trainer):
                several = "weightings" in entry
                for name, part in judgement.parts(entry, self._data).items():
                    title = f"test, {name}" if several else "test"
                    print(f"{title}: {judgement.in_a_line(part)}", flush=True)

    def _measure(
        self, trainer: Trainer, split: str, folder: Path
    ) -> tuple[dict[str, Any], Answers]:
        """The round's entry of `metrics.json`, and the policy's answers to a split's prompts."""
        data = self._data
        earlier = [old for old in self._entries if old["round"] < data.round]
        logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
        with aside(trainer):
            return measure(data, self._module.network, split, folder, earlier, logged)

    def _keep(self, entry: dict[str, Any], guided: Answers, trainer: Trainer) -> None:
        """Save metrics, value model and plots; track them; print a line."""
        data = self._data
        if entry["promoted"]:
            _save(data, self._module, entry)
        pictures = _plots(data, self._module, self._entries, guided)
        write_json(data.folder / METRICS, self._entries)
        for logger in trainer.loggers:
            if isinstance(logger, Tracking):
                logger.log_round(entry, pictures, _table(data, guided))
                names = "+".join(one.name for one in data.objectives)
                logger.log_model(data.folder / VALUE, f"mavis-{names}")
        last = data.round + 1 == data.rounds
        with aside(trainer):
            for name, part in judgement.parts(entry, data).items():
                title = f"{name}, round {data.round}"  # fits may run side by side
                print(f"{title}: {judgement.in_a_line(part)}", flush=True)
                if doubt := advice.doubts(part, data, name):
                    print(f"mavis: warning: {title}: {doubt}", file=sys.stderr)
                if last and (hint := advice.share_hint(part, data)):
                    print(f"mavis: {title}: {hint}", file=sys.stderr)
            hints = (advice.truncation_hint(entry, data), advice.few_hint(data))
            for hint in filter(None, hints if data.round == 0 else ()):
                print(f"mavis: {hint}", file=sys.stderr)
            title = f"{'+'.join(one.name for one in data.objectives)}, round {data.round}"
            if not entry["promoted"]:
                kept = f"the values of round {self._promoted()['round']} are kept."
                print(f"mavis: warning: {title}: {kept}", file=sys.stderr)
            if thoughts := data.collector.thoughts():
                print(f"{title}: {thoughts}", flush=True)

    def _repair(self) -> None:
        """Write again, from the checkpoint, what is missing or damaged of the finished rounds."""
        data = self._data
        file, value = data.folder / METRICS, data.folder / VALUE
        if data.round and not self._entries and file.is_file():  # the checkpoint is an older one
            self._entries = [old for old in read_json(file) if old["round"] < data.round]
        if not self._entries:
            return
        again = "missing or damaged: written again from the checkpoint"
        try:
            read_json(file)
        except (OSError, ValueError):
            print(f"mavis: {file} is {again}.", file=sys.stderr)
            write_json(file, self._entries)
        try:
            read_card(value)
            check(value)
            read_json(value / SEEN)
        except (OSError, ValueError):
            print(f"mavis: {value} is {again}.", file=sys.stderr)
            _save(data, self._module, self._promoted())

    def _promoted(self) -> dict[str, Any]:
        """The entry of the round whose values are kept."""
        return [old for old in self._entries if old.get("promoted", True)][-1]


def _save(data: RolloutDataModule, module: ValueModule, entry: dict[str, Any]) -> None:
    """Write the value model as it is after the round of an entry."""
    network, eta = module.network, data.strength.eta
    card = replace(network.card, rounds=entry["round"] + 1, strengths=strengths(entry))
    covariance = data.strength.covariance if len(data.objectives) > 1 else ()
    network.card = replace(card, eta=eta, covariance=covariance)
    text = for_people(data, module, entry)

    def save(draft: Path) -> None:
        network.save_pretrained(draft, text)
        write_json(draft / SEEN, sorted(map(digest, data.prompts["train"])))

    write_whole(data.folder / VALUE, save)


def _table(data: RolloutDataModule, guided: Answers) -> list[dict[str, Any]]:
    """The first prompts with the reference's answer and the guided one, and their rewards.

    Of several weightings the last is shown, that of equal weights.
    """
    weights, answers = list(guided.items())[-1]
    columns = [[plain(prompt) for prompt in data.prompts["validation"][:SHOWN]]]
    both = (data.baseline("validation"), answers)
    columns += [[texts[0] for texts in samples.responses] for samples in both]
    columns += [reward_column(samples, data, weights)[:, 0].tolist() for samples in both]
    # The reference answers fewer prompts than the guided policy.
    return [dict(zip(SAMPLE_COLUMNS, row, strict=True)) for row in zip(*columns, strict=False)]


def _plots(
    data: RolloutDataModule, module: ValueModule, entries: list[dict[str, Any]], guided: Answers
) -> list[Path]:
    names, figures = [one.name for one in data.objectives], []

    def file(what: str, of: str) -> str:
        words = [what, *re.findall(r"[\w.]+", of)] if len(guided) > 1 else [what]
        return f"{'-'.join(words)}.png"

    for weights, answers in guided.items():
        name = label(names, weights)
        rewards = [reward_column(each, data, weights) for each in (data.baseline(VALID), answers)]
        before, after = (each.ravel().tolist() for each in rewards)
        points = enumerate(best_of_n_curve(data, VALID, weights), 1)
        curve = [(n, point.mean_kl, float(point.mean_rewards[0])) for n, point in points]
        parts = [{**one, **judgement.judged_at(one, data, weights)} for one in entries]
        figures.append((file("reward_kl", name), plots.reward_kl_figure(parts, curve, name)))
        histograms = plots.reward_histograms_figure(before, after, name)
        figures.append((file("rewards", name), histograms))
    for name, columns in zip(names, module.calibration, strict=False):  # none after a resumption
        figures.append((file("calibration", name), plots.calibration_figure(*columns, name)))
    return [save(data.folder / place, figure) for place, figure in figures]
