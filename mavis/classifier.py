"""Text classifiers as rewards.

A reward is given text, never tokens, so its tokenizer need not be the policy's. Importing or
making a `ClassifierReward` loads nothing; the first call does.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mavis.dialogues import Message, dialogue
from mavis.names import reachable
from mavis.prompts import plain

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    Row = dict[str, list[int]]  # input_ids and, where the model has them, token_type_ids

_UNLIMITED = 10**9  # tokenizers without a limit give a huge number


@dataclass(frozen=True)
class ClassifierReward:
    """A `transformers` sequence classifier as a reward: the raw logit of one label.

    The raw logit, before any softmax, is what published results on such models use. It runs in
    float32, on the GPU if there is one.

    Args:
        model: `sandbox/NAME`, a folder or a hub name, holding the model and its tokenizer.
        label: Which logit: its index, its name, or None for a model that has only one.
        sign: 1, or -1 to want less of it.
        text: Score the reply alone ("response") or after its prompt ("both").
        template: How prompt and reply are joined when both are scored. None: by the tokenizer's
            own chat template, or as "dialogue" if it has none. "dialogue": as
            Human/Assistant text. "pair": as the tokenizer's pair of texts. Else a Jinja chat
            template. A prompt that is a dialogue already is taken apart into its messages.
        max_length: Longest text in tokens; None for the model's own limit.
        truncation_side: Which end a longer text loses; "left" loses the oldest part of the
            prompt and keeps the end of the reply.
        batch_size: Texts per forward pass. Scores do not depend on it.
    """

    model: str
    label: int | str | None = None
    sign: float = 1.0
    text: Literal["response", "both"] = "response"
    template: str | None = None
    max_length: int | None = None
    truncation_side: Literal["left", "right"] = "left"
    batch_size: int = 64

    def __post_init__(self) -> None:
        """Check what can be checked without the model."""
        if self.sign not in (1, -1):
            raise ValueError(
                f"sign must be 1 or -1, got {self.sign}; scale plays no part (standard units)."
            )
        if self.text not in ("response", "both"):
            raise ValueError(f"text must be 'response' or 'both', got {self.text!r}.")
        if self.template and self.template not in ("dialogue", "pair") and "{" not in self.template:
            raise ValueError(
                "template must be 'dialogue', 'pair' or a Jinja chat template,"
                f" got {self.template!r}."
            )
        if self.template and self.text == "response":
            raise ValueError("template joins prompt and reply: it needs text='both'.")
        if self.truncation_side not in ("left", "right"):
            raise ValueError(
                f"truncation_side must be 'left' or 'right', got {self.truncation_side!r}."
            )
        for name in ("batch_size", "max_length"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}.")

    def __call__(self, prompts: Sequence[str], responses: Sequence[str], /) -> "Tensor":
        """Score B replies: [B] float32 on the CPU."""
        import torch

        scores = torch.zeros(len(responses))  # [B]
        rows = self._encode(prompts, responses) if len(responses) else []
        order = sorted(range(len(rows)), key=lambda row: len(rows[row]["input_ids"]))
        for start in range(0, len(order), self.batch_size):
            batch = order[start : start + self.batch_size]
            scores[batch] = self._classifier.logits([rows[row] for row in batch])
        return scores * self.sign

    def load(self) -> None:
        """Load the model now rather than at the first call.

        Raises:
            FileNotFoundError: No such model.
            ValueError: A model without a trained classifier or tokenizer, or without that label.
        """
        _ = self._classifier

    @cached_property
    def _classifier(self) -> "_Classifier":
        return _Classifier.load(self)

    def _encode(self, prompts: Sequence[str], responses: Sequence[str]) -> list["Row"]:
        """One row of tokens per reply, not padded yet."""
        tokenizer, joining = self._classifier.tokenizer, self.template
        if self.text == "response":
            return self._classifier.tokenize(responses)
        if joining == "pair":
            return self._classifier.tokenize(prompts, responses)
        both = list(zip(prompts, responses, strict=True))
        if joining == "dialogue" or not (joining or tokenizer.chat_template):
            return self._classifier.tokenize([_as_dialogue(*row) for row in both])
        texts = [
            str(
                tokenizer.apply_chat_template(_as_chat(*row), chat_template=joining, tokenize=False)
            )
            for row in both
        ]
        return self._classifier.tokenize(texts, add_special_tokens=False)  # the template has them


def _as_dialogue(prompt: str, response: str) -> str:
    """Prompt and reply as Human/Assistant text."""
    user: Message = {"role": "user", "content": prompt}
    opening = prompt if dialogue(prompt) else plain([{"role": "system", "content": ""}, user])
    return f"{opening.rstrip()} {response.lstrip()}"


def _as_chat(prompt: str, response: str) -> list[Message]:
    """Prompt and reply as chat messages."""
    chat = dialogue(prompt) or [{"role": "user", "content": prompt}]
    return [*chat, {"role": "assistant", "content": response}]


@dataclass(frozen=True)
class _Classifier:
    """A loaded model with its tokenizer; knows nothing of prompts and replies."""

    model: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerBase"
    label: int
    limit: int | None  # longest row in tokens

    @classmethod
    def load(cls, wanted: ClassifierReward) -> "_Classifier":
        """Load from disk or the hub, to the GPU if there is one."""
        import torch
        from transformers import AutoModelForSequenceClassification

        whose = f"reward model {wanted.model!r}"
        place = reachable(wanted.model, "reward model")
        if Path(place).exists() and not (Path(place) / "config.json").is_file():
            raise FileNotFoundError(f"{whose} is no model folder: it has no config.json.")
        model, report = AutoModelForSequenceClassification.from_pretrained(
            place, dtype=torch.float32, output_loading_info=True
        )
        if report["missing_keys"]:  # transformers would fill them with noise
            names = ", ".join(sorted(report["missing_keys"])[:3])
            raise ValueError(f"{whose} is no trained sequence classifier: it lacks {names}.")
        tokenizer = _tokenizer(place, wanted.truncation_side, whose)
        label = _label(wanted.label, model.config.id2label, whose)
        limit = _limit(wanted.max_length, model, tokenizer, whose)
        config = model.config.get_text_config()
        if config.pad_token_id is None:  # GPT-2: the model must know where a padded row ends
            config.pad_token_id = _filler(tokenizer)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        return cls(model.to(device).eval(), tokenizer, label, limit)

    def tokenize(
        self,
        texts: Sequence[str],
        pairs: Sequence[str] | None = None,
        add_special_tokens: bool = True,
    ) -> list["Row"]:
        """Turn texts into rows of at most `limit` tokens, and at least one."""
        encoded = self.tokenizer(
            list(texts),
            list(pairs) if pairs is not None else None,
            add_special_tokens=add_special_tokens,
            truncation=self.limit is not None,
            max_length=self.limit,
        )
        names = ["input_ids"]
        if getattr(self.model.config, "type_vocab_size", 0) and "token_type_ids" in encoded:
            names.append("token_type_ids")
        empty = {"input_ids": [_filler(self.tokenizer)], "token_type_ids": [0]}
        return [
            {name: list(encoded[name][row]) or empty[name] for name in names}
            for row in range(len(texts))
        ]

    def logits(self, rows: list["Row"]) -> "Tensor":
        """The label's logit of each row: [B] float32 on the CPU."""
        import torch
        from torch.nn.utils.rnn import pad_sequence

        pad = self.model.config.get_text_config().pad_token_id
        columns = {name: [torch.tensor(row[name]) for row in rows] for name in rows[0]}
        masks = [torch.ones_like(ids) for ids in columns["input_ids"]]
        fields = {
            name: pad_sequence(column, True, pad if name == "input_ids" else 0)
            for name, column in {**columns, "attention_mask": masks}.items()
        }  # [B, T] each, padded on the right
        with torch.no_grad():
            output = self.model(**{k: field.to(self.model.device) for k, field in fields.items()})
        logits: Tensor = output.logits[:, self.label].float().cpu()
        return logits


def _tokenizer(place: str, truncation_side: str, whose: str) -> "PreTrainedTokenizerBase":
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(place, truncation_side=truncation_side)
    except (OSError, ValueError) as error:
        raise ValueError(f"{whose} has no tokenizer that can be loaded: {error}") from error
    if len(tokenizer) <= len(tokenizer.all_special_tokens):  # made up where no file is found
        raise ValueError(f"{whose} has no tokenizer in its folder.")
    return tokenizer


def _label(wanted: int | str | None, names: dict[int, str], whose: str) -> int:
    legend = ", ".join(f"{index} = {name}" for index, name in sorted(names.items()))
    if wanted is None and len(names) == 1:
        return 0
    if wanted is None:
        raise ValueError(f"label must be given: {whose} has {len(names)} ({legend}).")
    for index, name in names.items():
        if wanted == index or (isinstance(wanted, str) and wanted.lower() == name.lower()):
            return int(index)
    raise ValueError(f"label {wanted!r} is none of {whose}, which has {legend}.")


def _limit(
    wanted: int | None, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", whose: str
) -> int | None:
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if wanted and positions and wanted > positions:
        raise ValueError(f"max_length must be at most {positions} for {whose}, got {wanted}.")
    known = [n for n in (positions, tokenizer.model_max_length) if n and n < _UNLIMITED]
    return wanted or min(known, default=None)


def _filler(tokenizer: "PreTrainedTokenizerBase") -> int:
    """The token for padding, and for a text without tokens, of a tokenizer that may have none."""
    known = (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.bos_token_id)
    return next((int(token) for token in known if token is not None), 0)
