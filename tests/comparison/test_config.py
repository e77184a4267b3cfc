"""The options of a comparison, and the command that asks for them again."""

import shlex
from dataclasses import fields

from mavis.cli.parsing import parser
from mavis.comparison.config import ParetoConfig


def again(config):
    """The config that the config's command line is read as."""
    from mavis.cli.pareto import pareto

    words = shlex.split(config.command)[2:]
    found = parser(pareto, "pareto").parse_args(words).as_dict()
    return ParetoConfig(**{field.name: found[field.name] for field in fields(ParetoConfig)})


def test_the_command_asks_for_the_same():
    config = ParetoConfig(
        objectives="a,b",
        methods="mavis,mod",
        reference_point=[-1.0, 0.5],
        values={"a": "some where"},
        template_args={"loud": True},
        lora=True,
        num_prompts=3,
    )
    assert again(config) == config


def test_what_changes_no_result_is_not_in_the_command():
    config = ParetoConfig(objectives="a", json=True, tracking="sqlite:///secret", device="cpu")
    assert config.command == "mavis pareto --objectives a"


def test_methods_are_those_that_say_something():
    assert ParetoConfig(objectives="a").chosen == ["reference", "best_of", "mavis"]
    assert ParetoConfig(objectives="a,b").chosen[-2:] == ["mod", "soup"]
