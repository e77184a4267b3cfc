"""What a reward returned, read as one number per reply or refused in a line.

Lists, arrays, tensors on any device, columns of a table and generators are all read, as long as
there is one number per reply in order. Nothing is guessed: a number in words, one number for all
or a second dimension is refused.
"""

import inspect
from collections.abc import Iterator, Sequence, ValuesView
from itertools import islice
from typing import Any

from mavis.error_text import reason

SHOWN = 80  # characters of a text in an error


def finished(returned: Any, count: int) -> Any:
    """The values of a generator, drawn where its errors are caught; anything else as it is.

    Args:
        returned: What the reward returned.
        count: B, the number of replies. One value more is drawn, to notice that there are more.
    """
    return list(islice(returned, count + 1)) if isinstance(returned, Iterator) else returned


def numbers(
    returned: Any, whose: str, prompts: Sequence[str], responses: Sequence[str]
) -> list[float]:
    """What a reward returned as B numbers, NaN for None.

    Args:
        returned: What it returned.
        whose: Whose reward it is, for errors.
        prompts: B prompts.
        responses: B replies.

    Raises:
        ValueError: It is anything else than one number or None per reply.
    """
    first = f"(first {about(prompts, responses, 0)})"
    rule = f"{whose} a reward must return one number per reply, [B = {len(responses)}],"
    if inspect.isawaitable(returned):
        if inspect.iscoroutine(returned):
            returned.close()  # or Python warns that nobody waited for it
        raise ValueError(f"{rule} got a promise of one: no async function can be a reward {first}.")
    values = _values(returned, len(responses), rule, first)
    if isinstance(values, ValuesView):
        values = list(values)
    if isinstance(values, str | bytes | bytearray) or not isinstance(values, Sequence):
        raise ValueError(f"{rule} got {type(returned).__name__} {first}.")
    if len(values) != len(responses):
        raise ValueError(f"{rule} got {len(values)} {first}.")
    read = []
    for row, value in enumerate(values):
        try:
            read.append(_number(value))
        except Exception:  # a plugin's own class may raise anything when asked for a number
            where = about(prompts, responses, row)
            raise ValueError(f"{rule} got {_shown(value)} in it ({where}).") from None
    return read


def about(prompts: Sequence[str], responses: Sequence[str], row: int) -> str:
    """A prompt and its reply, for errors."""
    return f"prompt {short(prompts[row])}, response {short(responses[row])}"


def short(text: str) -> str:
    """A text in quotes and one line, cut where it is long."""
    return repr(_cut(text))


def _values(returned: Any, count: int, rule: str, first: str) -> Any:
    """The values of an array or tensor of B numbers as a list; anything else as it is."""
    import numpy as np
    import torch

    tensor = isinstance(returned, torch.Tensor)
    if not tensor and not hasattr(returned, "__array__"):
        return returned
    try:
        array = returned if tensor else np.asarray(returned)
        shape, values = list(array.shape), array.tolist()
    except Exception as error:  # such as an array on a device that NumPy cannot read
        raise ValueError(
            f"{rule} got a {type(returned).__name__} that cannot be read ({reason(error, 160)})."
        ) from error
    if shape != [count]:
        raise ValueError(f"{rule} got shape {shape} {first}.")
    if isinstance(returned, np.ma.MaskedArray):  # what is masked abstains
        return returned.tolist()
    return values


def _number(value: Any) -> float:
    if value is None:
        return float("nan")
    if callable(item := getattr(value, "item", None)):  # NumPy's and torch's, of one number
        value = item()
    if isinstance(value, str | bytes | bytearray | complex):  # float() would read "1.5"
        raise TypeError
    return float(value)


def _shown(value: Any) -> str:
    try:
        text = " ".join(repr(value).split())
    except Exception:  # an integer of thousands of digits, for one
        return f"a value of type {type(value).__name__}"
    return _cut(text)


def _cut(text: str) -> str:
    return text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"
