"""`mavis fit`, `validate` and `test`: LightningCLI, configured by the names of objectives."""

import logging
import operator
import os
import shutil
import signal
import sys
import time
import warnings
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch
import yaml
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import SIGTERMException

from mavis.loudness import quiet, verbose
from mavis.objective import available, common_module, find, named
from mavis.progress import drawn
from mavis.signals import Terminated
from mavis.storage import alone_in
from mavis.tracking.mlflow_logger import Tracking
from mavis.training.callbacks import Rounds
from mavis.training.data import RolloutDataModule
from mavis.training.plan import Plan, run
from mavis.training.progress_bar import Bar
from mavis.training.run_folder import (
    LAST,
    check_checkpoint,
    check_rates,
    check_same_run,
    finished_rounds,
    keep_settings,
)
from mavis.training.stored_trees import rounds_of, take

QUIET = (
    "LightningCLI's args parameter",  # `main` takes its words apart before Lightning sees them
    ".*LeafSpec.*is deprecated",  # Lightning against torch 2.13
    ".*does not have many workers",  # batches are made in memory
    ".*`self.log.*on_epoch.*sync_dist",  # every rank validates on all trees
)
SEVERAL = "comma-separated names: one value model learns all of them from shared rollouts"
PLAN = "say what the fit will take (time, memory, disk) after a short probe, and train nothing"
LEGACY = {"16": "16-mixed", "bf16": "bf16-mixed", "32": "32-true", "64": "64-true"}


class BriefParser(LightningArgumentParser):
    """Raises errors, which `main` prints in one line, instead of printing the usage."""

    def error(self, message: str, ex: Exception | None = None) -> None:  # type: ignore[override]
        """Raise a ValueError."""
        raise ValueError(message) from ex


class MavisCLI(LightningCLI):
    """The training commands; the objectives' plugins choose the module that is trained."""

    def __init__(self, args: list[str], objectives: tuple[str, ...], stack: ExitStack) -> None:
        self.objectives, self._stack = objectives, stack
        super().__init__(
            LightningModule,
            RolloutDataModule,
            subclass_mode_model=True,
            parser_class=BriefParser,
            save_config_callback=None,  # `before_fit` keeps the configuration
            seed_everything_default=0,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            trainer_defaults={
                "callbacks": [Rounds(), Bar(refresh_rate=10, console_kwargs={"stderr": True})],
                "gradient_clip_val": 1.0,
                "log_every_n_steps": 10,
                "num_sanity_val_steps": 0,
                "use_distributed_sampler": False,
                # Lightning counts epochs from where a run resumes, not from where a round begins.
                "reload_dataloaders_every_n_epochs": 1,
                "enable_checkpointing": False,  # `Rounds` does it, at the end of a round
                "enable_model_summary": False,
            },
            args=args,
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Skip Lightning's `--verbose`, since every command has that option already."""
        skipped = LightningCLI.subcommands()
        return skipped | {name: skipped[name] | {"verbose"} for name in ("validate", "test")}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add `--objective`, `--out` and `--tracking`, and link them to the options they set."""
        uri = "MLflow tracking URI (default: MLFLOW_TRACKING_URI, or mlflow.db beside --out)"
        names, out = Literal[tuple(available())], f"runs/{'+'.join(self.objectives)}"
        parser.add_argument("--objective", type=names | None, help="name of an installed objective")
        parser.add_argument("--objectives", type=str | list[str] | None, help=SEVERAL)
        parser.add_argument("--out", type=str, default=out, help="output folder of the run")
        parser.add_argument("--tracking", type=str | None, help=uri)
        parser.add_argument("--plan", action="store_true", help=PLAN)
        parser.link_arguments(("objective", "objectives"), "data.objectives", compute_fn=named)
        parser.link_arguments("seed_everything", "data.seed", compute_fn=int)
        parser.link_arguments("out", "trainer.default_root_dir")
        parser.link_arguments("data.epochs", "trainer.check_val_every_n_epoch")
        parser.link_arguments(("data.rounds", "data.epochs"), "trainer.max_epochs", operator.mul)
        if len(self.objectives) > 1:
            parser.set_defaults({"data.rounds": 2})  # the first one has more trees
        if self.objectives:
            path, given = common_module([find(name) for name in self.objectives])
            parser.set_defaults({"model": {"class_path": path, "init_args": given}})

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse the options, and check a given checkpoint before Lightning opens it."""
        super().parse_arguments(parser, args)
        file = self.config[self.config.subcommand].get("ckpt_path")
        if file is not None and Path(file).is_file():
            check_checkpoint(Path(file))

    def before_instantiate_classes(self) -> None:
        """Check the run's folder before anything is loaded."""
        trainer = self.config[self.subcommand].trainer
        trainer.precision = _precision(trainer.precision, trainer.accelerator)
        text = self.parser.dump(self.config, skip_unset=False)
        self.settings: dict[str, Any] = yaml.safe_load(text)[self.subcommand]
        several = list(self.objectives) if len(self.objectives) > 1 else None  # one has one name
        self.settings |= {"objective": None if several else self.objectives[0]}
        self.settings |= {"objectives": several}
        self.folder, self.plan = Path(self.settings["out"]), self.settings.pop("plan")
        if self.plan and (self.subcommand != "fit" or self.settings["trainer"]["fast_dev_run"]):
            raise ValueError("--plan estimates a whole `mavis fit`: give it to that alone.")
        if self.settings["trainer"]["fast_dev_run"]:  # separate, as it is no complete round
            self.folder /= "fast_dev_run"
            shutil.rmtree(self.folder, ignore_errors=True)
            self.config[self.subcommand]["trainer"]["default_root_dir"] = str(self.folder)
        if self.subcommand == "fit":
            check_rates(self.folder, self.settings["data"]["rounds"])
        check_same_run(self.folder, self.settings)
        self._keep_rounds()
        if self.subcommand != "fit" and not (self.folder / LAST).is_file():
            raise FileNotFoundError(
                f"{self.folder} holds no finished round: run `mavis fit` with the same options."
            )
        if getattr(rank_zero_only, "rank", 0) == 0 and not self.plan:
            self._stack.enter_context(alone_in(self.folder))

    def _keep_rounds(self) -> None:
        """Ask for no fewer rounds than a run has: what is finished stays."""
        chosen, finished = self.config[self.subcommand], finished_rounds(self.folder)
        if 1 <= chosen.data.rounds < finished:
            chosen.data.rounds = finished
            chosen.trainer.max_epochs = finished * chosen.data.epochs

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Track with MLflow unless another logger is given; show a bar on terminals only."""
        if self.plan:
            return self._planner(**kwargs)
        if self.settings["trainer"]["logger"] is None:
            kwargs["logger"] = Tracking(str(self.folder), uri=self.settings["tracking"])
        if self.settings["trainer"]["enable_progress_bar"] is False or not drawn():
            kwargs["enable_progress_bar"] = False
            self.trainer_defaults["callbacks"].pop()  # the bar; `Rounds` stays
        return super().instantiate_trainer(**kwargs)

    def _planner(self, **kwargs: Any) -> Trainer:
        """A trainer that probes a fit: on one device, and with a folder that is thrown away."""
        source = self.settings["data"]["trees_of"]
        taken = 0 if source is None else len(rounds_of(Path(source), self.settings["data"]))
        self.trainer_defaults["callbacks"] = [Plan(self.folder, time.process_time(), taken)]
        aside = self._stack.enter_context(TemporaryDirectory(prefix="mavis-plan-"))
        kwargs |= {"default_root_dir": aside, "logger": False, "enable_progress_bar": False}
        kwargs |= {"devices": 1, "num_nodes": 1, "strategy": "auto", "limit_val_batches": 0}
        epochs = min(2, self.settings["data"]["epochs"])
        return super().instantiate_trainer(**kwargs, max_epochs=epochs)

    def fit(self, **arguments: Any) -> None:
        """Train; with `--plan`, print what that would take."""
        if not self.plan:
            self.trainer.fit(**arguments)
            return
        if not quiet():
            print("mavis: probing for up to a minute; nothing is trained.", file=sys.stderr)
        print(run(self.trainer, self.model, self.datamodule))

    def before_fit(self) -> None:
        """Save the configuration, and resume after the last finished round.

        A damaged checkpoint is renamed: training on the saved rollouts produces it again.
        """
        if self.plan:
            return
        last = self.folder / LAST
        try:
            if last.is_file():
                check_checkpoint(last)
        except ValueError as error:
            aside = last.with_name(last.name + ".damaged")
            last.replace(aside)
            print(
                f"mavis: {error} It is kept as {aside.name}, and training starts again on the "
                "saved rollouts.",
                file=sys.stderr,
            )
        text = keep_settings(self.folder, self.settings)
        source = self.settings["data"]["trees_of"]
        if source is not None and self.trainer.is_global_zero:
            take(Path(source), self.folder, self.settings["data"], self.datamodule.objectives)
        for logger in self.trainer.loggers:
            if isinstance(logger, Tracking):
                logger.log_config(text)
                main = {k: self.settings[k] for k in ("objective", "objectives", "model", "data")}
                logger.log_hyperparams({"seed": self.settings["seed_everything"], **main})
        self._resume()

    def before_validate(self) -> None:
        """Load the value model of the last finished round."""
        check_checkpoint(self.folder / LAST)
        self._resume()

    before_test = before_validate

    def after_fit(self) -> None:
        """Print where the results are, and how to try the value model."""
        if self.trainer.is_global_zero and (self.folder / "value").is_dir() and not self.plan:
            names = [one.name for one in self.datamodule.objectives]
            runs = self.folder.parent
            where = f" --runs {runs}" if runs != Path("runs") else ""
            if self.folder.name != "+".join(names):
                values = self.folder / "value"
                where = "".join(f" --values.{name} {values}" for name in names)
            weights = " ".join(f"--weights.{name} {1 / len(names):.2g}" for name in names)
            print(
                f"value model   {self.folder / 'value'}\n"
                f"measurements  {self.folder / 'metrics.json'}, {self.folder}/*.png\n"
                f"try it        mavis generate {weights} --compare{where} "
                f'"How do I cook rice?"'
            )

    def _resume(self) -> None:
        last = self.folder / LAST
        chosen = self.config_init[self.subcommand]
        if last.is_file() and chosen.ckpt_path is None:
            chosen.ckpt_path = str(last)


def train(args: list[str], objectives: tuple[str, ...]) -> None:
    """Run `fit`, `validate` or `test` for some objectives, of which --help alone has none.

    Raises:
        Terminated: the process received SIGTERM.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    for name in () if verbose() else ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    with warnings.catch_warnings(), ExitStack() as stack:
        for message in () if verbose() else QUIET:
            warnings.filterwarnings("ignore", message=message)
        try:
            MavisCLI(args, objectives, stack)
        except SIGTERMException as stop:  # has no exit status, so it would look like success
            raise Terminated(signal.SIGTERM) from stop


def _precision(precision: str | int | None, accelerator: str | Any) -> str | None:
    """Translate a former name of a precision to the current one.

    Raises:
        ValueError: the value model cannot be trained in this precision on this device.
    """
    name = LEGACY.get(str(precision), precision)
    on_cpu = accelerator == "cpu" or not torch.accelerator.is_available()
    if name == "16-mixed" and on_cpu:
        raise ValueError(
            "trainer.precision 16-mixed needs an accelerator: on a CPU give bf16-mixed or 32-true."
        )
    if str(name).startswith("transformer-engine"):
        raise ValueError(
            f"trainer.precision {name} puts layers of its own into the value model, which could "
            "not be saved then: give bf16-mixed or bf16-true."
        )
    return None if name is None else str(name)
