"""Errors in the shape that OpenAI clients read."""

from typing import Any

KINDS = {
    401: "authentication_error",
    404: "not_found_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "server_error",
    504: "server_error",
}


class Refused(Exception):  # noqa: N818 (reads as the fact)
    """A request that is not answered.

    Args:
        status: of HTTP.
        message: what is wrong and what to do, a sentence.
        param: the field that is to blame.
        retry: seconds after which another try makes sense.
    """

    def __init__(
        self, status: int, message: str, param: str | None = None, retry: int | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.retry = status, retry
        # What a client sends and is told of may hold halves of characters.
        self.message = message.encode(errors="backslashreplace").decode()
        self.param = param and param.encode(errors="backslashreplace").decode()

    @property
    def body(self) -> dict[str, Any]:
        """What a client is sent."""
        kind = KINDS.get(self.status, "invalid_request_error")
        error = {"message": self.message, "type": kind, "param": self.param, "code": self.status}
        return {"error": error}
