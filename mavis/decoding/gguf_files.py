"""GGUF files: what llama.cpp and its relatives keep a model in, tokenizer and chat template too.

`transformers` reads them; here they are unpacked to plain float32 weights, whatever they are packed
in. What it leaves to others is done here: which tokens end a reply, and errors for people.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import transformers
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from mavis.error_text import message

_MAGIC = b"GGUF"
_MARK = "mavis"  # a reply, to find what a chat template puts after it


def is_gguf(path: str) -> bool:
    """Whether a path is a GGUF file, by its name."""
    return Path(path).suffix.lower() == ".gguf" and Path(path).is_file()


def check_gguf(path: str) -> None:
    """Look whether a file can be a GGUF file, and whether what reads it is installed.

    Raises:
        ModuleNotFoundError: the `gguf` extra is not installed.
        ValueError: the file is something else.
    """
    if missing := [name for name in ("gguf", "accelerate") if find_spec(name) is None]:
        raise ModuleNotFoundError(
            f'{path} is a GGUF file, which {missing[0]} is needed for: pip install "mavis[gguf]"'
        )
    with Path(path).open("rb") as file:
        if file.read(len(_MAGIC)) != _MAGIC:
            raise ValueError(
                f"{path} is no GGUF file, or damaged: it does not begin with {_MAGIC.decode()}. "
                "Fetch it again, or give a transformers folder of the model."
            )


@contextmanager
def gguf_source(path: str) -> Iterator[dict[str, Any]]:
    """Arguments by which an `Auto` class of `transformers` reads a GGUF file, while it does so.

    Raises:
        ValueError: the file cannot be read.
    """
    # The loaders take a folder, and prefer a tokenizer that happens to lie there to the file's.
    with TemporaryDirectory() as empty:
        place = str(Path(path).absolute())
        try:
            yield {"pretrained_model_name_or_path": empty, "gguf_file": place}
        except Exception as error:  # of many classes: the file is parsed as it comes
            reason, version = message(error).rstrip("."), transformers.__version__
            raise ValueError(
                f"{path} cannot be read ({reason}): it is damaged, or of a kind that transformers "
                f"{version} cannot unpack. Fetch it again, or give a transformers folder of the "
                "model."
            ) from error


def gguf_config(path: str) -> PreTrainedConfig:
    """Read the config of the model in a GGUF file; raises what `check_gguf` raises.

    It takes seconds, as the whole vocabulary is parsed with it, so the last one is remembered.
    """
    check_gguf(path)
    state = Path(path).stat()
    return deepcopy(_parsed(str(Path(path).absolute()), state.st_size, state.st_mtime_ns))


@lru_cache(maxsize=1)
def _parsed(path: str, _size: int, _time: int) -> PreTrainedConfig:
    with gguf_source(path) as source:
        config: PreTrainedConfig = AutoConfig.from_pretrained(**source)
        return config


def unpacked() -> dict[str, Any]:
    """Arguments by which weights are unpacked when they are loaded.

    Earlier versions of `transformers` do nothing else, and know no such argument.
    """
    config = getattr(transformers, "GgufConfig", None)
    return {} if config is None else {"quantization_config": config(dequantize=True)}


def named_after(model: PreTrainedModel, path: str) -> PreTrainedModel:
    """Let a model know the file that it comes from: adapters that it is given will say so."""
    model.name_or_path = model.config.name_or_path = str(Path(path).absolute())
    return model


def with_special_tokens(
    tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig, path: str
) -> PreTrainedTokenizerBase:
    """Give a tokenizer the special tokens that the file says: old versions of loaders miss some."""
    for role in ("bos_token", "eos_token", "pad_token", "unk_token"):
        token = getattr(config, f"{role}_id", None)
        if isinstance(token, int) and 0 <= token < len(tokenizer):
            setattr(tokenizer, role, tokenizer.convert_ids_to_tokens(token))
    tokenizer.name_or_path = str(Path(path).absolute())
    return tokenizer


def name_turn_end(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Add the token that a chat template puts after a reply to those that end a text.

    A GGUF file names one, which of a chat model may be that of documents.
    """
    if tokenizer.chat_template is None:
        return
    chat = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": _MARK}]
    try:
        text = str(tokenizer.apply_chat_template(chat, tokenize=False))
    except Exception:  # templates raise what they like; prompts will meet it again
        return
    rest = text.rpartition(_MARK)[2].lstrip()
    special = tokenizer.added_tokens_decoder.items()
    ends = [(len(str(one)), at) for at, one in special if one.special and rest.startswith(str(one))]
    generation = model.generation_config
    if ends and generation is not None:
        listed = generation.eos_token_id
        known = listed if isinstance(listed, list) else [listed]
        generation.eos_token_id = list(dict.fromkeys([*known, max(ends)[1]]))
