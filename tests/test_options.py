"""Options that are shared mean one thing everywhere, and are told by one text."""

from dataclasses import fields

import pytest

from mavis.baselines.train.config import ParmConfig, TuneConfig
from mavis.cli.main import commands, main
from mavis.cli.parsing import config_of, parser
from mavis.comparison.config import ParetoConfig
from mavis.options import FREE, Options

CONFIGS = {"tune": TuneConfig, "parm": ParmConfig, "pareto": ParetoConfig}


def helps(command):
    """The help of each option of a command, by its name."""
    built = parser(commands()[command,], command)
    return {action.dest: action.help for action in built._actions if action.option_strings}


def test_a_command_s_options_are_the_fields_of_its_config():
    for name, config in CONFIGS.items():
        assert config_of(commands()[name,]) is config
        assert {field.name for field in fields(config)} <= set(helps(name))
        assert all(helps(name)[field.name] for field in fields(config)), "an option without help"


def test_a_shared_option_has_one_help_text():
    shared = {field.name for field in fields(Options)}
    tune, parm, pareto = (helps(name) for name in CONFIGS)
    for name in shared:
        assert tune[name] == parm[name] == pareto[name]
    for name in ("held_out", "seed"):
        assert tune[name] == parm[name]
    for name in ("weights", "divergence", "alpha", "lora"):
        assert tune[name] == pareto[name]
    assert parm["num_prompts"] == pareto["num_prompts"]


@pytest.mark.parametrize("config", CONFIGS.values())
def test_settings_are_the_options_that_change_a_result(config):
    names = {field.name for field in fields(config)} - set(FREE)
    if config is TuneConfig:  # a policy that is no adapter has no rank: `lora_rank` says both
        names -= {"lora"}
    assert set(config(objectives="a").settings()) == names


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["parm", "--limit", "4"], "there is no option --limit any more: it is called --num_pro"),
        (
            ["pareto", "--source=x"],
            "there is no option --source any more: it is called --prompts",
        ),
        (
            ["pareto", "--prompts", "200"],
            "the number of prompts is set by --num_prompts 200.",
        ),
        (["tune", "--steps", "x"], "--steps: expected a whole number Given value: x"),
        (
            ["tune", "--objectives", "humor", "--prompts", "20"],
            "the number of prompts is not an option here.",
        ),
    ],
)
def test_old_spellings_are_told_the_new_ones(words, said, capsys):
    assert main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


def test_a_data_set_may_be_called_by_a_number(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "200").mkdir()
    assert ParetoConfig(objectives="a", prompts="200").prompts == "200"


def test_settings_of_earlier_names_are_those_of_today():
    assert ParmConfig.renew({"limit": 8, "lr": 0.1}) == {"num_prompts": 8, "lr": 0.1}
    assert TuneConfig.renew({"limit": 8}) == {"limit": 8}
