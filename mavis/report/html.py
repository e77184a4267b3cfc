"""Write `report.html`: all results of a sweep in one self-contained file.

It is rendered from `results.json` alone. Pictures are inlined, there are no scripts, and every text
is escaped, because prompts and answers may hold anything.
"""

from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from mavis.comparison.indicators import INDICATORS
from mavis.comparison.result_format import Results
from mavis.comparison.results import three
from mavis.report import cells, style
from mavis.report import text as sentences
from mavis.report.plots import bar, bar_kinds, pictures
from mavis.report.style import is_compared, look, ordered
from mavis.report.text import decimal
from mavis.storage import write_whole
from mavis.tracking.mlflow_run import without_secrets

REPORT, TEMPLATE = "report.html", "report.html.jinja"


def write_report(folder: Path, results: Results) -> list[Path]:
    """Draw the pictures of a sweep and write its report; return its file, then the pictures."""
    drawn = pictures(folder, results)
    text = page(results, {name: file.read_bytes() for name, file in drawn.items()})
    file = folder / REPORT
    write_whole(file, lambda draft: draft.write_text(text, encoding="utf-8"))
    return [file, *drawn.values()]


def page(results: Results, images: Mapping[str, bytes]) -> str:
    """Render the report, with PNGs by name, as `plots.pictures` names them."""
    source = files("mavis.report").joinpath(TEMPLATE).read_text(encoding="utf-8")
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"decimal": decimal, "together": sentences.together}
    settings = dict(results["settings"])
    command, reward_models = settings.pop("command", ""), settings.pop("reward_models", {})
    return environment.from_string(source).render(
        results=results,
        style=style,
        sentences=sentences,
        cells=cells,
        meanings=INDICATORS,
        reward_models=reward_models,
        command=without_secrets(command),
        settings=[(name, without_secrets(str(value))) for name, value in _flat(settings)],
        **_figures(results, images),
    )


def _figures(results: Results, images: Mapping[str, bytes]) -> dict[str, Any]:
    """Return the pictures with their alternative texts."""

    def figure(name: str, alt: str) -> dict[str, str]:
        data = b64encode(images[name]).decode("ascii")
        return {"src": f"data:image/png;base64,{data}", "alt": alt}

    fronts = [
        figure(name, sentences.describe_front(results, *map(int, name.split()[1:])))
        for name in images
        if name.startswith("front ")
    ]
    curves = sentences.describe_curves(results, three(len(results["weightings"])))
    kinds = bar_kinds(results)
    values = [
        f"{look(m).name} {' and '.join(decimal(bar(results, m, name)['value']) for name in kinds)}"
        for m in ordered(results)
        if is_compared(results["methods"][m])
    ]
    bars = f"{' and '.join(kinds).capitalize()}: {', '.join(values) or 'none'}."
    return {"fronts": fronts, "curves": figure("curves", curves), "bars": figure("bars", bars)}


def _flat(settings: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Flatten nested settings into named rows, without those that are None."""
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{name} ")
        elif value is not None:
            listed = isinstance(value, Sequence) and not isinstance(value, str)
            yield f"{before}{name}", ", ".join(map(str, value)) if listed else value
