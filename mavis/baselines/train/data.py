"""What tuned policies learn from: prompts, rewards, preference pairs and dialogues, as tokens.

Everything is encoded and decoded by the reference policy, as when it writes, so that a reward sees
the same text in training as in evaluation. Knows nothing of TRL.
"""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import numpy as np
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from mavis.baselines.train.preferences import Group
from mavis.data_files import splits
from mavis.decoding.backbone import embeddings
from mavis.decoding.reference import ReferencePolicy
from mavis.objective import Objective
from mavis.prompts import COLUMNS, Prompt, exchange, plain, read_prompts
from mavis.reward import Units, score

REPLIES = ("response", "completion", "answer", "output", "reply")  # columns beside a prompt's
# Of preference labels. One of nearly even odds teaches little, a certain one nothing of the scale.
# Sandbox, humor, share of best-of-N's reward at equal KL: 0.76 at 1, 0.81 at 2, 0.80 and 0.94 at 4.
SHARPNESS = 4.0

Demonstration = tuple[Prompt, str]  # a prompt and the reply to it that is to be learned


@dataclass(frozen=True)
class WeightedReward:
    """An objective's reward in standard units, and its weight."""

    objective: Objective
    units: Units
    weight: float = 1.0


class TokenTable(PreTrainedTokenizerBase):
    """A tokenizer that looks texts up in place of splitting them.

    TRL tokenizes by itself, by rules that differ between its trainers and from those of decoding.
    So it is given keys for texts, and looks up the tokens that decoding would use.
    """

    table: dict[str, list[int]]

    def __call__(self, text: str | list[str], **_: Any) -> Any:
        """The tokens of a key, or of each of several; TRL may have appended an end token."""
        end = str(self.eos_token or "")
        if isinstance(text, str):
            return {"input_ids": list(self.table[text.removesuffix(end)])}
        return {"input_ids": [list(self.table[key.removesuffix(end)]) for key in text]}


def end_token(reference: ReferencePolicy) -> int:
    """The token that an answer is to end with.

    Raises:
        ValueError: nothing ends a text.
    """
    if isinstance(end := reference.tokenizer.eos_token_id, int):
        return end
    if not reference.ends:
        raise ValueError(
            f"{reference.name} has no end-of-text token, so that no answer would ever end: set "
            "eos_token in its tokenizer_config.json."
        )
    return min(reference.ends)


def ready_tokenizer(reference: ReferencePolicy) -> PreTrainedTokenizerBase:
    """A copy of the reference's tokenizer with an end token, and a padding token that it can embed.

    Many models come without a padding token. Which one is taken makes no difference: an answer
    ends with its first end token, and what comes later is masked.
    """
    tokenizer: Any = copy.deepcopy(reference.tokenizer)
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(end_token(reference))
    known = len(embeddings(reference.model))
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id >= known:
        tokenizer.pad_token = tokenizer.eos_token
    return cast(PreTrainedTokenizerBase, tokenizer)


def token_table(reference: ReferencePolicy, table: dict[str, list[int]]) -> PreTrainedTokenizerBase:
    """A copy of the reference's tokenizer that knows keys only; it decodes as before."""
    tokenizer = cast(Any, ready_tokenizer(reference))
    tokenizer.__class__ = type("TokenTable", (TokenTable, type(tokenizer)), {})
    tokenizer.table = table
    return cast(PreTrainedTokenizerBase, tokenizer)


def reward_function(
    weighted: WeightedReward, reference: ReferencePolicy
) -> Callable[..., list[float | None]]:
    """An unweighted reward as TRL calls it: on the columns `text` and `stop`, and tokens.

    Not on TRL's own texts: those keep what follows a stop string.
    """
    one, units = weighted.objective, weighted.units

    def reward(
        *, completion_ids: Sequence[list[int]], text: list[str], stop: list[list[str]], **_: Any
    ) -> list[float | None]:
        replies = [reference.decode(t, s) for t, s in zip(completion_ids, stop, strict=True)]
        scores = score(one.name, one.reward, text, replies, one.scores_thoughts).double()
        return [None if r != r else r for r in units.standard(scores).float().tolist()]

    reward.__name__ = one.name  # in TRL's metrics
    return reward


class Pair(NamedTuple):
    """Tokens of a prompt and of two answers to it, of which the first was preferred."""

    start: list[int]
    chosen: list[int]
    rejected: list[int]


def preference_pairs(
    groups: Sequence[Group], rewards: Sequence[WeightedReward], seed: tuple[int, int]
) -> Iterator[Pair]:
    """Answers of the reference policy, two by two, preferred as Bradley and Terry have it.

    The better of two is preferred with probability σ(s·(r − r')), s being `SHARPNESS`: DPO's
    optimum is that of E[r] − η·KL for labels with such odds, and for no others.
    """
    draws = np.random.default_rng(seed)
    for group in groups:
        columns = zip(rewards, group.rewards.T, strict=True)
        total = sum(one.weight * one.units.standard(raw.double()) for one, raw in columns)
        assert isinstance(total, Tensor)  # [n]
        for at in range(0, len(total) - 1, 2):
            first, second = group.answers[at : at + 2]
            gap = float(total[at] - total[at + 1])
            if first == second or gap != gap:  # nothing to learn, or a reward abstained
                continue
            if draws.random() < 1 / (1 + np.exp(-SHARPNESS * gap)):
                yield Pair(group.start, first, second)
            else:
                yield Pair(group.start, second, first)


def read_dialogues(source: str, column: str | None) -> list[Demonstration]:
    """Training prompts of a source with the replies to be learned, for supervised fine-tuning.

    A row is a chat or a Human/Assistant dialogue that ends with the assistant, or has a column of
    `REPLIES` beside its prompt.

    Raises:
        ValueError: no row holds a reply.
    """
    parts = splits(source)
    rows = parts.get("train") or parts.get("training") or next(iter(parts.values()))
    allowed = {plain(prompt) for prompt in read_prompts(source, "train", column)}
    read = [one for row in rows() if (one := _demonstration(row, column)) is not None]
    kept = [(prompt, reply) for prompt, reply in read if plain(prompt) in allowed]
    if not kept:
        raise ValueError(
            f"prompts must be whole dialogues for sft, got none in {source!r}: give chats, "
            f"Human/Assistant texts, or a column beside the prompt ({', '.join(REPLIES)})."
        )
    return kept


def _demonstration(row: Any, column: str | None) -> Demonstration | None:
    """The prompt and the reply in a row: in one column, or in two."""
    columns = row if isinstance(row, Mapping) else {}
    beside = next((str(columns[name]) for name in REPLIES if columns.get(name)), None)
    known: list[str | None] = [name for name in COLUMNS if name in columns]
    for name in [column] if column else known or [None]:
        try:
            prompt, reply = exchange(row, name, "a row")
        except ValueError:  # the column of the prompts was read before; this is another one
            continue
        reply = reply or beside
        if prompt is not None and reply is not None:
            return prompt, reply
    return None


def demonstration_tokens(
    reference: ReferencePolicy, prompt: Prompt, reply: str
) -> tuple[list[int], list[int]]:
    """Tokens of the prompt as decoding reads it, and of the reply up to its end token."""
    start = reference.encode(prompt)
    text = f" {reply}" if start.stop else reply  # "Assistant:" wants a space
    tokens = list(reference.tokenizer(text, add_special_tokens=False).input_ids)
    return start.tokens, [*tokens, end_token(reference)]


@dataclass(frozen=True)
class TrainingData:
    """What a policy is trained on."""

    reference: ReferencePolicy
    rewards: tuple[WeightedReward, ...]
    prompts: tuple[Prompt, ...]
    replies: tuple[str, ...] = ()  # for sft, one to each prompt
