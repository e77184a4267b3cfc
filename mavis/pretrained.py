"""A trained sequence classifier as it lies in a folder or on the hub: loaded, and what it allows.

Every error names the model and what is wrong with it, in a line.
"""

from typing import TYPE_CHECKING

from mavis.error_text import reason

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

UNLIMITED = 10**9  # tokenizers without a limit give a huge number


def load_model(place: str, whose: str) -> "PreTrainedModel":
    """Load a classifier in float32, to the GPU if there is one.

    Raises:
        ValueError: It cannot be loaded, or has no trained head.
    """
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification

    try:
        config = AutoConfig.from_pretrained(place)
        text = config.get_text_config()
        pad, size = getattr(text, "pad_token_id", None), getattr(text, "vocab_size", None)
        if isinstance(pad, int) and size and pad >= size:  # torch would refuse to make the model
            text.pad_token_id = None
        loaded, report = AutoModelForSequenceClassification.from_pretrained(
            place, config=config, dtype=torch.float32, output_loading_info=True
        )
    except Exception as error:  # as many kinds as there are ways to damage a file
        raise ValueError(f"{whose} cannot be loaded as a classifier ({reason(error)}).") from error
    if report["missing_keys"]:  # transformers would fill them with noise
        names = ", ".join(sorted(report["missing_keys"])[:3])
        raise ValueError(f"{whose} is no trained sequence classifier: it lacks {names}.")
    model: PreTrainedModel = loaded.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    return model


def load_tokenizer(place: str, truncation_side: str, whose: str) -> "PreTrainedTokenizerBase":
    """Load the tokenizer beside a classifier.

    Raises:
        ValueError: There is none.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(place, truncation_side=truncation_side)
    except (OSError, ValueError) as error:
        raise ValueError(f"{whose} has no tokenizer that can be loaded: {error}") from error
    if len(tokenizer) <= len(tokenizer.all_special_tokens):  # made up where no file is found
        raise ValueError(f"{whose} has no tokenizer in its folder.")
    return tokenizer


def embedded(model: "PreTrainedModel") -> int:
    """How many ids have an embedding."""
    try:
        known = getattr(model.get_input_embeddings(), "num_embeddings", None)
    except NotImplementedError:  # characters that are hashed have none
        known = None
    return known or getattr(model.config.get_text_config(), "vocab_size", None) or UNLIMITED


def label_of(wanted: int | str | None, model: "PreTrainedModel", whose: str) -> int:
    """The index of a label that is given by its index or name, or is the only one.

    Raises:
        ValueError: There is no such label, or none is given of several.
    """
    names = {int(index): str(name) for index, name in (model.config.id2label or {}).items()}
    legend = ", ".join(f"{index} = {name}" for index, name in sorted(names.items()))
    if wanted is None and len(names) == 1:
        return 0
    if wanted is None:
        raise ValueError(f"label must be given: {whose} has {len(names)} ({legend}).")
    for index, name in names.items():
        if wanted == index or (isinstance(wanted, str) and wanted.lower() == name.lower()):
            return int(index)
    raise ValueError(f"label {wanted!r} is none of {whose}, which has {legend}.")


def limit_of(
    wanted: int | None, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", whose: str
) -> int | None:
    """The longest row in tokens: what is wanted, or else what model and tokenizer allow.

    Raises:
        ValueError: More is wanted than the model has positions for.
    """
    most = positions(model)
    if wanted and most and wanted > most:
        raise ValueError(f"max_length must be at most {most} for {whose}, got {wanted}.")
    known = [n for n in (most, tokenizer.model_max_length) if n and 0 < n < UNLIMITED]
    return wanted or min(known, default=None)


def positions(model: "PreTrainedModel") -> int | None:
    """How many tokens a row of the model may have; None if that is not known.

    RoBERTa and its relatives number positions from the padding's id + 1, which takes that many
    from the table. Such a table has a padding_idx.
    """
    config = model.config.get_text_config()
    stated = getattr(config, "max_position_embeddings", getattr(config, "max_seq_len", None))
    most = stated if isinstance(stated, int) and stated > 0 else None
    for name, table in model.named_modules():
        padding = getattr(table, "padding_idx", None)
        if name.endswith("position_embeddings") and padding is not None:
            size = len(table.weight)
            free = size - (padding + 1) % size  # torch makes the last row of a padding of -1
            most = min(free, most or free)
    return most
