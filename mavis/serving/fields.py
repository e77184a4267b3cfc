"""What a request asks for: every field is honoured, or refused by its name.

Servers that drop fields in silence give wrong answers that look right. The exceptions are fields
that cannot change a reply, and others at the value that changes nothing; both are counted.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mavis.decoding.prompt_format import check_text
from mavis.prompts import Prompt
from mavis.serving.contents import HARMLESS, messages, prompts_of
from mavis.serving.errors import Refused
from mavis.serving.presets import NAME, Presets, Weights

MOST_COPIES, MOST_TOP, MOST_STOPS = 128, 20, 16
COMPLETION_TOKENS = 16  # the default of `/v1/completions`
GUIDING = ("weights", "beta", "top_k")  # how a reply is guided
TOP_K = 40  # candidates, where a request names none

# Fields that are not honoured, with the values that ask for nothing.
NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "presence_penalty": (None, 0),
    "frequency_penalty": (None, 0),
    "repetition_penalty": (None, 1),
    "length_penalty": (None, 1),
    "min_p": (None, 0),
    "min_tokens": (None, 0),
    "logit_bias": (None, {}),
    "suffix": (None, ""),
    "use_beam_search": (None, False),
    "skip_special_tokens": (None, True),
    "tools": (None, []),
    "tool_choice": (None, "none", "auto"),
    "functions": (None, []),
    "modalities": (None, ["text"]),
    "response_format": (None, {"type": "text"}),
    "best_of": (None, 1),
    "stop_token_ids": (None, []),
}


@dataclass(frozen=True)
class Asked:
    """What a request asks for.

    Args:
        chat: whether replies are messages.
        prompts: chats, texts that are continued as they are, or token ids.
        model: its name.
        weights: λ by objective.
        beta: strength; None is the server's.
        temperature: 0 takes the likeliest token.
        top_p: probability mass of the candidates.
        top_k: candidates; 0 is the whole vocabulary.
        limit: the longest reply in tokens; None is what the context leaves.
        n: replies to each prompt.
        seed: of the random draws; None is a new one each time.
        stop: strings that end a reply.
        endless: whether it goes on past end tokens, as load tests ask.
        stream: whether replies are sent while they are written.
        usage: whether the stream's last chunk counts tokens.
        top: how many log-probabilities beside that of each token; None is none, not even its own.
        echo: whether the prompt is a part of the reply.
        attribution: whether each token comes with the objectives' parts in it.
        ignored: fields that were left out of account.
    """

    chat: bool
    prompts: tuple[Prompt | list[int], ...]
    model: str
    weights: Weights
    beta: float | None
    temperature: float
    top_p: float
    top_k: int
    limit: int | None
    n: int
    seed: int | None
    stop: tuple[str, ...]
    endless: bool
    stream: bool
    usage: bool
    top: int | None
    echo: bool
    attribution: bool
    ignored: list[str] = field(default_factory=list)


class _Body:
    """A request's fields, each of which is taken once."""

    def __init__(self, body: Any) -> None:
        if not isinstance(body, dict):
            raise Refused(400, "the body must be a JSON object.")
        self._left: dict[str, Any] = dict(body)

    def take(self, name: str, default: Any = None) -> Any:
        """A field's value; null is the default."""
        value = self._left.pop(name, None)
        return default if value is None else value

    def number(self, name: str, default: float | None, low: float, high: float) -> Any:
        """A finite number in a range; None where there is no default."""
        value = self.take(name, default)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise Refused(400, f"{name} must be a number.", name)
        if not low <= value <= high:
            raise Refused(400, f"{name} must be a number from {low:g} to {high:g}.", name)
        return value

    def whole(self, name: str, default: int | None, low: int, high: int) -> Any:
        """A whole number in a range; None where there is no default."""
        value = self.number(name, default, low, high)
        if value is not None and value % 1:
            raise Refused(400, f"{name} must be a whole number, got {value}.", name)
        return None if value is None else int(value)

    def flag(self, name: str) -> bool:
        """True or false; false where it is not given."""
        value = self.take(name, False)
        if not isinstance(value, bool):
            raise Refused(400, f"{name} must be true or false.", name)
        return value

    def unpack(self, name: str, known: Sequence[str]) -> None:
        """Take fields out of an object that another server's clients put them into."""
        inner = self.take(name, {})
        if not isinstance(inner, dict) or not inner.keys() <= set(known):
            raise Refused(400, f"{name} may hold {', '.join(known)} alone.", name)
        if twice := inner.keys() & self._left.keys():
            raise Refused(400, f"{min(twice)} is in {name} and beside it.", name)
        self._left |= inner

    def rest(self) -> list[str]:
        """The fields that nothing has taken, which must ask for nothing."""
        for name, value in self._left.items():
            neutral = NEUTRAL.get(name)
            if name in HARMLESS or (neutral is not None and value in neutral):
                continue
            why = "is not supported" if neutral is None else f"is only supported as {neutral[-1]!r}"
            raise Refused(400, f"{name} {why}: leave it out.", name)
        return list(self._left)


def chat_request(body: Any, presets: Presets) -> Asked:
    """Read the body of `/v1/chat/completions`."""
    given = _Body(body)
    prompts = (messages(given.take("messages")),)
    wanted, top = given.flag("logprobs"), given.whole("top_logprobs", None, 0, MOST_TOP)
    if top is not None and not wanted:
        raise Refused(400, "top_logprobs needs logprobs: true.", "top_logprobs")
    older = given.whole("max_tokens", None, 1, 1 << 30)
    limit = given.whole("max_completion_tokens", older, 1, 1 << 30)
    if older not in {None, limit}:
        raise Refused(400, "max_tokens and max_completion_tokens differ.", "max_tokens")
    top = (top or 0) if wanted else None
    return _asked(given, presets, prompts, chat=True, limit=limit, top=top, echo=False)


def completion_request(body: Any, presets: Presets) -> Asked:
    """Read the body of `/v1/completions`."""
    given = _Body(body)
    prompts = prompts_of(given.take("prompt"))
    top, echo = given.whole("logprobs", None, 0, MOST_TOP), given.flag("echo")
    limit = given.whole("max_tokens", COMPLETION_TOKENS, 0 if echo else 1, 1 << 30)
    return _asked(given, presets, prompts, chat=False, limit=limit, top=top, echo=echo)


def text_to_encode(body: Any) -> tuple[str, bool]:
    """Read the body of `/tokenize`: a text, and whether special tokens are added to it."""
    given = _Body(body)
    text, special = given.take("prompt"), given.take("add_special_tokens", True)
    if not isinstance(text, str):
        raise Refused(400, "prompt must be text.", "prompt")
    try:
        check_text(text)
    except ValueError as error:
        raise Refused(400, str(error), "prompt") from error
    if not isinstance(special, bool):
        raise Refused(400, "add_special_tokens must be true or false.", "add_special_tokens")
    given.take("model")
    given.rest()
    return text, special


def _asked(
    given: _Body,
    presets: Presets,
    prompts: tuple[Prompt | list[int], ...],
    *,
    chat: bool,
    limit: int | None,
    top: int | None,
    echo: bool,
) -> Asked:
    """The fields that both kinds of requests have."""
    given.unpack("vllm_xargs", GUIDING)
    model, weights = given.take("model", NAME), given.take("weights")
    if not isinstance(model, str):
        raise Refused(400, "model must be the name of a model.", "model")
    chosen = presets.weights(model)
    if isinstance(weights, dict):
        chosen = presets.checked(weights, "weights")
    elif isinstance(weights, str):
        chosen = presets.spelt(weights, "weights")
    elif weights is not None:
        raise Refused(400, "weights must be numbers by objective.", "weights")
    stream, options = given.flag("stream"), given.take("stream_options", {})
    if not isinstance(options, dict) or not options.keys() <= {"include_usage"}:
        raise Refused(400, "stream_options may hold include_usage alone.", "stream_options")
    usage = options.get("include_usage") or False
    if not isinstance(usage, bool):
        raise Refused(400, "include_usage must be true or false.", "stream_options")
    if stream and echo:
        raise Refused(400, "echo is not supported with stream: leave one of them out.", "echo")
    whole, number = given.whole, given.number
    found = Asked(
        chat=chat,
        prompts=prompts,
        model=model,
        weights=chosen,
        beta=number("beta", None, 0.0, 1e4),
        temperature=number("temperature", 1.0, 0.0, 100.0),
        top_p=number("top_p", 1.0, 1e-9, 1.0),
        # Of given text every token has a probability, unless the request says otherwise.
        top_k=max(0, whole("top_k", 0 if echo else TOP_K, -1, 1 << 30)),  # -1 is vLLM's "all"
        limit=limit,
        n=whole("n", 1, 1, MOST_COPIES),
        seed=whole("seed", None, -(1 << 63), 1 << 63),
        stop=_stop(given.take("stop", [])),
        endless=given.flag("ignore_eos"),
        stream=stream,
        usage=usage,
        top=top,
        echo=echo,
        attribution=given.flag("attribution"),
    )
    found.ignored.extend(given.rest())
    return found


def _stop(value: Any) -> tuple[str, ...]:
    strings = [value] if isinstance(value, str) else value
    good = isinstance(strings, list) and all(isinstance(one, str) and one for one in strings)
    if not good or len(strings) > MOST_STOPS:
        raise Refused(400, f"stop must be up to {MOST_STOPS} strings that are not empty.", "stop")
    return tuple(strings)
