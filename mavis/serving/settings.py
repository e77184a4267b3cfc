"""What a server is set up with."""

from dataclasses import dataclass, field

MOST_BODY = 8 << 20  # bytes of a request: a context of a million tokens as text


@dataclass(frozen=True)
class Settings:
    """How a server answers.

    Args:
        keys: whoever knows one of them may ask; none: everybody may.
        longest: most tokens of a prompt and its reply together.
        seconds: that a request may take.
        keep_alive: seconds without a token after which a stream shows that it lives.
        most_body: bytes that a request may have.
    """

    keys: tuple[str, ...] = field(default=(), repr=False)
    longest: int = 2048
    seconds: float = 600.0
    keep_alive: float = 10.0
    most_body: int = MOST_BODY
