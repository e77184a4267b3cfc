"""`results.json` holds what its types say, and nothing else."""

from typing import get_type_hints

import pytest

from mavis.comparison import result_format
from mavis.comparison.contamination import Checks
from mavis.comparison.results import results


@pytest.fixture
def found(analysis, monkeypatch):
    monkeypatch.setattr("mavis.comparison.analysis.RESAMPLES", 40)
    return results(analysis(), {}, {}, {}, Checks({}, {}, []))


def test_every_entry_has_a_type_and_every_type_an_entry(found):
    method, sample = found["methods"]["mavis"], found["samples"][0]
    for kind, entry in {
        result_format.Results: found,
        result_format.MethodResults: method,
        result_format.Estimate: method["rewards"][0][0],
        result_format.Lead: found["ahead"]["mod"],
        result_format.Pair: found["paired"][0],
        result_format.Sample: sample,
        result_format.Answer: sample["answers"]["mavis"],
    }.items():
        assert set(entry) == set(get_type_hints(kind)), kind
    for point in (found["reference"], method["points"][0][0]):
        assert {"strength", "kl", "rewards", "length"} <= set(point)


def test_a_row_for_every_weighting(found):
    many = len(found["weightings"])
    for method in found["methods"].values():
        assert len(method["rewards"]) == len(method["strengths"]) == len(method["points"]) == many
        for curve in method["points"]:
            assert [p["strength"] for p in curve] == sorted(p["strength"] for p in curve)
