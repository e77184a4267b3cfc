"""Guidance in a script of one's own: a logits processor for `generate()` of `transformers`.

    policy = mavis.load({"humor": "runs/humor"})
    model, tokenizer = policy.reference.model, policy.reference.tokenizer
    with mavis.ValueGuidance(policy, {"humor": 1.0}) as guidance:
        model.generate(**inputs, do_sample=True, top_k=0, logits_processor=[guidance])

What it returns are log-probabilities of the guided policy, −∞ outside its candidates: sampling from
them is sampling from it, and beams add them up. `generate`'s own top-k, top-p and temperature would
come on top, so leave them off and give them here.
"""

from collections.abc import Sequence
from types import TracebackType
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from transformers import LogitsProcessor, PreTrainedModel

from mavis.decoding.arguments import AllWeights, Numbers
from mavis.decoding.guidance import Guidance
from mavis.decoding.kv_cache import ModelOutput
from mavis.decoding.policy import GuidedPolicy
from mavis.decoding.request import SamplingParams, row_settings, try_rule


class ValueGuidance(LogitsProcessor):
    """Tilts the logits of a model that `generate()` runs.

    It follows the rows by their tokens: beams that change places, several replies to a prompt,
    padding on the left and a second call are all no matter. The model's own states are taken as it
    computes them, so that `shared` values cost nothing. Use it in a `with` block, or call `close`.

    Args:
        policy: the value models, and the reference policy that they were trained under.
        weights: λ by objective, one for all prompts or one for each; as in `GuidedPolicy.generate`.
        beta: strength of the tilt, likewise.
        temperature: of the reference policy.
        top_k: candidates per token; 0 is the whole vocabulary.
        top_p: probability mass of the candidates.
        model: the model that `generate()` is called of, if it is not `policy.reference.model`.

    Raises:
        ValueError: a setting cannot be, or the model has another vocabulary.
    """

    def __init__(
        self,
        policy: GuidedPolicy,
        weights: AllWeights = None,
        beta: Numbers | None = None,
        temperature: float = 1.0,
        top_k: int = 40,
        top_p: float = 1.0,
        model: PreTrainedModel | None = None,
    ) -> None:
        count = len(weights) if isinstance(weights, Sequence) else 1
        how = policy.requests(
            ["?"] * count, weights, beta, temperature=temperature, top_k=top_k, top_p=top_p
        )
        self._samplings = [one.sampling for one in how]
        for sampling in self._samplings:
            sampling.check(policy.objectives)
        try_rule(policy.rule, self._samplings)
        self._policy = policy
        self._model = policy.reference.model if model is None else model
        size, known = len(self._model.get_output_embeddings().weight), policy.reference.vocabulary
        if size != known:
            raise ValueError(
                f"the model has {size} tokens, and the reference {policy.reference.name} {known}: "
                "value models only guide the model that they were trained under."
            )
        self._guidance = Guidance(policy.guides, policy.rule, 1)
        self._read: list[list[int]] = []  # the tokens of each row
        self._mask: Tensor | None = None  # of the tokens that the call began with [B, T]
        self._seen: ModelOutput | None = None  # at the last tokens that the model has read
        base = cast(Any, self._model.base_model)
        self._hooks = [
            self._model.register_forward_pre_hook(self._before, with_kwargs=True),
            base.register_forward_pre_hook(self._asked, with_kwargs=True),
            base.register_forward_hook(self._after),
        ]

    def __enter__(self) -> "ValueGuidance":
        """Nothing more is to be done."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Let go of the model."""
        self.close()

    def close(self) -> None:
        """Let go of the model, which is then as it was."""
        for hook in self._hooks:
            hook.remove()
        self._hooks, self._read, self._seen = [], [], None

    @torch.inference_mode()
    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Log π of the next token [B, V] after some rows [B, T], from the model's logits [B, V].

        Raises:
            RuntimeError: another model has computed the logits, or it was closed.
            ValueError: there are not as many rows as prompts with weights, or a multiple of them.
        """
        if self._seen is None:
            raise RuntimeError(
                "ValueGuidance has not seen the model that computes these logits: call generate() "
                "of policy.reference.model, or give yours as model=, and do not close it before."
            )
        settings = row_settings(
            self._rows(len(input_ids)), self._policy.reference.vocabulary, scores.device
        )
        tokens, index = self._tokens(input_ids), np.arange(len(input_ids))
        sources = self._sources(tokens)
        self._guidance.reserve(len(tokens))
        if sources is None:
            self._guidance.clear(index)
            self._guidance.extend(index, tokens, self._seen, settings)
        else:
            if sources != list(range(len(tokens))):
                self._guidance.copy(index, np.array(sources))
            self._guidance.extend(index, [row[-1:] for row in tokens], self._seen, settings)
        self._read, self._seen = tokens, None
        options, log_pi = self._guidance.policy(index, scores.float(), settings)
        return torch.full_like(scores, -torch.inf).scatter(1, options.tokens, log_pi.to(scores))

    def _rows(self, count: int) -> list[SamplingParams]:
        """The settings of each row: those of a prompt for all its replies or beams."""
        asked = len(self._samplings)
        if count % asked:
            raise ValueError(f"there are {count} rows for {asked} weightings: give one per prompt.")
        return [one for one in self._samplings for _ in range(count // asked)]

    def _tokens(self, input_ids: Tensor) -> list[list[int]]:
        """The tokens of each row, without the padding on its left."""
        rows: list[list[int]] = input_ids.tolist()
        if self._mask is None:
            return rows
        padding = (~self._mask.bool()).sum(-1).tolist()
        # Beams of one prompt are as many rows, one after the other.
        each = len(rows) // len(padding)
        return [row[padding[at // each] :] for at, row in enumerate(rows)]

    def _sources(self, tokens: list[list[int]]) -> list[int] | None:
        """The row that each one goes on from by one token; None if one of them is new."""
        known = {tuple(row): at for at, row in reversed(list(enumerate(self._read)))}
        found = [known.get(tuple(row[:-1])) for row in tokens]
        same = [at for at, row in enumerate(tokens) if self._read[at : at + 1] == [row[:-1]]]
        # Where rows are alike, each goes on from itself: nothing is then copied.
        for at in same:
            found[at] = at
        return None if None in found else [at for at in found if at is not None]

    # What the model says while it runs

    def _before(self, _: Any, __: Any, kwargs: dict[str, Any]) -> None:
        mask, ids = kwargs.get("attention_mask"), kwargs.get("input_ids")
        if mask is None or mask.dim() != 2 or ids is None:
            self._mask = None
        elif mask.shape == ids.shape:  # the prompts, whose padding stays where it is
            self._mask = mask.clone()

    def _asked(self, _: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        if self._guidance.layers:
            kwargs = kwargs | {"output_hidden_states": True}
        return args, kwargs

    def _after(self, _: Any, __: Any, output: Any) -> None:
        hidden = output.last_hidden_state[:, -1] if self._guidance.needs_hidden else None
        layers = {at: output.hidden_states[at][:, -1] for at in self._guidance.layers}
        self._seen = ModelOutput(hidden, None, layers)
