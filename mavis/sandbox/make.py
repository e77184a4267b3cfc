"""From a seed to a folder of models, rewards and prompts: the steps of a build, in order.

Imports torch and transformers; `mavis.cli.sandbox` imports it only when it builds.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from random import Random

import torch
from rich.progress import Progress
from transformers import (
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from mavis.progress import without_bars
from mavis.sandbox import classify, grammar, pretrain
from mavis.sandbox.grammar import Dialogue
from mavis.sandbox.lexicon import OBJECTIVES
from mavis.sandbox.spoil import spoil

SPLITS = {"train": 900, "validation": 400, "test": 524}
TWO_TURNS = 0.1  # share of the reference's texts that hold two dialogues
SPOILT = 0.5  # share of the rewards' texts that the grammar would not say
HELD_OUT = 500


def make(
    folder: Path, seed: int, dialogues: int, answers: int, bars: Progress
) -> dict[str, object]:
    """Fill an empty folder with the sandbox.

    Args:
        folder: Where to write; must exist.
        seed: Seed of everything.
        dialogues: How many dialogues the reference reads.
        answers: How many answers the reward models read.
        bars: Where progress is shown.

    Returns:
        The card that is also left beside the reference: sizes, loss, explained variance.
    """
    with _one_thread(), without_bars(), torch.random.fork_rng(devices=[]):
        spoken = _draw(Random(f"{seed} reference"), dialogues + HELD_OUT, bars)
        tokenizer = pretrain.make_tokenizer([pretrain.render([d]) for d in spoken[:20000]])
        reference, loss = _reference(tokenizer, spoken, seed, bars)
        _save(reference, tokenizer, folder / "reference")
        scored = _answers(Random(f"{seed} rewards"), answers + 2 * HELD_OUT, bars)
        rewards, figures = _rewards(tokenizer, scored, seed, bars)
        for name, reward in rewards.items():
            _save(reward, tokenizer, folder / name)
    _write_prompts(folder / "prompts", Random(f"{seed} prompts"))
    sizes = {"reference": reference.num_parameters(), "reward": rewards["humor"].num_parameters()}
    card: dict[str, object] = {"seed": seed, "dialogues": dialogues, "answers": answers}
    card |= {"parameters": sizes, "reference_loss": round(loss, 4), **figures}
    text = json.dumps(card, indent=2) + "\n"
    (folder / "reference" / "card.json").write_text(text, encoding="utf-8")
    return card


def _draw(rng: Random, count: int, bars: Progress) -> list[Dialogue]:
    return [grammar.sample(rng) for _ in bars.track(range(count), description="dialogues")]


def _answers(rng: Random, count: int, bars: Progress) -> list[Dialogue]:
    """Draw scored answers; all but the last `HELD_OUT` are spoilt as often as `SPOILT` says."""
    good = [grammar.sample(rng) for _ in range(count)]
    for i in bars.track(range(count - HELD_OUT), description="answers"):
        if rng.random() < SPOILT:
            good[i] = spoil(rng, [good[i], *rng.sample(good[-HELD_OUT:], 5)])
    return good


def _reference(
    tokenizer: PreTrainedTokenizerFast, spoken: Sequence[Dialogue], seed: int, bars: Progress
) -> tuple[LlamaForCausalLM, float]:
    rng, documents, turn = Random(f"{seed} turns"), [], list(spoken[:-HELD_OUT])
    while turn:
        count = 2 if rng.random() < TWO_TURNS and len(turn) > 1 else 1
        documents.append(pretrain.render([turn.pop() for _ in range(count)]))
    torch.manual_seed(seed)
    model = pretrain.make_model(tokenizer)
    generator = torch.Generator().manual_seed(seed)
    rows = pretrain.encode(tokenizer, documents)
    pretrain.pretrain(model, rows, generator, bars)
    held_out = pretrain.encode(tokenizer, [pretrain.render([d]) for d in spoken[-HELD_OUT:]])
    return model, pretrain.held_out_loss(model, held_out)


def _rewards(
    tokenizer: PreTrainedTokenizerFast, scored: Sequence[Dialogue], seed: int, bars: Progress
) -> tuple[dict[str, LlamaForSequenceClassification], dict[str, object]]:
    """Train the reward models; the last dialogues (spoilt too, then pure) are held out."""
    data = classify.lessons(tokenizer, scored)
    pure = torch.stack([lesson.goals[-1] for lesson in data[-HELD_OUT:]])
    mean, std = pure.mean(0), pure.std(0)
    data = [classify.standardise(lesson, mean, std) for lesson in data]
    torch.manual_seed(seed)
    model = classify.make_classifier(tokenizer, len(OBJECTIVES))
    generator = torch.Generator().manual_seed(seed)
    end = len(data) - 2 * HELD_OUT
    classify.train(model, data[:end], generator, bars)
    held = {"r2": data[end + HELD_OUT :], "r2_spoilt": data[end : end + HELD_OUT]}
    figures: dict[str, object] = {
        key: dict(zip(OBJECTIVES, classify.explained(model, part), strict=True))
        for key, part in held.items()
    }
    return classify.cut(model, tokenizer), figures


def _save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    model.half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _write_prompts(folder: Path, rng: Random) -> None:
    """Split all questions at random into files that share none."""
    questions = list(grammar.prompts())
    rng.shuffle(questions)
    folder.mkdir()
    for split, count in SPLITS.items():
        part, questions = questions[:count], questions[count:]
        lines = (json.dumps({"prompt": question}) + "\n" for question in part)
        (folder / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")


@contextmanager
def _one_thread() -> Iterator[None]:
    """Hold torch to one thread, so that sums are taken in one order; then leave it as it was."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
