"""Listens, answers until it is told to stop, and lets what has begun come to its end."""

import asyncio
import socket

import uvicorn
from fastapi import FastAPI

from mavis.serving.decoder_thread import DecoderThread

LOOPBACK = {"127.0.0.1", "::1", "localhost"}


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Raises:
        OSError: the address is taken, or is none of this machine's.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        opened = socket.socket(family, kind, protocol)
    except OSError as error:
        raise OSError(f"host {host!r} is no address of this machine ({error}).") from error
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind(address)
        opened.listen(2048)
    except OSError as error:
        opened.close()
        raise OSError(
            f"{host}:{port} cannot be listened on ({error.strerror}): is another server there? "
            "Give another --port, or 0 for any that is free."
        ) from error
    return opened


class Listener(uvicorn.Server):
    """Answers until it is told to stop, and then for as long as what has begun takes.

    Args:
        app: the application.
        decoding: what writes its replies.
        patience: seconds that these may still take.
    """

    def __init__(self, app: FastAPI, decoding: DecoderThread, patience: float) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                log_level="warning",
                access_log=False,
                timeout_graceful_shutdown=int(patience) + 10,
                timeout_keep_alive=30,
            )
        )
        self._decoding, self._patience = decoding, patience

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End replies that take too long first: their clients are told so, and then let go."""
        ending = asyncio.create_task(asyncio.to_thread(self._decoding.close, self._patience))
        await super().shutdown(sockets)
        await ending


def run(app: FastAPI, decoding: DecoderThread, opened: socket.socket, patience: float) -> None:
    """Serve until SIGINT or SIGTERM; then finish what has begun, for so many seconds at most."""
    try:
        Listener(app, decoding, patience).run([opened])
    finally:
        decoding.close(0.0)
