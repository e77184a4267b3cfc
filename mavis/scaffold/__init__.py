"""Start a plugin: an installable package with a working reward, its test and a README.

The files are the `.tmpl` files beside this one, with `$name` and the like filled in.
"""

import re
import shutil
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from string import Template

from mavis.objective import available

_NAME = re.compile(r"[a-z]([a-z0-9_-]*[a-z0-9])?")
_FILES = {  # template -> path in the plugin
    "pyproject.toml.tmpl": "pyproject.toml",
    "module.py.tmpl": "$module.py",
    "test.py.tmpl": "tests/test_$identifier.py",
    "README.md.tmpl": "README.md",
}


def write_plugin(name: str, out: Path) -> Path:
    """Write a plugin package for a new objective.

    Args:
        name: The objective's name, for `--objective NAME`: lower-case letters, digits, - and _.
        out: The folder in which the package's own folder `mavis-NAME` is made.

    Returns:
        The package's folder, ready for `pip install -e`.

    Raises:
        ValueError: A name that breaks the rule, or is taken by an objective or a module.
        FileExistsError: The folder is there already.
        NotADirectoryError: `out` is a file.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(
            "name must be lower-case letters, digits, - and _, with a letter first and no - or _"
            f" last, got {name!r}."
        )
    identifier = name.replace("-", "_")
    fields = {
        "name": name,
        "identifier": identifier,
        "module": f"mavis_{identifier}",
        "distribution": f"mavis-{name.replace('_', '-')}",
    }
    _refuse_taken(name, fields["module"])
    folder = out / fields["distribution"]
    if out.exists() and not out.is_dir():
        raise NotADirectoryError(f"out must be a folder, but {str(out)!r} is a file.")
    if folder.exists():
        raise FileExistsError(f"{str(folder)!r} is there already; remove it or choose another out.")
    try:
        for template, path in _FILES.items():
            text = resources.files(__package__).joinpath(template).read_text(encoding="utf-8")
            target = folder / Template(path).substitute(fields)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(Template(text).substitute(fields), encoding="utf-8")
    except OSError:  # a full disk: half a package would only be in the way
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return folder


def _refuse_taken(name: str, module: str) -> None:
    taken = {other.lower().replace("-", "_"): other for other in available()}
    if other := taken.get(name.replace("-", "_")):
        raise ValueError(f"name {name!r} is taken: objective {other!r} is installed already.")
    if find_spec(module):
        raise ValueError(f"name {name!r} is taken: there is a module {module!r} already.")
