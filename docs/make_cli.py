"""Writes `docs/cli.md`: what every command says to --help. Run by `make docs`."""

import os
import re
from contextlib import redirect_stdout
from importlib.metadata import distribution
from io import StringIO
from pathlib import Path
from unittest.mock import patch

from mavis.cli.main import TRAINING, commands, main
from mavis.objective import GROUP

FILE = Path(__file__).with_name("cli.md")
WIDTH = "100"  # letters in a line, whatever the terminal has
HEAD = """# Commands

What `mavis COMMAND --help` says, for every command. This file is written by `make docs`: change
the help texts in the code, and run it again.
"""


def reference() -> str:
    """The whole file."""
    names = [(name,) for name in TRAINING] + list(commands())
    own = sorted(point.name for point in distribution("mavis").entry_points.select(group=GROUP))
    fixed = {"COLUMNS": WIDTH, "NO_COLOR": "1"}
    with (
        patch.dict(os.environ, fixed),
        patch("mavis.cli.fit_help.available", lambda: own),  # not what else is installed here
    ):
        return "\n".join([HEAD, *map(_section, names)])


def _section(name: tuple[str, ...]) -> str:
    """What a command says of itself."""
    with redirect_stdout(StringIO()) as said:
        status = main([*name, "--help"])
    assert status == 0, name
    text = "\n".join(line.rstrip() for line in said.getvalue().strip().splitlines())
    text = re.sub(r"(--\w+) [A-Z_]+, (--\w+\+ )", r"\1, \2", text)  # as of Python 3.13
    return f"## mavis {' '.join(name)}\n\n```text\n{text}\n```\n"


if __name__ == "__main__":
    FILE.write_text(reference(), encoding="utf-8")
