"""The help of `fit`: a page, at once, and true."""

import inspect
import sys

import pytest
from lightning.pytorch import Trainer

from mavis.cli.fit_help import TRAINER, _entry, options
from mavis.cli.main import TRAINING, main
from mavis.objective import Objective
from mavis.training.data import RolloutDataModule
from mavis.training.module import ValueModule

LINKED = ("max_epochs", "check_val_every_n_epoch", "default_root_dir")  # other options decide
PLUGIN = '''
import mavis.training.module as ours
from mavis.training.module import ValueModule as Parent


class Sharp(Parent):
    """Sharper.

    Args:
        edge: how sharp it is.
        lr: learning rate, finer.
    """

    def __init__(self, edge: float = 0.5, lr: float = 5e-4, *, tip: str = "round", **kwargs):
        super().__init__(lr=lr, **kwargs)


class Closed(ours.ValueModule):
    def __init__(self, only: int, names: list[str] = ["a", "b"]):
        """Takes one thing.

        Args:
            only: the one thing.
        """
        super().__init__()


class Same(Sharp):
    """As its parent."""
'''


@pytest.fixture
def sharp(tmp_path, monkeypatch):
    """A module of a plugin with LightningModules of its own."""
    (tmp_path / "mavis_sharp.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "mavis_sharp"
    sys.modules.pop("mavis_sharp", None)


def said(capsys, *words):
    assert main(list(words)) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


def column(text, option):
    """What the page says of an option, its lines joined."""
    lines = text.splitlines()
    at = next(n for n, line in enumerate(lines) if line.strip().split(" ")[0] == option)
    rest = []
    for line in lines[at + 1 :]:
        if not line.startswith(" " * 20):
            break
        rest.append(line.strip())
    return " ".join([lines[at].strip().removeprefix(option).strip(), *rest])


@pytest.mark.parametrize("kind", [RolloutDataModule, ValueModule])
def test_options_are_those_of_the_signature(kind):
    """Read from the source, and the same as Python sees them."""
    found = {option.name: option for option in options(f"{kind.__module__}.{kind.__qualname__}")}
    parameters = dict(list(inspect.signature(kind.__init__).parameters.items())[1:])
    assert list(found) == list(parameters)
    for name, parameter in parameters.items():
        assert found[name].text, name
        if parameter.default is inspect.Parameter.empty:
            assert found[name].default is None
        elif isinstance(parameter.default, int | float | str):
            assert found[name].default == str(parameter.default)


def test_trainer_options_are_there():
    assert set(TRAINER) <= set(inspect.signature(Trainer.__init__).parameters)


@pytest.mark.parametrize("command", TRAINING)
def test_a_page(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    text = said(capsys, command, "--help")
    assert text.startswith(f"usage: mavis {command} --objective NAME [OPTIONS]\n\n")
    assert len(text.splitlines()) < 120
    assert max(map(len, text.splitlines())) <= 110
    shown = ("-c,", "--out", "--tracking", "--data.prompts", "--data.template_args", "--model")
    for option in (*shown, "--model.trunk", "--trainer.precision", "--trainer.max_time"):
        assert column(text, option), option
    assert "--data.objective" not in text  # linked: nobody gives these
    assert "(float, default: 2.0)" in column(text, "--data.kl_budget")
    for word in ("action", "state", "shared"):
        assert f"`{word}`" in column(text, "--model.source")
    assert "--help all" in text


def test_options_of_a_module_named_by_its_path(sharp, capsys):
    text = said(capsys, "fit", "--objective", "humor", "--model", f"{sharp}.Sharp", "--help")
    assert column(text, "--model.edge") == "how sharp it is (float, default: 0.5)"
    assert column(text, "--model.lr") == "learning rate, finer (float, default: 0.0005)"
    assert column(text, "--model.tip") == "(str, default: round)"
    assert column(text, "--model.warmup")  # handed on to the parent
    assert text.count("--model.lr ") == 1
    same = said(capsys, "fit", f"--model={sharp}.Same", "-h")
    assert column(same, "--model.edge") == "how sharp it is (float, default: 0.5)"
    closed = said(capsys, "fit", "--model", f"{sharp}.Closed", "--help")
    assert column(closed, "--model.only") == "the one thing (int)"
    assert column(closed, "--model.names") == '(list[str], default: ["a", "b"])'
    assert "--model.warmup" not in closed


@pytest.mark.parametrize("by", ["class", "path"])
def test_options_of_an_objectives_own_module(by, sharp, capsys, monkeypatch):
    value = f"{sharp}.Sharp"
    if by == "class":
        value = __import__(sharp).Sharp
    own = Objective(
        name="keen",
        reward=lambda _, said: [len(s) for s in said],
        value=value,
        value_args={"edge": 0.9},
    )
    monkeypatch.setattr("mavis.cli.fit_help.find", lambda _: own)
    monkeypatch.setattr("mavis.objective.find", lambda _: own)
    text = said(capsys, "fit", "--objective", "keen", "--help")
    assert column(text, "--model.edge") == "how sharp it is (float, default: 0.9)"
    assert f"the module that is trained, {sharp}.Sharp:" in text


@pytest.mark.parametrize("path", ["nowhere.Module", "mavis.training.module.Nothing", "Nothing"])
def test_a_module_that_cannot_be_read_leaves_the_rest_of_the_page(path, capsys):
    text = said(capsys, "fit", "--model", path, "--help")
    assert "its options cannot be read: there is no " in text
    assert column(text, "--data.eta")


def test_names_with_hyphens_stay_whole():
    entry = _entry("--x", "one of " + ", ".join(f"hh-{k}" for k in "abcdefghijklmnop"), 60)
    assert not [line for line in entry if line.endswith("-")]


@pytest.mark.parametrize("words", [["--help", "all"], ["--help=all"]])
def test_everything(words, capsys):
    text = said(capsys, "fit", "--objective", "humor", *words)
    assert column(text, "--model.trunk")
    for name in inspect.signature(Trainer.__init__).parameters:
        if name not in ("self", *LINKED):
            assert f"--trainer.{name}" in text
