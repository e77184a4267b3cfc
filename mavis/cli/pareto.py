"""`mavis pareto`: sweep weightings and strengths over MAVIS and its rivals, and compare."""

import json as jsonlib
import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from importlib.metadata import version
from inspect import signature
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any, Literal

from mavis.cli.options import at_least, listed, positive
from mavis.comparison.preferences import weightings as read_weightings
from mavis.devices import check_device
from mavis.objective import Objective, available, find
from mavis.prompts import plain
from mavis.reward import described

if TYPE_CHECKING:
    from mavis.comparison.sweep import Sweep
    from mavis.evaluation.samples import ScoredSamples

RESULTS = "results.json"
BASELINES = ("reference", "best_of")  # what π_ref can do alone: nothing trained, no strength
ALONE = (*BASELINES, "mavis")  # by default, of one objective: there is nothing to mix
TOGETHER = (*ALONE, "mod", "soup")
UNTOLD = ("json", "tracking", "device")  # options that change no result


def pareto(
    objectives: str | list[str] = "",
    methods: str | list[str] | None = None,
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
    base: str | None = None,
    lora: bool = False,
    reference: str | None = None,
    template: str | None = None,
    template_args: dict[str, Any] | None = None,
    best_of: int = 32,
    temperature: float = 1.0,
    top_k: int = 40,
    max_tokens: int = 64,
    rows: int = 128,
    device: str | None = None,
    reference_point: list[float] | None = None,
    tracking: str | None = None,
    json: bool = False,
) -> None:
    """Sweep weightings over MAVIS and its rivals, and compare them at equal KL.

    The reference policy, its template and the prompts are those that the models were trained under,
    as their cards say, unless others are given. Every finished point is kept: the same command goes
    on from there, and of more methods or weightings only the new ones are decoded.

    Args:
        objectives: names of installed objectives, as humor,helpfulness; of one alone, the curve of
            its reward against KL is drawn
        methods: any of reference, best_of, mavis, mod, soup, morlhf, parm (default: the first five;
            for one objective, where there is nothing to mix, the first three)
        weights: grid:STEP, dirichlet:N, NAME=X,NAME=X, or a file with a column for each objective
        kl: nats per answer at which methods are compared
        split: part of the data that prompts are taken from
        prompts: how many prompts
        source: data set of the prompts (default: the one whose prompts the models were trained on,
            or the objectives' own)
        column: column of the data set that holds them
        seeds: answers to each prompt; with {seed} in --runs, each from models of its own
        out: folder to keep the sweep in
        runs: folder in which `mavis fit` and `mavis tune` keep their runs
        values: folder of an objective's value model, by --values.NAME PATH (RUNS/NAME/value)
        policies: folder of an objective's tuned policy, by --policies.NAME PATH
        tuned: how the policies of mod, soup and morlhf were tuned
        divergence: that they were tuned under, and are mixed under by mod
        alpha: of the alpha divergence
        base: model that adapters are put on, in place of the one that each of them names
        lora: whether the tuned policies are adapters
        reference: reference policy (default: the one that the models were trained under)
        template: function that writes prompts out, in place of the chat template (default: the one
            that the models were trained under)
        template_args: arguments of the chat template (default: those that the models were trained
            under)
        best_of: answers that the best is taken of, at most
        temperature: of the reference policy
        top_k: candidates per token, of every method; 0 is the whole vocabulary
        max_tokens: longest answer
        rows: answers written side by side
        device: where to run, such as cpu or cuda:1 (default: an accelerator if there is one)
        reference_point: of the hypervolume, one reward in standard units for each objective
        tracking: MLflow tracking URI (default: MLFLOW_TRACKING_URI, or mlflow.db beside OUT)
        json: write the results as one JSON object
    """
    command = _command(locals())
    names, wanted, chosen = _asked(objectives, methods)
    weightings = read_weightings(weights, names)
    _check_corner(reference_point, names)
    positive(kl=kl, temperature=temperature)
    at_least(2, prompts=prompts)  # spreads need two
    at_least(1, seeds=seeds, best_of=best_of, rows=rows, max_tokens=max_tokens)
    check_device(device)

    from mavis.comparison.checkpoints import Models
    from mavis.comparison.origin import origin

    models = Models(runs, tuned, divergence, alpha, lora, values, policies)
    models.check(names)
    models = replace(models, base=base)
    models.check_weights(chosen, weightings)
    each = [(method, names, weightings, seed) for seed in range(seeds) for method in chosen]
    told: dict[str, Any] = {"reference": reference, "prompts": source, "column": column}
    told |= {"template": template, "template_args": template_args}
    start = origin(told, [place for one in each for place in models.places(*one)], wanted)
    models = replace(models, given=start.given(wanted))
    for one in each:  # cards only: what is missing is said before anything is loaded
        models.folders(*one)

    from mavis.comparison.setting import Setting
    from mavis.comparison.sweep import Sweep
    from mavis.decoding.prompt_filter import fitting_prompts
    from mavis.decoding.reference import ReferencePolicy, spare_threads
    from mavis.report.console import table
    from mavis.report.html import REPORT
    from mavis.storage import alone_in, legal

    policy = ReferencePolicy.load(start.reference, start.template, device, start.template_args)
    spare_threads(policy.model)
    data = (start.prompts, split, start.column)
    asked = fitting_prompts(policy, *data, max_tokens, None, prompts)
    if len(asked) < 2:  # spreads need two
        raise ValueError(f"prompts: {split} of {data[0]} has one that fits; at least 2 are needed.")
    ground = Setting(policy, wanted, asked, seeds, best_of, max_tokens, temperature, top_k, rows)
    sweep = Sweep(Path(out), ground, models, tuple(weightings))
    with alone_in(Path(out)):
        found = _run(sweep, chosen, kl, reference_point, command)
        _keep(Path(out), found, tracking)
    if json:
        print(jsonlib.dumps(legal(found), allow_nan=False))
    else:
        print("\n".join([*table(found), f"report: {Path(out) / REPORT}"]))


def _asked(
    objectives: str | list[str], methods: str | list[str] | None
) -> tuple[list[str], tuple[Objective, ...], list[str]]:
    """The objectives, by name and found, and the methods."""
    from mavis.comparison.checkpoints import METHODS

    names = listed("objectives", objectives)
    wanted = tuple(find(name) for name in names)
    if not wanted:
        raise ValueError(
            "objectives must be named, as in --objectives humor,helpfulness; "
            f"installed: {', '.join(available())}."
        )
    if methods is None:
        return names, wanted, list(ALONE if len(names) == 1 else TOGETHER)
    chosen = listed("methods", methods)
    for method in chosen:
        if method not in METHODS:
            raise ValueError(f"methods must be of {', '.join(METHODS)}, got {method!r}.")
    if not chosen:
        raise ValueError(f"methods must be some of {', '.join(METHODS)}, got none.")
    return names, wanted, chosen


def _check_corner(corner: list[float] | None, names: list[str]) -> None:
    if corner is not None and not (
        len(corner) == len(names) and all(math.isfinite(x) for x in corner)
    ):
        raise ValueError(
            f"reference_point must be one finite number for each of {', '.join(names)}, "
            f"got {corner}."
        )


def _run(
    sweep: "Sweep", methods: list[str], kl: float, corner: list[float] | None, command: str
) -> dict[str, Any]:
    """Make the points that are missing, and work out what they come to."""
    from mavis.comparison.analysis import Analysis
    from mavis.comparison.answers import write_answers
    from mavis.comparison.contamination import check
    from mavis.comparison.provenance import cost
    from mavis.comparison.results import results
    from mavis.progress import track

    folders = sweep.open(methods)
    reference = sweep.reference()
    best = sweep.best_of() if "best_of" in methods else None
    ground = sweep.ground
    texts = [plain(prompt) for prompt in ground.prompts]
    findings = Analysis(ground.names, sweep.weightings, kl, reference, best, {}, corner, texts)
    _ = findings.units  # a reward that is constant is refused before any method is swept
    teams = {m: sweep.team(m, f) for m, f in folders.items() if m not in BASELINES}
    work = ((name, curve) for name, team in teams.items() for curve in sweep.curves(team, kl))
    curves: dict[str, list[list[ScoredSamples]]] = {name: [] for name in teams}
    total = len(teams) * len(sweep.weightings)
    for name, curve in track(work, "sweep", "weightings", total):
        curves[name].append(curve)
    speeds = {name: sweep.speed(team) for name, team in teams.items()}
    costs = {name: cost(folders[name]) for name in teams}
    checks, findings = check(sweep, folders, costs), replace(findings, curves=curves)
    settings = {"command": command} | _again(sweep, kl)
    write_answers(sweep.folder, findings)
    return results(findings, costs, speeds, settings, checks)


def _keep(out: Path, found: dict[str, Any], tracking: str | None) -> None:
    """Write the results down: as JSON, as a report with pictures, and in MLflow."""
    from mavis.report.html import write_report
    from mavis.storage import write_json
    from mavis.tracking.sweep_run import log_sweep

    write_json(out / RESULTS, found)
    files = write_report(out, found)
    log_sweep(out, found, [out / RESULTS, *files], tracking)


def _command(given: Mapping[str, Any]) -> str:
    """The command line that asks for the same, defaults left out.

    >>> _command({"objectives": ["humor", "kind"], "seeds": 1, "values": {"kind": "a b"}})
    "mavis pareto --objectives humor,kind --values.kind 'a b'"
    """
    words = ["mavis pareto"]
    for name, option in signature(pareto).parameters.items():
        value = given.get(name, option.default)
        if value == option.default or name in UNTOLD:
            continue
        if isinstance(value, dict):
            words += [f"--{name}.{key} {quote(str(place))}" for key, place in value.items()]
        elif value is True:
            words.append(f"--{name}")
        elif name == "reference_point":
            words.append(f"--{name} {quote(jsonlib.dumps(value))}")
        else:
            told = ",".join(map(str, value)) if isinstance(value, list) else str(value)
            words.append(f"--{name} {quote(told)}")
    return " ".join(words)


def _again(sweep: "Sweep", kl: float) -> dict[str, Any]:
    """The settings needed to run a sweep again."""
    ground = sweep.ground
    named = {o.name: described(o.reward) for o in ground.objectives}
    kept = ground.settings() | {"models": asdict(sweep.models), "reward_models": named}
    kept |= {"prompts": len(ground.prompts), "prompts_digest": ground.fingerprint}
    return kept | {"kl": kl, "mavis": version("mavis")}
