"""A check that two models are the same policy: they are compared on a few tokens.

Kinds of adapters and options of architectures are many, and a list of those that are understood is
never complete. So a policy that is read, or merged, in another way is compared with the original.
"""

import math

import torch
from torch import Tensor
from transformers import PreTrainedModel

_LENGTH = 24
_LEAST = -99.0  # a log-probability of -inf counts as this
# For float32, and for half precision, in which batches round in other ways: tokens less likely than
# this are not compared, and others may differ by so many nats.
_FULL, _HALF = (1e-6, 5e-3), (1e-2, 0.5)


def probe_tokens(vocabulary: int) -> list[int]:
    """24 token ids, spread over a vocabulary in no order, all different if it is large enough."""
    step = max(1, int(0.618 * vocabulary))
    return [(7 + at * step) % vocabulary for at in range(_LENGTH)]


@torch.no_grad()
def log_probs(model: PreTrainedModel, tokens: list[int], vocabulary: int) -> Tensor:
    """Log-probabilities of the first V tokens after each of T tokens [T, V], by a plain forward."""
    ids = torch.tensor([tokens], device=model.device)
    logits: Tensor = model(input_ids=ids, use_cache=False).logits[0]
    return logits[:, :vocabulary].float().log_softmax(-1)


def same_policy(one: Tensor, other: Tensor, dtype: torch.dtype) -> bool:
    """Whether log-probabilities [..., V] are equal, but for the rounding of models of this type."""
    least, most = _FULL if dtype == torch.float32 else _HALF
    likely = torch.maximum(one, other) > math.log(least)
    gap = (one.clamp_min(_LEAST) - other.clamp_min(_LEAST)).abs()
    return not one.isnan().any() and bool((gap[likely] < most).all())
