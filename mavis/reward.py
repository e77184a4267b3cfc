"""Rewards: the one door that all scores come through, and standard units.

Rewards are maximised. Whatever a reward returns, behind `score` it is one finite float32 number
per reply, or NaN where the reward abstained.
"""

import functools
import hashlib
import inspect
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mavis.classifier import ClassifierReward
from mavis.objective import Reward

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["ClassifierReward", "Reward", "Units", "described", "identity", "score"]

_SHOWN = 80  # characters of a text in an error
_NOISE = 1e-6  # a standard deviation this small beside the mean is rounding
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")  # what differs from process to process


def score(
    objective_name: str, reward: Reward, prompts: Sequence[str], responses: Sequence[str]
) -> "Tensor":
    """Score replies with a reward and check what it returns.

    Args:
        objective_name: Whose reward it is, for errors.
        reward: Any callable with the signature of `Reward`.
        prompts: B prompts as plain text.
        responses: B replies.

    Returns:
        [B] float32 on the CPU, NaN where the reward abstained.

    Raises:
        ValueError: The reward raised, or returned anything else than one finite number (or
            None) per reply. Names objective, prompt and response.

    >>> score("short", lambda prompts, responses: [-len(r) for r in responses], ["Why?"], ["So."])
    tensor([-3.])
    """
    import torch

    whose = f"objective {objective_name!r}:"
    if len(prompts) != len(responses):
        raise ValueError(f"{whose} {len(prompts)} prompts for {len(responses)} responses.")
    if not len(responses):
        return torch.zeros(0)
    try:
        returned = reward(prompts, responses)
    except Exception as error:  # whatever a stranger's function does
        row = _culprit(reward, prompts, responses, error)
        raised = " ".join(f"{type(error).__name__}: {error}".split())
        about = f"all {len(responses)} at once" if row is None else _row(prompts, responses, row)
        raise ValueError(f"{whose} the reward raised {raised} ({about}).") from error
    numbers = _numbers(returned, whose, prompts, responses)
    scores = torch.tensor(numbers, dtype=torch.float64).float()  # [B]
    for row in scores.isinf().nonzero().flatten().tolist():
        about = _row(prompts, responses, row)
        raise ValueError(f"{whose} rewards must be finite, got {numbers[row]} ({about}).")
    return scores


def described(reward: Reward) -> str:
    """What a reward is, for people: a function's dotted name, else the settings."""
    if inspect.isroutine(reward):
        return f"{reward.__module__}.{reward.__qualname__}"
    return _ADDRESS.sub("", repr(reward))


def identity(reward: Reward) -> str:
    """A digest that changes when a reward is edited: of its settings and of its source file.

    Of our own classes only the settings count, or a newer mavis could not go on with a run.
    """
    settings = _ADDRESS.sub("", repr(reward))
    while isinstance(reward, functools.partial):
        reward = reward.func
    module = inspect.getmodule(reward if inspect.isroutine(reward) else type(reward))
    source = ""
    if module is not None and not module.__name__.startswith("mavis."):
        try:
            source = inspect.getsource(module)
        except (OSError, TypeError):  # typed at a prompt, or compiled
            source = ""
    return hashlib.sha256(f"{settings}\n{source}".encode()).hexdigest()[:16]


def _numbers(
    returned: Any, whose: str, prompts: Sequence[str], responses: Sequence[str]
) -> list[float]:
    """What a reward returned as B numbers, NaN for None."""
    import torch

    about = _row(prompts, responses, 0)
    rule = f"{whose} a reward must return one number per reply, [B = {len(responses)}],"
    if isinstance(returned, torch.Tensor) or hasattr(returned, "__array__"):
        shape = list(getattr(returned, "shape", []))
        if shape != [len(responses)]:
            raise ValueError(f"{rule} got shape {shape} (first {about}).")
        returned = returned.tolist()
    if isinstance(returned, str) or not isinstance(returned, Sequence):
        raise ValueError(f"{rule} got {type(returned).__name__} (first {about}).")
    if len(returned) != len(responses):
        raise ValueError(f"{rule} got {len(returned)} (first {about}).")
    numbers = []
    for row, value in enumerate(returned):
        try:
            if isinstance(value, str):  # float() would read "1.5"
                raise TypeError
            numbers.append(float("nan") if value is None else float(value))
        except (TypeError, ValueError, OverflowError, RuntimeError):
            about = _row(prompts, responses, row)
            raise ValueError(f"{rule} got {value!r} in it ({about}).") from None
    return numbers


def _row(prompts: Sequence[str], responses: Sequence[str], row: int) -> str:
    return f"prompt {_short(prompts[row])}, response {_short(responses[row])}"


def _short(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…")


def _culprit(
    reward: Reward, prompts: Sequence[str], responses: Sequence[str], error: Exception
) -> int | None:
    """Find a row for which the reward raises by halving; None if it is no single row's fault."""
    rows = range(len(responses))
    if isinstance(error, OSError | ImportError):  # a file or a connection: no row's fault
        return None

    def raises(some: Sequence[int]) -> bool:
        try:
            reward([prompts[row] for row in some], [responses[row] for row in some])
        except Exception:
            return True
        return False

    while len(rows) > 1:
        half = rows[: len(rows) // 2]
        rows = half if raises(half) else rows[len(half) :]
    return rows[0] if len(responses) == 1 or raises(rows) else None


@dataclass(frozen=True)
class Units:
    """Standard units of one objective: its rewards' mean and deviation under the reference.

    Args:
        mean: In the reward's own units.
        std: In the reward's own units, above 0.

    Raises:
        ValueError: Numbers that are not finite, or a std that is not above 0.

    >>> Units.measure([1.0, 3.0, float("nan")])
    Units(mean=2.0, std=1.4142135623730951)
    """

    mean: float
    std: float

    def __post_init__(self) -> None:
        """Check the numbers, which may come from a file."""
        if not (abs(self.mean) < float("inf") and 0 < self.std < float("inf")):
            raise ValueError(
                f"mean must be finite and std above 0, got mean {self.mean}, std {self.std}."
            )

    @classmethod
    def measure(cls, scores: "Sequence[float] | Tensor", name: str | None = None) -> "Units":
        """Measure units on the rewards of replies of the reference policy.

        Args:
            scores: [B] rewards; NaN (abstained) is left out.
            name: Whose they are, for errors.

        Raises:
            ValueError: Fewer than two scores, or constant ones: there is nothing to learn.
        """
        import torch

        values = torch.as_tensor(scores, dtype=torch.float64).cpu()
        values = values[~values.isnan()]
        whose = f"objective {name!r}: " if name else ""
        if not len(values) and len(scores):
            raise ValueError(f"{whose}the reward abstained for all {len(scores)} replies.")
        if len(values) < 2:
            raise ValueError(
                f"{whose}scores must hold at least 2 numbers to measure, got {len(values)}."
            )
        mean, std = values.mean().item(), values.std().item()
        if std <= _NOISE * abs(mean):
            raise ValueError(
                f"{whose}constant scores: all {len(values)} are {mean:g}: nothing to learn."
                " `mavis objectives check NAME` shows what the reward does."
            )
        return cls(mean, std)

    def standard(self, scores: "Tensor") -> "Tensor":
        """Rewards in standard units, float32, of any shape."""
        return (scores.double() - self.mean).div(self.std).float()
