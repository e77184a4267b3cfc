"""`mavis pareto`, as a user runs it, on tiny models."""

import json
import re
import shutil
from pathlib import Path

import pytest

from mavis.cli.main import main
from mavis.cli.pareto import RESULTS
from mavis.comparison.setting import Setting
from mavis.storage import alone_in


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A tracking store for all of these tests: making one takes seconds."""
    return f"sqlite:///{(tmp_path_factory.mktemp('store') / 'mlflow.db').as_posix()}"


@pytest.fixture
def words(tiny_runs, tiny_folder, tmp_path, plugin, store):  # noqa: ARG001
    """`words("--seeds", "2")`: a sweep of seconds; words given later win."""

    def build(*more: str) -> list[str]:
        settings = {
            "objectives": "trial,rival",
            "methods": "reference,best_of,mavis,mod",
            "weights": "grid:0.5",
            "kl": "0.3",
            "split": "test",
            "prompts": str(tiny_folder / "prompts"),
            "num_prompts": "4",
            "runs": str(tiny_runs),
            "reference": str(tiny_folder / "reference"),
            "out": str(tmp_path / "sweep"),
            "best_of": "4",
            "top_k": "20",
            "max_tokens": "5",
            "tracking": store,
        }
        return ["pareto", *(w for k, v in settings.items() for w in (f"--{k}", v)), *more]

    return build


def test_a_sweep_from_the_command_line(words, tmp_path, capsys, monkeypatch):
    assert main(words()) == 0
    said = capsys.readouterr()
    out = tmp_path / "sweep"
    for line in ("at 0.3 nats, 3 weightings of trial, rival", "hypervolume above (", "mavis / mod"):
        assert line in said.out
    assert f"report: {out / 'report.html'}" in said.out
    found = json.loads((out / RESULTS).read_text())
    assert list(found["methods"]) == ["mavis", "mod", "best_of"]
    assert found["methods"]["mod"]["indicators"]["hypervolume"]["value"] > 0
    assert "4 of the 4 prompts" not in said.out  # test prompts: nobody was trained on them
    assert "mavis: its models do not say which prompts" in said.out
    files = {f.name for f in out.iterdir()}
    assert files >= {"report.html", "results.json", "sweep.json", "points", "bars.png"}
    # The same command again decodes nothing and says the same; another method is added.
    made = []
    point = Setting.point
    monkeypatch.setattr(
        Setting, "point", lambda self, *a, **k: made.append(a) or point(self, *a, **k)
    )
    assert main(words("--json")) == 0
    again = json.loads(capsys.readouterr().out)
    assert not made
    for name in ("methods", "reference_point", "ahead"):
        assert again[name] == found[name]
    assert main(words("--methods", "[mavis, soup]")) == 0
    assert {one[0] for one in made} == {"soup"}


def test_a_constant_reward_is_refused_before_any_method_is_swept(
    words, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr("mavis_trial.behave", lambda _, said: [3.0] * len(said))
    assert main(words()) == 2
    said = capsys.readouterr().err
    assert "mavis: error: objective 'trial': constant scores: all 16 are 3: " in said
    made = {file.parent.name for file in (tmp_path / "sweep").rglob("*.parquet")}
    assert made == {"reference", "best_of"}


def test_prompts_that_a_method_was_trained_on_are_a_warning(words, capsys):
    assert main(words("--methods", "mod", "--split", "train", "--weights", "trial=1,rival=0")) == 0
    assert "warning: mod: 4 of the 4 prompts were among those it was trained on" in (
        capsys.readouterr().out
    )


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--objectives", ""], "objectives must be named, .* installed: .*rival, trial"),
        (["--methods", ","], "methods must be some of reference, .* got none"),
        (["--temperature", "0"], "temperature must be a positive number"),
        (["--device", "abacus"], "device .abacus. is not available here; there are: cpu"),
        (["--objectives", "trial,sad"], "no objective 'sad'"),
        (["--objectives", "trial,trial"], "objectives must not contain duplicates"),
        (["--methods", "mavis,ppo"], "methods must be of reference, best_of, .* got 'ppo'"),
        (["--weights", "grid:0.3"], "the step of a grid must divide 1"),
        (["--weights", "trial=1"], "weights must have the columns trial, rival"),
        (["--weights", "trial=0,rival=0"], "weights must not all be 0"),
        (["--values.sad", "x"], "values are those of trial, rival, got --values.sad"),
        (["--weights", "nowhere.csv"], "there is no file"),
        (["--kl", "0"], "kl must be a positive number"),
        (["--kl", "x"], "kl"),
        (["--num_prompts", "0"], "num_prompts must be at least 2"),
        (["--split", "sad"], "split 'sad' is not in"),
        (["--source", "x.jsonl"], "no option --source any more: it is called --prompts now"),
        (["--prompts", "200"], "prompts must be a data set, got 200: .* by --num_prompts 200"),
        (["--prompts", "nowhere.jsonl"], "there is no such file"),
        (["--reference_point", "[1.0]"], "reference_point must be one finite number for each"),
        (["--values.trial", "."], "mavis needs a model of trial at .: value.json is mis"),
        (["--policies.trial", "."], "at .: config.json or adapter_config.json is missing"),
        (["--runs", "nowhere"], "mavis needs a model of trial at nowhere/trial/value: `mavis fit"),
        (["--divergence", "jsd"], "divergence jsd is not available with --tuned rloo"),
        (
            ["--divergence", "jsd", "--tuned", "dpo"],
            "mod needs a model of trial .*--divergence jsd",
        ),
        (["--methods", "mod", "--divergence", "alpha", "--alpha", "3"], "alpha must be in"),
        (["--top_k", "-1"], "top_k must be at least 0"),
        (
            ["--max_tokens", "159"],
            "4 of 4 test prompts of .* are longer than the ref",
        ),
        (["--reference", "sandbox/reference"], "have different tokenizers"),
    ],
)
def test_bad_input_is_answered_in_a_line(words, more, said, capsys, tmp_path):
    assert main(words(*more)) == 2
    error = capsys.readouterr().err
    assert re.search(said, error), error
    assert error.startswith("mavis: error: ")
    assert len(error.strip().splitlines()) == 1
    assert not list(Path(tmp_path).rglob("*.parquet"))


def test_the_reference_alone_is_a_sweep_too(words, capsys):
    assert main(words("--methods", "reference")) == 0
    said = capsys.readouterr().out
    assert re.search(r"reference: trial -?\d.* ± \d.*, rival .*; \d\.\d tokens", said)
    assert re.search(r"top-k and top-p cost every method about \d\.\d\d", said)
    assert "hypervolume" not in said


def test_a_foreign_policy_with_another_tokenizer_is_refused_at_once(words, capsys, tmp_path):
    from importlib.resources import files

    shipped = str(files("mavis.sandbox").joinpath("assets", "reference"))
    assert main(words("--policies.trial", shipped)) == 2
    assert "have different tokenizers" in capsys.readouterr().err
    assert not list(Path(tmp_path).rglob("*.parquet"))


def test_other_settings_are_another_sweep(words, capsys):
    assert main(words("--methods", "reference,mavis", "--weights", "trial=1,rival=0")) == 0
    assert main(words("--methods", "reference,mavis", "--top_k", "10")) == 2
    assert "holds a sweep with top_k = 20, not 10: give another --out" in capsys.readouterr().err


def test_negative_weights_where_a_divergence_forbids_them(words, tiny_runs, capsys, tmp_path):
    runs = tmp_path / "runs"
    shutil.copytree(tiny_runs, runs)
    for name in ("trial", "rival"):
        (runs / "tuned" / f"rloo-{name}").rename(runs / "tuned" / f"dpo-{name}-forward_kl")
    options = ["--runs", str(runs), "--methods", "mod", "--tuned", "dpo"]
    options += ["--divergence", "forward_kl", "--weights", "trial=1.2,rival=-0.2"]
    assert main(words(*options)) == 2
    assert "weights must not be negative" in capsys.readouterr().err


def test_one_sweep_at_a_time(words, tmp_path, capsys):
    with alone_in(tmp_path / "sweep"):
        assert main(words()) == 1
    assert "another run is at work in" in capsys.readouterr().err


def test_seeds_with_models_of_their_own(words, tiny_runs, tmp_path, capsys):
    for seed in "01":
        shutil.copytree(tiny_runs, tmp_path / "runs" / seed)
    own = ["--seeds", "2", "--runs", str(tmp_path / "runs" / "{seed}")]
    assert main(words(*own)) == 0
    said = capsys.readouterr().out
    assert "    seed by seed: hypervolume " in said
    assert "warning: mod: two of its training seeds have the same model." in said
    assert "Each has models of its own" in (tmp_path / "sweep" / "report.html").read_text()
    lines = (tmp_path / "sweep/answers/mod/trial0.5_rival0.5.jsonl").read_text().splitlines()
    assert [json.loads(line)["seed"] for line in lines] == [0, 1] * 4
    assert main(words("--seeds", "2", "--out", str(tmp_path / "other"))) == 0
    assert "two of its training seeds" not in capsys.readouterr().out
    assert "draws from the same models" in (tmp_path / "other" / "report.html").read_text()


def without(words, *options):
    """Words without some options and their values."""
    pairs = zip(words[1::2], words[2::2], strict=True)
    kept = [word for pair in pairs if pair[0].removeprefix("--") not in options for word in pair]
    return [words[0], *kept]


def test_the_reference_is_the_one_that_the_models_were_trained_under(words, tiny_folder, tmp_path):
    few = ("--methods", "reference,mavis,mod", "--weights", "trial=1,rival=0")
    assert main(without(words(*few), "reference")) == 0
    found = json.loads((tmp_path / "sweep" / RESULTS).read_text())
    assert found["settings"]["reference"] == str(tiny_folder / "reference")
    assert "--reference" not in found["settings"]["command"]
    assert not any("was trained under" in said for said in found["warnings"])


def test_another_reference_than_the_models_is_a_warning(words, tiny_folder, tmp_path, capsys):
    shutil.copytree(tiny_folder / "reference", tmp_path / "copy")
    more = ("--methods", "mavis", "--weights", "trial=1,rival=0")
    assert main(words("--reference", str(tmp_path / "copy"), *more)) == 0
    said = capsys.readouterr().out
    assert f"was trained under the reference policy {tiny_folder / 'reference'}, not un" in said


def test_a_missing_model_s_command_names_the_reference(words, tiny_folder, capsys):
    more = ("--methods", "mavis,soup", "--tuned", "grpo")
    assert main(without(words(*more), "reference")) == 2
    said = capsys.readouterr().err
    assert f"--objectives trial --reference {tiny_folder / 'reference'} --prompts " in said


def test_one_objective_alone(words, tmp_path, capsys):
    """By default with what a fit alone leaves: no policies to mix."""
    one = without(words("--objectives", "trial", "--weights", "grid:0.2"), "methods", "reference")
    assert main(one) == 0
    said = capsys.readouterr().out
    assert said.startswith("at 0.3 nats, trial\n")
    found = json.loads((tmp_path / "sweep" / RESULTS).read_text())
    assert list(found["methods"]) == ["mavis", "best_of"]
    assert len(found["methods"]["mavis"]["points"][0]) >= 2  # a curve
    assert "hypervolume" not in said
    assert not list((tmp_path / "sweep").glob("front*"))
    assert main([*one, "--methods", "reference,best_of,mavis,mod,soup,morlhf"]) == 0
    found = json.loads((tmp_path / "sweep" / RESULTS).read_text())
    assert list(found["methods"]) == ["mavis", "mod", "soup", "morlhf", "best_of"]


@pytest.mark.parametrize("harm", ["cut", "flipped", "empty", "another"])
def test_a_damaged_point_is_named_and_made_again(harm, words, tmp_path, capsys):
    few = words("--methods", "mavis", "--weights", "trial=1,rival=0")
    assert main(few) == 0
    before = (tmp_path / "sweep" / "answers" / "reference" / "all.jsonl").read_text()
    (file,) = (tmp_path / "sweep" / "points" / "reference").glob("*.parquet")
    content = bytearray(file.read_bytes())
    if harm == "flipped":
        content[len(content) // 4] ^= 0x10
    file.write_bytes({"cut": content[:-30], "empty": b"", "another": b"PAR1"}.get(harm, content))
    speed = tmp_path / "sweep" / "points" / "mavis" / "speed.json"
    speed.write_text("{")
    capsys.readouterr()
    assert main(few) == 0
    said = capsys.readouterr().err
    assert f"mavis: {file} is damaged: it is made again.\n" in said
    assert f"mavis: {speed} is damaged: it is made again.\n" in said
    assert (tmp_path / "sweep" / "answers" / "reference" / "all.jsonl").read_text() == before


@pytest.mark.parametrize("content", ["{", "[]", "{}", ""])
def test_a_damaged_record_is_named(content, words, tmp_path, capsys):
    few = words("--methods", "reference")
    assert main(few) == 0
    file = tmp_path / "sweep" / "sweep.json"
    file.write_text(content)
    capsys.readouterr()
    assert main(few) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert str(file) in line


def test_an_out_that_is_a_file_is_named(words, tmp_path, capsys):
    (tmp_path / "taken").write_text("x")
    assert main(words("--out", str(tmp_path / "taken"))) == 2
    assert "taken" in capsys.readouterr().err
    assert main(words("--out", str(tmp_path / "taken" / "deeper"))) == 2
    assert "taken" in capsys.readouterr().err


def test_a_folder_of_a_try_that_came_to_nothing_is_no_dead_end(words, capsys):
    assert main(words("--methods", "reference", "--top_k", "-1")) == 2
    assert "top_k must be" in capsys.readouterr().err
    assert main(words("--methods", "reference")) == 0
