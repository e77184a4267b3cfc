"""`mavis pareto`: sweep weightings and strengths over MAVIS and the baselines, and compare."""

import json as jsonlib
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mavis.comparison.config import UNTRAINED, ParetoConfig
from mavis.comparison.preferences import Weighting
from mavis.comparison.preferences import weightings as read_weightings
from mavis.devices import check_device
from mavis.objective import Objective, available, find
from mavis.prompts import plain
from mavis.reward import described

if TYPE_CHECKING:
    from mavis.comparison.result_format import Results
    from mavis.comparison.sweep import Sweep
    from mavis.evaluation.samples import ScoredSamples

RESULTS = "results.json"


def pareto(config: ParetoConfig) -> None:
    """Compare MAVIS with the baselines at equal KL, over a sweep of weights.

    By default, --reference, --template, --template_args and --prompts are those that the compared
    models were trained with, as recorded in their cards. With a single objective, the report shows
    its reward as a function of KL. Every finished point is saved: the same command resumes from
    there, and a command with more methods or weights decodes only the new points.
    """
    objectives = tuple(find(name) for name in config.names)
    if not objectives:
        raise ValueError(
            "objectives must be named, as in --objectives humor,helpfulness; "
            f"installed: {', '.join(available())}."
        )
    weightings = read_weightings(config.weights, config.names)
    check_device(config.device)

    from mavis.report.console import table
    from mavis.report.html import REPORT, write_report
    from mavis.storage import alone_in, legal, write_json
    from mavis.tracking.sweep_run import log_sweep

    sweep, out = _sweep(config, objectives, weightings), Path(config.out)
    with alone_in(out):
        results = _run(sweep)
        write_json(out / RESULTS, results)
        files = write_report(out, results)
        log_sweep(out, results, [out / RESULTS, *files], config.tracking)
    if config.json:
        print(jsonlib.dumps(legal(results), allow_nan=False))
    else:
        print("\n".join([*table(results), f"report: {out / REPORT}"]))


def _sweep(
    config: ParetoConfig, objectives: tuple[Objective, ...], weightings: list[Weighting]
) -> "Sweep":
    """Find the models and their training settings, and load the reference policy."""
    from mavis.comparison.checkpoints import Models
    from mavis.comparison.provenance import origin
    from mavis.comparison.setting import Setting
    from mavis.comparison.sweep import Sweep
    from mavis.decoding.prompt_filter import fitting_prompts
    from mavis.decoding.reference import ReferencePolicy, spare_threads

    models = Models.of(config)
    models.check(config.names)
    models.check_weights(config.chosen, weightings)
    each = [(m, config.names, weightings, s) for s in range(config.seeds) for m in config.chosen]
    places = [place for one in each for place in models.expected(*one)[0].values()]
    start = origin(config, places, objectives)
    models = replace(models, given=start.given(objectives))
    for one in each:  # reads cards only, so that missing models are reported before any is loaded
        models.folders(*one)
    policy = ReferencePolicy.load(
        start.reference, start.template, config.device, start.template_args
    )
    spare_threads(policy.model)
    data = (start.prompts, config.split, start.column)
    prompts = fitting_prompts(policy, *data, config.max_tokens, None, config.num_prompts)
    if len(prompts) < 2:  # a standard deviation needs two
        raise ValueError(
            f"only 1 prompt of split {config.split!r} of {start.prompts} fits into the context "
            "window; at least 2 are needed."
        )
    setting = Setting(policy, objectives, prompts, config)
    return Sweep(Path(config.out), setting, models, tuple(weightings))


def _run(sweep: "Sweep") -> "Results":
    """Decode the missing points, and compute the results."""
    from mavis.comparison.analysis import Analysis
    from mavis.comparison.answers import write_answers
    from mavis.comparison.contamination import check
    from mavis.comparison.provenance import cost
    from mavis.comparison.results import results
    from mavis.progress import track

    setting, config = sweep.setting, sweep.setting.config
    folders = sweep.open(config.chosen)
    analysis = Analysis(
        objectives=setting.names,
        weightings=sweep.weightings,
        kl=config.kl,
        reference=sweep.reference(),
        best_of=sweep.best_of() if "best_of" in config.chosen else None,
        curves={},
        corner=config.reference_point,
        prompts=[plain(prompt) for prompt in setting.prompts],
    )
    _ = analysis.units  # a reward that is constant is refused before any method is swept
    trained = {m: sweep.load(m, f) for m, f in folders.items() if m not in UNTRAINED}
    work = ((m, c) for m, models in trained.items() for c in sweep.curves(models, config.kl))
    curves: dict[str, list[list[ScoredSamples]]] = {method: [] for method in trained}
    total = len(trained) * len(sweep.weightings)
    for method, curve in track(work, "sweep", "weightings", total):
        curves[method].append(curve)
    speeds = {method: sweep.speed(models) for method, models in trained.items()}
    costs = {method: cost(folders[method]) for method in trained}
    checks, analysis = check(sweep, folders, costs), replace(analysis, curves=curves)
    write_answers(sweep.folder, analysis)
    return results(analysis, costs, speeds, _settings(sweep), checks)


def _settings(sweep: "Sweep") -> dict[str, Any]:
    """Return the command and the settings that are needed to run a sweep again."""
    setting = sweep.setting
    return {
        "command": setting.config.command,
        **setting.settings(),
        "models": asdict(sweep.models),
        "reward_models": {o.name: described(o.reward) for o in setting.objectives},
        "prompts": len(setting.prompts),
        "prompts_digest": setting.fingerprint,
        "kl": setting.config.kl,
        "mavis": version("mavis"),
    }
