"""What a request to vLLM asks of guidance: `vllm_xargs`, checked when it comes in.

    extra_body={"vllm_xargs": {"weights": "humor=1,helpfulness=-0.5", "beta": 2.0, "top_k": 40}}

All three may be left out: then all objectives weigh the same, at the strength that the value models
were made for, over 40 candidates.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mavis.decoding.request import SamplingParams
from mavis.serving.errors import Refused
from mavis.serving.fields import GUIDING, TOP_K
from mavis.serving.presets import NAME, Presets

# Settings of vLLM's that would cut or bend the guided policy once more, with what does nothing.
LATER: Mapping[str, tuple[Any, ...]] = {
    "top_k": (0, -1),
    "top_p": (1, 1.0),
    "min_p": (0, 0.0),
    "presence_penalty": (0, 0.0),
    "frequency_penalty": (0, 0.0),
    "repetition_penalty": (1, 1.0),
    "logit_bias": (None, {}),
    "min_tokens": (0,),
}


@dataclass(frozen=True)
class Asked:
    """The guidance of one request.

    Args:
        weights: λ [M].
        beta: strength; None is the value models' own.
        top_k: candidates; 0 is the whole vocabulary.
    """

    weights: tuple[float, ...]
    beta: float | None
    top_k: int


def read(params: Any, objectives: Sequence[str]) -> Asked:
    """What the sampling parameters of a request ask for.

    Args:
        params: vLLM's SamplingParams.
        objectives: that there are values of.

    Raises:
        ValueError: a field is not known, cannot be, or would come on top of the guidance.
    """
    for name, neutral in LATER.items():
        value = getattr(params, name, neutral[0])
        if value not in neutral:
            where = " in vllm_xargs" if name in GUIDING else ""
            raise ValueError(
                f"{name} {value} would change the guided policy: leave it out"
                f"{', or give it' + where if where else ''}."
            )
    extra: Mapping[str, Any] = params.extra_args or {}
    unknown = [name for name in extra if name not in GUIDING]
    if unknown:
        raise ValueError(f"vllm_xargs knows {', '.join(GUIDING)}, got {unknown[0]!r}.")
    beta, top_k = (_number(extra, name) for name in GUIDING[1:])
    asked = Asked(_weights(extra.get("weights"), objectives), beta, _whole(top_k))
    strength = SamplingParams.beta if beta is None else beta
    SamplingParams(asked.weights, strength, top_k=asked.top_k).check(objectives)
    return asked


def _weights(text: Any, objectives: Sequence[str]) -> tuple[float, ...]:
    presets = Presets(objectives, {})
    if text is None:
        return tuple(presets.weights(NAME).values())
    if not isinstance(text, str):
        raise ValueError(f"weights in vllm_xargs must be text, like {objectives[0]}=1.")
    try:
        return tuple(presets.spelt(text, "weights").values())
    except Refused as error:
        raise ValueError(f"vllm_xargs: {error.message}") from error


def _number(extra: Mapping[str, Any], name: str) -> float | None:
    value = extra.get(name)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise ValueError(f"{name} in vllm_xargs must be a number, got {value!r}.")
    return value


def _whole(top_k: float | None) -> int:
    if top_k is None:
        return TOP_K
    if top_k % 1 or top_k < 0:
        raise ValueError(f"top_k in vllm_xargs must be a whole number, 0 or more, got {top_k}.")
    return int(top_k)
