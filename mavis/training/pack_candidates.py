"""The candidates of every state of packs: what the reference may say next, and how likely."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from mavis.decoding.reference import ReferencePolicy
from mavis.decoding.request import SamplingParams, row_settings
from mavis.decoding.tilt import candidates
from mavis.training.batching import collate, inputs, on_device
from mavis.training.packing import MOST, Pack


@torch.no_grad()
def with_candidates(
    groups: Sequence[Sequence[Pack]], reference: ReferencePolicy, sampling: SamplingParams
) -> list[list[Pack]]:
    """The packs, with the candidates of the state after each of their tokens.

    Trees that were grown for a loss that asks for candidates know them already. For others, such as
    those of a fit of one objective, they are read once a fit, and learned from in every pass.

    Args:
        groups: packs that fit into memory side by side.
        reference: whose candidates they are.
        sampling: its temperature, top-k and top-p. Of more than `MOST` candidates, the likeliest
            are kept, so that a whole vocabulary is none too many.
    """
    model, found = reference.model, []
    for group in groups:
        if all(pack.candidates is not None for pack in group):
            found.append(list(group))
            continue
        batch = on_device(collate(group), model.device)
        logits = model(use_cache=False, **inputs(model, batch)).logits.flatten(0, 1)
        settings = row_settings([sampling] * len(logits), logits.shape[-1], logits.device)
        options = candidates(logits, settings)
        shape = (*batch.tokens.shape, -1)
        tokens = options.tokens[:, :MOST].reshape(shape).int().cpu().numpy()
        log_ref = options.log_ref[:, :MOST].reshape(shape).float().cpu().numpy()
        found.append(
            [
                replace(pack, candidates=ids[: len(pack.tokens)], log_ref=log[: len(pack.tokens)])
                for pack, ids, log in zip(group, tokens, log_ref, strict=True)
            ]
        )
    return found
