"""The prompts of a split that leave room for an answer."""

import sys
from collections.abc import Sequence
from typing import Literal

import numpy as np

from mavis.decoding.reference import ReferencePolicy
from mavis.prompts import Prompt, read_prompts


def fitting_prompts(
    reference: ReferencePolicy,
    source: str,
    split: str,
    column: str | None,
    max_tokens: int,
    seed: int | None,
    wanted: int | None = None,
    *,
    on_bad_row: Literal["stop", "skip"] = "stop",
    quiet: bool = False,
) -> list[Prompt]:
    """Take prompts that fit into the reference policy's context with an answer of `max_tokens`.

    `source`, `split`, `column` and `on_bad_row` are as in `prompts.read_prompts`. The order is that
    of the `seed`, or without one that of the source; `wanted` is how many to take at most. Unless
    `quiet`, a line on stderr says how many were too long.

    Raises:
        ValueError: none is short enough.
    """
    prompts = read_prompts(source, split, column, on_bad_row=on_bad_row, quiet=quiet)
    count = len(prompts)
    order = np.arange(count)
    if seed is not None:
        order = np.random.default_rng((seed, count)).permutation(count)
    room = reference.context - max_tokens
    kept: list[Prompt] = []
    long = 0
    for index in order:
        if len(kept) == wanted:
            break
        if reference.length(prompts[index]) <= room:
            kept.append(prompts[index])
        else:
            long += 1
    left_out = (
        f"{long} of {long + len(kept)} {split} prompts of {source} with max_tokens = {max_tokens} "
        f"are longer than the reference's context of {reference.context}"
    )
    if not kept:
        raise ValueError(f"{left_out}: shorten them, or lower max_tokens.")
    if long and not quiet:
        print(f"mavis: {left_out}: left out.", file=sys.stderr)
    return kept


def check_enough(prompts: Sequence[Prompt], source: str, split: str) -> None:
    """Raise ValueError when a policy cannot be measured on a split: spreads need two prompts."""
    if len(prompts) < 2:
        raise ValueError(
            f"the policy is measured on {split} prompts, and {source} holds one of them: give two "
            f"or more, as {split}.jsonl in a folder of --data.prompts."
        )
