"""What requests are about: chats of text, texts, and token ids."""

from typing import Any

from mavis.prompts import Prompt
from mavis.serving.errors import Refused

ROLES = ("system", "user", "assistant")
# They say something of the caller, or of how an answer is kept or paid for.
HARMLESS = frozenset(
    {"user", "metadata", "store", "service_tier", "parallel_tool_calls", "session_id", "chat_id"}
    | {"id", "cache_control", "prompt_cache_key", "safety_identifier"}
    | {"reasoning", "reasoning_effort", "verbosity"}  # of models that think
)


def messages(value: Any) -> Prompt:
    """A chat of text; what is no text, or no message, is refused."""
    if not isinstance(value, list) or not value:
        raise Refused(400, "messages must be a list of at least one message.", "messages")
    chat = []
    for at, message in enumerate(value):
        where = f"messages[{at}]"
        if not isinstance(message, dict):
            raise Refused(400, f"{where} must be an object with role and content.", "messages")
        role = message.get("role")
        role = "system" if role == "developer" else role
        if role not in ROLES:
            roles = ", ".join(ROLES)
            raise Refused(400, f"{where}.role must be one of {roles}, got {role!r}.", "messages")
        for name, given in message.items():
            if name not in {"role", "content", "name", *HARMLESS} and given:
                raise Refused(400, f"{where}.{name} is not supported: leave it out.", "messages")
        named = message.get("name")  # which a chat template may show
        if named is not None and not isinstance(named, str):
            raise Refused(400, f"{where}.name must be text.", "messages")
        said = {"role": role, "content": _content(message.get("content"), where)}
        chat.append(said | ({"name": named} if named else {}))
    return chat


def _content(value: Any, where: str) -> str:
    """A message's text, which may come in parts."""
    if isinstance(value, str):
        return value
    if not isinstance(value, list) or not value:
        raise Refused(400, f"{where}.content must be text, or a list of text parts.", "messages")
    texts = []
    for part in value:
        if not isinstance(part, dict) or part.get("type") != "text":
            kind = part.get("type") if isinstance(part, dict) else type(part).__name__
            raise Refused(400, f"{where}.content may hold text parts, not {kind!r}.", "messages")
        if not isinstance(part.get("text"), str):
            raise Refused(400, f"{where}.content has a part without text.", "messages")
        if more := part.keys() - {"type", "text", *HARMLESS}:
            raise Refused(400, f"{where}.content has {min(more)}: leave it out.", "messages")
        texts.append(part["text"])
    return "".join(texts)


def prompts_of(value: Any) -> tuple[Prompt | list[int], ...]:
    """Texts or token ids: one prompt, or several."""

    def is_ids(one: Any) -> bool:
        return isinstance(one, list) and bool(one) and all(type(token) is int for token in one)

    if isinstance(value, str) or is_ids(value):
        value = [value]
    if not isinstance(value, list) or not value:
        raise Refused(400, "prompt must be text, token ids, or a list of these.", "prompt")
    for one in value:
        if not (isinstance(one, str) or is_ids(one)):
            raise Refused(400, "prompt must be text, token ids, or a list of these.", "prompt")
        if not one:
            raise Refused(400, "prompt must not be empty.", "prompt")
    return tuple(value)
