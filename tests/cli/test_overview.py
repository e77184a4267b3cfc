"""What people see who do not know the commands yet."""

import shlex

import pytest

from mavis.cli.main import TRAINING, commands, main
from mavis.cli.overview import EXAMPLES
from mavis.cli.parsing import parameters


def lines(capsys, *words):
    assert main(words) == 0
    said = capsys.readouterr()
    assert said.err == ""
    return said.out.splitlines()


def test_first_things_come_first(capsys):
    said = lines(capsys, "--help")
    (rest,) = (at for at, line in enumerate(said) if line.startswith("evaluation"))
    first = "\n".join(said[:rest])
    for name in ("fit", "generate", "objectives new"):
        assert f"  {name} " in first
    for name in ("tune", "parm", "pareto", "judge", "sandbox build", "validate", "test"):
        assert f"  {name} " not in first
    assert lines(capsys, "help") == said


def test_every_command_has_an_example_that_can_be_typed():
    shown = {name: text for examples in EXAMPLES.values() for name, text in examples.items()}
    assert shown.keys() == {*commands(), *((name,) for name in TRAINING)}
    for name, example in shown.items():
        first, *words = shlex.split(example)
        assert first == "mavis"
        assert tuple(words[: len(name)]) == name
        known = parameters(commands()[name]) if name in commands() else ["objective"]
        options = [word[2:].split(".")[0] for word in words if word.startswith("--")]
        assert set(options) <= set(known)


@pytest.mark.parametrize(
    "words", [["objectives"], ["objectives", "--help"], ["help", "objectives"]]
)
def test_a_family_shows_its_commands(words, capsys):
    said = lines(capsys, *words)
    for name in ("list", "check", "new"):
        (line,) = (line for line in said if line.startswith(f"  objectives {name} "))
        assert line.endswith(".")


def test_help_of_a_command_by_its_name(capsys):
    by_word = lines(capsys, "help", "objectives", "new")
    assert by_word == lines(capsys, "objectives", "new", "--help")
    for option in ("-q, --quiet", "-v, --verbose", "--debug"):
        assert any(option in line for line in by_word)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("genrate hi", "no command 'genrate' (did you mean 'generate'?)"),
        ("paretto", "no command 'paretto' (did you mean 'pareto'?)"),
        ("fti --objective humor", "no command 'fti' (did you mean 'fit'?)"),
        ("objective list", "no command 'objective list' (did you mean 'objectives list'?)"),
        ("objectives lst", "no command 'objectives lst' (did you mean 'objectives list'?)"),
        ("help genrate", "no command 'genrate' (did you mean 'generate'?)"),
        ("xyzzy", "no command 'xyzzy'; there are: fit, "),
        ("--nonsense", "no command '--nonsense'; there are: fit, "),
        (
            "generate hi --weight.humor 1",
            "no option --weight.humor (did you mean --weights.humor?)",
        ),
        ("pareto --objective humor", "no option --objective (did you mean --objectives?)"),
        ("pareto --nothing-like-it 1", "--nothing-like-it"),
        ("-q --verbose objectives list", "--quiet and --verbose exclude each other"),
        ("fit --objective", "--objective is missing"),
        ("fit -c", "-c needs the name of a configuration file"),
    ],
)
def test_what_is_misspelled(words, said, capsys):
    assert main(words.split()) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


def test_the_version(capsys):
    from importlib.metadata import version

    assert lines(capsys, "--version") == [f"mavis {version('mavis')}"]
    assert lines(capsys, "-q", "--version") == [f"mavis {version('mavis')}"]
