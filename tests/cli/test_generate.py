"""`mavis generate`: results on stdout and nothing else there; what cannot be is said in a line."""

import io
import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import partialmethod

import pytest
import torch

from mavis import load
from mavis.checksums import seal
from mavis.cli.main import main

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
    seal(folder)
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
    units = load({"trial": value}).guides[0].card.units[0]
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
    monkeypatch.setattr(sys, "stdin", io.StringIO("\ufeffan ant is\n\n  hats \n"))
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
        (["--temperature", "-1"], "temperature must be 0 (the likeliest token) or"),
        (["--top_p", "1.5"], "top_p must be in (0, 1], got 1.5"),
        (["--top_k", "-3"], "top_k must be at least 0 (all), got -3"),
        (["--max_tokens", "-1"], "max_tokens must be at least 1, got -1"),
        (["--max_tokens", "0"], "max_tokens must be at least 1, got 0"),
        (["--n", "0"], "n must be at least 1, got 0"),
        (["--n", "0", "--beams", "2"], "n must be at least 1, got 0"),
        (["--beams", "0"], "beams must be at least 1, got 0"),
        (["--max_tokens", "500"], "must fit into the context of 160 tokens"),
        (["--stop", ""], "stop must be strings that are not empty, got ''"),
        (["--device", "warp"], "device 'warp' is not available here; there are: cpu"),
        (["--device", "cuda:99"], "device 'cuda:99' is not available here; there are: cpu"),
        (["--template_args", "{loud: true}"], "template_args are arguments of a chat template"),
        (["--weights.sadness", "1"], "no value model of sadness at runs/sadness/value"),
        (["--values.humor", "x"], "values.humor needs a weight: add --weights.humor 1"),
        (["--file", "/nowhere.txt"], "prompts must come from the command line or from --file"),
    ],
    ids=lambda words: " ".join(words) if isinstance(words, list) else "",
)
def test_bad_settings(words, message, value, capsys):
    mine = ["--weights.trial", "1", "--values.trial", str(value), "--top_k", "12"]
    assert message in refused(capsys, "hats", *mine, *words)


def test_a_missing_value_model_is_made_where_it_is_looked_for(tmp_path, capsys):
    (tmp_path / "trial" / "value").mkdir(parents=True)
    said = refused(capsys, "hats", "--weights.trail", "1", "--runs", str(tmp_path))
    assert f"({tmp_path} holds those of trial)" in said
    assert f"train one with `mavis fit --objective trail --out {tmp_path / 'trail'}`" in said


def test_bad_prompts(value, tmp_path, capsys, monkeypatch):
    mine = ["--weights.trial", "1", "--values.trial", str(value), "--top_k", "12"]
    strictly = [*mine, "--strict"]
    assert "prompt 0: prompt must not be empty" in refused(capsys, "  ", *strictly)
    long = "an ant " * 100
    assert "prompt 1: prompt must leave room for a reply" in refused(capsys, "a", long, *strictly)
    assert "there is no such file" in refused(
        capsys, "--file", str(tmp_path / "nothing.txt"), *mine
    )
    (tmp_path / "empty.txt").write_text("\n")
    assert "no prompts in" in refused(capsys, "--file", str(tmp_path / "empty.txt"), *mine)
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n"))
    assert "no prompts on stdin" in refused(capsys, *mine)


LONG = "an ant" + " an ant" * 40  # leaves no room in the context of 160 tokens


@pytest.fixture
def partly(value, capsys):
    """`partly(words)`: what is on stdout and stderr when a prompt cannot be answered."""

    def run(*words, status=1):
        mine = ["--weights.trial", "1", "--values.trial", str(value)]
        assert main(["generate", *words, *mine, "--max_tokens", "8", "--top_k", "12"]) == status
        said = capsys.readouterr()
        return said.out.splitlines(), said.err.splitlines()

    return run


def test_a_prompt_that_cannot_be_answered_costs_the_others_nothing(ask, partly):
    out, err = partly("an ant is", LONG, "hats", " ", status=2)  # empty: bad input
    assert out == ask()
    assert err[0].startswith("mavis: prompt 1: prompt must leave room for a reply")
    assert err[1].startswith("mavis: prompt 3: prompt must not be empty")
    assert err[2:] == ["mavis: 2 of 4 prompts were not answered (counted from 0)."]
    out, err = partly(LONG)
    assert out == []
    assert len(err) == 1


def test_line_k_of_the_json_is_of_prompt_k(ask, partly):
    usual = list(map(json.loads, ask("--json", "--n", "2", "--compare", "--score")))
    out, _ = partly("an ant is", LONG, "hats", "--json", "--n", "2", "--compare", "--score")
    lines = list(map(json.loads, out))
    assert lines[:2] + lines[4:] == usual
    assert [line["prompt"] for line in lines[2:4]] == [LONG] * 2
    assert all("prompt must leave room" in line["error"] for line in lines[2:4])


def test_prompts_on_stdin_and_in_a_file_have_the_same_rule(partly, tmp_path, monkeypatch):
    lines = ["an ant is", LONG, "hats", "an ant is"]
    out, err = partly(*lines)
    assert len(out) == 3
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(lines)))
    assert partly() == (out, err)
    (tmp_path / "prompts.jsonl").write_text("".join(map('{{"prompt": "{}"}}\n'.format, lines)))
    assert partly("--file", str(tmp_path / "prompts.jsonl")) == (out, err)


def test_a_file_keeps_every_line(ask, tmp_path):
    (tmp_path / "prompts.txt").write_text("hats\nan ant is\nhats\nhats\n")
    once = dict(zip(PROMPTS, ask(), strict=True))
    lines = ["hats", "an ant is", "hats", "hats"]
    asked = ask("--file", str(tmp_path / "prompts.txt"), prompts=[])
    assert asked == [once[line] for line in lines]


def test_a_template_that_refuses_a_message(tiny_folder, tmp_path, capsys):
    shutil.copytree(tiny_folder / "reference", tmp_path / "reference")
    template = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
        "{% if loud %}an ant {% endif %}{{ messages[0].content }}"
    )
    (tmp_path / "reference" / "chat_template.jinja").write_text(template)
    chats = [
        [{"role": "system", "content": "be loud"}, {"role": "user", "content": "hats"}],
        [{"role": "user", "content": "hats"}],
    ]
    file = tmp_path / "chats.jsonl"
    file.write_text("".join(json.dumps({"messages": chat}) + "\n" for chat in chats))
    words = ["--file", str(file), "--reference", str(tmp_path / "reference"), "--max_tokens", "8"]
    assert main(["generate", *words, "--json"]) == 2
    said = capsys.readouterr()
    first, second = map(json.loads, said.out.splitlines())
    assert "no system role" in first["error"]
    assert second["prompt"] == chats[1]
    assert "prompt 0" in said.err
    assert "no system role" in refused(capsys, *words, "--strict")
    told = {}
    for loud in ("true", "false"):
        args = ["--template_args", f"{{loud: {loud}}}"]
        assert main(["generate", "hats", *words[2:], *args]) == 0
        told[loud] = capsys.readouterr().out
    assert told["true"] != told["false"]


def test_stop_strings_and_temperature_0(ask, value):
    policy = load({"trial": value})
    settings = {"max_tokens": 8, "top_k": 12}
    for words, stop in (
        (["--stop", "a"], ["a"]),
        (["--stop", "a", "--stop", " "], ["a", " "]),
        (["--stop", '["a", "n"]'], ["a", "n"]),
        (["--stop", "[a]"], ["[a]"]),
    ):
        answers = policy.generate(PROMPTS, {"trial": 1.0}, stop=stop, **settings)
        assert [json.loads(line)["text"] for line in ask("--json", *words)] == [
            answer.text for answer in answers
        ]
    greedy = policy.generate(PROMPTS, {"trial": 1.0}, temperature=0, **settings)
    lines = list(map(json.loads, ask("--json", "--temperature", "0", "--seed", "5")))
    assert [line["tokens"] for line in lines] == [answer.tokens for answer in greedy]


def test_what_the_terminal_cannot_show(monkeypatch, value):
    from mavis.decoding.reference import ReferencePolicy

    spoken = "caf\u00e9 \ud83d \u2713"
    monkeypatch.setattr(ReferencePolicy, "decode", lambda *_: spoken)
    asked = ["generate", "hats", "--weights.trial", "1", "--values.trial", str(value)]
    shown = {"ascii": "caf? ? ?", "latin-1": "caf\u00e9 ? ?", "utf-8": "caf\u00e9 ? \u2713"}
    for encoding, text in shown.items():
        raw = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding))
        for words in ([], ["--json"]):
            assert main([*asked, *words, "--max_tokens", "4"]) == 0
        line, json_line = raw.getvalue().decode(encoding).splitlines()
        assert line == text
        assert json.loads(json_line)["text"] == spoken


def test_json_holds_no_number_that_is_none(capsys):
    from mavis.cli.show import Shown, show_json
    from mavis.decoding.prompt_requests import Completion

    answer = Completion("hats", "a", [3], float("nan"), 0.0, 0.0, -1.0, "end")
    with pytest.raises(ValueError, match="the answer to 'hats' has a number that is not finite"):
        show_json(Shown(answer, {}, None, {}))
    show_json(Shown(replace(answer, kl=0.0), {"trial": float("nan")}, None, {}))
    assert json.loads(capsys.readouterr().out)["rewards"] == {"trial": None}


@pytest.fixture
def one_row(monkeypatch):
    """Answers are written one after the other."""
    from mavis.decoding.policy import GuidedPolicy

    monkeypatch.setattr(GuidedPolicy, "stream", partialmethod(GuidedPolicy.stream, rows=1))


@pytest.mark.usefixtures("one_row")
def test_answers_are_printed_as_they_are_finished(ask, monkeypatch):
    from mavis.decoding import decode

    events, write = [], decode.completion

    def written(*words):
        events.append("written")
        return write(*words)

    monkeypatch.setattr(decode, "completion", written)
    monkeypatch.setattr("mavis.cli.show.print", lambda *_, **how: events.append(how), raising=False)
    ask()
    assert events == ["written", {"flush": True}] * 2
    events.clear()
    ask("--compare", "--json")
    assert events == ["written", "written", {"flush": True}] * 2


class Terminal(io.StringIO):
    """What takes itself for a terminal."""

    def isatty(self):
        return True


def test_a_bar_on_stderr_leaves_the_answers_on_stdout(ask, value, monkeypatch, capsys):
    usual = ask()
    terminal = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", terminal)
    words = ["--weights.trial", "1", "--values.trial", str(value), "--top_k", "12"]
    assert main(["generate", *PROMPTS, *words, "--max_tokens", "8"]) == 0
    assert capsys.readouterr().out.splitlines() == usual
    assert "answers" in terminal.getvalue()
    assert not any(line in terminal.getvalue() for line in usual)


@pytest.mark.usefixtures("one_row")
def test_a_reader_that_goes_away(value):
    words = ["--weights.trial", "1", "--values.trial", str(value), "--top_k", "12"]
    command = [sys.executable, "-m", "mavis", "generate", *PROMPTS, *words]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        assert running.stdout
        running.stdout.close()  # as `| head -0` does
        assert running.stderr
        assert running.stderr.read() == ""
    assert running.returncode == 0


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


def test_beams_find_the_most_likely_answers(ask, value):
    policy = load({"trial": value})
    want = policy.beam_search(list(PROMPTS), {"trial": 1.0}, beams=3, max_tokens=8, top_k=12)
    lines = [json.loads(line) for line in ask("--beams", "3", "--n", "2", "--json")]
    assert [line["tokens"] for line in lines] == [a.tokens for found in want for a in found[:2]]
    assert [line for line in ask("--beams", "3", "--compare") if line.startswith("reference")]


def test_more_answers_than_beams_are_refused(value, capsys):
    words = ["--weights.trial", "1", "--values.trial", str(value), "--beams", "2"]
    assert main(["generate", *PROMPTS, *words, "--n", "3"]) == 2
    assert "n must be at most the number of beams (2), got 3." in capsys.readouterr().err


def test_fewer_answers_than_were_asked_for_are_given_with_a_warning(value, capsys):
    """With one candidate a token there is one answer; the other prompts lose nothing."""
    words = ["--weights.trial", "1", "--values.trial", str(value), "--beams", "2", "--n", "2"]
    small = [*words, "--max_tokens", "8", "--json", "--compare", "--score"]
    assert main(["generate", *PROMPTS, *small, "--top_k", "1"]) == 0
    printed = capsys.readouterr()
    assert [json.loads(line)["prompt"] for line in printed.out.splitlines()] == list(PROMPTS)
    assert printed.err.splitlines() == [
        "mavis: warning: beam search found fewer than n = 2 answers to 2 of 2 prompts, the first "
        "of them 1 to prompt 0."
    ]
    assert main(["generate", "an ant is", LONG, "hats", *small, "--top_k", "1"]) == 1
    printed = capsys.readouterr()
    lines = list(map(json.loads, printed.out.splitlines()))
    assert [line["prompt"] for line in lines] == ["an ant is", LONG, LONG, "hats"]
    assert ["error" in line for line in lines] == [False, True, True, False]
    assert "answers to 2 of 3 prompts" in printed.err
    assert main(["generate", *PROMPTS, *small, "--top_k", "1", "--strict"]) == 2
    assert "beam search found only 1 answers to prompt 0" in capsys.readouterr().err


def test_every_token_is_told_as_it_comes(value):
    policy, heard = load({"trial": value}), {}
    answers = policy.generate(
        list(PROMPTS), max_tokens=6, n=2, on_token=lambda at, event: heard.setdefault(
            at, []
        ).append(event.token)
    )  # fmt: skip
    assert [heard[at] for at in range(4)] == [answer.tokens for answer in answers]


def test_a_kl_budget_takes_the_place_of_a_strength(value, capsys):
    words = ["generate", *PROMPTS, "--values.trial", str(value), "--max_tokens", "8"]
    small = [*words, "--top_k", "12", "--weights.trial", "1", "--json"]
    assert main([*small, "--kl", "0.2"]) == 0
    printed = capsys.readouterr()
    (beta,) = re.findall(r"a KL of 0\.2 nats is expected at --beta (\S+)\.$", printed.err, re.M)
    assert main([*small, "--beta", beta]) == 0
    alike = zip(printed.out.splitlines(), capsys.readouterr().out.splitlines(), strict=True)
    assert all(json.loads(a)["tokens"] == json.loads(b)["tokens"] for a, b in alike)
    assert main([*small, "--kl", "0.2", "--beta", "1"]) == 2
    assert "kl takes the place of beta" in capsys.readouterr().err
    assert main(["generate", *PROMPTS, "--kl", "0.2"]) == 2
    assert "needs an objective" in capsys.readouterr().err
    assert main([*small, "--kl", "-1"]) == 2
    assert "kl must be above 0, got -1" in capsys.readouterr().err
    # A prompt that is too long is reported once, and does not spoil the estimate.
    assert main([*small[:1], LONG, *small[2:], "--kl", "0.2"]) == 1
    assert capsys.readouterr().err.count("characters") <= 1
