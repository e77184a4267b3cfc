"""Options shared by several commands, and the checks of their values.

Every option is defined once, as a field of a dataclass. The command line, the checks, the settings
saved in an output folder and the model cards are all derived from it, so an option has the same
name, meaning and help text in every command that takes it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from mavis.hub import existing, lasting
from mavis.objective import Objective, common_source

EMBEDDED = "sandbox/reference"
FREE = ("out", "rows", "device", "tracking", "json")  # options that do not affect results


@dataclass(frozen=True)
class Options:
    """Options of every command that trains or compares methods.

    Args:
        objectives: comma-separated names of installed objectives
        reference: reference policy: sandbox/reference, a folder, a GGUF file or a name on the hub
        template: dotted name of a function prompt -> text that replaces the chat template
        template_args: arguments passed to the chat template, such as '{enable_thinking: false}'
        prompts: prompt data set: a file, a folder, MODULE:FUNCTION or a data set name on the hub;
            mavis fit calls this --data.prompts, mavis generate --file (default: the data set of
            the objectives, or of the compared models)
        column: name of the column that holds the prompts
        best_of: reference answers sampled per prompt, for standard units; also the largest N for
            best-of-N
        max_tokens: maximum answer length in tokens
        rows: batch size: answers that are decoded, or trained on, at the same time
        device: device to run on, such as cpu or cuda:1 (default: an accelerator if available)
        tracking: MLflow tracking URI (default: MLFLOW_TRACKING_URI, or mlflow.db beside OUT)
    """

    RENAMED: ClassVar[Mapping[str, str]] = {}  # former option name -> current name

    objectives: str | list[str] = ""
    reference: str | None = None
    template: str | None = None
    template_args: dict[str, Any] | None = None
    prompts: str | None = None
    column: str | None = None
    best_of: int = 32
    max_tokens: int = 64
    rows: int = 128
    device: str | None = None
    tracking: str | None = None

    def __post_init__(self) -> None:
        """Check all values that can be checked without loading a model or a data set."""
        _ = self.names
        if self.prompts and self.prompts.isdecimal() and not existing(self.prompts):
            counted = any(option.name == "num_prompts" for option in fields(self))
            how = f"is set by --num_prompts {self.prompts}" if counted else "is not an option here"
            raise ValueError(
                f"prompts must be a data set, got {self.prompts}: the number of prompts {how}."
            )
        at_least(1, max_tokens=self.max_tokens, rows=self.rows)

    @property
    def names(self) -> list[str]:
        """The names of the objectives."""
        return listed("objectives", self.objectives)

    def source(self, objectives: Sequence[Objective]) -> str:
        """Return the prompt data set: the one given, or the one that all objectives name."""
        return lasting(common_source("prompts", self.prompts, objectives))

    def settings(self) -> dict[str, Any]:
        """Return the options that affect results, as saved with the results."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in FREE}

    @classmethod
    def renew(cls, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Translate saved settings from former option names to the current ones."""
        return {cls.RENAMED.get(name, name): value for name, value in settings.items()}


@dataclass(frozen=True)
class TrainingOptions(Options):
    """Options of the commands that train the models of one method.

    Args:
        held_out: number of validation prompts to evaluate on; best_of reference answers to each of
            the first third of them define the standard units
        seed: seed of all random draws
    """

    reference: str = EMBEDDED
    held_out: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the values."""
        super().__post_init__()
        at_least(2, held_out=self.held_out, best_of=self.best_of)  # a standard deviation needs two

    def settings(self) -> dict[str, Any]:
        """Return the options that affect results, with the reference as an absolute name."""
        return super().settings() | {"reference": lasting(self.reference)}


@dataclass(frozen=True)
class PolicyOptions:
    """Options that identify tuned policies.

    Args:
        weights: weights of the objectives: grid:STEP, dirichlet:N, NAME=X,NAME=X, a file with one
            column per objective, or several of these separated by ; (default of tune: equal
            weights)
        divergence: divergence between policy and reference: the penalty in dpo training, and
            the one that mod assumes when it mixes policies
        alpha: order of the alpha divergence, from 0 (reverse KL) to 1 (forward KL)
        lora: train or use policies that are LoRA adapters instead of full models
    """

    weights: str | None = None
    divergence: str = "reverse_kl"
    alpha: float | None = None
    lora: bool = False


@dataclass(frozen=True)
class PromptCount:
    """Option that limits how much of a data set is used.

    Args:
        num_prompts: number of prompts of the data set to use (null: all)
    """

    num_prompts: int | None = None


def listed(what: str, given: str | Sequence[str]) -> list[str]:
    """Return a list of names, from a YAML list or from a comma-separated string.

    >>> listed("objectives", "humor, kind"), listed("objectives", ["humor"])
    (['humor', 'kind'], ['humor'])

    Raises:
        ValueError: an entry occurs twice.
    """
    words = given.strip("[] ").split(",") if isinstance(given, str) else given
    names = [str(word).strip() for word in words if str(word).strip()]
    if len(set(names)) < len(names):
        raise ValueError(f"{what} must not contain duplicates, got {', '.join(names)}.")
    return names


def at_least(least: float, **numbers: float) -> None:
    """Raise a ValueError if an option is below its lower bound.

    >>> at_least(1, rows=0)
    Traceback (most recent call last):
    ValueError: rows must be at least 1, got 0.
    """
    for name, number in numbers.items():
        if not number >= least:
            raise ValueError(f"{name} must be at least {least:g}, got {number}.")


def positive(**numbers: float | None) -> None:
    """Raise a ValueError if an option is set, but not to a positive, finite number."""
    for name, number in numbers.items():
        if number is not None and not 0 < number < float("inf"):
            raise ValueError(f"{name} must be a positive number, got {number}.")


def fraction(**numbers: float) -> None:
    """Raise a ValueError if an option is not in [0, 1].

    >>> fraction(share=1.5)
    Traceback (most recent call last):
    ValueError: share must be from 0 to 1, got 1.5.
    """
    for name, number in numbers.items():
        if not 0 <= number <= 1:
            raise ValueError(f"{name} must be from 0 to 1, got {number}.")


def check_alpha(divergence: str, alpha: float | None) -> None:
    """Raise a ValueError unless alpha is set exactly when the alpha divergence is used."""
    if alpha is None and divergence == "alpha":
        raise ValueError("the alpha divergence needs an alpha in [0, 1], got none: set alpha.")
    if alpha is not None and divergence != "alpha":
        raise ValueError(
            "alpha is only used with the alpha divergence "
            f"(got divergence={divergence}, alpha={alpha:g})."
        )
    if alpha is not None and not 0 <= alpha <= 1:
        raise ValueError(f"alpha must be in [0, 1] (0 is reverse KL, 1 forward KL), got {alpha:g}.")
