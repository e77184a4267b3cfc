"""The options that several commands have in common, and the checks of their values.

An option is named in one place, as a field of a dataclass. The command line, the checks, the
settings that are kept in a folder and the cards all come from there. What is defined here has one
name, one meaning and one help text, whichever command takes it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from mavis.hub import existing, lasting
from mavis.objective import Objective, common_source

EMBEDDED = "sandbox/reference"
FREE = ("out", "rows", "device", "tracking", "json")  # options that change no result


@dataclass(frozen=True)
class Options:
    """The options of every command that trains or compares methods.

    Args:
        objectives: names of installed objectives, with commas between
        reference: reference policy: sandbox/reference, a folder or a name on the hub
        template: dotted name of a function prompt -> text, used in place of the chat template
        template_args: arguments of the chat template, such as '{enable_thinking: false}'
        prompts: data set of the prompts: a file, a folder, MODULE:FUNCTION or a name on the hub;
            what --data.prompts is to fit, and --file to generate (default: that of the objectives,
            or of the models that are compared)
        column: column of the data set that holds the prompts
        best_of: answers of the reference policy to a prompt, for standard units and best-of-N
        max_tokens: longest answer
        rows: answers that are decoded, or trained on, at a time
        device: where to run, such as cpu or cuda:1 (default: an accelerator if there is one)
        tracking: MLflow tracking URI (default: MLFLOW_TRACKING_URI, or mlflow.db beside OUT)
    """

    RENAMED: ClassVar[Mapping[str, str]] = {}  # options as they were called once -> as they are

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
        """Check the values as far as they can be without loading anything."""
        _ = self.names
        if self.prompts and self.prompts.isdecimal() and not existing(self.prompts):
            counted = any(option.name == "num_prompts" for option in fields(self))
            how = f"is given by --num_prompts {self.prompts}" if counted else "is no option here"
            raise ValueError(
                f"prompts must be a data set, got {self.prompts}: the number of prompts {how}."
            )
        at_least(1, max_tokens=self.max_tokens, rows=self.rows)

    @property
    def names(self) -> list[str]:
        """The names of the objectives."""
        return listed("objectives", self.objectives)

    def source(self, objectives: Sequence[Objective]) -> str:
        """The data set of the prompts: the one that was asked for, or that objectives agree on."""
        return lasting(common_source("prompts", self.prompts, objectives))

    def settings(self) -> dict[str, Any]:
        """The options that decide what comes out, as they are kept with it."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in FREE}

    @classmethod
    def renew(cls, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Settings that were kept under earlier names, under those of today."""
        return {cls.RENAMED.get(name, name): value for name, value in settings.items()}


@dataclass(frozen=True)
class TrainingOptions(Options):
    """The options of the commands that train one method's models.

    Args:
        held_out: validation prompts to measure on; best_of answers to a third of them make the
            standard units
        seed: seed of every random draw
    """

    reference: str = EMBEDDED
    held_out: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the values."""
        super().__post_init__()
        at_least(2, held_out=self.held_out, best_of=self.best_of)  # spreads need two

    def settings(self) -> dict[str, Any]:
        """The options that decide what comes out; names mean the same in every folder."""
        return super().settings() | {"reference": lasting(self.reference)}


@dataclass(frozen=True)
class PolicyOptions:
    """The options that say which tuned policies are meant.

    Args:
        weights: weights of the objectives: grid:STEP, dirichlet:N, NAME=X,NAME=X, a file with a
            column for each objective, or several of these with ; between (default of tune: equal
            ones)
        divergence: divergence that dpo keeps small between policy and reference, and that mod
            mixes policies under
        alpha: order of the alpha divergence, from 0 (reverse KL) to 1 (forward KL)
        lora: whether the policies are LoRA adapters, and not whole models
    """

    weights: str | None = None
    divergence: str = "reverse_kl"
    alpha: float | None = None
    lora: bool = False


@dataclass(frozen=True)
class PromptCount:
    """How much of a data set is used.

    Args:
        num_prompts: how many prompts of the data set to use (null: all)
    """

    num_prompts: int | None = None


def listed(what: str, told: str | Sequence[str]) -> list[str]:
    """A list, from YAML or from words with commas between them.

    >>> listed("objectives", "humor, kind"), listed("objectives", ["humor"])
    (['humor', 'kind'], ['humor'])

    Raises:
        ValueError: an entry comes twice.
    """
    words = told.strip("[] ").split(",") if isinstance(told, str) else told
    found = [str(word).strip() for word in words if str(word).strip()]
    if len(set(found)) < len(found):
        raise ValueError(f"{what} must be different ones, got {', '.join(found)}.")
    return found


def at_least(least: float, **numbers: float) -> None:
    """Raise ValueError for an option below a number.

    >>> at_least(1, rows=0)
    Traceback (most recent call last):
    ValueError: rows must be at least 1, got 0.
    """
    for name, number in numbers.items():
        if not number >= least:
            raise ValueError(f"{name} must be at least {least:g}, got {number}.")


def positive(**numbers: float | None) -> None:
    """Raise ValueError for an option that is given and no positive, finite number."""
    for name, number in numbers.items():
        if number is not None and not 0 < number < float("inf"):
            raise ValueError(f"{name} must be a positive number, got {number}.")


def check_alpha(divergence: str, alpha: float | None) -> None:
    """Raise ValueError for an alpha without its divergence, or the other way round."""
    if alpha is None and divergence == "alpha":
        raise ValueError("the alpha divergence needs an alpha in [0, 1], got none.")
    if alpha is not None and divergence != "alpha":
        raise ValueError(
            "alpha is only used with the alpha divergence "
            f"(got divergence={divergence}, alpha={alpha:g})."
        )
    if alpha is not None and not 0 <= alpha <= 1:
        raise ValueError(f"alpha must be in [0, 1] (0 is reverse KL, 1 forward KL), got {alpha:g}.")
