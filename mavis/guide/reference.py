"""The reference policy π_ref: a frozen causal LM, its tokenizer, chat template and stop rules."""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    DynamicCache,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.cache_utils import DynamicLayer

from mavis.dialogues import Message, dialogue
from mavis.names import lasting, reachable
from mavis.prompts import Prompt, plain
from mavis.sources import function

# Where a reply ends in a dialogue that is written out as text: the next turn of the human.
NEXT_TURN = "\n\nHuman:"

SMALL = 20_000_000  # parameters

# What cannot be told from a config, by model type.
_UNFIT = {
    "their state is recurrent": {
        *("rwkv", "mamba", "mamba2", "falcon_mamba", "xlstm", "recurrent_gemma"),
    },
    "ALiBi ignores position ids": {"bloom", "mpt"},
    "they number positions in their own way": {
        *("roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod"),
        *("camembert", "data2vec-text"),
    },
    "their attention takes no mask but its own": {
        *("gptj", "gpt_neo", "codegen", "openai-gpt", "xglm", "gpt_neox_japanese", "xlnet"),
    },
}


@dataclass(frozen=True)
class Encoded:
    """A prompt as the reference model reads it."""

    tokens: list[int]
    stop: tuple[str, ...] = ()  # strings at which a reply ends, beside the end-of-text tokens


@dataclass(frozen=True)
class ReferencePolicy:
    """π_ref with everything that turns prompts into tokens and tokens into replies.

    Args:
        model: the causal LM; set to eval mode, its parameters frozen.
        tokenizer: its tokenizer.
        name: what it was loaded from.
        template: dotted name of a function `prompt -> str` used in place of the chat template.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    name: str = "reference"
    template: str | None = None
    ends: frozenset[int] = field(init=False)
    fingerprint: str = field(init=False)

    def __post_init__(self) -> None:
        """Freeze the model, and look up what ends a reply."""
        check_architecture(self.model.config)
        self.model.eval().requires_grad_(False)
        object.__setattr__(self, "ends", _end_tokens(self.model, self.tokenizer))
        object.__setattr__(self, "fingerprint", fingerprint(self.tokenizer))
        self.render("?")  # a template that cannot be found is found out now

    @classmethod
    def load(
        cls, name: str = "sandbox/reference", template: str | None = None, device: str | None = None
    ) -> "ReferencePolicy":
        """Load a local folder, a shipped model (`sandbox/NAME`) or a hub name.

        On a CPU the model runs in float32; on an accelerator in the type it was saved in.

        Raises:
            FileNotFoundError: the folder is missing, or holds no model.
            ValueError: the architecture cannot be guided (see `check_architecture`), the model is
                no causal LM, or one of its files is missing or broken.
        """
        path = reachable(name, "reference")
        check_model_folder(path)
        with loading(name):
            config = AutoConfig.from_pretrained(path)
        check_architecture(config)
        _check_task(config, name)
        place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        dtype = "auto" if place.type != "cpu" else torch.float32
        with loading(f"the tokenizer of {name}"):
            tokenizer = AutoTokenizer.from_pretrained(path)
        if len(tokenizer) <= len(tokenizer.all_special_tokens):  # what a missing file loads as
            raise FileNotFoundError(f"{path} holds no tokenizer: save one beside the model.")
        with loading(name):
            model: Any = AutoModelForCausalLM.from_pretrained(
                path, dtype=dtype, attn_implementation="sdpa"
            )
        return cls(cast(PreTrainedModel, model.to(place)), tokenizer, lasting(name), template)

    @property
    def vocabulary(self) -> int:
        """V, the number of logits."""
        return len(self.model.get_output_embeddings().weight)

    @property
    def context(self) -> int:
        """The longest sequence, in tokens, that the model was made for."""
        return int(getattr(self.model.config, "max_position_embeddings", 1 << 30))

    def render(self, prompt: Prompt) -> str:
        """Write a prompt as the text that the model continues.

        A template function has the first word, then the tokenizer's chat template; without either,
        text is taken as it is and a chat is written out as a dialogue (Human: … Assistant:).
        """
        if self.template is not None:
            text = function(self.template, "template")(prompt)
            if not isinstance(text, str):
                raise ValueError(f"template must return a string, {self.template} gave {text!r}.")
            return text
        if self.tokenizer.chat_template is None:
            return prompt if isinstance(prompt, str) else _written_out(prompt)
        messages: list[Message]
        if isinstance(prompt, str):
            messages = dialogue(prompt) or [{"role": "user", "content": prompt}]
        else:
            messages = prompt
        return str(
            self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        )

    def encode(self, prompt: Prompt) -> Encoded:
        """Tokenize a prompt, and say which strings end its reply.

        Raises:
            ValueError: the prompt is no prompt, empty, or longer than the model's context.
        """
        if not isinstance(prompt, str) and not _is_chat(prompt):
            raise ValueError(
                "prompt must be text, or a list of messages with the texts role and content, "
                f"got {prompt!r}."
            )
        said = prompt if isinstance(prompt, str) else "".join(turn["content"] for turn in prompt)
        if not said.strip():
            raise ValueError("prompt must not be empty.")
        text, tokens = self._tokens(prompt)
        if not tokens:
            raise ValueError(f"prompt must have tokens, got none for {text[:60]!r}.")
        if len(tokens) >= self.context:
            raise ValueError(
                f"prompt must leave room for a reply in the context of {self.context} tokens of "
                f"{self.name}, got {len(tokens)} tokens: {text[:60]!r} …"
            )
        written_out = self._plain_text and text.rstrip().endswith("Assistant:")
        return Encoded(tokens, (NEXT_TURN,) if written_out else ())

    def length(self, prompt: Prompt) -> int:
        """How many tokens a prompt has."""
        return len(self._tokens(prompt)[1])

    @property
    def _plain_text(self) -> bool:
        """Whether prompts are rendered as text, without the special tokens of a chat."""
        return self.template is not None or self.tokenizer.chat_template is None

    def _tokens(self, prompt: Prompt) -> tuple[str, list[int]]:
        text = self.render(prompt)
        tokens = list(self.tokenizer(text, add_special_tokens=self._plain_text).input_ids)
        start = self.tokenizer.bos_token_id
        if self._plain_text and isinstance(start, int) and tokens[:1] != [start]:
            tokens.insert(0, start)
        return text, tokens

    def decode(self, tokens: Sequence[int], stop: Sequence[str] = ()) -> str:
        """The reply that response tokens spell, up to an end token or a stop string."""
        kept = [t for t in tokens if t not in self.ends]
        text = str(self.tokenizer.decode(kept, skip_special_tokens=True))
        for string in stop:
            text = text.split(string)[0]
        return text.strip()


def check_model_folder(path: str) -> None:
    """Raise FileNotFoundError when a local folder holds no `transformers` model."""
    if Path(path).exists() and not (Path(path) / "config.json").is_file():
        raise FileNotFoundError(
            f"{path} is no model folder: config.json is missing. "
            "Give a folder written by save_pretrained."
        )


def check_architecture(config: PreTrainedConfig) -> None:
    """Refuse what the rows cache cannot hold exactly.

    Raises:
        ValueError: the model keeps a recurrent state, attends through a sliding window, is no
            causal LM, or takes other positions or masks than those it is given.
    """
    kind = config.model_type
    reasons = [reason for reason, kinds in _UNFIT.items() if kind in kinds]
    if config.is_encoder_decoder:
        reasons.append("they are encoder-decoders")
    if getattr(config, "alibi", False):
        reasons.append("ALiBi ignores position ids")
    if not reasons and type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        reasons.append("they are no causal language models")
    if not reasons:
        cache = DynamicCache(config=config)
        if any(cache.is_linear):
            reasons.append("some layers keep a recurrent state")
        if any(cache.is_sliding):
            reasons.append("some layers use a sliding window")
        if any(type(layer) is not DynamicLayer for layer in cache.layers):
            reasons.append("some layers keep more than keys and values")
    if reasons:
        raise ValueError(f"{kind} models cannot be guided: {reasons[0]}.")


def _check_task(config: PreTrainedConfig, name: str) -> None:
    """Refuse weights of another task: as a causal LM they would speak through a random head."""
    listed = config.architectures or []
    heads = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
    if listed and not any(architecture.endswith(heads) for architecture in listed):
        raise ValueError(f"{name} is a {listed[0]}, not a causal language model.")


@contextmanager
def loading(what: str) -> Iterator[None]:
    """Turn the errors of the `transformers` loaders, which fill screens, into one line."""
    try:
        yield
    except (OSError, ValueError, SafetensorError) as error:
        first, *_ = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(f"{what} cannot be loaded: {first}") from error


def spare_threads(model: PreTrainedModel) -> None:
    """Give a small model on a CPU one thread: more of them wait for each other, 5 to 20 times.

    Only when nobody has said how many threads there should be (OMP_NUM_THREADS).
    """
    small = model.num_parameters() < SMALL
    if small and model.device.type == "cpu" and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)


def fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """A digest of the vocabulary: two tokenizers with one fingerprint name tokens alike."""
    table = json.dumps(sorted(tokenizer.get_vocab().items()))
    return hashlib.sha256(table.encode()).hexdigest()[:16]


def _is_chat(prompt: object) -> bool:
    """Whether this is a list of messages, each with a role and a content."""
    return isinstance(prompt, list) and all(
        isinstance(turn, dict)
        and {"role", "content"} <= {k for k, v in turn.items() if v == str(v)}
        for turn in prompt
    )


def _end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    generation = getattr(model, "generation_config", None)
    listed = getattr(generation, "eos_token_id", None)
    ends = set(listed if isinstance(listed, list) else [listed])
    ends.add(tokenizer.eos_token_id)
    return frozenset(int(token) for token in ends if token is not None)


def _written_out(prompt: Prompt) -> str:
    text = plain(prompt)
    return text if text.rstrip().endswith("Assistant:") else f"\n\nHuman: {text}\n\nAssistant:"
