"""A guard: what a model says after a few tokens, to hold what was made of it against what it is.

Kinds of adapters and options of architectures are many, and a list of those that are understood is
never whole. So whoever turns a policy into something else asks both for the same few tokens.
"""

import math

import torch
from torch import Tensor
from transformers import PreTrainedModel

_LENGTH = 24
_LEAST = -99.0  # of a log-probability: -inf is like it
# Of float32, and of half precision, in which batches round in other ways: how likely a token must
# be to be looked at, and how many nats may lie between.
_FULL, _HALF = (1e-6, 5e-3), (1e-2, 0.5)


def probe(vocabulary: int) -> list[int]:
    """Token ids from all of a vocabulary, in no order; no two places hold the same, if they can."""
    step = max(1, int(0.618 * vocabulary))
    return [(7 + at * step) % vocabulary for at in range(_LENGTH)]


@torch.no_grad()
def says(model: PreTrainedModel, tokens: list[int], vocabulary: int) -> Tensor:
    """Log-probabilities of the first V tokens after each of T tokens [T, V], by a plain forward."""
    ids = torch.tensor([tokens], device=model.device)
    logits: Tensor = model(input_ids=ids, use_cache=False).logits[0]
    return logits[:, :vocabulary].float().log_softmax(-1)


def alike(found: Tensor, wanted: Tensor, dtype: torch.dtype) -> bool:
    """Whether log-probabilities [..., V] are the same, but for the rounding of models of a type."""
    least, most = _FULL if dtype == torch.float32 else _HALF
    likely = torch.maximum(found, wanted) > math.log(least)
    gap = (found.clamp_min(_LEAST) - wanted.clamp_min(_LEAST)).abs()
    return not found.isnan().any() and bool((gap[likely] < most).all())
