"""Every benchmark runs from its command line, and ends in a line that programs can read."""

import json
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"
Bench = Callable[..., dict[str, Any]]

TINY = ("--size=tiny", "--repetitions=1", "--tokens=6")


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Bench:
    """`bench(name, *args)`: what a benchmark prints on its last line."""

    def run(name: str, *args: str) -> dict[str, Any]:
        modules = set(sys.modules)
        with monkeypatch.context() as patch:
            patch.syspath_prepend(FOLDER)
            try:
                runpy.run_path(str(FOLDER / f"{name}.py"))["main"](list(args))
            finally:  # `models`, `plain` and `clock` are names for benchmarks alone
                for module in {"models", "plain", "clock"} - modules:
                    sys.modules.pop(module, None)
        found: dict[str, Any] = json.loads(capfd.readouterr().out.splitlines()[-1])
        return found

    return run


def test_decode(bench: Bench) -> None:
    found = bench("decode", *TINY, "--rows=3", "--shortest=2", "--longest=9", "--candidates=5")
    assert set(found["ratios"]) == {
        "action / plain",
        "action : generate (time)",
        "shared : unguided (time)",
        "state K=5 / plain",
    }
    assert min(found["per_cpu_second"].values()) > 0
    assert max(found["value_error"].values()) < found["value_tolerance"]


def test_decode_measures_what_is_asked_for(bench: Bench) -> None:
    found = bench("decode", *TINY, "--rows=2", '--runs=["unguided"]')
    assert set(found["per_cpu_second"]) == {"unguided"}
    assert found["ratios"] == {}


def test_rollout(bench: Bench) -> None:
    shape = ("--branching=[2,2]", "--guided_branching=[2,2]", "--prompt=5", "--candidates=5")
    found = bench("rollout", *TINY, *shape, "--trees=2", "--guided_trees=1")
    assert set(found["ratios"]) == {"unguided / plain", "state / plain", "action / plain"}
    assert min(found["per_cpu_second"].values()) > 0


def test_train(bench: Bench) -> None:
    found = bench(
        "train", *TINY, "--trees=1", "--branching=[2,2]", "--prompt=5", "--cap=12", "--batch=2"
    )
    assert found["nodes"] == [6]
    assert found["loss_error"] < 1e-5
    assert found["gradient_error"] < 1e-5


def test_fit(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def run(words: list[str], **_: object) -> None:
        asked.extend(words)
        out = Path(words[words.index("--out") + 1])
        out.mkdir(parents=True)
        (out / "metrics.json").write_text('[{"round": 0, "reward": 1.5}]')

    monkeypatch.setattr(subprocess, "run", run)
    found = bench("fit", "--objective=humor", '--options=["--data.rounds=1"]')
    assert {"fit", "humor", "--data.rounds=1"} <= set(asked)
    assert found["rounds"] == [{"round": 0, "reward": 1.5}]
    assert found["targets"]["wall_seconds"]["met"]


@pytest.mark.slow
def test_fit_in_earnest(bench: Bench, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("\n".join(f"How do I cook {n} eggs?" for n in range(60)))
    small = {
        "prompts": prompts,
        "rounds": 1,
        "epochs": 1,
        "trees": 2,
        "max_tokens": 6,
        "held_out": 2,
        "best_of": 2,
        "first_branching": "[2,2]",
        "branching": "[2,2]",
    }
    options = json.dumps([f"--data.{name}={value}" for name, value in small.items()])
    found = bench("fit", f"--options={options}")
    assert [entry["round"] for entry in found["rounds"]] == [0]
    assert found["cpu_seconds"] > 0
    assert found["peak_gib"] > 0.1


def test_ragged(bench: Bench) -> None:
    found = bench("ragged", *TINY, "--source=action", "--short=3", "--longer=9")
    assert found["ratios"]["beside : alone (time)"]["ratio"] > 0
    assert found["rows"] == [3, 1]


def test_gpu(bench: Bench) -> None:
    small = ("--size=tiny", "--rows=[2]", "--tokens=4", "--plain_tokens=2", "--device=cpu")
    found = bench("gpu", *small)
    assert found["rows"] == 2
    assert min(found["ratios"].values()) > 0


def test_what_does_not_fit_a_gpu_is_skipped(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mavis.decoding.row_memory.free_memory", lambda _: 1)
    found = bench("gpu", "--size=7b", "--device=cpu")
    assert "GB are free" in found["skipped"]


def test_serve(bench: Bench) -> None:
    found = bench("serve", "--size=tiny", "--requests=6", "--in_flight=3", "--tokens=4")
    assert found["lost"] == 0
    assert found["written"] > 6
    assert min(found["ratios"].values()) > 0


def test_mixing(bench: Bench) -> None:
    found = bench("mixing", "--toys=3", "--tokens=3", "--length=3")
    shares = found["shares"]
    assert all(share <= 1 + 1e-9 for row in shares.values() for share in row)
    # What a policy's own values add up to, less what it pays, has the optimum as its fixed point.
    assert shares["sum, under the mixed policy"] == pytest.approx([1.0] * 5, abs=1e-3)
    alone = shares["sum, each at its own optimum"]
    assert alone[0] == pytest.approx(1.0, abs=1e-3)
    assert alone[-1] == pytest.approx(1.0, abs=1e-3)
    assert alone[2] < shares["sum, fitted to all optima"][2]


def test_the_optimum_of_a_toy_is_that_of_whole_replies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(FOLDER)
    mixing = runpy.run_path(str(FOLDER / "mixing.py"))
    toy = mixing["Toy"](1, 3, 4, 0.5)
    odds = toy.chance(toy.reference) * np.exp(1.7 * toy.rewards[0])
    policy = toy.tilt(toy.soft(toy.rewards[0], 1.7), 1.7)
    np.testing.assert_allclose(toy.chance(policy), odds / odds.sum(), rtol=1e-9)
    assert toy.kl(policy) == pytest.approx(
        1.7 * toy.rewards[0] @ (odds / odds.sum()) - np.log(odds.sum())
    )
