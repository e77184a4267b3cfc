"""`mavis generate`: results on stdout and nothing else there; what cannot be is said in a line."""

import io
import json
import shutil
import sys

import pytest
import torch

from mavis import load
from mavis.cli import main

PROMPTS = ("an ant is", "hats")


@pytest.fixture(scope="module")
def value(tiny_fit, tmp_path_factory):
    """The fitted value model, made louder: after two tiny rounds it hardly whispers."""
    from safetensors.torch import load_file, save_file

    folder = tmp_path_factory.mktemp("loud") / "trial" / "value"
    shutil.copytree(tiny_fit / "value", folder)
    head = load_file(folder / "head.safetensors")
    noise = torch.Generator().manual_seed(0)
    save_file(
        {name: t + 0.5 * torch.randn(t.shape, generator=noise) for name, t in head.items()},
        folder / "head.safetensors",
    )
    return folder


@pytest.fixture
def ask(value, capsys):
    """`ask("--n", "2")`: what the command prints, by lines."""

    def run(*words, prompts=PROMPTS, weight="1"):
        weights = ["--weights.trial", weight, "--values.trial", str(value)]
        small = ["--max_tokens", "8", "--top_k", "12"]
        assert main(["generate", *prompts, *weights, *small, *words]) == 0
        said = capsys.readouterr()
        assert said.err == ""
        return said.out.splitlines()

    return run


def test_text(ask, value):
    policy = load({"trial": value})
    answers = policy.generate(list(PROMPTS), {"trial": 1.0}, max_tokens=8, top_k=12)
    assert "\n".join(ask()) == "\n".join(answer.text for answer in answers)


def test_json(ask, value):
    policy = load({"trial": value})
    answers = policy.generate(list(PROMPTS), {"trial": 0.5}, max_tokens=8, top_k=12, n=2, seed=3)
    lines = [json.loads(x) for x in ask("--json", "--n", "2", "--seed", "3", weight="0.5")]
    assert [line["text"] for line in lines] == [answer.text for answer in answers]
    assert [line["tokens"] for line in lines] == [answer.tokens for answer in answers]
    assert [line["prompt"] for line in lines] == ["an ant is"] * 2 + ["hats"] * 2
    for line, answer in zip(lines, answers, strict=True):
        assert line["kl"] == pytest.approx(answer.kl, abs=1e-4)
        assert line["kl"] >= line["kl_truncation"] > 0
        assert line["reason"] in {"end", "stop", "length"}
        assert line["rewards"] == {}


def test_weights_bend_the_answer(ask):
    said = {weight: ask(weight=weight, prompts=["an ant is"]) for weight in ("-2", "0", "2")}
    assert len({tuple(lines) for lines in said.values()}) == 3
    assert ask("--beta", "0", prompts=["an ant is"]) == said["0"]


def test_compare_and_score(ask):
    plain = [json.loads(line)["text"] for line in ask("--json", weight="0")]
    lines = [json.loads(line) for line in ask("--json", "--compare", "--score")]
    assert [line["reference"]["text"] for line in lines] == plain
    for line in lines:
        for answer in (line, line["reference"]):
            assert answer["rewards"].keys() == {"trial"}
    text = "\n".join(ask("--compare", "--score"))
    assert "prompt     an ant is" in text
    assert f"reference  {plain[0]}" in text  # with its scores behind
    assert "KL" in text
    assert f"[trial {lines[0]['rewards']['trial']:+.2f}]" in text


def test_scores_are_in_standard_units(ask, value):
    units = load({"trial": value}).networks[0].card.units[0]
    (line,) = map(json.loads, ask("--json", "--score", prompts=["hats"]))
    raw = line["text"].count("a") - 0.1 * len(line["text"])
    assert line["rewards"]["trial"] == pytest.approx((raw - units.mean) / units.std, abs=1e-4)


def test_runs_folder(value, capsys):
    runs = ["--runs", str(value.parents[1])]
    words = ["generate", "hats", "--weights.trial", "1", *runs, "--max_tokens", "4", "--top_k", "9"]
    assert main(words) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_without_weights_the_reference_speaks(tiny_folder, ask, capsys):
    name = str(tiny_folder / "reference")
    words = ["generate", *PROMPTS, "--reference", name, "--max_tokens", "8", "--top_k", "12"]
    assert main(words) == 0
    assert capsys.readouterr().out.splitlines() == ask(weight="0")


def test_prompts_from_stdin(ask, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("an ant is\n\n  hats \n"))
    from_stdin = ask(prompts=[])
    assert from_stdin == ask()


def test_prompts_from_a_file(ask, tmp_path):
    file = tmp_path / "prompts.csv"
    file.write_text("id,question\n1,an ant is\n2,hats\n")
    assert ask("--file", str(file), prompts=[]) == ask()
    assert ask("--file", str(file), "--column", "question", prompts=[]) == ask()


def refused(capsys, *words):
    assert main(["generate", *words]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    (line,) = said.err.strip().splitlines()
    assert line.startswith("mavis: error: ")
    return line


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--weights.trial", ".nan"], "weights.trial must be a finite number, got nan"),
        (["--weights.trial=-.inf"], "weights.trial must be a finite number, got -inf"),
        (["--beta", ".nan"], "beta must be a finite number, got nan"),
        (["--temperature", "0"], "temperature must be above 0, got 0"),
        (["--top_p", "1.5"], "top_p must be in (0, 1], got 1.5"),
        (["--top_k", "1000"], "top_k must be 0 (all) to"),
        (["--top_k", "-3"], "top_k must be 0 (all) to"),
        (["--max_tokens", "-1"], "max_tokens must be at least 1, got -1"),
        (["--max_tokens", "0"], "max_tokens must be at least 1, got 0"),
        (["--n", "0"], "n must be at least 1, got 0"),
        (["--max_tokens", "500"], "must fit into the context of 160 tokens"),
        (["--weights.sadness", "1"], "no value model of sadness at runs/sadness/value"),
        (["--values.humor", "x"], "values.humor needs a weight: add --weights.humor 1"),
        (["--file", "/nowhere.txt"], "prompts must come from the command line or from --file"),
    ],
    ids=lambda words: " ".join(words) if isinstance(words, list) else "",
)
def test_bad_settings(words, message, value, capsys):
    mine = ["--weights.trial", "1", "--values.trial", str(value), "--top_k", "12"]
    assert message in refused(capsys, "hats", *mine, *words)


def test_bad_prompts(value, tmp_path, capsys, monkeypatch):
    mine = ["--weights.trial", "1", "--values.trial", str(value), "--top_k", "12"]
    assert "prompt 0: prompt must not be empty" in refused(capsys, "  ", *mine)
    long = "an ant " * 100
    assert "prompt 1: prompt must leave room for a reply" in refused(capsys, "a", long, *mine)
    assert "there is no such file" in refused(
        capsys, "--file", str(tmp_path / "nothing.txt"), *mine
    )
    (tmp_path / "empty.txt").write_text("\n")
    assert "no prompts in" in refused(capsys, "--file", str(tmp_path / "empty.txt"), *mine)
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n"))
    assert "no prompts on stdin" in refused(capsys, *mine)


def test_bad_value_models(value, tmp_path, capsys, tiny_lm, tiny_tokenizer):
    (tmp_path / "empty").mkdir()
    line = refused(capsys, "a", "--weights.trial", "1", "--values.trial", str(tmp_path / "empty"))
    assert "holds no value model: value.json is missing" in line
    line = refused(capsys, "a", "--weights.rival", "1", "--values.rival", str(value))
    assert "values.rival must be a value model of rival" in line
    tiny_lm(vocab=30).save_pretrained(tmp_path / "other")
    tiny_tokenizer(30).save_pretrained(tmp_path / "other")
    capsys.readouterr()
    mine = ["--weights.trial", "1", "--values.trial", str(value)]
    line = refused(capsys, "a", *mine, "--reference", str(tmp_path / "other"))
    assert "have different tokenizers" in line
    line = refused(capsys, "a", *mine, "--reference", str(tmp_path / "empty"))
    assert "is no model folder" in line


def test_a_reward_that_fails_while_scoring(value, capsys, monkeypatch):
    import mavis_trial

    monkeypatch.setattr(mavis_trial, "behave", lambda *_: [])
    mine = ["--weights.trial", "1", "--values.trial", str(value), "--top_k", "12", "--score"]
    assert "must return one number per reply" in refused(capsys, "hats", *mine)
