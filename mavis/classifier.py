"""Text classifiers as rewards.

A reward is given text, never tokens, so its tokenizer need not be the policy's. Importing or
making a `ClassifierReward` loads nothing; the first call does.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from mavis.dialogues import ASSISTANT, HUMAN, dialogue
from mavis.error_text import reason
from mavis.logits import Classifier, Row

if TYPE_CHECKING:
    from torch import Tensor


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
        choices = {"text": ("response", "both"), "truncation_side": ("left", "right")}
        for name, (one, other) in choices.items():
            if (value := getattr(self, name)) not in (one, other):
                raise ValueError(f"{name} must be {one!r} or {other!r}, got {value!r}.")
        if self.template and self.template not in ("dialogue", "pair") and "{" not in self.template:
            raise ValueError(
                "template must be 'dialogue', 'pair' or a Jinja chat template,"
                f" got {self.template!r}."
            )
        if self.template and self.text == "response":
            raise ValueError("template joins prompt and reply: it needs text='both'.")
        for name in ("batch_size", "max_length"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}.")

    def __call__(self, prompts: Sequence[str], responses: Sequence[str], /) -> "Tensor":
        """Score B replies: [B] float32 on the CPU."""
        import torch

        if not len(responses):
            return torch.zeros(0)
        rows = self._encode(prompts, responses)
        return self._classifier.logits(rows, self.batch_size) * self.sign

    def load(self) -> None:
        """Load the model now rather than at the first call.

        Raises:
            FileNotFoundError: No such model.
            ValueError: A model without a trained classifier or tokenizer, or without that label.
        """
        _ = self._classifier

    @cached_property
    def _classifier(self) -> Classifier:
        return Classifier(self.model, self.label, self.max_length, self.truncation_side)

    def _encode(self, prompts: Sequence[str], responses: Sequence[str]) -> list[Row]:
        """One row of tokens per reply, not padded yet."""
        tokenizer, joining = self._classifier.tokenizer, self.template
        if self.text == "response":
            return self._classifier.tokenize(responses)
        if joining == "pair":
            return self._classifier.tokenize(prompts, responses)
        both = list(zip(prompts, responses, strict=True))
        if joining == "dialogue" or not (joining or tokenizer.chat_template):
            return self._classifier.tokenize([_as_dialogue(*row) for row in both])
        texts = [self._as_templated(*row) for row in both]
        return self._classifier.tokenize(texts, add_special_tokens=False)  # the template has them

    def _as_templated(self, prompt: str, response: str) -> str:
        """Prompt and reply by a chat template, the tokenizer's own or a given one."""
        chat = dialogue(prompt) or [{"role": "user", "content": prompt}]
        chat = [*chat, {"role": "assistant", "content": response}]
        write = self._classifier.tokenizer.apply_chat_template
        try:
            return str(write(chat, chat_template=self.template, tokenize=False))
        except Exception as error:  # a template may raise anything
            raise ValueError(
                f"reward model {self.model!r}: its chat template refuses the prompt"
                f" {prompt[:60]!r} with its reply ({reason(error, 200)})."
            ) from error


def _as_dialogue(prompt: str, response: str) -> str:
    """Prompt and reply as Human/Assistant text."""
    opening = prompt if dialogue(prompt) else f"{HUMAN} {prompt}{ASSISTANT}"
    return f"{opening.rstrip()} {response.lstrip()}"
