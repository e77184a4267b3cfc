"""Whether values foretell rewards: the test that they must pass before they may bend a policy.

A value bends the text only by its advantage, A(s, a) = Q(s, a) − E[Q(s, ·)] under π_ref: a number
that is the same for all candidates of a state cancels in the tilt. Summed over a reply to a prompt,
the true advantages are its reward less the prompt's mean reward,

    R − V(prompt) = Σ_t A(s_t, a_t),

because the value after a token is the expectation before it, plus the token's advantage. So values
are held against the rewards of replies that the reference policy wrote to prompts that no value
was trained on. Uncentred values would flatter: they hold what the state alone foretells.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from mavis.decoding.policy import GuidedPolicy
from mavis.decoding.request import SamplingParams
from mavis.decoding.scoring import Step, advantages
from mavis.evaluation.bootstrap import Interval, interval, resamples
from mavis.evaluation.samples import Array
from mavis.prompts import Prompt


@dataclass(frozen=True)
class Agreement:
    """How well the summed advantages of replies agree with their rewards, within prompts."""

    correlation: Interval  # 95 % by bootstrap over prompts
    slope: float  # of rewards on advantages: 1 if values have the right size, less if too large
    r2: float  # share of the rewards' variance within prompts that the advantages explain


def reply_advantages(
    policy: GuidedPolicy,
    prompts: Sequence[Prompt],
    tokens: Sequence[Sequence[Sequence[int]]],
    sampling: SamplingParams,
) -> Array:
    """Sum the advantages of each objective over given replies.

    Args:
        policy: the guided policy, of M objectives.
        prompts: P texts or chats.
        tokens: S replies to each of them [P][S], each a list of token ids.
        sampling: how the reference policy wrote them; its weights and strength are not used.

    Returns:
        [P, S, M], in the units of the values; NaN for an empty reply.

    Raises:
        ValueError: as `GuidedPolicy.score`.
    """
    places = [(p, s) for p, replies in enumerate(tokens) for s, one in enumerate(replies) if one]
    sums = np.zeros((len(places), len(policy.objectives)))
    steps = policy.walk(
        [prompts[p] for p, _ in places],
        [list(tokens[p][s]) for p, s in places],
        temperature=sampling.temperature,
        top_k=sampling.top_k,
        top_p=sampling.top_p,
    )
    for _ in adding_advantages(steps, sums):
        pass
    return on_grid(sums, tokens)


def adding_advantages(steps: Iterable[Step], sums: Array) -> Iterator[Step]:
    """Pass on the steps of `GuidedPolicy.walk`, adding up the advantages of each reply.

    Args:
        steps: through replies.
        sums: what is added to, in the units of the values [replies, M]. A token that rounding
            leaves out of the candidates adds nothing.
    """
    for step in steps:
        found = advantages(step)
        known = torch.where(found.isnan(), 0.0, found).cpu().double().numpy()
        np.add.at(sums, step.reply, known)
        yield step


def on_grid(sums: Array, tokens: Sequence[Sequence[Sequence[int]]]) -> Array:
    """Sums of all replies that have tokens [replies, M], by prompt [P, S, M]; NaN of the others."""
    grid = np.full((len(tokens), max(map(len, tokens)), sums.shape[-1]), np.nan)
    written = [(p, s) for p, replies in enumerate(tokens) for s, one in enumerate(replies) if one]
    grid[tuple(np.array(written, dtype=np.int64).reshape(-1, 2).T)] = sums
    return grid


def agreement(advantages: npt.ArrayLike, rewards: npt.ArrayLike) -> Agreement:
    """Compare summed advantages with rewards, after removing the mean of each prompt.

    >>> print(agreement([[0, 1, 2], [5, 4, 3]], [[1, 3, 5], [2, 0, -2]]).slope)
    2.0

    Args:
        advantages: of S replies to each of P prompts [P, S].
        rewards: of the same replies, in standard units [P, S]; NaN leaves a reply out.

    Returns:
        all NaN where advantages or rewards do not differ within any prompt.

    Raises:
        ValueError: if the shapes differ.
    """
    foretold, rewarded = np.asarray(advantages, np.float64), np.asarray(rewards, np.float64)
    if foretold.ndim != 2 or foretold.shape != rewarded.shape:
        raise ValueError(
            f"rewards must have the shape of advantages [P, S] ({foretold.shape}), "
            f"got {rewarded.shape}."
        )
    known = np.isfinite(foretold) & np.isfinite(rewarded)
    left, right = _centred(foretold, known), _centred(rewarded, known)
    # Sums of squares and products, prompt by prompt, so that prompts can be drawn anew.
    sums = np.stack([(a * b).sum(1) for a, b in ((left, left), (right, right), (left, right))], 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        aa, rr, ar = sums.sum(0)
        drawn = resamples(len(sums)) @ sums  # [draws, 3]
        correlations = drawn[:, 2] / np.sqrt(drawn[:, 0] * drawn[:, 1])
        correlation = interval(float(ar / np.sqrt(aa * rr)), correlations)
        return Agreement(correlation, float(ar / aa), float(1 - np.square(right - left).sum() / rr))


def _centred(values: Array, known: npt.NDArray[np.bool_]) -> Array:
    """Values [P, S] less the mean of their prompt; 0 where they are not known."""
    count = np.maximum(known.sum(1, keepdims=True), 1)
    filled = np.where(known, values, 0.0)
    return np.where(known, filled - filled.sum(1, keepdims=True) / count, 0.0)
