"""Attention by length: each row is read as far as it reaches, not as far as the longest one.

In a batch every row is as long as the longest one, so one long row would tax all the others. The
layers' projections take the whole batch at once; only attention is worked out run by run, each run
being rows of about one length. It is registered with `transformers` under a name of its own, and
is its scaled-dot-product attention wherever no runs are set.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

NAME, PLAIN = "mavis_by_length", "sdpa"
# Positions that may be looked at in vain before another call of attention is cheaper: on a CPU;
# an accelerator reads them side by side, and a call costs it more than most of them.
CPU_CALL, CALL = 512, 65_536

Run = tuple[int, int, int]  # rows begin … end − 1, and how many positions they reach

_runs: ContextVar[Sequence[Run]] = ContextVar("runs", default=())
_plain = AttentionInterface()[PLAIN]


def by_length(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attention of queries [R, heads, q, d] to keys and values [R, heads, span, d], run by run.

    Returns:
        [R, q, heads, d], and no weights, as `transformers` has it.
    """
    runs = _runs.get()
    if len(runs) < 2 or attention_mask is None:
        output: tuple[Tensor, None] = _plain(module, query, key, value, attention_mask, **options)
        return output
    parts = [
        _plain(
            module,
            query[begin:end],
            key[begin:end, :, :reach],
            value[begin:end, :, :reach],
            attention_mask[begin:end, ..., :reach],
            **options,
        )[0]
        for begin, end, reach in runs
    ]
    return torch.cat(parts), None


AttentionInterface.register(NAME, by_length)
# Without a mask of its own, a model whose masks it makes itself would have none.
AttentionMaskInterface.register(NAME, AttentionMaskInterface()[PLAIN])


def let_attend_by_length(model: PreTrainedModel) -> None:
    """Let a model attend by length, if it takes attention functions at all."""
    takes = getattr(model, "_supports_attention_backend", False)
    if takes and model.config._attn_implementation == PLAIN:
        model.set_attn_implementation(NAME)


def implementation(model: PreTrainedModel) -> str:
    """The name of what a copy of a model attends by: few need another than the usual one."""
    name = str(model.config._attn_implementation)
    return PLAIN if name == NAME else name


@contextmanager
def attending(reach: Sequence[int], device: torch.device) -> Iterator[None]:
    """Within this block rows reach so many positions, in the order in which they lie."""
    token = _runs.set(runs_of(reach, CPU_CALL if device.type == "cpu" else CALL))
    try:
        yield
    finally:
        _runs.reset(token)


def runs_of(reach: Sequence[int], call: int) -> list[Run]:
    """Cut rows of so many positions into runs, where one more call costs `call` positions.

    >>> runs_of([30, 31, 430, 29, 30], 100)
    [(0, 2, 31), (2, 3, 430), (3, 5, 30)]
    """
    runs: list[Run] = []
    for at, length in enumerate(reach):
        if runs:
            begin, end, longest = runs[-1]
            in_vain = (end - begin) * max(0, length - longest) + max(0, longest - length)
            if in_vain <= call:
                runs[-1] = (begin, end + 1, max(longest, length))
                continue
        runs.append((at, at + 1, length))
    return runs
