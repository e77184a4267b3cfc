"""The command line through its real door: what it refuses in one line, before minutes go by."""

import json
import re
import shutil
import subprocess
import sys

import pytest
import yaml

from mavis.cli.main import TRAINING, commands, main


def spelled(words):
    """The id of a list of words; what they are answered is left out."""
    return " ".join(words) if isinstance(words, list) else ""


def refused(capsys, words, status=2):
    """The one line on stderr of a command that must fail."""
    assert main(words) == status
    said = capsys.readouterr()
    assert said.out == ""
    (line,) = said.err.strip().splitlines()
    assert line.startswith("mavis: error: ")
    assert len(line) < 600
    return line


# Help


@pytest.mark.parametrize("words", [[], ["-h"], ["--help"]], ids=str)
def test_overview(words, capsys):
    assert main(words) == 0
    said = capsys.readouterr()
    for name in [*TRAINING, *(" ".join(command) for command in commands())]:
        assert f"  {name} " in said.out
    assert said.err == ""


@pytest.mark.parametrize("name", commands(), ids=" ".join)
def test_help_of_a_plain_command(name, capsys):
    assert main([*name, "--help"]) == 0
    said = capsys.readouterr()
    assert said.out.startswith(f"usage: mavis {' '.join(name)}")
    assert commands()[name].__doc__.splitlines()[0].rstrip(".") in said.out.replace("\n", " ")
    assert "(required" not in said.out or "..." not in said.out.split("\n\n")[0]  # none will do
    assert said.err == ""


@pytest.mark.parametrize("name", TRAINING)
def test_help_of_a_training_command(name, capsys):
    assert main([name, "--objective", "humor", "--help"]) == 0
    said = capsys.readouterr().out
    for option in ("--objective", "--out", "--data.eta", "--model", "--trainer.precision"):
        assert option in said
    assert main([name, "--help"]) == 0
    assert "--data.prompts" in capsys.readouterr().out


def test_the_installed_script():
    done = subprocess.run(
        [sys.executable, "-m", "mavis", "nonsense"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("mavis: error: no command 'nonsense'")


# What is refused


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nonsense"], "no command 'nonsense'; there are: fit, validate, test, generate"),
        (["objects"], "no command 'objects'"),
        (["objectives", "delete"], "no command 'objectives delete'"),
        (["fit"], "--objective is missing; installed: "),
        (["fit", "--objective", "humour"], "no objective 'humour' (did you mean 'humor'?)"),
        (["objectives", "check", "humour"], "did you mean 'humor'?"),
        (["fit", "-c", "/nowhere.yaml"], "nowhere.yaml"),
        (["generate", "--nonsense", "1"], "--nonsense"),
        (["generate", "hi", "--n", "many"], "n"),
        (["generate", "hi", "--weights.humor", "much"], "weights"),
    ],
    ids=spelled,
)
def test_bad_words(words, message, capsys):
    assert message in refused(capsys, words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data.nonsense", "1"], "nonsense"),
        (["--nonsense", "1"], "nonsense"),
        (["--data.eta", "much"], "eta"),
        (["--data.eta", "0"], "eta must be a positive number, got 0"),
        (["--data.eta", "-1"], "eta must be a positive number, got -1"),
        (["--data.eta", ".nan"], "eta must be a positive number, got nan"),
        (["--data.kl_budget", "0"], "kl_budget must be a positive number, got 0"),
        (["--data.beta", ".inf"], "beta must be a finite number, got inf"),
        (["--data.beta", "much"], "\"data.beta\": Expected a <class 'float'> Given value: much"),
        (["--data.trees", "0"], "trees must be at least 1, got 0"),
        (["--data.rounds", "-2"], "rounds must be at least 1, got -2"),
        (["--data.rows", "0"], "rows must be at least 1, got 0"),
        (["--data.epochs", "0"], "epochs must be at least 1, got 0"),
        (["--data.held_out", "1"], "held_out must be at least 2, got 1"),
        (["--data.best_of", "1"], "best_of must be at least 2, got 1"),
        (["--data.batch_tokens", "-5"], "batch_tokens must be at least 1, got -5"),
        (["--data.max_tokens", "-8"], "max_tokens must be at least 2, got -8"),
        (["--data.branching", "[2]"], "branching must be at least two levels"),
        (["--data.top_k", "-1"], "top_k must be at least 0 (all), got -1"),
        (["--data.top_p", "0"], "top_p must be in (0, 1], got 0"),
        (["--data.temperature", "0"], "temperature must be a positive number, got 0"),
        (["--data.max_tokens", "5000"], "max_tokens"),
        (["--data.prompts", "/nowhere/at/all"], "/nowhere/at/all"),
        (["--data.prompts", "sandbox/nothing"], "sandbox/nothing"),
        (["--data.column", "answer"], "column 'answer' is not in"),
        (["--data.template", "nowhere.function"], "nowhere.function"),
        (["--data.reference", "/nowhere/model"], "/nowhere/model"),
        (["--model.lr", "0"], "lr must be a positive number, got 0"),
        (["--model.source", "guess"], "Literal['action', 'state', 'shared'] Given value: guess"),
        (["--model.trunk", "99"], "trunk must be 1 to 2 layers of the reference, got 99"),
        (["--model.nonsense", "1"], "Option 'nonsense' is not accepted"),
    ],
    ids=spelled,
)
def test_bad_settings(words, message, fit_words, tmp_path, capsys):
    line = refused(capsys, fit_words(tmp_path / "run", *words))
    assert message in line
    assert "Namespace(" not in line  # of all arguments of a class
    assert not (tmp_path / "run" / "rollouts").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "no prompts in"),
        ('{"prompt": ""}', "empty prompt in row 1 of"),
        ('{"prompt": "a"}\n{"prompt": "   "}', "empty prompt in row 2 of"),
        ("{", "is not JSON"),
        ('{"one": 1, "two": 2}', "column must be given"),
        ('{"prompt": 3}', "prompts must be strings or chats"),
    ],
    ids=repr,
)
def test_bad_prompts(content, message, fit_words, tmp_path, capsys):
    file = tmp_path / "prompts.jsonl"
    file.write_text(content)
    assert message in refused(capsys, fit_words(tmp_path / "run", "--data.prompts", str(file)))


def test_a_bad_row_says_how_to_skip_it(fit_words, tmp_path, capsys):
    file = tmp_path / "prompts.jsonl"
    file.write_text('"a tum"\n[{"role": "tool", "content": "5"}]\n')
    line = refused(capsys, fit_words(tmp_path / "run", "--data.prompts", str(file)))
    assert f"in row 2 of '{file}'. Leave such rows out by --data.on_bad_row skip." in line


def test_a_file_of_one_endless_line(fit_words, tmp_path, capsys):
    file = tmp_path / "prompts.txt"
    file.write_text("a tum " * 500_000)
    line = refused(capsys, fit_words(tmp_path / "run", "--data.prompts", str(file)))
    assert f"row 1 of '{file}' has 3,000,000 characters" in line


def test_one_held_out_prompt_is_too_few(fit_words, tmp_path, capsys):
    for split, count in (("train", 2), ("validation", 1)):
        lines = "".join(f'{{"prompt": "a um {split[0]}{n}"}}\n' for n in range(count))
        (tmp_path / f"{split}.jsonl").write_text(lines)
    line = refused(capsys, fit_words(tmp_path / "run", "--data.prompts", str(tmp_path)))
    assert f"{tmp_path} holds one of them: give two or more, as validation.jsonl" in line
    assert not (tmp_path / "run" / "rollouts").exists()


def test_a_folder_that_is_no_model(fit_words, tmp_path, capsys):
    line = refused(capsys, fit_words(tmp_path / "run", "--data.reference", str(tmp_path)))
    assert "is no model folder: config.json is missing" in line


def test_a_trunk_with_another_tokenizer(fit_words, tmp_path, capsys, tiny_lm, tiny_tokenizer):
    tiny_lm(vocab=30).save_pretrained(tmp_path / "other")
    tiny_tokenizer(30).save_pretrained(tmp_path / "other")
    capsys.readouterr()
    words = fit_words(tmp_path / "run", "--model.trunk", str(tmp_path / "other"))
    assert "have different tokenizers" in refused(capsys, words)


REWARDS = {
    "raises": (lambda *_: 1 / 0, "the reward raised ZeroDivisionError: division by zero"),
    "infinite": (lambda _, r: [float("inf")] * len(r), "rewards must be finite, got inf"),
    "all abstain": (lambda _, r: [None] * len(r), "the reward abstained for all"),
    "too few": (lambda _, r: [1.0] * (len(r) - 1), "must return one number per reply"),
    "a number": (lambda *_: 1.0, "must return one number per reply"),
    "texts": (lambda _, r: list(r), "must return one number per reply"),
    "constant": (lambda _, r: [3.0] * len(r), "constant scores: all"),
}


@pytest.mark.parametrize("name", REWARDS)
def test_bad_rewards(name, fit_words, tmp_path, capsys, monkeypatch):
    """Found out on the reference's answers, before a tree is grown; then mended, it goes on."""
    import mavis_trial

    behave, message = REWARDS[name]
    monkeypatch.setattr(mavis_trial, "behave", behave)
    line = refused(capsys, fit_words(tmp_path / "run"))
    assert message in line
    if name != "constant":
        assert "objective 'trial'" in line
        assert "prompt 'a " in line or name == "all abstain"
    assert not (tmp_path / "run" / "rollouts").exists()


def test_debug_shows_the_traceback(fit_words, tmp_path):
    with pytest.raises(ValueError, match="eta must be"):
        main([*fit_words(tmp_path / "run", "--data.eta", "-1"), "--debug"])


# Folders of other runs


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data.eta", "0.25"], "holds a run with data.eta = None, not 0.25"),
        (["--seed_everything", "5"], "holds a run with seed_everything = 0, not 5"),
        (["--model.lr", "0.1"], "holds a run with model.init_args.lr = 2.0, not 0.1"),
        (["--objective", "rival"], "holds a run with objective = trial, not rival"),
        (["--data.branching", "[3,3]"], "data.branching"),
    ],
    ids=spelled,
)
def test_another_run_in_the_folder_is_left_alone(words, message, tiny_fit, fit_words, capsys):
    before = (tiny_fit / "config.yaml").read_text()
    line = refused(capsys, fit_words(tiny_fit, *words))
    assert message in line
    assert "give another --out" in line
    assert (tiny_fit / "config.yaml").read_text() == before


def test_the_kept_configuration_goes_on(tiny_fit, tmp_path, capsys):
    """`-c config.yaml` alone names the same run."""
    run = tmp_path / "trial"
    shutil.copytree(tiny_fit, run)
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["out"] = str(run)
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    assert main(["fit", "-c", str(run / "config.yaml")]) == 0
    assert "value model" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["validate", "test"])
def test_measuring_needs_a_fit(command, fit_words, tmp_path, capsys):
    line = refused(capsys, fit_words(tmp_path / "run", command=command))
    assert "holds no finished round: run `mavis fit`" in line


def test_validate_and_test(tiny_fit, fit_words, tmp_path, capsys):
    run = tmp_path / "trial"
    shutil.copytree(tiny_fit, run)
    assert main(fit_words(run, command="validate")) == 0
    said = capsys.readouterr()
    number = r"-?\d+\.\d\d"
    line = f"validation: loss {number}, R² {number}, rank correlation of siblings {number}\n"
    assert re.fullmatch(line, said.out)
    assert "sibling_rank_correlation" not in said.err  # Lightning's table, wherever its console is
    assert main(fit_words(run, command="test")) == 0
    said = capsys.readouterr()
    entry = json.loads((run / "test.json").read_text())
    assert said.out.startswith(f"test: reward {entry['reward']:.2f} ± ")
    assert said.out.count("\n") == 1
    assert "sibling_rank_correlation" not in said.err
    assert entry["round"] == 2
    assert (run / "metrics.json").read_text() == (tiny_fit / "metrics.json").read_text()
