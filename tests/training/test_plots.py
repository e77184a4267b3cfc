"""The pictures hold what they were given, and odd data makes a plain picture, not an error."""

import math
import struct
from pathlib import Path

import numpy as np
import pytest
from matplotlib.text import Text

from mavis.plot_style import save
from mavis.training import plots

NAN = float("nan")
ROUNDS = [
    {"round": 0, "kl": 1.3, "reward": 1.5, "reward_se": 0.05, "reward_reference": -0.1},
    {"round": 1, "kl": 2.3, "reward": 2.0, "reward_se": None, "reward_reference": 0.1},
]
BEST = [(1, 0.0, 0.0), (4, 0.64, 1.0), (2, 0.19, 0.6), (8, 1.2, NAN)]
DEPTH, VALUES = np.arange(480) % 48, np.linspace(-2, 2, 480)


def png_size(path: Path) -> tuple[int, int]:
    content = path.read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", content[16:24])


def names(figure) -> set[str]:
    return {handle.get_text() for legend in figure.legends for handle in legend.get_texts()}


def test_pictures_are_saved_as_wide_as_a_page(tmp_path):
    folder = tmp_path / "plots"
    saved = [
        save(folder / "reward_kl.png", plots.reward_kl_figure(ROUNDS, BEST, "humor")),
        save(
            folder / "rewards.png", plots.reward_histograms_figure([0.0, 1.0], [2.0, 3.0], "humor")
        ),
        save(folder / "calibration.png", plots.calibration_figure(DEPTH, VALUES, VALUES, "humor")),
    ]
    assert saved == [folder / f"{name}.png" for name in ("reward_kl", "rewards", "calibration")]
    assert [png_size(path) for path in saved] == [(1080, 690), (1080, 600), (1080, 840)]


def test_reward_against_kl_holds_every_round():
    figure = plots.reward_kl_figure(ROUNDS, BEST, "humor")
    (axes,) = figure.axes
    assert axes.get_title(loc="left") == "humor: reward against KL, by round"
    assert "nats" in axes.get_xlabel()
    assert "standard units" in axes.get_ylabel()
    assert names(figure) == {"best of N", "reference", "guided, after each round"}
    best = axes.lines[0].get_xydata()
    reference, guided = (bars.lines[0].get_xydata() for bars in axes.containers)
    assert best.tolist() == [[0.0, 0.0], [0.19, 0.6], [0.64, 1.0]], "sorted by N, finite only"
    assert reference.tolist() == [[0.0, 0.1]], "the reference as it was last measured"
    assert guided.tolist() == [[1.3, 1.5], [2.3, 2.0]]
    assert {text.get_text() for text in axes.texts} == {"N = 2", "N = 4", "round 0", "round 1"}


def test_histograms_are_shares_with_means():
    figure = plots.reward_histograms_figure([0.0, 0.5, 1.0, NAN], [2.0, 3.0], "humor")
    (axes,) = figure.axes
    assert names(figure) == {
        "reference (n = 3)",
        "its mean, 0.50",
        "guided (n = 2)",
        "its mean, 2.50",
    }
    assert axes.get_xlabel() == "reward (standard units)"
    assert [line.get_xdata()[0] for line in axes.lines] == [0.5, 2.5]
    heights = [patch.get_xy()[:, 1] for patch in axes.patches]
    assert [round(float(h.max()), 6) for h in heights] == [round(1 / 3, 6), 0.5]


def test_calibration_has_a_panel_for_each_stretch_of_the_response():
    figure = plots.calibration_figure(DEPTH, VALUES, VALUES + 0.5, "humor")
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert [title.split(":")[0] for title in titles] == [
        f"tokens {first} to {first + 11}" for first in (0, 12, 24, 36)
    ]
    means = figure.axes[0].containers[0].lines[0].get_xydata()
    assert len(means) == plots.BINS
    np.testing.assert_allclose(means[:, 1], means[:, 0] + 0.5)
    assert figure.axes[2].get_xlabel() == "predicted value (standard units)"
    assert figure.axes[2].get_ylabel() == "target (standard units)"


def test_the_r2_of_a_panel_is_that_of_its_points():
    target = np.array([0.0, 1.0, 2.0, 3.0])
    figure = plots.calibration_figure([7] * 4, [0.0, 1.0, 2.0, 2.0], target, "humor")
    assert figure.axes[0].get_title(loc="left") == "token 7: R² = 0.80 (n = 4)"
    figure = plots.calibration_figure([7] * 4, [1.5 + 0.05] * 4, target, "humor")
    assert figure.axes[0].get_title(loc="left") == "token 7: R² = 0.00 (n = 4)"  # not -0.00


@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_depths_make_few_panels(count, tmp_path):
    depth = np.arange(90) % count
    figure = plots.calibration_figure(depth, np.ones(90), np.ones(90), "humor")
    assert sum(axes.axison for axes in figure.axes) == count
    assert figure.axes[0].get_title(loc="left") == f"token 0 (n = {90 // count})"
    save(tmp_path / "few.png", figure)


@pytest.mark.parametrize(
    "rounds",
    [[], [{"round": 0}], [{"round": 0, "kl": NAN, "reward": None}], ROUNDS[:1] * 2],
)
@pytest.mark.parametrize("best", [[], [(1, 0.0, 0.0)], [(2, NAN, NAN)]])
def test_odd_rounds_make_a_picture(rounds, best, tmp_path):
    assert (
        png_size(save(tmp_path / "a.png", plots.reward_kl_figure(rounds, best, "humor")))[0] == 1080
    )


@pytest.mark.parametrize("before", [[], [1.0], [1.0] * 9, [NAN, None, float("inf")], [-1e30, 1e30]])
@pytest.mark.parametrize("after", [[], [1.0, 1.0]])
def test_odd_rewards_make_a_picture(before, after, tmp_path):
    path = save(tmp_path / "a.png", plots.reward_histograms_figure(before, after, "humor"))
    assert png_size(path)[0] == 1080


@pytest.mark.parametrize(
    "columns",
    [
        ([], [], []),
        ([0], [1.0], [2.0]),
        ([0, 1], [NAN, NAN], [1.0, 1.0]),
        ([3] * 50, [1.0] * 50, [1.0] * 50),
        ([0, 900], [-1e20, 1e20], [1.0, -1.0]),
    ],
)
def test_odd_values_make_a_picture(columns, tmp_path):
    assert (
        png_size(save(tmp_path / "a.png", plots.calibration_figure(*columns, "humor")))[0] == 1080
    )


CLOSE = {
    "one": [(1.7, 1.55)],
    "three": [(1.7, 1.55), (1.63, 1.6), (1.66, 1.62)],
    "eight": [(1.62 + 0.01 * n, 1.58 + 0.006 * n * (-1) ** n) for n in range(8)],
    "the same": [(1.7, 1.5)] * 4,
    "apart": [(0.5, 0.6), (1.7, 1.5), (1.71, 1.5), (2.4, 1.7)],
    "not finite": [(1.7, 1.5), (NAN, 1.5), (1.71, 1.5)],
}


@pytest.mark.parametrize("lead", [0, -0.6], ids=["ahead", "behind"])
@pytest.mark.parametrize("case", CLOSE)
def test_names_of_rounds_do_not_cover_each_other(case, lead):
    curve = [(n, math.log(n), 0.7 * math.log(n)) for n in range(1, 17)]
    rounds = [
        {"round": n, "kl": kl, "reward": reward + lead, "reward_se": 0.05, "reward_reference": 0}
        for n, (kl, reward) in enumerate(CLOSE[case])
    ]
    figure = plots.reward_kl_figure(rounds, curve, "humor")
    figure.draw_without_rendering()
    texts = [text for text in figure.axes[0].texts if text.get_text().startswith("round")]
    known = [n for n, (kl, _) in enumerate(CLOSE[case]) if math.isfinite(kl)]
    assert sorted(text.get_text() for text in texts) == [f"round {n}" for n in known]
    boxes = [Text.get_window_extent(text) for text in texts]
    frame = figure.axes[0].get_window_extent()
    for at, box in enumerate(boxes):
        assert frame.y0 <= box.y0
        assert box.y1 <= frame.y1
        assert not any(box.overlaps(other) for other in boxes[:at])


def test_a_mean_of_nothing_has_no_sign():
    figure = plots.reward_histograms_figure([-0.004, 0.001], [1.0, 2.0], "humor")
    assert "its mean, 0.00" in names(figure)
