"""A sequence classifier of `transformers` with its tokenizer: texts in, a label's raw logit out.

The logit of a text is what the model gives for that text alone, whatever is scored beside it. Rows
of unequal length are padded only where a trial has shown that padding changes nothing; elsewhere
rows of one length go together. Knows nothing of prompts and replies.
"""

import inspect
import re
from collections.abc import Sequence
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mavis import pretrained
from mavis.error_text import reason
from mavis.hub import reachable

if TYPE_CHECKING:
    from torch import Tensor

Row = dict[str, list[int]]  # input_ids and, where the model has them, token_type_ids

_NO_PAD = -1  # an id that no text has: a decoder then takes its score from a row's last token
_SHOWN = 80  # characters of a text in an error
_TRIAL = ("So.", "This text is a good deal longer than the other one, so that it has to be padded.")
_STRETCHED = ("dynamic", "longrope")  # positions that depend on the longest row of a batch


class Classifier:
    """A loaded model with its tokenizer; see `ClassifierReward` for the arguments."""

    def __init__(
        self, name: str, label: int | str | None, max_length: int | None, truncation_side: str
    ) -> None:
        """Load from disk or the hub, in float32, to the GPU if there is one."""
        self.whose = f"reward model {name!r}"  # for errors
        place = reachable(name, "reward model")
        if Path(place).exists() and not (Path(place) / "config.json").is_file():
            raise FileNotFoundError(f"{self.whose} is no model folder: it has no config.json.")
        self.model = pretrained.load_model(place, self.whose)
        self.tokenizer = pretrained.load_tokenizer(place, truncation_side, self.whose)
        self.label = pretrained.label_of(label, self.model, self.whose)
        # The longest row in tokens.
        self.limit = pretrained.limit_of(max_length, self.model, self.tokenizer, self.whose)
        self.vocabulary = pretrained.embedded(self.model)  # ids below this have an embedding
        config = self.model.config.get_text_config()
        pad = getattr(config, "pad_token_id", None)
        # The model's own padding, if it has an embedding.
        self.pad = pad if isinstance(pad, int) and 0 <= pad < self.vocabulary else None
        if self.pad is None:
            config.pad_token_id = _NO_PAD

    def tokenize(
        self,
        texts: Sequence[str],
        pairs: Sequence[str] | None = None,
        add_special_tokens: bool = True,
    ) -> list[Row]:
        """Turn texts into rows of at most `limit` tokens, and at least one.

        Raises:
            ValueError: A text that the tokenizer cannot read, a token that the model has no
                embedding for, or a limit that the tokenizer's own tokens fill.
        """
        added = self.tokenizer.num_special_tokens_to_add(pairs is not None)
        if self.limit is not None and add_special_tokens and self.limit <= added:
            raise ValueError(
                f"max_length must be at least {added + 1} for {self.whose}, whose tokenizer adds"
                f" {added} tokens to a text, got {self.limit}."
            )
        try:
            encoded = self.tokenizer(
                list(texts),
                list(pairs) if pairs is not None else None,
                add_special_tokens=add_special_tokens,
                truncation=self.limit is not None,
                max_length=self.limit,
            )
        except (TypeError, ValueError) as error:  # half a character, or no text at all
            wrong = next((t for t in [*texts, *(pairs or ())] if not _is_text(t)), texts[0])
            raise ValueError(f"{self.whose} cannot read the text {_short(wrong)}.") from error
        names = self._names(encoded)
        empty = {"input_ids": [self._filler], "token_type_ids": [0]}
        rows = [
            {name: list(encoded[name][row]) or empty[name] for name in names}
            for row in range(len(texts))
        ]
        for row in rows:
            if (highest := max(row["input_ids"])) >= self.vocabulary:
                raise ValueError(
                    f"{self.whose} has no embedding for the token"
                    f" {self.tokenizer.convert_ids_to_tokens(highest)!r} (id {highest} of"
                    f" {self.vocabulary}) in the text {self._text(row)}."
                )
        return rows

    def logits(self, rows: Sequence[Row], batch_size: int) -> "Tensor":
        """The label's logit of each row: [B] float32 on the CPU.

        Raises:
            ValueError: A row that the model fails on, or a logit that is not finite.
        """
        import torch

        logits = torch.zeros(len(rows))  # [B]
        lengths = [len(row["input_ids"]) for row in rows]
        order = sorted(range(len(rows)), key=lengths.__getitem__)
        groups = [order]
        if len(set(lengths)) > 1 and not self._pads_well:
            groups = [list(group) for _, group in groupby(order, key=lengths.__getitem__)]
        for group in groups:
            for start in range(0, len(group), batch_size):
                batch = group[start : start + batch_size]
                logits[batch] = self._together([rows[row] for row in batch])
        for row in logits.isfinite().logical_not().nonzero().flatten().tolist():
            raise ValueError(
                f"{self.whose} gives the logit {logits[row].item()} for the text"
                f" {self._text(rows[row])}: its weights or its config are damaged."
            )
        return logits

    @cached_property
    def _pads_well(self) -> bool:
        """Whether a short text keeps its logit beside a longer one, by trying it."""
        import torch

        rope = getattr(self.model.config.get_text_config(), "rope_parameters", None) or {}
        kinds = [rope, *(value for value in rope.values() if isinstance(value, dict))]
        if any(kind.get("rope_type") in _STRETCHED for kind in kinds):
            return False
        try:
            short, long = self.tokenize(_TRIAL)
            if len(short["input_ids"]) == len(long["input_ids"]):  # cut to a few tokens
                return False
            alone, beside = self._forward([short]), self._forward([short, long])[:1]
        except Exception:
            # Models refuse padding by errors of many kinds (ValueError, RuntimeError, IndexError).
            # Rows of one length may still work; if not, `_together` names what fails.
            return False
        return bool(torch.isclose(alone, beside, rtol=1e-4, atol=1e-7))

    def _together(self, rows: Sequence[Row]) -> "Tensor":
        """The logits of a batch, [b]; of its rows one by one if the model fails on it."""
        import torch

        try:
            return self._forward(rows)
        except Exception as error:  # of any kind: T5 wants as many end tokens in every row
            if len(rows) > 1:
                return torch.cat([self._together([row]) for row in rows])
            text = self._text(rows[0])
            raise ValueError(f"{self.whose} fails on the text {text} ({reason(error)}).") from error

    def _forward(self, rows: Sequence[Row]) -> "Tensor":
        """The logits of one batch: [b] float32 on the CPU."""
        import torch
        from torch.nn.utils.rnn import pad_sequence

        config = self.model.config.get_text_config()
        pad = self.pad
        if pad is None:  # one that no row has, as a decoder finds a row's last token by it
            used = {token for row in rows for token in row["input_ids"]}
            pad = next(token for token in range(self.vocabulary + 1) if token not in used)
            ragged = len({len(row["input_ids"]) for row in rows}) > 1
            config.pad_token_id = pad if ragged else _NO_PAD
        columns = {name: [torch.tensor(row[name]) for row in rows] for name in rows[0]}
        if "attention_mask" in self._accepted:
            columns["attention_mask"] = [torch.ones_like(ids) for ids in columns["input_ids"]]
        fields = {
            name: pad_sequence(column, True, pad if name == "input_ids" else 0)
            for name, column in columns.items()
        }  # [b, T] each, padded on the right
        with torch.no_grad():
            output = self.model(**{k: field.to(self.model.device) for k, field in fields.items()})
        logits: Tensor = output.logits[:, self.label].float().cpu()
        return logits

    @cached_property
    def _accepted(self) -> set[str]:
        """The names that the model's forward takes."""
        return set(inspect.signature(self.model.forward).parameters)

    def _names(self, encoded: Any) -> list[str]:
        """What of a tokenizer's output the model reads."""
        kinds = encoded.get("token_type_ids", [])
        if not kinds or "token_type_ids" not in self._accepted:
            return ["input_ids"]
        known = getattr(self.model.config, "type_vocab_size", pretrained.UNLIMITED)
        if max(map(max, filter(None, kinds)), default=0) >= known:  # a tokenizer of another family
            return ["input_ids"]
        return ["input_ids", "token_type_ids"]

    @property
    def _filler(self) -> int:
        """The token of a text without tokens."""
        tokenizer = self.tokenizer
        known = (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.bos_token_id)
        return next((int(n) for n in known if n is not None and n < self.vocabulary), 0)

    def _text(self, row: Row) -> str:
        return _short(self.tokenizer.decode(row["input_ids"]))


def _is_text(text: object) -> bool:
    """Whether this is a string without halves of surrogate pairs."""
    return isinstance(text, str) and not re.search("[\ud800-\udfff]", text)


def _short(text: object) -> str:
    shown = repr(text)
    return shown if len(shown) <= _SHOWN else shown[: _SHOWN - 2] + "…" + shown[-1]
