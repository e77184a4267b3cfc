"""The answers of every method near the KL compared at, as JSON lines: to be read, or judged.

`mavis judge` compares any two of the files, and says how far their KLs are from each other.
"""

import json
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from mavis.comparison.analysis import Analysis
from mavis.comparison.preferences import label
from mavis.evaluation.samples import ScoredSamples
from mavis.storage import legal, write_whole

ANSWERS = "answers"  # the folder of all


def write_answers(folder: Path, findings: Analysis) -> None:
    """Write the points that were decoded nearest to the KL, a file for each weighting.

    Args:
        folder: of the sweep.
        findings: its points.
    """
    shutil.rmtree(folder / ANSWERS, ignore_errors=True)  # of an earlier sweep, maybe of others
    methods = ["reference", *findings.curves, *(["best_of"] if findings.best_of else [])]
    for method in methods:
        for point in findings.nearest(method):
            name = f"{label(point.weights, findings.objectives)}.jsonl" if point.weights else None
            file = folder / ANSWERS / method / (name or "all.jsonl")
            text = "".join(f"{line}\n" for line in _lines(findings, point))
            write_whole(file, partial(Path.write_text, data=text, encoding="utf-8"))


def _lines(findings: Analysis, point: ScoredSamples) -> Iterator[str]:
    weights = dict(zip(findings.objectives, point.weights, strict=False))
    for at, (prompt, texts) in enumerate(zip(findings.prompts, point.responses, strict=True)):
        for seed, text in enumerate(texts):
            rewards = dict(zip(findings.objectives, point.rewards[at, seed].tolist(), strict=True))
            row = {
                "prompt": prompt,
                "text": text,
                "weights": weights,
                "strength": point.strength,
                "seed": seed,
                "kl": float(point.kl[at, seed]),
                "rewards": rewards,
            }
            yield json.dumps(legal(row), ensure_ascii=False)
