"""Guided replies as a `custom_generate` of `transformers`: its call, its settings, our decoder.

    policy = mavis.load({"humor": "runs/humor"})
    guided = mavis.GuidedGenerate(policy)
    policy.reference.model.generate(
        **inputs, custom_generate=guided, weights={"humor": 1.0}, do_sample=True, max_new_tokens=20
    )

`ValueGuidance` bends the logits within a loop that `transformers` runs, with all of its options.
Here the loop is ours, which needs no padding and takes rows of unlike length together. Options that
it cannot honour are refused; a streamer is not handed to it by `generate()`, and gets nothing.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessorList,
    PreTrainedModel,
    StoppingCriteriaList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)
from transformers.generation.stopping_criteria import EosTokenCriteria, MaxLengthCriteria

from mavis.decoding.arguments import AllWeights, Numbers
from mavis.decoding.decode import decode
from mavis.decoding.policy import GuidedPolicy
from mavis.decoding.request import Request, SamplingParams

OURS = (TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper)  # which settings make
ENDS = (EosTokenCriteria, MaxLengthCriteria)


class GuidedGenerate:
    """Writes guided replies for `model.generate(..., custom_generate=GuidedGenerate(policy))`.

    Args:
        policy: the value models, and the reference policy whose model `generate()` is called of.
        rows: replies that are written at the same time.
    """

    def __init__(self, policy: GuidedPolicy, rows: int = 64) -> None:
        self._policy, self._rows = policy, rows

    @torch.inference_mode()
    def __call__(
        self,
        model: PreTrainedModel,
        input_ids: Tensor,
        logits_processor: LogitsProcessorList,
        stopping_criteria: StoppingCriteriaList,
        generation_config: GenerationConfig,
        weights: AllWeights = None,
        beta: Numbers | None = None,
        **inputs: Any,
    ) -> Tensor:
        """Go on from the prompts; `generate()` calls this.

        Args:
            model: must be `policy.reference.model`.
            input_ids: prompts, padded on the left [B, T], each as often as it is to be answered.
            logits_processor: nothing but temperature, top-k and top-p.
            stopping_criteria: nothing but the end token and the longest length.
            generation_config: do_sample, temperature, top_k, top_p, max_length, and so on.
            weights: λ by objective, one for all prompts or one for each, given to `generate()`.
            beta: strength of the tilt, likewise.
            **inputs: of the model; `attention_mask` is 0 where there is padding [B, T].

        Returns:
            prompts and replies, padded on the right [B, T + new].

        Raises:
            ValueError: an option cannot be honoured, by name, or a setting cannot be.
        """
        self._refuse(model, logits_processor, stopping_criteria, generation_config)
        samplings = self._samplings(len(input_ids), weights, beta, generation_config)
        mask = inputs.get("attention_mask")
        kept = torch.ones_like(input_ids) if mask is None else mask
        prompts = [
            row[mask.bool()].tolist()
            for row, mask in zip(input_ids, kept[:, : input_ids.shape[1]], strict=True)
        ]
        limit = int(generation_config.max_length or 0) - input_ids.shape[1]
        # The draws follow from torch's own seed, as those of `generate` do.
        seed = int(torch.randint(2**62, ()))
        asked = [
            Request(tokens, limit, how, (seed, at, "custom generate"), tag=at)
            for at, (tokens, how) in enumerate(zip(prompts, samplings, strict=True))
        ]
        for one in asked:
            one.check(self._policy.reference)
        rows = min(self._rows, len(asked))
        policy = self._policy
        written: dict[int, list[int]] = {
            output.request.tag: output.tokens
            for output in decode(
                policy.reference, policy.guides, asked, rule=policy.rule, rows=rows
            )
        }
        padding = _padding(generation_config, policy)
        longest = max(map(len, written.values()))
        new = [written[at] + [padding] * (longest - len(written[at])) for at in range(len(asked))]
        return torch.cat([input_ids, torch.tensor(new).to(input_ids)], 1)

    def _samplings(
        self, count: int, weights: AllWeights, beta: Numbers | None, how: GenerationConfig
    ) -> list[SamplingParams]:
        """The settings of each row; those of a prompt for all replies to it."""
        each = how.num_return_sequences or 1
        prompts = count // each
        given = len(weights) if isinstance(weights, Sequence) else prompts
        if given != prompts:
            raise ValueError(f"there are {prompts} prompts for {given} weightings: one each.")
        requests = self._policy.requests(
            ["?"] * prompts,
            weights,
            beta,
            temperature=1.0 if how.temperature is None else how.temperature,
            top_k=how.top_k or 0,
            top_p=1.0 if how.top_p is None else how.top_p,
        )
        samplings = [one.sampling for one in requests for _ in range(each)]
        for one in samplings:
            one.check(self._policy.objectives)
        return samplings if how.do_sample else [replace(s, temperature=0.0) for s in samplings]

    def _refuse(
        self,
        model: PreTrainedModel,
        processors: LogitsProcessorList,
        criteria: StoppingCriteriaList,
        how: GenerationConfig,
    ) -> None:
        """Raise a ValueError that names what cannot be honoured."""
        if model is not self._policy.reference.model:
            raise ValueError(
                "GuidedGenerate goes with the model of policy.reference: call its generate()."
            )
        wrong = [type(one).__name__ for one in processors if not isinstance(one, OURS)]
        wrong += [type(one).__name__ for one in criteria if not isinstance(one, ENDS)]
        wrong += ["num_beams"] if (how.num_beams or 1) > 1 else []
        wrong += ["return_dict_in_generate"] if how.return_dict_in_generate else []
        if wrong:
            raise ValueError(
                f"GuidedGenerate cannot honour {', '.join(wrong)}: leave it out, or guide by "
                "ValueGuidance."
            )
        ends = how.eos_token_id
        given = set(ends) if isinstance(ends, list) else {ends}
        if not given <= self._policy.reference.ends:
            raise ValueError(
                f"eos_token_id must be among those of the reference, "
                f"{sorted(self._policy.reference.ends)}, got {ends}."
            )


def _padding(how: GenerationConfig, policy: GuidedPolicy) -> int:
    """The token behind replies that are shorter than others."""
    return min(policy.reference.ends) if how.pad_token_id is None else int(how.pad_token_id)
