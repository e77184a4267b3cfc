"""Folders and files of models: what is missing or damaged is named, before a loader meets it."""

import json
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from transformers import (
    AutoConfig,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from mavis.checksums import check
from mavis.decoding.architectures import check_architecture
from mavis.decoding.gguf_files import (
    check_gguf,
    gguf_config,
    gguf_source,
    is_gguf,
    named_after,
    unpacked,
    with_special_tokens,
)
from mavis.progress import without_bars

# What a model is read from.
_FILES = ("*config.json", "tokenizer.json", "*_map.json", "*index.json", "model*.safetensors")
# What holds the tokens themselves, in the folder of any kind of tokenizer.
_TABLES = ("tokenizer.json", "*.model", "*vocab*", "*.tiktoken", "tekken.json", "tokenization_*.py")


def check_model_folder(path: str) -> None:
    """Look whether a local folder holds a `transformers` model, in files that can be read.

    A GGUF file is looked at as `check_gguf` does.

    Raises:
        FileNotFoundError: there is none.
        ValueError: a file is damaged. The loaders would not say which, or go on without it; and of
            what `mavis` wrote, the checksums tell.
    """
    if is_gguf(path):
        check_gguf(path)
        return
    folder = Path(path)
    if folder.exists() and not (folder / "config.json").is_file():
        files = sorted(file.name for file in folder.glob("*.gguf"))  # none of what is no folder
        advice = f"one of its files, such as {files[0]}" if files else "a GGUF file (.gguf)"
        raise FileNotFoundError(
            f"{path} is no model folder: config.json is missing. "
            f"Give a folder written by save_pretrained, or {advice}."
        )
    check(folder, "restore it from a copy, or make it again.")
    for file in (file for pattern in _FILES for file in sorted(folder.glob(pattern))):
        try:
            if file.suffix == ".json":
                if not isinstance(json.loads(file.read_bytes()), dict):
                    raise ValueError("it holds no object.")
            else:
                with safe_open(file, "pt"):
                    pass
        except (OSError, ValueError, SafetensorError) as error:
            raise ValueError(f"{file} is damaged: {error}") from error


def load_config(what: str, path: str) -> PreTrainedConfig:
    """Load the config of a model.

    Raises what `check_model_folder`, `gguf_config` and `check_architecture` raise.
    """
    check_model_folder(path)
    config: PreTrainedConfig
    if is_gguf(path):
        config = gguf_config(path)
    else:
        with loading(what):
            config = AutoConfig.from_pretrained(path)
    check_architecture(config)
    return config


def load_tokenizer(what: str, path: str) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model; raise ValueError if it cannot be loaded."""
    tokenizer: PreTrainedTokenizerBase
    if is_gguf(path):
        with gguf_source(path) as source:
            tokenizer = AutoTokenizer.from_pretrained(**source)
        return with_special_tokens(tokenizer, gguf_config(path), path)
    with loading(f"the tokenizer of {what}"):
        tokenizer = AutoTokenizer.from_pretrained(path)
        return tokenizer


def has_tokenizer(path: str) -> bool:
    """Whether a folder holds a tokenizer; of what is no folder it is not known."""
    return any(any(Path(path).glob(table)) for table in _TABLES)


def check_tokenizer_folder(path: str) -> None:
    """Raise FileNotFoundError when a local folder holds no tokenizer."""
    if Path(path).is_dir() and not has_tokenizer(path):
        raise FileNotFoundError(
            f"{path} holds no tokenizer (tokenizer.json): put the one that the model was trained "
            f"with beside it, by tokenizer.save_pretrained({path!r})."
        )


@contextmanager
def loading(what: str) -> Iterator[None]:
    """Turn the errors of loaders, which fill screens and have no common class, into one line."""
    try:
        yield
    except Exception as error:
        first, *more = str(error).strip().splitlines() or [type(error).__name__]
        reason = f"{first} {more[0].strip()}" if more and first.endswith(":") else first
        kind = f"{type(error).__name__} " if isinstance(error, LookupError) else ""
        raise ValueError(f"{what} cannot be loaded: {kind}{reason}") from error


def load_model(auto: Any, what: str, path: str, **options: Any) -> PreTrainedModel:
    """Load a model, by one of the `Auto` classes, with all of its weights.

    Those of a GGUF file are float32, whatever is asked for: the same on every machine.

    Raises:
        ValueError: a file is missing or damaged, or weights are missing or of another shape: they
            would be random.
    """
    options |= {"output_loading_info": True, "ignore_mismatched_sizes": True}
    if is_gguf(path):
        options = {"config": gguf_config(path)} | options | {"dtype": torch.float32}
        # A bar of its own goes to stderr, past every switch of `transformers`.
        with gguf_source(path) as source, without_bars(), redirect_stderr(StringIO()):
            model, report = auto.from_pretrained(**source, **options, **unpacked())
        model = named_after(model, path)
    else:
        with loading(what), without_bars():
            model, report = auto.from_pretrained(path, **options)
    if report["mismatched_keys"]:
        name, saved, wanted = min(report["mismatched_keys"])
        raise ValueError(
            f"{what} cannot be loaded: its weights are not those of its config.json ({name} is "
            f"{list(saved)}, and should be {list(wanted)})."
        )
    missing = sorted(key for key in report["missing_keys"] if "pooler" not in key)  # not used here
    if missing:
        raise ValueError(
            f"{what} cannot be loaded: it lacks {len(missing)} of its weights ({missing[0]} …)."
        )
    return cast(PreTrainedModel, model)
