"""`report.html`: everything that a sweep found, in one file that needs no other.

It is made from `results.json` alone. Pictures are inlined, there are no scripts, and every text is
escaped: prompts and answers are whatever people and models wrote.
"""

from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib.resources import files
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, StrictUndefined

from mavis.learn.fitrun import without_secrets
from mavis.learn.store import write_whole
from mavis.measure.front.replicates import SHOWN as SEEDED
from mavis.measure.front.results import AHEAD, three
from mavis.measure.front.standing import INDICATORS
from mavis.measure.report import words
from mavis.measure.report.looks import Found, look, number, ordered, ratio, shares
from mavis.measure.report.plot import pictures
from mavis.measure.report.words import decimal

REPORT, TEMPLATE = "report.html", "report.html.jinja"
HEADS = {"inner_product": "MIP", "igd_plus": "IGD+", "epsilon": "ε\N{NON-BREAKING HYPHEN}dominance"}
PAIRED = [name for name in INDICATORS if name != "inner_product"]  # as weighted_gain, in pairs
LESS = ("igd_plus", "epsilon", "maximin")  # is better
ANSWERS = {  # what is said of answers: its name for people, and its decimals
    "kl": ("KL, nats", 2),
    "kl_truncation": ("of it truncation, nats", 3),
    "length": ("length, tokens", 1),
    "distinct_3": ("distinct\N{NON-BREAKING HYPHEN}3", 3),
    "repetition": ("repetition", 3),
    "perplexity": ("perplexity under the reference", 2),
}
COSTS = {
    "training_cpu_seconds": "training, CPU seconds",
    "parameters": "parameters added",
    "tokens_per_cpu_second": "tokens per CPU second",
}


class Cell(NamedTuple):
    """What a cell of a table says."""

    value: str
    range: str = ""


class Table(NamedTuple):
    """A table: the heads of its columns, and rows with a name each."""

    heads: list[str]
    rows: list[tuple[str, list[Cell]]]


def write_report(folder: Path, found: Found) -> list[Path]:
    """Draw the pictures of a sweep and write its report.

    Args:
        folder: to write to.
        found: what is known of the sweep.

    Returns:
        the files: the report, then the pictures.
    """
    drawn = pictures(folder, found)
    text = page(found, {name: file.read_bytes() for name, file in drawn.items()})
    file = folder / REPORT
    write_whole(file, lambda draft: draft.write_text(text, encoding="utf-8"))
    return [file, *drawn.values()]


def page(found: Found, images: Mapping[str, bytes]) -> str:
    """The report.

    Args:
        found: what is known of the sweep.
        images: PNGs by name, as `plot.pictures` names them.
    """
    source = files("mavis.measure.report").joinpath(TEMPLATE).read_text(encoding="utf-8")
    sheet = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    ).from_string(source)
    settings = dict(found["settings"])
    command, judges = settings.pop("command", ""), settings.pop("reward_models", {})
    at = f"{found['kl']:g}\N{NO-BREAK SPACE}nats"
    text: str = sheet.render(
        title=f"Trade-offs of {words.together(found['objectives'])} at {at}",
        headline=words.headline(found),
        leads=list(words.leads(found)),
        about=words.about(found),
        warnings=found["warnings"],
        corner=_corner(found),
        indicators=_indicators(found),
        meanings=[(_head(name), f"{said}.") for name, said in INDICATORS.items()],
        ahead=_ahead(found),
        paired=_paired(found),
        by_seed=_by_seed(found),
        seeds=words.seeds(found),
        rewards=_rewards(found),
        weights_head=f"λ: {' : '.join(found['objectives'])}",
        answers=_answers(found),
        costs=_costs(found),
        draws=_draws(found),
        objectives=found["objectives"],
        samples=_samples(found),
        judges=list(judges.items()),
        checks=list(words.checks(found)),
        command=without_secrets(command),
        settings=[(name, without_secrets(str(value))) for name, value in _flat(settings)],
        **_figures(found, images),
    )
    return text


def _figures(found: Found, images: Mapping[str, bytes]) -> dict[str, Any]:
    """The pictures, each with what it shows in words."""

    def figure(name: str, alt: str, caption: str) -> dict[str, str]:
        data = b64encode(images[name]).decode("ascii")
        return {"src": f"data:image/png;base64,{data}", "alt": alt, "caption": caption}

    fronts = [
        figure(name, words.describe_front(found, *map(int, name.split()[1:])), FRONT)
        for name in images
        if name.startswith("front ")
    ]
    known = {m: found["methods"][m]["indicators"] for m in ordered(found)}
    said = ", ".join(
        f"{look(m).name} {decimal(each['hypervolume']['value'])} and "
        f"{decimal(each['weighted_gain']['value'])}"
        for m, each in known.items()
        if each["hypervolume"]
    )
    return {
        "fronts": fronts,
        "curves": figure(
            "curves", words.describe_curves(found, three(len(found["weightings"]))), CURVES
        ),
        "bars": figure("bars", f"Hypervolume and weighted gain: {said or 'none'}.", BARS),
    }


FRONT = (
    "One point for each weighting; crosses are 95 % intervals. A line joins the points that no "
    "other point of its method beats in both of these objectives."
)
CURVES = (
    "Every curve starts at the reference and is drawn as it is read, linear in √KL between the "
    "points; best of N at N = 1, 2, 4 and so on."
)
BARS = "By hypervolume; bars are values, whiskers 95 % intervals."


def _corner(found: Found) -> str:
    if found["reference_point"] is None:
        return "No method can be compared, so there is no hypervolume."
    point = ", ".join(map(decimal, found["reference_point"]))
    return f"The hypervolume is that above ({point}): it means nothing without this point."


def _head(name: str) -> str:
    return HEADS.get(name, name.replace("_", " "))


def _indicators(found: Found) -> Table:
    heads = [
        f"{_head(name)}\N{NO-BREAK SPACE}{'↓' if name in LESS else '↑'}" for name in INDICATORS
    ]
    return Table(heads, _rows(found, lambda m: [_cell(m["indicators"][n]) for n in INDICATORS]))


def _answers(found: Found) -> Table:
    start = [("reference", _said(found["reference"]))]
    rows = _rows(found, lambda method: _said(method["answers"]))
    return Table([head for head, _ in ANSWERS.values()], start + rows)


def _said(numbers: Mapping[str, Any]) -> list[Cell]:
    return [Cell(decimal(numbers.get(name), digits)) for name, (_, digits) in ANSWERS.items()]


def _costs(found: Found) -> Table:
    rows = _rows(found, lambda method: [Cell(decimal(method[name], 0)) for name in COSTS])
    return Table(list(COSTS.values()), rows)


def _draws(found: Found) -> str:
    """What best-of-N costs where it is compared: answers that are thrown away."""
    counts = found["methods"].get("best_of", {}).get("strengths", ())
    if not counts:
        return ""
    least, most = min(counts), max(counts)
    many = f"{least:g}" if least == most else f"{least:g} to {most:g}"
    return f"Best of N trains nothing and writes {many} answers for each one that it keeps."


def _ahead(found: Found) -> Table:
    kinds = ("hypervolume_ratio", "gain_ratio", "gain_difference")
    heads = ["hypervolume, ratio", "weighted gain, ratio", "weighted gain, difference"]
    leads = found["ahead"]
    rivals = [rival for rival in ordered(found) if rival in leads]
    return Table(heads, [(look(r).name, [_cell(leads[r][k]) for k in kinds]) for r in rivals])


def _paired(found: Found) -> Table:
    """Every method less every other."""
    rows = [
        (
            " − ".join(look(method).name for method in pair["methods"]),
            [_cell(pair["differences"][name]) for name in PAIRED],
        )
        for pair in found.get("paired", ())
    ]
    return Table(list(map(_head, PAIRED)), rows)


def _by_seed(found: Found) -> Table:
    """The indicators of every seed by itself, and MAVIS's in those of each rival."""
    seeds, methods = found["by_seed"], ordered(found)
    columns = [(name, at) for name in SEEDED for at in range(len(seeds))]

    def value(method: str, name: str, at: int) -> float:
        return number(seeds[at].get(method, {}).get(name))

    rows = [(look(m).name, [Cell(decimal(value(m, *c))) for c in columns]) for m in methods]
    for rival in (m for m in methods if m != AHEAD and AHEAD in methods):
        ratios = [Cell(decimal(ratio(value(AHEAD, *c), value(rival, *c)))) for c in columns]
        rows.append((f"{look(AHEAD).name} / {look(rival).name}", ratios))
    known = [row for row in rows if any(cell.value != decimal(None) for cell in row[1])]
    return Table([f"{_head(name)}, seed {at}" for name, at in columns], known if seeds else [])


def _rewards(found: Found) -> list[tuple[str, Table]]:
    """Rewards at equal KL, by objective: a row for each weighting."""
    methods = ordered(found)

    def rows(m: int) -> Iterator[tuple[str, list[Cell]]]:
        for at, weights in enumerate(found["weightings"]):
            cells = [found["methods"][method]["rewards"][at] for method in methods]
            yield shares(weights), [_cell(cell and cell[m]) for cell in cells]

    heads = [look(method).name for method in methods]
    return [(name, Table(heads, list(rows(m)))) for m, name in enumerate(found["objectives"])]


def _rows(
    found: Found, cells: Callable[[Mapping[str, Any]], list[Cell]]
) -> list[tuple[str, list[Cell]]]:
    return [(look(m).name, cells(found["methods"][m])) for m in ordered(found)]


def _cell(numbers: Mapping[str, Any] | None) -> Cell:
    if numbers is None:
        return Cell("–")
    return Cell(decimal(numbers["value"]), words.between(numbers))


def _samples(found: Found) -> list[dict[str, Any]]:
    """The samples, by weighting."""
    names = ["reference", *ordered(found)]

    def shown(sample: Mapping[str, Any]) -> dict[str, Any]:
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

    def title(sample: Mapping[str, Any]) -> str:
        both: Iterable[tuple[str, float]] = zip(found["objectives"], sample["weights"], strict=True)
        return ", ".join(f"{name} {weight:.3g}" for name, weight in both)

    parts = groupby(found.get("samples", ()), key=title)
    return [{"title": name, "prompts": list(map(shown, part))} for name, part in parts]


def _flat(settings: Mapping[str, Any], before: str = "") -> list[tuple[str, Any]]:
    """Nested settings under one name each, those that say nothing left out."""
    rows: list[tuple[str, Any]] = []
    for name, value in settings.items():
        if isinstance(value, Mapping):
            rows += _flat(value, f"{before}{name} ")
        elif value is not None:
            listed = isinstance(value, Sequence) and not isinstance(value, str)
            rows.append((f"{before}{name}", ", ".join(map(str, value)) if listed else value))
    return rows
