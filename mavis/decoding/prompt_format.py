"""How a prompt is written as the text that a model continues: templates, chats, dialogues.

Knows nothing of tokens. Every error says which prompt it is about by its first words; whoever has
many prompts adds the number.
"""

from collections.abc import Callable, Mapping
from inspect import signature
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from mavis.data_files import function
from mavis.dialogues import Message, dialogue
from mavis.prompts import Prompt, plain

# Where a reply ends in a dialogue that is written out as text: the next turn of the human.
NEXT_TURN = "\n\nHuman:"

# What a template is tried with before there are prompts.
_ROLES = ("user", "assistant", "user")
TRIALS: tuple[Prompt, ...] = ("?", [{"role": role, "content": "?"} for role in _ROLES])


def by_function(template: str, prompt: Prompt) -> str:
    """Write a prompt by a function of the user's, given by its dotted name.

    Raises:
        ValueError: there is no such function, it fails, or it returns no text.
    """
    write = function(template, "template")
    try:
        text = write(prompt)
    except Exception as error:
        raise ValueError(
            f"template {template} fails for {excerpt(prompt)}: {_in_a_line(error)}"
        ) from error
    if not isinstance(text, str):
        raise ValueError(f"template must return a string, {template} gave {text!r}.")
    return text


def by_chat_template(
    tokenizer: PreTrainedTokenizerBase, prompt: Prompt, arguments: Mapping[str, Any], name: str
) -> str:
    """Write a prompt by a tokenizer's chat template; text is taken apart into turns, or is one.

    Raises:
        ValueError: the template refuses the prompt, or is broken; `name` is the model's.
    """
    messages: list[Message]
    if isinstance(prompt, str):
        messages = dialogue(prompt) or [{"role": "user", "content": prompt}]
    else:
        messages = prompt
    try:
        return str(
            tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True, **arguments
            )
        )
    except Exception as error:  # a template is a program, and fails in every way that programs do
        reason = " ".join(str(error).split()) if _refuses(error) else ""
        does = "refuses" if reason else "fails for"
        raise ValueError(
            f"the chat template of {name} {does} {excerpt(prompt)}: {reason or _in_a_line(error)}"
        ) from error


def check_template(write: Callable[[Prompt], str], what: str) -> None:
    """See that a template does not fail both for text and for a chat; `what` names it in errors.

    Raises:
        ValueError: it fails, or it returns no text. The prompts were made up, and are not named.
    """
    failures: list[BaseException] = []
    for prompt in TRIALS:
        try:
            write(prompt)
        except ValueError as error:
            if error.__cause__ is None:
                raise
            failures.append(error.__cause__)
        else:
            return
    if not any(map(_refuses, failures)):  # a template that refuses these may take others
        raise ValueError(f"{what} fails, for text and for a chat alike: {_in_a_line(failures[0])}.")


def _refuses(error: BaseException) -> bool:
    """Whether a chat template refused a prompt (`raise_exception`), and is not broken."""
    return type(error) is TemplateError  # what is broken raises one of its subclasses, or others


def _in_a_line(error: BaseException) -> str:
    """An error with its kind, in a line."""
    return " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":").rstrip(".")


def written_out(prompt: Prompt) -> str:
    """Without a template: text is taken as it is, a chat becomes a dialogue."""
    if isinstance(prompt, str):
        return prompt
    text = plain(prompt)
    return text if text.rstrip().endswith("Assistant:") else f"\n\nHuman: {text}\n\nAssistant:"


def check_arguments(
    tokenizer: PreTrainedTokenizerBase, arguments: Mapping[str, Any], name: str
) -> None:
    """Raise ValueError for arguments that a tokenizer's chat template would not read."""
    ours = set(signature(tokenizer.apply_chat_template).parameters)
    ours -= {"chat_template", "tools", "documents"}
    text = tokenizer.get_chat_template(arguments.get("chat_template"))
    for argument in arguments:
        if argument in ours or not (argument == "chat_template" or argument in text):
            raise ValueError(
                f"template_args must be arguments that the chat template of {name} reads, "
                f"got {argument!r}."
            )


def check_prompt(prompt: Prompt) -> None:
    """Raise ValueError for what is no prompt, or an empty one."""
    if not isinstance(prompt, str) and not _is_chat(prompt):
        raise ValueError(
            "prompt must be text, or a list of messages with the texts role and content, "
            f"got {str(prompt)[:200]!r}."
        )
    text = prompt if isinstance(prompt, str) else "".join(turn["content"] for turn in prompt)
    if not text.strip():
        raise ValueError("prompt must not be empty.")


def check_text(text: str) -> None:
    """Raise ValueError for text that is none: half of a surrogate pair cannot be written."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        around = text[max(0, error.start - 30) : error.end]
        raise ValueError(
            f"prompt has half a character ({text[error.start]!r}, a surrogate without its other "
            f"half) at the end of {around!r}: repair the text, which was cut or wrongly decoded."
        ) from error


def excerpt(prompt: Prompt) -> str:
    """The first words of a prompt, for errors."""
    text = plain(prompt)
    return f"the prompt {text[:60]!r} …" if len(text) > 60 else f"the prompt {text!r}"


def _is_chat(prompt: object) -> bool:
    """Whether this is a list of messages, each with a role and a content."""
    return isinstance(prompt, list) and all(
        isinstance(turn, dict)
        and {"role", "content"} <= {k for k, v in turn.items() if v == str(v)}
        for turn in prompt
    )
