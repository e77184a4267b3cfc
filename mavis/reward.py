"""Rewards: how replies are scored and scores are checked, and standard units.

Rewards are maximised. Whatever a reward returns, `score` makes of it one finite float32 number per
reply, or NaN where the reward abstained.
"""

import functools
import hashlib
import inspect
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from mavis.classifier import ClassifierReward
from mavis.error_text import reason
from mavis.objective import Objective, Reward, unfit
from mavis.returned import about, finished, numbers
from mavis.thoughts import without_thought

if TYPE_CHECKING:
    import numpy.typing as npt
    from torch import Tensor

__all__ = ["ClassifierReward", "Reward", "Units", "described", "identity", "score", "with_thoughts"]

Scores = TypeVar("Scores", "Tensor", "npt.NDArray[Any]")

_EDGE = 4.0  # robust deviations
_QUANTILES = (0.005, 0.25, 0.5, 0.75, 0.995)
_NOISE = 1e-6  # a standard deviation this small beside the mean is rounding
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")  # what differs from process to process


def score(
    objective_name: str,
    reward: Reward,
    prompts: Sequence[str],
    responses: Sequence[str],
    thoughts: bool = False,
) -> "Tensor":
    """Score replies with a reward and check what it returns.

    The reward gets copies of the lists, and the replies as they are but for their thoughts.

    Args:
        objective_name: Whose reward it is, for errors.
        reward: Any callable with the signature of `Reward`.
        prompts: B prompts as plain text.
        responses: B replies.
        thoughts: Whether the reward is given what is between `<think>` and `</think>`, too:
            an objective's `scores_thoughts`.

    Returns:
        [B] float32 on the CPU, NaN where the reward abstained.

    Raises:
        ValueError: The reward cannot be called with prompts and replies, raised, or returned
            anything else than one finite number (or None) per reply. Names objective, prompt and
            response.

    >>> score("short", lambda prompts, responses: [-len(r) for r in responses], ["Why?"], ["So."])
    tensor([-3.])
    """
    import torch

    whose = f"objective {objective_name!r}:"
    if len(prompts) != len(responses):
        raise ValueError(f"{whose} {len(prompts)} prompts for {len(responses)} responses.")
    if not len(responses):
        return torch.zeros(0)
    if problem := unfit(reward):
        raise ValueError(f"{whose} {problem}.")
    answers = list(responses) if thoughts else [without_thought(reply) for reply in responses]
    try:
        returned = finished(reward(list(prompts), list(answers)), len(answers))
    except (Exception, SystemExit) as error:  # a plugin may raise anything
        row = _culprit(reward, prompts, answers, error)
        where = f"all {len(answers)} at once" if row is None else about(prompts, answers, row)
        raise ValueError(f"{whose} the reward raised {reason(error)} ({where}).") from error
    values = numbers(returned, whose, prompts, answers)
    scores = torch.tensor(values, dtype=torch.float64).float()  # [B]
    for row in scores.isinf().nonzero().flatten().tolist():
        where = about(prompts, answers, row)
        raise ValueError(f"{whose} rewards must be finite, got {values[row]} ({where}).")
    return scores


def with_thoughts(responses: Sequence[str]) -> int:
    """How many replies hold thoughts, which `score` leaves out.

    >>> with_thoughts(["<think>Hm.</think>So.", "So."])
    1
    """
    return sum(without_thought(reply) != reply for reply in responses)


def described(reward: Reward) -> str:
    """What a reward is, for people: a function's dotted name, else the settings."""
    if inspect.isroutine(reward):
        return f"{reward.__module__}.{reward.__qualname__}"
    return _ADDRESS.sub("", repr(reward))


def identity(judge: Reward | Objective) -> str:
    """A digest that changes when a reward is edited: of its settings and of its source file.

    That of an objective also changes with whether thoughts are scored. Of our own classes only the
    settings count, or a newer mavis could not go on with a run.
    """
    if isinstance(judge, Objective):
        reward, suffix = judge.reward, " with thoughts" * judge.scores_thoughts
    else:
        reward, suffix = judge, ""
    settings = _ADDRESS.sub("", repr(reward)) + suffix
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


def _culprit(
    reward: Reward, prompts: Sequence[str], responses: Sequence[str], error: BaseException
) -> int | None:
    """Find a row for which the reward raises by halving; None if it is no single row's fault."""
    if isinstance(error, OSError | ImportError):  # a file or a connection: no row's fault
        return None

    def raises(rows: Sequence[int]) -> bool:
        try:
            returned = reward([prompts[row] for row in rows], [responses[row] for row in rows])
            finished(returned, len(rows))
        except (Exception, SystemExit):
            return True
        return False

    rows = range(len(responses))
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

        Scores far outside the bulk count as if they lay at its edge, so that one freak reply does
        not set the scale of all others.

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
        values = _winsorised(values)
        mean, std = values.mean().item(), values.std().item()
        if std <= _NOISE * abs(mean):
            raise ValueError(
                f"{whose}constant scores: all {len(values)} are {mean:g}: nothing to learn."
                " `mavis objectives check NAME` shows what the reward does."
            )
        return cls(mean, std)

    def standard(self, scores: Scores) -> Scores:
        """Rewards in standard units, of any shape, in the precision of the scores."""
        return (scores - self.mean) / self.std


def _winsorised(values: "Tensor") -> "Tensor":
    """Scores [B], those beyond 4 robust deviations of the median moved to that edge.

    The deviation is taken from the quartiles or, where it is larger, from the range that all but
    one in a hundred lie in, which is never cut: a reward that is seldom anything but its usual
    value keeps its tail.
    """
    low, first, middle, third, high = values.quantile(values.new_tensor(_QUANTILES)).tolist()
    deviation = max((third - first) / 1.349, (high - low) / 5.152)  # both 1 for a normal reward
    if deviation <= 0:
        return values
    reach = _EDGE * deviation
    return values.clamp(min(low, middle - reach), max(high, middle + reach))


def standardised(rewards: "npt.NDArray[Any]", units: Sequence[Units]) -> "npt.NDArray[Any]":
    """Rewards [..., M] in the standard units of each objective, in the precision of the rewards."""
    import numpy as np

    mean = np.array([one.mean for one in units], rewards.dtype)
    std = np.array([one.std for one in units], rewards.dtype)
    standard: npt.NDArray[Any] = (rewards - mean) / std
    return standard
