"""The reference policy π_ref: a frozen causal LM, its tokenizer, chat template and stop rules."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, cast

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from mavis.data_files import function
from mavis.decoding import prompt_format
from mavis.decoding.adapters import base_of_adapter, is_adapter, with_adapter
from mavis.decoding.architectures import check_architecture, check_task, try_rows
from mavis.decoding.gguf_files import is_gguf, name_turn_end
from mavis.decoding.model_folders import (
    check_tokenizer_folder,
    has_tokenizer,
    load_config,
    load_model,
    load_tokenizer,
)
from mavis.decoding.tokenizers import Spelling, end_tokens, fingerprint, head_of, was_before
from mavis.hub import lasting, reachable
from mavis.prompts import Prompt

SMALL = 20_000_000  # parameters


class PromptTooLong(ValueError):  # noqa: N818 (reads as the fact)
    """A prompt and its reply do not fit into the model's context."""


@dataclass(frozen=True)
class Encoded:
    """A prompt as the reference model reads it."""

    tokens: list[int]
    stop: tuple[str, ...] = ()  # strings at which a reply ends, beside the end-of-text tokens


@dataclass(frozen=True, repr=False)
class ReferencePolicy:
    """π_ref with everything that turns prompts into tokens and tokens into replies.

    Args:
        model: the causal LM; set to eval mode, its parameters frozen.
        tokenizer: its tokenizer.
        name: what it was loaded from.
        template: dotted name of a function `prompt -> str` used in place of the chat template.
        template_args: arguments of the chat template, such as `{"enable_thinking": False}`.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    name: str = "reference"
    template: str | None = None
    template_args: Mapping[str, Any] | None = None
    ends: frozenset[int] = field(init=False)
    fingerprint: str = field(init=False)

    def __post_init__(self) -> None:
        """Freeze the model, and look up what ends a reply."""
        check_architecture(self.model.config)
        self.model.eval().requires_grad_(False)
        object.__setattr__(self, "ends", end_tokens(self.model, self.tokenizer))
        object.__setattr__(self, "fingerprint", fingerprint(self.tokenizer))
        if self.template_args:
            if self.template is not None or self.tokenizer.chat_template is None:
                raise ValueError(
                    "template_args are arguments of a chat template, but prompts of "
                    f"{self.name} are written {'by ' + self.template if self.template else 'out'}."
                )
            prompt_format.check_arguments(self.tokenizer, self.template_args, self.name)
        if self.template is not None:
            function(self.template, "template")  # raises now if there is none
            prompt_format.check_template(self.render, f"template {self.template}")
        elif self.tokenizer.chat_template is not None:
            prompt_format.check_template(self.render, f"the chat template of {self.name}")
        try_rows(self.model, self.name)

    def __repr__(self) -> str:
        """Name the model; its layers would fill pages."""
        return f"ReferencePolicy({self.name!r})"

    @classmethod
    def load(
        cls,
        name: str = "sandbox/reference",
        template: str | None = None,
        device: str | None = None,
        template_args: Mapping[str, Any] | None = None,
    ) -> "ReferencePolicy":
        """Load a local folder, a GGUF file, a shipped model (`sandbox/NAME`) or a hub name.

        A folder may hold an adapter, which is merged into the model that it names. On a CPU the
        model runs in float32; on an accelerator in the type it was saved in (GGUF: float32), but
        for a large one in float32, which runs in bfloat16 where the accelerator has it.

        Raises:
            FileNotFoundError: the folder is missing, or holds no model.
            ModuleNotFoundError: the extra for GGUF files or adapters is not installed.
            ValueError: the architecture cannot be guided (see `check_architecture`), the model is
                no causal LM, or one of its files is missing or broken.
        """
        path = reachable(name, "reference")
        base = base_of_adapter(path) if is_adapter(path) else path
        check_task(load_config(name, base), name)
        place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        dtype = "auto" if place.type != "cpu" else torch.float32
        check_tokenizer_folder(base)
        tokenizer = load_tokenizer(name, path if has_tokenizer(path) else base)
        model: Any = load_causal_lm(name, path, dtype)
        if is_gguf(base):
            name_turn_end(model, tokenizer)
        halved = _to_halve(model, place)
        ready = cast(PreTrainedModel, model if halved else model.to(place))
        policy = cls(ready, tokenizer, lasting(name), template, template_args)
        if halved:
            _ = policy.weights_digest  # of the weights as they were saved: that of any other device
            # Parameters alone: the frequencies of positions need all of their digits.
            for parameter in model.parameters():
                parameter.data = parameter.data.to(torch.bfloat16)
            model.to(place)
        return policy

    @property
    def vocabulary(self) -> int:
        """V, the number of logits."""
        return len(self.model.get_output_embeddings().weight)

    @cached_property
    def context(self) -> int:
        """The longest sequence, in tokens, that the model was made for."""
        config = self.model.config.get_text_config()
        return int(getattr(config, "max_position_embeddings", 1 << 30))

    def knows(self, fingerprint: str) -> bool:
        """Whether this is the fingerprint of its tokenizer, as it is or before tokens were added.

        What a model learned before then means the same after it.
        """
        return fingerprint == self.fingerprint or was_before(self.tokenizer, fingerprint)

    @cached_property
    def weights_digest(self) -> str:
        """A digest of the weights, the same on every device and in every type they are saved in.

        It covers every element of a small model, and of a large one up to 4,096 of each tensor,
        evenly spread: enough to tell any further training. Worked out when it is first asked for,
        so ask before the model is changed.
        """
        tensors = self.model.state_dict()
        most = 4096 if self.model.num_parameters() >= SMALL else 1 << 30
        digest = hashlib.sha256()
        for name, tensor in sorted(tensors.items()):
            flat = tensor.reshape(-1)[:: -(-tensor.numel() // most) or 1]
            digest.update(f"{name} {tuple(tensor.shape)}".encode())
            digest.update(flat.float().cpu().numpy().tobytes())
        return digest.hexdigest()[:16]

    def render(self, prompt: Prompt) -> str:
        """Write a prompt as the text that the model continues.

        A template function has the first word, then the tokenizer's chat template; without either,
        text is taken as it is and a chat is written out as a dialogue (Human: … Assistant:).

        Raises:
            ValueError: the template refuses the prompt, fails, or returns no text.
        """
        if self.template is not None:
            return prompt_format.by_function(self.template, prompt)
        if self.tokenizer.chat_template is None:
            return prompt_format.written_out(prompt)
        return prompt_format.by_chat_template(
            self.tokenizer, prompt, self.template_args or {}, self.name
        )

    def encode(self, prompt: Prompt) -> Encoded:
        """Tokenize a prompt, and say which strings end its reply.

        Raises:
            PromptTooLong: it fills the model's context.
            ValueError: the prompt is no prompt, empty, no text that can be written, refused by the
                template, or has a token that the model lacks.
        """
        text, tokens = self._tokens(prompt)
        if len(tokens) >= self.context:
            raise PromptTooLong(
                f"prompt must leave room for a reply in the context of {self.context} tokens of "
                f"{self.name}, got {len(tokens)} tokens: {text[:60]!r} …"
            )
        known = len(cast(Any, self.model.get_input_embeddings()).weight)
        unknown = next((token for token in tokens if token >= known), None)
        if unknown is not None:
            token = self.tokenizer.convert_ids_to_tokens(unknown)
            raise ValueError(
                f"{prompt_format.excerpt(prompt)} has the token {token!r} (id {unknown}), and "
                f"{self.name} knows {known} tokens only: its tokenizer is not the one it was "
                "trained with."
            )
        dialogue = self._plain_text and text.rstrip().endswith("Assistant:")
        return Encoded(tokens, (prompt_format.NEXT_TURN,) if dialogue else ())

    def length(self, prompt: Prompt) -> int:
        """How many tokens a prompt has; what is no prompt is refused, as `encode` does."""
        return len(self._tokens(prompt)[1])

    @property
    def _plain_text(self) -> bool:
        """Whether prompts are rendered as text, without the special tokens of a chat."""
        return self.template is not None or self.tokenizer.chat_template is None

    def _tokens(self, prompt: Prompt) -> tuple[str, list[int]]:
        prompt_format.check_prompt(prompt)
        text = self.render(prompt)
        return text, self.continued(text, self._plain_text)

    def continued(self, text: str, head: bool = True) -> list[int]:
        """The tokens of text that is to be continued as it is, without a template.

        Args:
            text: what is there.
            head: whether the tokenizer puts in front what it puts there by itself.

        Raises:
            ValueError: it is no text that can be written, or has no tokens.
        """
        prompt_format.check_text(text)
        tokens = list(self.tokenizer(text, add_special_tokens=False).input_ids)
        if not tokens:
            raise ValueError(f"prompt must have tokens, got none for {text[:60]!r}.")
        if head and self.tokenizer.num_special_tokens_to_add():
            # What the tokenizer puts in front belongs there, unless the text has it already. What
            # it puts at the end, such as an end token, would end a text that is to be continued.
            front = head_of(tokens, list(self.tokenizer(text).input_ids))
            tokens = tokens if tokens[: len(front)] == front else front + tokens
        return tokens

    def decode(self, tokens: Sequence[int], stop: Sequence[str] = ()) -> str:
        """The reply that response tokens spell, up to an end token or a stop string.

        White space at its beginning is a part of it, white space at its end is not.
        """
        text = self.spelling.text([token for token in tokens if token not in self.ends])
        for string in stop:
            text = text.split(string)[0]
        return text.rstrip()

    def ending(self, response: Sequence[int], stop: Sequence[str]) -> str:
        """Why a response has ended with its last token: "end", "stop", or "" if it has not."""
        if response[-1] in self.ends:
            return "end"
        return "stop" if stop and self.spelling.stops(response, stop) else ""

    @cached_property
    def spelling(self) -> Spelling:
        """What its tokens spell."""
        return Spelling(self.tokenizer)


def load_causal_lm(name: str, path: str, dtype: Any) -> PreTrainedModel:
    """Load a causal LM from a folder, a GGUF file, a hub name or the folder of an adapter."""
    if not is_adapter(path):
        return load_model(AutoModelForCausalLM, name, path, dtype=dtype)
    # Merged in the type that the base is saved in, on every machine: the same weights, then.
    base = load_model(AutoModelForCausalLM, name, base_of_adapter(path), dtype="auto")
    whole = with_adapter(base, path)
    return whole if dtype == "auto" else cast(PreTrainedModel, cast(Any, whole).to(dtype))


def spare_threads(model: PreTrainedModel) -> None:
    """Give a small model on a CPU one thread: more of them wait for each other, 5 to 20 times.

    Only where OMP_NUM_THREADS is not set.
    """
    small = model.num_parameters() < SMALL
    if small and model.device.type == "cpu" and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)


def _to_halve(model: PreTrainedModel, place: torch.device) -> bool:
    """Whether a model is large, in float32, and to run where bfloat16 is at home."""
    large = model.dtype == torch.float32 and model.num_parameters() >= SMALL
    return large and place.type == "cuda" and torch.cuda.is_bf16_supported(False)
