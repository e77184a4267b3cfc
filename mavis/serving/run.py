"""Listens, answers until it is told to stop, and lets what has begun come to its end."""

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


def config(app: FastAPI, patience: float) -> uvicorn.Config:
    """How the server answers; it waits so many seconds for what has begun when it is to stop."""
    return uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=int(patience) + 1,
        timeout_keep_alive=30,
    )


def run(app: FastAPI, decoding: DecoderThread, opened: socket.socket, patience: float) -> None:
    """Serve until SIGINT or SIGTERM; then finish what has begun, for so many seconds at most."""
    try:
        uvicorn.Server(config(app, patience)).run([opened])
    finally:
        decoding.close(0.0)
