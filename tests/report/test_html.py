"""The report says what was found, needs no other file, and takes no text for more than text."""

import json
import math
import re
from base64 import b64decode
from html.parser import HTMLParser
from itertools import combinations, pairwise

import numpy as np
import pytest

from mavis.comparison.contamination import Checks
from mavis.comparison.provenance import Cost
from mavis.comparison.results import results
from mavis.evaluation.kl_matching import best_of_n
from mavis.report.console import table
from mavis.report.html import page, write_report
from mavis.report.text import headline, leads
from mavis.storage import legal

HOSTILE = '<script>alert("x")</script><img src=x onerror=alert(1)> {{ 7*7 }} https://evil.example/'
SETTINGS = {
    "command": "mavis pareto --objectives humor,helpfulness",
    "reference": "sandbox/reference",
    "prompts": 24,
    "seeds": 1,
    "top_k": 40,
    "models": {"runs": "runs", "alpha": None},
    "reward_models": {"humor": "ClassifierReward('sandbox/humor')"},
}
VOID = {"meta", "img", "br"}

NOTHING, ONE_WARNING = Checks({}, {}, []), Checks({}, {}, ["one"])


class Page(HTMLParser):
    """Tags with their attributes, the text of each kind of tag, and whether tags nest."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.texts, self.rows = [], [], {}, []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
            self.texts.setdefault(tag, []).append("")
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        for tag in set(self.open):
            self.texts[tag][-1] += data
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data

    def having(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]

    def headings(self):
        return [name for name, _ in self.tags if re.fullmatch("h[1-6]", name)]

    @property
    def text(self):
        return " ".join(self.texts["body"][0].split())


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr("mavis.comparison.analysis.RESAMPLES", 40)


@pytest.fixture
def found(analysis):
    costs = {"mavis": Cost(235.0, 1101314, frozenset()), "mod": Cost(None, 10, None)}
    warnings = ["mod: its models do not say which prompts they were trained on."]
    seen, judged = {"mavis": 0, "mod": None}, {"mavis": [], "mod": ["humor"]}
    return results(analysis(), costs, {"mavis": 1429.0}, SETTINGS, Checks(seen, judged, warnings))


def parsed(found):
    """The report, in a moment: with anything in place of its pictures."""
    pairs = combinations(range(len(found["objectives"])), 2)
    names = [*(f"front {x} {y}" for x, y in pairs), "curves", "bars"]
    return Page(page(found, dict.fromkeys(names, b"png")))


def test_the_report_is_one_file(found, tmp_path):
    written = write_report(tmp_path, found)
    names = ["report.html", "front_humor_helpfulness.png", "curves.png", "bars.png"]
    assert [file.name for file in written] == names
    read = Page(written[0].read_text(encoding="utf-8"))
    assert not read.having("script")
    assert not read.having("link")
    images = read.having("img")
    prefix = "data:image/png;base64,"
    assert [b64decode(i["src"].removeprefix(prefix)) for i in images] == [
        file.read_bytes() for file in written[1:]
    ]
    for _, attrs in read.tags:
        assert not any(name.startswith("on") for name in attrs)
        assert all("//" not in (attrs.get(name) or "") for name in ("href", "action"))
        assert attrs.get("src", prefix).startswith(prefix)
    assert not re.search(r"https?://|@import|url\(", written[0].read_text(encoding="utf-8"))


def test_pictures_are_told_to_those_who_do_not_see_them(found):
    front, curves, bars = (image["alt"] for image in parsed(found).having("img"))
    ends = [found["methods"]["mavis"]["rewards"][w][0]["value"] for w in (0, -1)]
    for end in ends:
        assert f"({end:.2f}".replace("-", "−") in front
    assert "MAVIS" in curves
    assert "λ = 0.5 : 0.5" in curves
    assert f"MOD {found['methods']['mod']['indicators']['hypervolume']['value']:.2f}" in bars


def test_headings_go_down_by_one(found):
    levels = [int(name[1]) for name in parsed(found).headings()]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b <= a + 1 for a, b in pairwise(levels))


def test_the_tables_say_what_the_results_say(found):
    read = parsed(found)
    rows = [[" ".join(cell.split()) for cell in row] for row in read.rows]
    cell = found["methods"]["mavis"]["indicators"]["hypervolume"]
    said = f"{cell['value']:.2f}[{cell['low']:.2f}, {cell['high']:.2f}]"
    assert any(row[:2] == ["MAVIS", said] and len(row) == 8 for row in rows)
    assert ["MAVIS", "235", "1,101,314", "1,429"] in rows
    assert ["MOD", "–", "10", "–"] in rows
    lead = found["ahead"]["mod"]["hypervolume_ratio"]
    said = f"{lead['value']:.2f}[{lead['low']:.2f}, {lead['high']:.2f}]"
    assert any(row[:2] == ["MOD", said] and len(row) == 4 for row in rows)
    said = found["methods"]["best_of"]["answers"]
    assert any(row[:2] == ["best of N", f"{said['kl']:.2f}"] for row in rows)
    assert ["reference", "sandbox/reference"] in rows
    corner = ", ".join(f"{x:.2f}" for x in found["reference_point"]).replace("-", "−")
    assert f"above ({corner})" in read.text
    for text in (SETTINGS["command"], SETTINGS["reward_models"]["humor"]):
        assert text in read.text
    assert "0 of the 24 prompts, by hash, were among those it was trained on" in read.text
    assert "Warnings mod: its models do not say" in read.text
    assert "for each one that it keeps" in read.text


def test_seeds_stand_side_by_side(found):
    assert "Seed by seed" not in parsed(found).text
    lucky = {"mavis": {"hypervolume": 6.0, "weighted_gain": 1.5},
             "mod": {"hypervolume": 5.0, "weighted_gain": 1.2}}  # fmt: skip
    shown = parsed(found | {"by_seed": [lucky, {"mavis": lucky["mavis"]}]})
    assert "Seed by seed" in shown.text
    assert ["MAVIS", "6.00", "6.00", "1.50", "1.50"] in shown.rows
    assert ["MOD", "5.00", "–", "1.20", "–"] in shown.rows
    assert ["MAVIS / MOD", "1.20", "–", "1.25", "–"] in shown.rows
    assert ["best of N", "–", "–", "–", "–"] not in shown.rows
    said = list(table(found | {"by_seed": [lucky, {"mavis": lucky["mavis"]}, lucky]}))
    assert "    seed by seed: hypervolume 1.20, 1.20; weighted gain 1.25, 1.25" in said
    assert not any("best_of" in a and "seed by seed" in b for a, b in pairwise(said))


def test_hostile_text_stays_text(analysis):
    given = analysis(objectives=("humor", HOSTILE))
    given.prompts[0] = HOSTILE
    for points in given.curves["mavis"]:
        for point in points:
            point.responses[0][0] = HOSTILE
    settings = {"command": HOSTILE, "prompts": HOSTILE, "x": {HOSTILE: HOSTILE}}
    settings["reward_models"] = {HOSTILE: HOSTILE}
    found = results(given, {}, {}, settings, Checks({HOSTILE: 1}, {HOSTILE: [HOSTILE]}, [HOSTILE]))
    read = parsed(found)
    assert not read.having("script")
    assert len(read.having("img")) == 3
    assert read.texts["blockquote"].count(HOSTILE) == 3
    assert sum(row[1] == HOSTILE for row in read.rows if len(row) == 5) == 3
    assert read.text.count('<script>alert("x")</script>') > 8
    assert "{{ 7*7 }}" in read.text


def test_samples_are_the_first_answers_nearest_to_the_kl(found, analysis):
    given = analysis()
    samples = found["samples"]
    assert len(samples) == 12
    assert [s["number"] for s in samples[:4]] == [1, 7, 13, 19]
    assert [s["weights"] for s in samples[::4]] == [[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]]
    last = samples[-1]
    assert last["prompt"] == "Question 18?"
    assert last["answers"]["reference"]["text"] == "reference says 18.0"
    assert last["answers"]["mavis"]["kl"] in (0.95, 2.95)
    want = given.standard(given.nearest("mavis")[2])[18, 0]
    np.testing.assert_allclose(last["answers"]["mavis"]["rewards"], want)


def test_best_of_n_shows_the_best_of_the_n_that_its_kl_needs(analysis):
    given = analysis()
    rewards = given.standard(given.best_of)
    for weights, point in zip(given.weightings, given.nearest("best_of"), strict=True):
        n = int(point.strength)
        reach = [stand.kl.mean() for stand in best_of_n(rewards, weights)]
        assert abs(reach[n - 1] - 2.0) == min(abs(kl - 2.0) for kl in reach)
        np.testing.assert_allclose(point.kl, reach[n - 1])
        for p in range(24):
            sums = [float(np.dot(r, weights)) for r in rewards[p, :n]]
            best = sums.index(max(sums))
            assert point.responses[p] == [f"best_of says {p}.{best}"]
            assert point.tokens[p] == [given.best_of.tokens[p][best]]
            np.testing.assert_array_equal(point.rewards[p, 0], given.best_of.rewards[p, best])


def test_an_answer_whose_reward_abstained_is_never_the_best(analysis):
    given = analysis(("best_of",))
    given.best_of.rewards[:, 1:, 0] = np.nan
    for point in given.nearest("best_of"):
        assert [row[0] for row in point.responses] == [f"best_of says {p}.0" for p in range(24)]


def lead(low, high):
    ratio = {"value": (low + high) / 2, "low": low, "high": high}
    return dict.fromkeys(("hypervolume_ratio", "gain_ratio", "gain_difference"), ratio)


def test_the_headline_says_who_is_ahead(found):
    found["ahead"] = {"best_of": lead(0.8, 0.9), "mod": lead(1.1, 1.3)}
    assert headline(found) == "By hypervolume, MAVIS is ahead of MOD; behind best of N."
    assert list(leads(found))[1] == (
        "MAVIS and MOD: 1.20 [1.10, 1.30] times its hypervolume; weighted gain +1.20 [1.10, 1.30] "
        "standard units."
    )
    found["ahead"] = {"best_of": lead(0.8, 1.2), "mod": lead(0.7, 1.3)}
    said = "By hypervolume, MAVIS is no different, as far as can be seen, from best of N and MOD."
    assert headline(found) == said
    found["ahead"] = {"mod": lead(float("nan"), float("nan"))}
    assert headline(found) == "By hypervolume, MAVIS is not comparable with MOD."


@pytest.mark.parametrize(
    ("methods", "reach", "said"),
    [
        ((), (1.0, 3.0), "none can be compared"),
        (("mavis",), (1.0, 3.0), "there is no other method to compare it with"),
        (("mod", "soup"), (1.0, 3.0), "The largest hypervolume is that of MOD"),
        (("mavis", "mod"), (0.5, 1.0), "No method reaches 2 nats at every weighting"),
        (("best_of", "mavis"), (0.5, 1.0), "best of N has a hypervolume of"),
    ],
)
def test_a_report_of_little_is_a_report(analysis, methods, reach, said):
    found = results(analysis(methods, reach=reach), {}, {}, SETTINGS, NOTHING)
    assert said in parsed(found).text
    assert list(table(found))


def test_a_report_can_be_made_from_the_file_alone(found):
    found["methods"]["mod"]["indicators"]["maximin"]["low"] = float("nan")
    again = json.loads(json.dumps(legal(found)))
    assert parsed(again).tags == parsed(found).tags
    assert parsed(again).text == parsed(found).text
    for name in ("samples", "overlap", "judged", "paired"):  # of an older version
        del again[name]
    assert "Samples" not in parsed(again).text


def test_three_objectives(analysis):
    found = results(
        analysis(("mavis",), ("humor", "helpfulness", "kind")),
        {},
        {},
        SETTINGS,
        Checks({}, {}, ["one"]),
    )
    read = parsed(found)
    assert len(read.having("img")) == 5
    assert "Trade-offs of humor, helpfulness and kind" in read.text


def test_every_method_is_held_against_every_other(analysis):
    found = results(analysis(("mavis", "mod", "soup")), {}, {}, SETTINGS, NOTHING)
    pairs = {tuple(pair["methods"]): pair["differences"] for pair in found["paired"]}
    assert set(pairs) == {("mavis", "mod"), ("mavis", "soup"), ("mod", "soup")}
    known = {m: found["methods"][m]["indicators"] for m in ("mod", "soup")}
    for name, cell in pairs["mod", "soup"].items():
        want = known["mod"][name]["value"] - known["soup"][name]["value"]
        assert cell["value"] == pytest.approx(want)
        assert cell["low"] <= cell["high"]
    read = parsed(found)
    assert any(row[0] == "MOD − rewarded soup" for row in read.rows)


def test_a_ratio_to_a_gain_that_may_be_nothing_is_not_given(analysis):
    given = analysis(("mavis", "mod"))
    for points in given.curves["mod"]:
        for one in points:
            one.rewards[:] = given.reference.rewards  # no gain at all
    found = results(given, {}, {}, SETTINGS, NOTHING)
    assert math.isnan(found["ahead"]["mod"]["gain_ratio"]["value"])
    assert found["ahead"]["mod"]["gain_difference"]["value"] > 0
    cell = found["ahead"]["mod"]["gain_difference"]
    told = f"{cell['value']:.2f} [{cell['low']:.2f}, {cell['high']:.2f}]"
    assert f", weighted gain has no ratio, difference {told}" in "\n".join(table(found))
    row = next(row for row in parsed(found).rows if row[0] == "MOD" and "–" in row)
    assert row[2] == "–"  # and no interval


def test_a_loss_has_no_ratio_to_a_gain(analysis):
    given = analysis(("mavis", "mod"))
    for points in given.curves["mavis"]:
        for one in points:
            one.rewards[:] = given.reference.rewards - 1.0
    found = results(given, {}, {}, SETTINGS, NOTHING)
    assert found["methods"]["mod"]["indicators"]["weighted_gain"]["low"] > 0
    assert math.isnan(found["ahead"]["mod"]["gain_ratio"]["value"])
    seed = {"mavis": {"weighted_gain": -1.0}, "mod": {"weighted_gain": 0.5}}
    said = "\n".join(table(found | {"by_seed": [seed]}))
    assert "weighted gain has no ratio, difference -" in said
    assert "weighted gain -\n" in f"{said}\n"  # seed by seed
