"""From the grammar's dialogues to a tokenizer and a reference language model.

The training loop, which the reward models share: rows of like length, AdamW, one cycle of the
learning rate. Deterministic from its generator. Knows nothing of rewards.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import chain

import torch
from rich.progress import Progress
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import (
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from mavis.sandbox.grammar import Dialogue

USER, ASSISTANT, END, PAD = "<|user|>", "<|assistant|>", "<|end|>", "<|pad|>"
VOCABULARY = 1024
CONTEXT = 512
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}<|assistant|>{{ message['content'] }}<|end|>"
    "{% else %}<|user|>{{ message['content'] }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def render(dialogues: Sequence[Dialogue]) -> str:
    """Write one or several turns as the chat template does.

    >>> render([Dialogue("Hi?", "Ha!", {})])
    '<|user|>Hi?<|assistant|>Ha!<|end|>'
    """
    turns = (f"{USER}{d.prompt}{ASSISTANT}{d.response}{END}" for d in dialogues)
    return "".join(turns)


def make_tokenizer(texts: Sequence[str], vocabulary: int = VOCABULARY) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer with the four special tokens and the chat template."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[PAD, END, USER, ASSISTANT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        extra_special_tokens=[USER, ASSISTANT],
        chat_template=CHAT_TEMPLATE,
        model_max_length=CONTEXT,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def llama(tokenizer: PreTrainedTokenizerFast, width: int, layers: int) -> LlamaConfig:
    """Return the configuration of a Llama model with four heads."""
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=11 * width // 4,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=CONTEXT,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def make_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """Build the untrained reference: Llama, 4 layers of width 128, tied embeddings."""
    config = llama(tokenizer, width=128, layers=4)
    config.tie_word_embeddings = True
    model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        do_sample=True,
        top_k=40,
        temperature=1.0,
        max_new_tokens=96,
    )
    return model


def encode(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> list[Tensor]:
    """Turn rendered dialogues into rows of token ids, cut to the context."""
    rows = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    return [torch.tensor(row[:CONTEXT]) for row in rows]


def batches(lengths: Sequence[int], size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Yield index batches [B] of like length in random order: one pass over all rows."""
    jitter = torch.rand(len(lengths), generator=generator)
    order = (torch.tensor(lengths) + 2.0 * jitter).argsort()
    starts = torch.arange(0, len(lengths), size)
    for i in torch.randperm(len(starts), generator=generator):
        yield order[starts[i] : starts[i] + size]


def pad(rows: Sequence[Tensor], value: int) -> Tensor:
    """Stack rows of any length into [B, T], padded on the right."""
    return nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_value=value)


def one_cycle(optimizer: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LambdaLR:
    """Warm up over a twentieth of the steps, then follow a cosine down to a fiftieth."""
    warm = max(1, steps // 20)

    def factor(step: int) -> float:
        if step < warm:
            return (step + 1) / warm
        return 0.02 + 0.49 * (
            1.0 + math.cos(math.pi * min(1.0, (step - warm) / (steps - warm + 1)))
        )

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def fit(
    model: PreTrainedModel,
    lengths: Sequence[int],
    loss_of: Callable[[list[int]], Tensor],
    generator: torch.Generator,
    bars: Progress,
    *,
    what: str,
    passes: int,
    batch: int,
    lr: float,
) -> None:
    """Minimise a loss in place.

    Args:
        model: What is trained.
        lengths: Of every row.
        loss_of: The loss on the rows with these numbers.
        generator: Where the order of the rows comes from.
        bars: Where progress is shown.
        what: What is trained, for the bar.
        passes: How often every row is seen.
        batch: Rows per step.
        lr: Highest learning rate.
    """
    steps = passes * math.ceil(len(lengths) / batch)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = one_cycle(optimizer, steps)
    orders = (batches(lengths, batch, generator) for _ in range(passes))
    model.train()
    for chosen in bars.track(chain.from_iterable(orders), total=steps, description=what):
        loss = loss_of(chosen.tolist())
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    model.eval()


def surprise(model: LlamaForCausalLM, rows: Sequence[Tensor], padding: int) -> Tensor:
    """Return the summed negative log-likelihood of rows in nats; padding is not counted."""
    ids = pad(rows, padding)  # [B, T]
    logits = model(input_ids=ids[:, :-1], use_cache=False).logits  # [B, T-1, V]
    return nn.functional.cross_entropy(
        logits.flatten(0, 1), ids[:, 1:].flatten(), ignore_index=padding, reduction="sum"
    )


def pretrain(
    model: LlamaForCausalLM,
    rows: Sequence[Tensor],
    generator: torch.Generator,
    bars: Progress,
) -> None:
    """Train the reference for one pass over the rows, in place."""
    batch = 32
    padding = int(model.config.pad_token_id or 0)
    lengths = [len(row) for row in rows]
    # Rows of a batch are of like length, so a mean over its tokens would favour short answers.
    tokens = batch * (sum(lengths) - len(rows)) / len(rows)

    def loss_of(chosen: list[int]) -> Tensor:
        return surprise(model, [rows[i] for i in chosen], padding) / tokens

    fit(model, lengths, loss_of, generator, bars, what="reference", passes=1, batch=batch, lr=4e-3)


@torch.no_grad()
def held_out_loss(model: LlamaForCausalLM, rows: Sequence[Tensor]) -> float:
    """Return the loss in nats per token on rows that were not trained on."""
    padding = int(model.config.pad_token_id or 0)
    total = sum(surprise(model, [row], padding).item() for row in rows)
    return total / sum(len(row) - 1 for row in rows)
