"""Whether a reward of partial text says something of the whole reply.

A reward on the beginning of a reply may stand for the value of that state (`training.prefixes`)
where it behaves like one. The true value V is a martingale: what it moves by is not taken back, so
that its quadratic variation Σ_t (V(s_t) − V(s_{t−1}))² is in expectation the variance of where it
ends. A reward that jumps up at a full stop and down between has one that is many times as large:
most of what its increments credit a token with is not there at the end.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mavis.decoding.policy import GuidedPolicy
from mavis.decoding.request import SamplingParams
from mavis.objective import Objective
from mavis.prompts import Prompt, plain
from mavis.reward import score

REPLIES = 8  # to each prompt
MAX_TOKENS = 64
LEAST_CORRELATION = 0.3  # of half a reply with the whole, for prefixes to be of use
ROUGH = 2.0  # quadratic variation, of which less is a martingale's with some noise

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class PrefixFit:
    """How a reward on prefixes of replies goes with the reward of the whole, within prompts.

    Args:
        correlation: of the reward of half the reply with that of the whole.
        variation: quadratic variation over the second half, as a share of the mean square of what
            the reward changes by there: 1 for a martingale.
    """

    correlation: float
    variation: float

    @property
    def advice(self) -> str:
        """What to do about it."""
        held_out = "; decide by the held-out figures of fits with and without"
        off = "leave --data.prefix_discount at 1"
        if not self.correlation >= LEAST_CORRELATION:
            return f"half a reply says too little of the whole: {off}{held_out}"
        if not self.variation <= ROUGH:
            return f"it jumps up and down on the way: {off}{held_out}"
        foretells = "a reward of partial text that foretells the whole"
        helps = "--data.prefix_discount 0.5 may help (0.9 with token credit)"
        return f"{foretells}: {helps}{held_out}"


def prefix_fit(policy: GuidedPolicy, prompts: Sequence[Prompt], objective: Objective) -> PrefixFit:
    """Sample replies to prompts, score their beginnings token by token, and compare.

    Raises:
        ValueError: the reward fails at one.
    """
    count, reference = len(prompts), policy.reference
    sampling = [SamplingParams((), 1.0)] * count
    replies = policy.sample(prompts, sampling, [MAX_TOKENS] * count, [0] * count, REPLIES)
    asked, texts, lengths = list[str](), list[str](), list[int]()
    for number, reply in enumerate(replies):
        prompt, size = prompts[number // REPLIES], len(reply.tokens)
        stop = reference.encode(prompt).stop
        texts += [reference.decode(reply.tokens[:end], stop) for end in range(1, size)]
        texts += [reply.text] * (size > 0)  # one that is empty has no path
        asked += [plain(prompt)] * size
        lengths.append(size)
    rewards = score(objective.name, objective.reward, asked, texts, objective.scores_thoughts)
    paths = np.split(rewards.double().numpy(), np.cumsum(lengths)[:-1])
    return compare([paths[at : at + REPLIES] for at in range(0, len(paths), REPLIES)])


def compare(groups: Sequence[Sequence[Array]]) -> PrefixFit:
    """Compare the rewards on prefixes with those of the whole replies.

    Args:
        groups: for each prompt, of each reply the rewards after every token; the last is that of
            the whole. Where one abstains from a prefix, that of the prefix before it stands; a
            reply that it abstains from is left out.
    """
    halves, wholes, squares = list[Array](), list[Array](), list[Array]()
    for group in groups:
        known = [path for path in group if len(path) > 1 and np.isfinite(path[-1])]
        if len(known) < 2:
            continue
        mean = float(np.mean([path[-1] for path in known]))
        paths = [_carried(np.array([mean, *path])) for path in known]
        middles = [len(path) // 2 for path in paths]
        half = np.array([path[at] for path, at in zip(paths, middles, strict=True)])
        whole = np.array([path[-1] for path in paths])
        late = [np.square(np.diff(p[at:])).sum() for p, at in zip(paths, middles, strict=True)]
        squares.append(np.array([late, np.square(whole - half)]))
        halves.append(half - half.mean())
        wholes.append(whole - whole.mean())
    if not wholes:
        return PrefixFit(np.nan, np.nan)
    half, whole = np.concatenate(halves), np.concatenate(wholes)
    lengths = np.sqrt((half @ half) * (whole @ whole))
    late, left = np.concatenate(squares, 1).sum(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return PrefixFit(float(half @ whole / lengths), float(late / left))


def _carried(path: Array) -> Array:
    """A path whose first number is finite, with the number before it where there is none."""
    known = np.isfinite(path)
    found: Array = path[np.maximum.accumulate(np.where(known, np.arange(len(path)), 0))]
    return found
