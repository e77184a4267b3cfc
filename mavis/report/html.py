"""Write `report.html`: all results of a sweep in one self-contained file.

It is rendered from `results.json` alone. Pictures are inlined, there are no scripts, and every text
is escaped, because prompts and answers may hold anything.
"""

from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from itertools import groupby
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from mavis.comparison.indicators import INDICATORS
from mavis.comparison.result_format import Results, Sample
from mavis.comparison.results import three
from mavis.report import cells
from mavis.report import text as sentences
from mavis.report.plots import bar, bar_kinds, pictures
from mavis.report.style import (
    is_compared,
    look,
    ordered,
    yardstick,
)
from mavis.report.text import decimal
from mavis.storage import write_whole
from mavis.tracking.mlflow_run import without_secrets

REPORT, TEMPLATE = "report.html", "report.html.jinja"


def write_report(folder: Path, found: Results) -> list[Path]:
    """Draw the pictures of a sweep and write its report.

    Args:
        folder: folder to write to.
        found: the results of the sweep.

    Returns:
        the files: the report, then the pictures.
    """
    drawn = pictures(folder, found)
    text = page(found, {name: file.read_bytes() for name, file in drawn.items()})
    file = folder / REPORT
    write_whole(file, lambda draft: draft.write_text(text, encoding="utf-8"))
    return [file, *drawn.values()]


def page(found: Results, images: Mapping[str, bytes]) -> str:
    """Render the report.

    Args:
        found: the results of the sweep.
        images: PNGs by name, as `plots.pictures` names them.
    """
    source = files("mavis.report").joinpath(TEMPLATE).read_text(encoding="utf-8")
    sheet = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    ).from_string(source)
    settings = dict(found["settings"])
    command, judges = settings.pop("command", ""), settings.pop("reward_models", {})
    text: str = sheet.render(
        title=sentences.title(found),
        headline=sentences.headline(found),
        leads=list(sentences.leads(found)),
        about=sentences.about(found),
        warnings=found["warnings"],
        corner=_corner(found),
        indicators=cells.indicators(found),
        meanings=[(cells.head(name), f"{INDICATORS[name]}.") for name in cells.told(found)],
        ahead=cells.ahead(found),
        paired=cells.paired(found),
        by_seed=cells.by_seed(found),
        seeds=sentences.seeds(found),
        rewards=cells.rewards(found),
        weights_head=f"λ: {' : '.join(found['objectives'])}",
        answers=cells.answers(found),
        costs=cells.costs(found),
        draws=_draws(found),
        objectives=found["objectives"],
        samples=_samples(found),
        judges=list(judges.items()),
        checks=list(sentences.checks(found)),
        command=without_secrets(command),
        settings=[(name, without_secrets(str(value))) for name, value in _flat(settings)],
        **_figures(found, images),
    )
    return text


def _figures(found: Results, images: Mapping[str, bytes]) -> dict[str, Any]:
    """Return the pictures with their alternative texts and captions."""

    def figure(name: str, alt: str, caption: str) -> dict[str, str]:
        data = b64encode(images[name]).decode("ascii")
        return {"src": f"data:image/png;base64,{data}", "alt": alt, "caption": caption}

    fronts = [
        figure(name, sentences.describe_front(found, *map(int, name.split()[1:])), FRONT)
        for name in images
        if name.startswith("front ")
    ]
    kinds = bar_kinds(found)
    said = ", ".join(
        f"{look(m).name} {' and '.join(decimal(bar(found, m, name)['value']) for name in kinds)}"
        for m in ordered(found)
        if is_compared(found["methods"][m])
    )
    heads = " and ".join(kinds)
    return {
        "fronts": fronts,
        "curves": figure(
            "curves", sentences.describe_curves(found, three(len(found["weightings"]))), CURVES
        ),
        "bars": figure("bars", f"{heads.capitalize()}: {said or 'none'}.", _bars(found)),
    }


FRONT = (
    "One point for each weighting; crosses are 95 % intervals. A line joins the points that no "
    "other point of its method beats in both of these objectives."
)
CURVES = (
    "Every curve starts at the reference and is drawn as it is read, linear in √KL between the "
    "points; best of N at N = 1, 2, 4 and so on."
)


def _bars(found: Results) -> str:
    return f"By {yardstick(found).name}; bars are values, whiskers 95 % intervals."


def _corner(found: Results) -> str:
    if reason := found.get("hypervolume_undefined"):
        return f"Hypervolume is undefined: {reason}." if len(found["objectives"]) > 1 else ""
    if found["reference_point"] is None:
        return "No method can be compared, so there is no hypervolume."
    point = ", ".join(map(decimal, found["reference_point"]))
    return f"The hypervolume is that above ({point}): it means nothing without this point."


def _draws(found: Results) -> str:
    """Describe the cost of best-of-N, which is the answers that it discards."""
    best_of = found["methods"].get("best_of")
    if best_of is None or not (counts := best_of["strengths"]):
        return ""
    least, most = min(counts), max(counts)
    many = f"{least:g}" if least == most else f"{least:g} to {most:g}"
    return f"Best of N trains nothing and writes {many} answers for each one that it keeps."


def _samples(found: Results) -> list[dict[str, Any]]:
    """Group the sample prompts by weighting."""
    names = ["reference", *ordered(found)]

    def shown(sample: Sample) -> dict[str, Any]:
        answers = [(m, sample["answers"][m]) for m in names if m in sample["answers"]]
        return {
            "number": sample["number"],
            "text": sample["prompt"],
            "answers": [
                {
                    "name": look(m).name,
                    "text": answer["text"],
                    "numbers": [decimal(x) for x in (*answer["rewards"], answer["kl"])],
                }
                for m, answer in answers
            ],
        }

    def title(sample: Sample) -> str:
        both: Iterable[tuple[str, float]] = zip(found["objectives"], sample["weights"], strict=True)
        return ", ".join(f"{name} {weight:.3g}" for name, weight in both)

    parts = groupby(found.get("samples", ()), key=title)
    return [{"title": name, "prompts": list(map(shown, part))} for name, part in parts]


def _flat(settings: Mapping[str, Any], before: str = "") -> list[tuple[str, Any]]:
    """Flatten nested settings into named rows, without those that are None."""
    rows: list[tuple[str, Any]] = []
    for name, value in settings.items():
        if isinstance(value, Mapping):
            rows += _flat(value, f"{before}{name} ")
        elif value is not None:
            listed = isinstance(value, Sequence) and not isinstance(value, str)
            rows.append((f"{before}{name}", ", ".join(map(str, value)) if listed else value))
    return rows
