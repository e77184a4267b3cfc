"""Write the answers of every method at the point nearest to the common KL, as JSON lines.

`mavis judge` compares any two of these files and reports the difference between their KLs.
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

ANSWERS = "answers"  # the subfolder of a sweep


def write_answers(folder: Path, analysis: Analysis) -> None:
    """Write one file per method and weighting, with the point nearest to the common KL."""
    # An earlier sweep may have had other methods or weightings.
    shutil.rmtree(folder / ANSWERS, ignore_errors=True)
    methods = ["reference", *analysis.curves, *(["best_of"] if analysis.best_of else [])]
    for method in methods:
        for point in analysis.nearest(method):
            name = f"{label(point.weights, analysis.objectives)}.jsonl" if point.weights else None
            file = folder / ANSWERS / method / (name or "all.jsonl")
            text = "".join(f"{line}\n" for line in _lines(analysis, point))
            write_whole(file, partial(Path.write_text, data=text, encoding="utf-8"))


def _lines(analysis: Analysis, point: ScoredSamples) -> Iterator[str]:
    weights = dict(zip(analysis.objectives, point.weights, strict=False))
    for at, (prompt, texts) in enumerate(zip(analysis.prompts, point.responses, strict=True)):
        for seed, text in enumerate(texts):
            rewards = dict(zip(analysis.objectives, point.rewards[at, seed].tolist(), strict=True))
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
