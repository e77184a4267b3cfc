"""The sentences of a report say what the numbers say."""

import pytest

from mavis.report.text import between, decimal, headline, leads, title, together


def cell(value, low, high):
    return {"value": value, "low": low, "high": high}


def found(ahead=None, methods=("mavis", "mod"), undefined=None):
    one = {
        "indicators": {"hypervolume": cell(2.0, 1.5, 2.5), "weighted_gain": cell(1.0, 0.5, 1.5)},
        "rewards": [[cell(1.0, 0.5, 1.5)] * 2],
    }
    return {
        "kl": 2.0,
        "objectives": ["humor", "kind"],
        "weightings": [[0.5, 0.5]],
        "methods": dict.fromkeys(methods, one),
        "ahead": ahead or {},
        "hypervolume_undefined": undefined,
    }


def lead(ratio, difference=(1.0, 0.5, 1.5)):
    return {"hypervolume_ratio": ratio and cell(*ratio), "gain_difference": cell(*difference)}


@pytest.mark.parametrize(
    ("ratio", "difference", "said"),
    [
        ((1.2, 1.1, 1.3), (0, 0, 0), "ahead of MOD"),
        ((0.8, 0.7, 0.9), (0, 0, 0), "behind MOD"),
        ((1.0, 0.9, 1.1), (0, 0, 0), "no different, as far as can be seen, from MOD"),
        ((1.2, None, 1.3), (0, 0, 0), "not comparable with MOD"),
        (None, (1.0, 0.5, 1.5), "ahead of MOD"),
        (None, (-1.0, -1.5, -0.5), "behind MOD"),
        (None, (0.0, -0.5, 0.5), "no different, as far as can be seen, from MOD"),
    ],
)
def test_who_is_ahead(ratio, difference, said):
    assert headline(found({"mod": lead(ratio, difference)})) == f"By hypervolume, MAVIS is {said}."


def test_baselines_of_one_verdict_are_named_together():
    ahead = {m: lead((1.2, 1.1, 1.3)) for m in ("parm", "mod", "soup")}
    ahead["soup"] = lead((0.5, 0.4, 0.6))
    said = headline(found(ahead, ("mavis", *ahead)))
    assert said == "By hypervolume, MAVIS is ahead of MOD and PARM; behind rewarded soup."


def test_without_a_baseline_the_best_is_named():
    assert headline(found(methods=["mod"])) == (
        "MOD has a hypervolume of 2.00 [1.50, 2.50]; there is no other method to compare it with."
    )
    assert headline(found()) == "The largest hypervolume is that of MAVIS, 2.00 [1.50, 2.50]."
    nobody = found() | {"methods": {"mod": {"indicators": {"weighted_gain": None}}}}
    assert headline(nobody) == "No method reaches 2 nats at every weighting: none can be compared."


def test_how_far_it_is_ahead():
    lines = list(leads(found({"mod": lead((1.2, 1.1, 1.3), (-0.25, -0.5, 0.0))})))
    assert lines == [
        "MAVIS and MOD: 1.20 [1.10, 1.30] times its hypervolume; weighted gain "
        "−0.25 [−0.50, 0.00] standard units."
    ]


def test_numbers_and_lists():
    assert [decimal(1234.5, 0), decimal(0.5, sign=True)] == ["1,234", "+0.50"]
    assert between(cell(0, float("-inf"), None)) == "[−∞, –]"
    assert [together(["a"]), together(["a", "b"])] == ["a", "a and b"]
    assert title(found()) == "Trade-offs of humor and kind at 2\N{NO-BREAK SPACE}nats"
