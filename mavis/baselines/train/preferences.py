"""Preferences among answers of the reference policy, and the loss that learns from them.

n answers to a prompt are scored by every objective; for each objective, any two that it scores
differently are a preference pair. A prompt and its answers are one sequence, in which each answer
sees the prompt and itself, so that n answers make up to n(n−1)/2 pairs per objective for n forwards
and the prompt is read once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from mavis.decoding.policy import GuidedPolicy
from mavis.decoding.reference import ReferencePolicy
from mavis.decoding.request import SamplingParams, stream
from mavis.decoding.windows import tree_masks
from mavis.evaluation.evaluate import evaluate
from mavis.objective import Objective
from mavis.options import TrainingOptions
from mavis.prompts import Prompt

_PROMPT, _PADDING = -1, -2  # owners of tokens that are no answer's


@dataclass(frozen=True)
class Group:
    """A prompt with n answers, scored by M objectives."""

    key: int  # names its random draws
    start: list[int]  # the prompt's tokens
    answers: list[list[int]]
    rewards: Tensor  # [n, M]; NaN where a reward abstained


class Groups(NamedTuple):
    """B groups, each as one sequence of T tokens."""

    keys: list[int]  # name the groups' random draws
    tokens: Tensor  # [B, T]
    position: Tensor  # [B, T]
    previous: Tensor  # [B, T]: the place of the token before, in the prompt or the same answer
    owner: Tensor  # [B, T]: the answer that a token is of, or a negative number
    mask: Tensor  # [B, 1, T, T] bool: whether a token sees another
    rewards: Tensor  # [B, n, M]; NaN also where a group has no such answer


def collect(
    reference: ReferencePolicy,
    objectives: Sequence[Objective],
    prompts: Sequence[Prompt],
    answers: int,
    config: TrainingOptions,
    folder: Path,
) -> list[Group]:
    """Have the reference policy answer prompts, and all objectives score the answers.

    Returns:
        a group for every prompt; what is in `folder` already is not made again.
    """
    samples = evaluate(
        GuidedPolicy(reference),
        prompts,
        objectives,
        SamplingParams(top_k=0),  # the whole vocabulary: nothing else is the reference policy
        max_tokens=config.max_tokens,
        n=answers,
        seed=config.seed,
        rows=config.rows,
        folder=folder,
    )
    rewards = torch.from_numpy(samples.rewards).float()  # [P, n, M]
    return [
        Group(index, reference.encode(prompt).tokens, samples.tokens[index], rewards[index])
        for index, prompt in enumerate(prompts)
    ]


def side_by_side(groups: Sequence[Group]) -> Groups:
    """Lay groups out as sequences of one length."""
    lines = []
    for group in groups:
        size = len(group.start)
        line = [list(group.start), list(range(size)), [0, *range(size - 1)], [_PROMPT] * size]
        for number, answer in enumerate(group.answers):
            here = len(line[0])
            line[0] += answer
            line[1] += range(size, size + len(answer))
            line[2] += [size - 1, *range(here, here + len(answer) - 1)]
            line[3] += [number] * len(answer)
        lines.append(map(torch.tensor, line))
    tokens, position, previous, owner = (
        pad_sequence(list(column), batch_first=True, padding_value=empty)
        for column, empty in zip(zip(*lines, strict=True), (0, 0, 0, _PADDING), strict=True)
    )
    width = tokens.shape[1]
    causal = torch.ones(width, width, dtype=torch.bool).tril()
    shared = (owner == _PROMPT)[:, None] & (owner != _PADDING)[..., None]
    seen = causal & (shared | (owner[:, None] == owner[..., None]))  # [B, T, T]
    all_rewards = [group.rewards for group in groups]
    rewards = pad_sequence(all_rewards, batch_first=True, padding_value=float("nan"))
    keys = [group.key for group in groups]
    return Groups(keys, tokens, position, previous, owner, seen[:, None], rewards)


def answer_log_probs(model: PreTrainedModel, batch: Groups) -> Tensor:
    """Every answer's log π(y|x), summed over its tokens: float32 [B, n]."""
    logits = model(
        input_ids=batch.tokens,
        attention_mask=tree_masks(model, batch.mask, batch.position, added=True),
        position_ids=batch.position,
        use_cache=False,
    ).logits.float()  # [B, T, V]
    total = logits.logsumexp(-1).gather(1, batch.previous)  # [B, T]
    rows = torch.arange(len(logits), device=logits.device)[:, None]
    log_probs = logits[rows, batch.previous, batch.tokens] - total
    of_answer = batch.owner >= 0
    log_probs = torch.where(of_answer, log_probs, 0.0)
    sums = log_probs.new_zeros(batch.rewards.shape[:2])
    return sums.scatter_add(1, batch.owner.clamp(min=0), log_probs)


def preferred(rewards: Tensor) -> Tensor:
    """Which answers are preferred to which: rewards [B, n, M] -> bool [B, n, n, M].

    Entry (w, l): answer w is scored higher than l. Ties and abstentions are no preference.
    """
    return rewards[:, :, None] > rewards[:, None]


def preference_loss(log_probs: Tensor, wins: Tensor, alpha: Tensor, beta_r: float) -> Tensor:
    """The loss of an autoregressive reward model (PARM, arXiv 2505.06274).

        Σ_i α_i · mean over pairs of −log σ(β_r · (log π(y_w^i|x; α) − log π(y_l^i|x; α)))

    With one objective it is GenARM's (arXiv 2410.08193): the reward of an answer is β_r·log π of
    it, without a reference policy's.

    Args:
        log_probs: log π(y|x; α) of the answers [B, n].
        wins: which are preferred to which [B, n, n, M].
        alpha: the preference of each row [B, M].
        beta_r: the reward of a nat.

    Returns:
        mean over rows []; an objective without a pair in a row adds nothing there.
    """
    margin = beta_r * (log_probs[:, :, None] - log_probs[:, None])  # [B, n, n]
    lost = -torch.nn.functional.logsigmoid(margin)[..., None] * wins
    per_objective = lost.sum((1, 2)) / wins.sum((1, 2)).clamp(min=1)  # [B, M]
    return (alpha * per_objective).sum(-1).mean()


def dirichlet(objectives: int, keys: Sequence[int], epoch: int, seed: int) -> Tensor:
    """A preference for each group, uniform on the simplex, keyed by group and epoch [B, M]."""
    draws = [stream(("preference", seed, epoch, key)).dirichlet([1.0] * objectives) for key in keys]
    return torch.from_numpy(np.array(draws).reshape(len(keys), objectives)).float()
