"""From scored answers to three small reward models.

One trunk learns all objectives at once, which costs a third of learning them apart; then it is cut
into sequence classifiers of one regression logit each. Logits are in standard units of the
grammar's own answers.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from rich.progress import Progress
from torch import Tensor
from transformers import LlamaForSequenceClassification, PreTrainedTokenizerFast

from mavis.sandbox.grammar import Dialogue, running_score
from mavis.sandbox.lexicon import OBJECTIVES
from mavis.sandbox.pretrain import END, fit, llama, pad, render

OUTLIER = 5.0  # targets are cut here, in standard units


def make_classifier(
    tokenizer: PreTrainedTokenizerFast, labels: int
) -> LlamaForSequenceClassification:
    """Build an untrained classifier: Llama, 2 layers of width 64, one regression logit a label."""
    config = llama(tokenizer, width=64, layers=2)
    config.problem_type, config.use_cache = "regression", False
    config.num_labels = labels
    return LlamaForSequenceClassification(config)


@dataclass(frozen=True)
class Lesson:
    """An answer to learn from: token ids [T], the tokens at ends [P] and their goals [P, M].

    The last is the end of the text, whose goal is the reward; the others are the ends of its
    sentences, with what the answer is worth up to there. They teach where a reward comes from.
    """

    ids: Tensor
    ends: Tensor
    goals: Tensor


def lessons(tokenizer: PreTrainedTokenizerFast, dialogues: Sequence[Dialogue]) -> list[Lesson]:
    """Encode each dialogue as the tokenizer's chat template renders it, goals in raw units."""
    texts = [render([dialogue]) for dialogue in dialogues]
    encoded = tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True)
    pairs = zip(encoded["input_ids"], encoded["offset_mapping"], dialogues, texts, strict=True)
    made = []
    for ids, offsets, dialogue, text in pairs:
        start = len(text) - len(END) - len(dialogue.response)
        token = {end: index for index, (_, end) in enumerate(offsets)}
        steps = running_score(dialogue.prompt, dialogue.response)
        points = [(token[start + end], scores) for end, scores in steps if start + end in token]
        points.append((len(ids) - 1, dialogue.attributes))
        goals = torch.tensor([[scores[name] for name in OBJECTIVES] for _, scores in points])
        made.append(Lesson(torch.tensor(ids), torch.tensor([at for at, _ in points]), goals))
    return made


def standardise(lesson: Lesson, mean: Tensor, std: Tensor) -> Lesson:
    """Put the goals into standard units, cut at `OUTLIER`."""
    return replace(lesson, goals=((lesson.goals - mean) / std).clamp(-OUTLIER, OUTLIER))


def loss_of(model: LlamaForSequenceClassification, batch: Sequence[Lesson]) -> Tensor:
    """Return the squared error at the ends of texts plus that at the ends of sentences."""
    ids = pad([lesson.ids for lesson in batch], int(model.config.pad_token_id or 0))
    hidden = model.model(input_ids=ids).last_hidden_state  # [B, T, D]; padding is on the right
    counts = torch.tensor([len(lesson.ends) for lesson in batch])
    row = torch.repeat_interleave(torch.arange(len(batch)), counts)
    ends = torch.cat([lesson.ends for lesson in batch])
    goals = torch.cat([lesson.goals for lesson in batch])
    errors = (model.score(hidden[row, ends]) - goals).square().mean(-1)
    last = counts.cumsum(0) - 1
    loss: Tensor = errors[last].mean() + errors.mean()
    return loss


def train(
    model: LlamaForSequenceClassification,
    data: Sequence[Lesson],
    generator: torch.Generator,
    bars: Progress,
) -> None:
    """Fit the logits to the goals by least squares, in place."""

    def loss(chosen: list[int]) -> Tensor:
        return loss_of(model, [data[i] for i in chosen])

    lengths = [len(lesson.ids) for lesson in data]
    fit(model, lengths, loss, generator, bars, what="rewards", passes=3, batch=48, lr=5e-3)


def cut(
    model: LlamaForSequenceClassification, tokenizer: PreTrainedTokenizerFast
) -> dict[str, LlamaForSequenceClassification]:
    """Cut a model of M logits into M models of one logit, by objective."""
    pieces = {}
    for index, name in enumerate(OBJECTIVES):
        piece = make_classifier(tokenizer, 1)
        piece.model.load_state_dict(model.model.state_dict())
        piece.score.weight.data = model.score.weight.data[index : index + 1].clone()
        pieces[name] = piece.eval()
    return pieces


@torch.no_grad()
def explained(model: LlamaForSequenceClassification, data: Sequence[Lesson]) -> list[float]:
    """Return the share of each objective's variance that the model explains (R²), M numbers."""
    padding = int(model.config.pad_token_id or 0)
    logits = []
    for i in range(0, len(data), 64):
        ids = pad([lesson.ids for lesson in data[i : i + 64]], padding)
        logits.append(model(input_ids=ids, attention_mask=ids.ne(padding).long()).logits)
    goals = torch.stack([lesson.goals[-1] for lesson in data])
    left = (torch.cat(logits) - goals).square().mean(0) / goals.var(0, correction=0)
    return [round(1.0 - value, 4) for value in left.tolist()]
