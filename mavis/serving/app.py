"""The routes of the server, as the clients of OpenAI's interface and of vLLM's call them."""

import asyncio
import hmac
import json
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from mavis.decoding.reference import ReferencePolicy
from mavis.serving.decoder_thread import DecoderThread
from mavis.serving.errors import Refused
from mavis.serving.fields import Asked, chat_request, completion_request, text_to_encode
from mavis.serving.meters import Meters
from mavis.serving.pages import add_pages
from mavis.serving.prepare import jobs
from mavis.serving.presets import Presets
from mavis.serving.session import Session
from mavis.serving.settings import Settings

Read = Callable[[Any, Presets], Asked]
READ = ["GET", "HEAD"]
DONE = "data: [DONE]\n\n"
STREAM = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


def create_app(
    decoding: DecoderThread,
    presets: Presets,
    settings: Settings,
    front: Mapping[str, Any] | None = None,
) -> FastAPI:
    """The server's application; `front` is a sweep that its playground shows."""
    app = FastAPI(title="mavis", docs_url=None, redoc_url=None, openapi_url=None)
    meters = Meters(decoding)
    encoder = ThreadPoolExecutor(1, "mavis-encoder")  # tokenizers are not made for several
    _add_errors(app, meters)
    _add_facts(app, decoding, presets, settings, meters)
    reference = decoding.policy.reference
    _add_tokenizer(app, reference, settings)
    add_pages(app, presets, shown_name(reference), settings.longest, front)

    async def answer(request: Request, read: Read) -> Response:
        _authorise(request, settings)
        asked = read(await _body(request, settings.most_body), presets)
        # A long text takes seconds to encode, in which other clients are to be served.
        prepared = await asyncio.get_running_loop().run_in_executor(
            encoder, jobs, asked, decoding.policy, settings.longest, decoding.room
        )
        for name in asked.ignored:
            meters.ignored.labels(name).inc()
        session = Session(asked, prepared, decoding, settings, meters)
        session.begin()  # what cannot be answered must be known before the status is sent
        if asked.stream:
            return _Stream(session)
        try:
            return JSONResponse(await _unless_gone(request, _whole(session)))
        finally:
            session.close()

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        return await _counted(request, meters, answer(request, chat_request))

    @app.post("/v1/completions")
    async def completions(request: Request) -> Response:
        return await _counted(request, meters, answer(request, completion_request))

    return app


async def _counted(request: Request, meters: Meters, reply: Any) -> Response:
    response: Response = await reply
    meters.requests.labels(request.url.path, response.status_code).inc()
    return response


async def _whole(session: Session) -> dict[str, Any]:
    """The response to a request that does not stream."""
    echoed = await session.echoed()
    async for _ in session.events():
        pass
    return session.writer.whole(echoed)


async def _unless_gone(request: Request, work: Any) -> Any:
    """Wait for some work, and give it up when the client leaves."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise Refused(499, "the client has gone.")
    finally:
        for one in (task, gone):
            one.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _left(request: Request) -> None:
    """Return when the client has closed its connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


class _Stream(StreamingResponse):
    """The chunks of a request's replies, whose rows are given back however it ends."""

    def __init__(self, session: Session) -> None:
        super().__init__(_chunks(session), media_type="text/event-stream", headers=STREAM)
        self._session = session

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send them."""
        try:
            await super().__call__(scope, receive, send)
        finally:  # a client may be gone before the first chunk, which then never begins
            self._session.close()


async def _chunks(session: Session) -> AsyncIterator[str]:
    """The chunks of a reply; what goes wrong after the first is a chunk, too."""
    writer = session.writer
    try:
        for reply in writer.replies:
            if (opening := writer.opening(reply)) is not None:
                yield _chunk(opening)
        async for news in session.events():
            yield ": keep-alive\n\n" if news is None else _chunk(writer.piece(*news))
        if session.asked.usage:
            yield _chunk(writer.closing())
        yield DONE
    except Refused as error:
        yield _chunk(error.body)


def shown_name(reference: ReferencePolicy) -> str:
    """The name of π_ref, without the folders of this machine that it lies in."""
    path = Path(reference.name)
    return path.name if path.is_absolute() else reference.name


def _chunk(content: Any) -> str:
    return f"data: {json.dumps(content, ensure_ascii=False, separators=(',', ':'))}\n\n"


async def _body(request: Request, most: int) -> Any:
    """The body of a request as JSON.

    Raises:
        Refused: it is too large, or no JSON.
    """
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > most:
            raise Refused(413, f"the body may have {most:,} bytes at most.")
        parts.append(part)
    try:
        return json.loads(b"".join(parts), parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise Refused(400, f"the body is no JSON: {reason}") from error


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no number")


def _authorise(request: Request, settings: Settings) -> None:
    """Refuse whoever does not know a key; all of them are compared, in constant time.

    Raises:
        Refused: the key is missing or wrong.
    """
    if not settings.keys:
        return
    kind, _, given = request.headers.get("authorization", "").partition(" ")
    sent = given.strip().encode("latin-1")  # as headers are decoded
    known = [hmac.compare_digest(sent, key.encode()) for key in settings.keys]
    if kind.lower() != "bearer" or not any(known):
        raise Refused(401, "the API key is missing or wrong: send Authorization: Bearer KEY.")


def _add_errors(app: FastAPI, meters: Meters) -> None:
    """Let every error have the shape that clients read."""

    def respond(
        request: Request, error: Refused, more: Mapping[str, str] | None = None
    ) -> JSONResponse:
        path = request.scope.get("route")
        meters.requests.labels(getattr(path, "path", "other"), error.status).inc()
        headers = dict(more or {})
        if error.retry is not None:
            headers["Retry-After"] = str(error.retry)
        if error.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return JSONResponse(error.body, error.status, headers)

    @app.exception_handler(Refused)
    async def refused(request: Request, error: Refused) -> JSONResponse:
        return respond(request, error)

    @app.exception_handler(HTTPException)
    async def other(request: Request, error: HTTPException) -> JSONResponse:
        told = Refused(error.status_code, f"{error.detail}: {request.url.path}")
        return respond(request, told, error.headers)

    @app.exception_handler(Exception)
    async def broken(request: Request, error: Exception) -> JSONResponse:
        return respond(request, Refused(500, f"the server failed: {type(error).__name__}."))


def _add_facts(
    app: FastAPI, decoding: DecoderThread, presets: Presets, settings: Settings, meters: Meters
) -> None:
    """The routes that say something of the server."""
    reference = decoding.policy.reference

    def model(name: str) -> dict[str, Any]:
        facts = {"weights": presets.table.get(name), "objectives": list(presets.objectives)}
        return {
            "id": name,
            "object": "model",
            "created": 0,
            "owned_by": "mavis",
            "root": shown_name(reference),
            "max_model_len": settings.longest,
            "mavis": facts,
        }

    @app.api_route("/v1/models", methods=READ)
    async def models(request: Request) -> dict[str, Any]:
        _authorise(request, settings)
        return {"object": "list", "data": [model(name) for name in presets.table]}

    @app.api_route("/v1/models/{name:path}", methods=READ)
    async def one(request: Request, name: str) -> dict[str, Any]:
        _authorise(request, settings)
        return model(name) | {"mavis": {"weights": presets.weights(name)}}

    @app.api_route("/health", methods=READ)
    async def health() -> Response:
        return Response(status_code=200 if decoding.open else 503)

    @app.api_route("/version", methods=READ)
    async def current() -> dict[str, str]:
        return {"version": version("mavis")}

    @app.api_route("/metrics", methods=READ)
    async def metrics() -> Response:
        return Response(meters.page(), media_type="text/plain; version=0.0.4")


def _add_tokenizer(app: FastAPI, reference: ReferencePolicy, settings: Settings) -> None:
    """The routes by which harnesses learn how text becomes tokens."""

    @app.api_route("/tokenizer_info", methods=READ)
    async def tokenizer(request: Request) -> dict[str, Any]:
        _authorise(request, settings)
        names = ("bos_token", "eos_token", "pad_token", "unk_token", "chat_template")
        found = {name: getattr(reference.tokenizer, name, None) for name in names}
        return found | {"tokenizer_class": type(reference.tokenizer).__name__}

    @app.post("/tokenize")
    async def tokenize(request: Request) -> dict[str, Any]:
        _authorise(request, settings)
        prompt, special = text_to_encode(await _body(request, settings.most_body))
        tokens = list(reference.tokenizer(prompt, add_special_tokens=special).input_ids)
        return {"tokens": tokens, "count": len(tokens), "max_model_len": settings.longest}
