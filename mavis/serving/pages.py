"""The playground: static files, and what they must know of the server."""

from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from fastapi import FastAPI
from fastapi.responses import JSONResponse, Response

from mavis.serving.presets import NAME, Presets

# Nothing is loaded from elsewhere, and nothing but files of its own runs.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
KINDS = {
    "index.html": "text/html; charset=utf-8",
    "app.js": "text/javascript; charset=utf-8",
    "style.css": "text/css; charset=utf-8",
}
SHOWN = ("best_of", "mavis")  # methods of a sweep


def add_pages(
    app: FastAPI, presets: Presets, reference: str, longest: int, front: Mapping[str, Any] | None
) -> None:
    """The routes of the playground.

    Args:
        app: the application.
        presets: the models that there are.
        reference: the name of π_ref.
        longest: most tokens of a prompt and its reply.
        front: what `front_of` has made of a sweep, if there is one.
    """
    folder = files("mavis.serving") / "playground"
    contents = {name: (folder / name).read_bytes() for name in KINDS}

    def page(name: str) -> Response:
        return Response(contents[name], media_type=KINDS[name], headers=HEADERS)

    @app.api_route("/", methods=["GET", "HEAD"])
    async def index() -> Response:
        return page("index.html")

    @app.api_route("/playground/app.js", methods=["GET", "HEAD"])
    async def script() -> Response:
        return page("app.js")

    @app.api_route("/playground/style.css", methods=["GET", "HEAD"])
    async def style() -> Response:
        return page("style.css")

    @app.api_route("/playground/facts.json", methods=["GET", "HEAD"])
    async def facts() -> Response:
        found = {
            "objectives": list(presets.objectives),
            "weights": presets.table[NAME],
            "reference": reference,
            "longest": longest,
            "front": front,
        }
        return JSONResponse(found, headers=HEADERS)


def front_of(results: Mapping[str, Any], objectives: tuple[str, ...]) -> dict[str, Any]:
    """The points of a sweep's `results.json` that the playground shows.

    Raises:
        ValueError: it is no sweep of two objectives that the server has.
    """
    names = results.get("objectives")
    if not isinstance(names, list) or len(names) != 2 or not set(names) <= set(objectives):
        known = ", ".join(objectives) or "none"
        raise ValueError(f"front must be a sweep of two objectives that are served ({known}).")
    found = []
    for method in SHOWN:
        cells = results["methods"].get(method, {}).get("rewards", [])
        both = zip(results["weightings"], cells, strict=True) if cells else ()
        points = [
            {"weights": weights, "rewards": [one["value"] for one in cell]}
            for weights, cell in sorted(both, key=lambda pair: pair[0])
            if cell and all(one["value"] is not None for one in cell)
        ]
        if points:
            found.append({"name": method, "points": points})
    return {"objectives": names, "methods": found}
