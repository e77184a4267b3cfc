"""`mavis pareto`: sweep weightings and strengths over MAVIS and its rivals, and compare."""

import json as jsonlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mavis.measure.weightings import weightings as read_weightings
from mavis.objective import Objective, find
from mavis.prompts import Prompt, digest, read_prompts

if TYPE_CHECKING:
    from mavis.guide.reference import ReferencePolicy
    from mavis.measure.models import Cost
    from mavis.measure.points import Point
    from mavis.measure.sweep import Sweep

RESULTS = "results.json"
WIDTHS = (22, 22, 12, 10)  # of the printed table's columns
BASELINES = ("reference", "best_of")  # what π_ref can do alone: nothing trained, no strength


def pareto(
    objectives: str | list[str] = "",
    methods: str | list[str] = "reference,best_of,mavis,mod,soup",
    weights: str = "grid:0.2",
    kl: float = 2.0,
    split: str = "test",
    prompts: int = 200,
    source: str | None = None,
    column: str | None = None,
    seeds: int = 1,
    out: str = "runs/pareto",
    runs: str = "runs",
    values: dict[str, str] = {},  # noqa: B006 - a default that the parser can show; not changed
    policies: dict[str, str] = {},  # noqa: B006
    tuned: Literal["rloo", "grpo", "dpo"] = "rloo",
    divergence: Literal["reverse_kl", "forward_kl", "jsd", "alpha", "jeffrey"] = "reverse_kl",
    alpha: float | None = None,
    lora: bool = False,
    reference: str = "sandbox/reference",
    template: str | None = None,
    best_of: int = 32,
    temperature: float = 1.0,
    top_k: int = 40,
    max_tokens: int = 64,
    rows: int = 128,
    reference_point: list[float] | None = None,
    json: bool = False,
) -> None:
    """Sweep weightings over MAVIS and its rivals, and compare them at equal KL.

    Every finished point is kept: the same command goes on from there, and more methods or
    weightings are added to what is there.

    Args:
        objectives: names of installed objectives, as humor,helpfulness
        methods: any of reference, best_of, mavis, mod, soup, morlhf, parm
        weights: grid:STEP, dirichlet:N, NAME=X,NAME=X, or a file with a column for each objective
        kl: nats per answer at which methods are compared
        split: part of the data that prompts are taken from
        prompts: how many prompts
        source: data set of the prompts (default: the objectives' own)
        column: column of the data set that holds them
        seeds: answers to each prompt; with {seed} in --runs, each from models of its own
        out: folder to keep the sweep in
        runs: folder in which `mavis fit` and `mavis tune` keep their runs
        values: folder of an objective's value model, by --values.NAME PATH (RUNS/NAME/value)
        policies: folder of an objective's tuned policy, by --policies.NAME PATH
        tuned: how the policies of mod, soup and morlhf were tuned
        divergence: that they were tuned under, and are mixed under by mod
        alpha: of the alpha divergence
        lora: whether they are adapters
        reference: reference policy
        template: function that writes prompts out, in place of the chat template
        best_of: answers that the best is taken of, at most
        temperature: of the reference policy
        top_k: candidates per token, of every method; 0 is the whole vocabulary
        max_tokens: longest answer
        rows: answers written side by side
        reference_point: of the hypervolume, one reward in standard units for each objective
        json: write the results as one JSON object
    """
    names, chosen = _listed("objectives", objectives), _listed("methods", methods)
    wanted = tuple(find(name) for name in names)
    if len(wanted) < 2:
        raise ValueError("objectives must be two or more, as in --objectives humor,helpfulness.")
    weightings = read_weightings(weights, names)
    if reference_point is not None and len(reference_point) != len(names):
        raise ValueError(
            f"reference_point must have one number for each of {', '.join(names)}, "
            f"got {len(reference_point)}."
        )
    _check_positive(kl=kl, prompts=prompts, seeds=seeds, best_of=best_of, rows=rows)

    from mavis.measure.models import METHODS, Models

    for method in chosen:
        if method not in METHODS:
            raise ValueError(f"methods must be of {', '.join(METHODS)}, got {method!r}.")
    models = Models(runs, tuned, divergence, alpha, lora, values, policies)
    for seed in range(seeds):  # cards only: what is missing is said before anything is loaded
        for method in chosen:
            models.folders(method, names, weightings, seed)

    from mavis.guide.reference import ReferencePolicy, spare_threads
    from mavis.learn.store import write_json
    from mavis.measure.ground import Ground
    from mavis.measure.sweep import Sweep

    policy = ReferencePolicy.load(reference, template)
    spare_threads(policy.model)
    asked = _prompts(wanted, source, split, column, prompts, policy, max_tokens)
    ground = Ground(policy, wanted, asked, seeds, best_of, max_tokens, temperature, top_k, rows)
    sweep = Sweep(Path(out), ground, models, tuple(weightings))
    found = _run(sweep, chosen, kl, reference_point)
    write_json(Path(out) / RESULTS, found)
    if json:
        print(jsonlib.dumps(found))
    else:
        print("\n".join(_table(found)))


def _run(
    sweep: "Sweep", methods: list[str], kl: float, corner: list[float] | None
) -> dict[str, Any]:
    """Make the points that are missing, and work out what they come to."""
    from mavis.measure.models import cost
    from mavis.measure.results import Findings, results
    from mavis.progress import track

    folders = sweep.open(methods)
    reference = sweep.reference()
    best = sweep.best_of() if "best_of" in methods else None
    teams = {m: sweep.team(m, f) for m, f in folders.items() if m not in BASELINES}
    work = ((name, curve) for name, team in teams.items() for curve in sweep.curves(team, kl))
    curves: dict[str, list[list[Point]]] = {name: [] for name in teams}
    total = len(teams) * len(sweep.weightings)
    for name, curve in track(work, "sweep", "weightings", total):
        curves[name].append(curve)
    speeds = {name: sweep.speed(team) for name, team in teams.items()}
    costs = {name: cost(folders[name]) for name in teams}
    findings = Findings(sweep.ground.names, sweep.weightings, kl, reference, best, curves, corner)
    return results(findings, costs, speeds, _again(sweep), _warnings(sweep, costs))


def _again(sweep: "Sweep") -> dict[str, Any]:
    """The settings needed to run a sweep again."""
    ground = sweep.ground
    named = {o.name: repr(o.reward) for o in ground.objectives}
    kept = ground.settings() | {"models": asdict(sweep.models), "reward_models": named}
    return kept | {"prompts": len(ground.prompts), "prompts_digest": ground.fingerprint}


def _warnings(sweep: "Sweep", costs: "Mapping[str, Cost]") -> list[str]:
    """What a sceptical reader should know: methods that have seen the prompts they are asked."""
    asked = {digest(prompt) for prompt in sweep.ground.prompts}
    said = []
    for name, cost in costs.items():
        if cost.seen is None:
            said.append(f"{name}: its models do not say which prompts they were trained on.")
        elif both := asked & cost.seen:
            said.append(
                f"{name}: {len(both)} of the {len(asked)} prompts were among those it was "
                "trained on."
            )
    return said


def _listed(what: str, told: str | list[str]) -> list[str]:
    """A list, from YAML or from words with commas between them."""
    words = told.strip("[] ").split(",") if isinstance(told, str) else told
    found = [str(word).strip() for word in words if str(word).strip()]
    if not found:
        raise ValueError(f"{what} must be given, with commas between them.")
    return list(dict.fromkeys(found))


def _check_positive(**numbers: float) -> None:
    for name, number in numbers.items():
        if not number > 0:
            raise ValueError(f"{name} must be above 0, got {number}.")


def _prompts(
    objectives: "tuple[Objective, ...]",
    source: str | None,
    split: str,
    column: str | None,
    count: int,
    reference: "ReferencePolicy",
    max_tokens: int,
) -> list[Prompt]:
    """The first prompts of the split that leave room for an answer."""
    sources = {objective.prompts for objective in objectives}
    if source is None and len(sources) > 1:
        raise ValueError(
            f"source must be given: the objectives have prompts of their own, "
            f"{' and '.join(sorted(sources))}."
        )
    room = reference.context - max_tokens
    every = read_prompts(source or sources.pop(), split, column)
    kept = [prompt for prompt in every if reference.length(prompt) <= room][:count]
    if len(kept) < 2:
        raise ValueError(
            f"prompts: {len(kept)} of {len(every)} are short enough for max_tokens = {max_tokens} "
            f"in the context of {reference.context} tokens; at least 2 are needed."
        )
    return kept


def _table(found: dict[str, Any]) -> Iterator[str]:
    """The results in words."""
    names = found["objectives"]
    yield f"at {found['kl']:g} nats, {len(found['weightings'])} weightings of {', '.join(names)}"
    if found["reference_point"] is not None:
        corner = ", ".join(f"{x:.2f}" for x in found["reference_point"])
        yield f"hypervolume above ({corner}), in standard units; intervals are 95 % over prompts"
    yield ""
    heads = ("hypervolume", "weighted gain", "training s", "tokens/s")
    yield "method    " + "".join(
        f"{head:>{width}}" for head, width in zip(heads, WIDTHS, strict=True)
    )
    for name, method in found["methods"].items():
        volume, gain = (_cell(method["indicators"][n]) for n in ("hypervolume", "weighted_gain"))
        seconds, speed = method["training_seconds"], method["tokens_per_cpu_second"]
        cost = "?" if seconds is None else f"{seconds:.0f}"
        fast = "" if speed is None else f"{speed:.0f}"
        cells = zip((volume, gain, cost, fast), WIDTHS, strict=True)
        yield f"{name:<10}" + "".join(f"{cell:>{width}}" for cell, width in cells)
    for rival, lead in found["ahead"].items():
        ratio, gain = _cell(lead["hypervolume_ratio"]), _cell(lead["gain_ratio"])
        yield f"mavis / {rival}: hypervolume {ratio}, weighted gain {gain}"
    for warning in found["warnings"]:
        yield f"warning: {warning}"


def _cell(numbers: Mapping[str, float] | None) -> str:
    if numbers is None:
        return "-"
    value, low, high = (numbers[name] for name in ("value", "low", "high"))
    return f"{value:.2f} [{low:.2f}, {high:.2f}]"
