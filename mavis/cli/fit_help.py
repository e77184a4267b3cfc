"""The help page of the training commands, printed without loading torch.

LightningCLI can only describe itself when torch and Lightning are loaded, which takes seconds, and
it lists hundreds of options. So the options are read from the source text of the classes that take
them, without importing those: the signatures give the options, and the docstrings their help.
"""

import ast
import builtins
import json
from argparse import ArgumentParser
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from shutil import get_terminal_size
from textwrap import wrap
from typing import Any, NamedTuple

from mavis.cli.parsing import EVERYWHERE
from mavis.objective import available, common_module, find
from mavis.versions import MOVED

MODULE = "mavis.training.module.ValueModule"
DATA = "mavis.training.data.RolloutDataModule"
INDENT, WIDEST = 30, 110
EXAMPLES = (
    "mavis fit --objective humor",
    "mavis fit --objective brevity --data.prompts my_prompts.jsonl --data.reference path/to/model",
    "mavis fit -c configs/qwen-helpfulness.yaml",
)
PLAN = ("--plan", "say what it will take: time, memory, disk")
# The trainer options in common use; `--help all` lists all of Lightning's.
TRAINER = {
    "accelerator": "cpu, cuda, mps, …; auto uses what torch detects (default: auto)",
    "devices": "number of devices, or a list of them, each with its own process (default: auto)",
    "strategy": "distributed training strategy: ddp, … (default: auto)",
    "num_nodes": "number of machines (default: 1)",
    "precision": "32-true, bf16-mixed, bf16-true, 16-mixed (not on a CPU), … (default: 32-true)",
    "max_time": "stop after DD:HH:MM:SS; the same command resumes from there",
    "gradient_clip_val": "largest gradient norm (default: 1.0)",
    "accumulate_grad_batches": "batches per optimizer step (default: 1)",
    "fast_dev_run": "true: one batch of every phase, in its own folder",
    "enable_progress_bar": "false: show no progress bar",
    "logger": "false: track nothing",
}


class Option(NamedTuple):
    """An argument of a class."""

    name: str
    kind: str  # its annotation, as written
    default: str | None  # as written in the source; None if the option is required
    text: str


def page(words: Sequence[str], summary: str, names: Sequence[str]) -> str:
    """The help of a training command, given the arguments and the objectives that are named."""
    module, given = _module(words, names)
    data = [option for option in options(DATA) if option.name not in ("objectives", "seed")]
    model = [("--model CLASS", "dotted path of another LightningModule")]
    try:
        for option in options(module):
            own = option._replace(default=str(given.get(option.name, option.default)))
            model.append(_line(f"--model.{option.name}", own))
    except (ImportError, SyntaxError) as error:
        model.append(("", f"(its options cannot be read: {error})"))
    parts = {
        "what to fit": [*_own(), *([PLAN] if words[0] == "fit" else [])],
        "prompts, reference and rollouts": [_line(f"--data.{o.name}", o) for o in data],
        f"the module that is trained, {module}": model,
        "training": [(f"--trainer.{key}", text) for key, text in TRAINER.items()],
        "with every command": [(", ".join(flags), text) for flags, text in EVERYWHERE],
    }
    command = words[0]
    lines = [f"usage: mavis {command} --objective NAME [OPTIONS]", "", summary]
    lines += [f"  $ {example}" for example in EXAMPLES if command == "fit"]
    width = min(WIDEST, max(60, get_terminal_size((WIDEST, 24)).columns))
    for title, entries in parts.items():
        lines += ["", f"{title}:"]
        for words, text in entries:
            lines += _entry(words, text, width)
    lines += ["", f"mavis {command} --help all shows all options of Lightning's Trainer, too."]
    return "\n".join(lines)


def _module(words: Sequence[str], names: Sequence[str]) -> tuple[str, Mapping[str, Any]]:
    """The dotted path of the module to be trained, and the arguments that the objective sets."""
    peek = ArgumentParser(add_help=False, allow_abbrev=False)
    peek.add_argument("--model", nargs="?")
    given = peek.parse_known_args(list(words))[0].model
    path, own = common_module([find(name) for name in names]) if names else (MODULE, {})
    if given is not None and given not in (path, path.rpartition(".")[2]):
        return given, {}
    return path, own


def _own() -> list[tuple[str, str]]:
    """Return the options that belong to the command, not to a class."""
    return [
        ("--objective NAME", f"one of {', '.join(available()) or 'none, as none is installed'}"),
        ("--objectives NAME,NAME", "several of them, for one value model"),
        ("-c, --config FILE", "YAML file of options; the last value counts"),
        ("--out FOLDER", "output folder; the same command resumes from there (default: runs/NAME)"),
        (
            "--tracking URI",
            "MLflow tracking URI (default: MLFLOW_TRACKING_URI, or mlflow.db beside --out)",
        ),
        ("--seed_everything N", "seed of all random draws (default: 0)"),
        ("--print_config", "print all settings as YAML for -c, and exit"),
    ]


def _line(words: str, option: Option) -> tuple[str, str]:
    """Format an option: its flag, and its help text with type and default."""
    known = option.default not in (None, "None")
    notes = [option.kind, f"default: {option.default}" if known else ""]
    note = ", ".join(filter(None, notes))
    return words, f"{option.text.rstrip('.')}{f' ({note})' if note else ''}".strip()


def _entry(words: str, text: str, width: int) -> list[str]:
    """Lay out a flag and its help text in two columns, wrapped to the width."""
    column = wrap(text, width - INDENT - 1, break_on_hyphens=False) or [""]
    first = [f"  {words:<{INDENT - 2}} {column[0]}"]
    if len(words) > INDENT - 2:
        first = [f"  {words}", f"{'':<{INDENT}} {column[0]}"]
    return first + [f"{'':<{INDENT}} {line}" for line in column[1:]]


def options(path: str) -> list[Option]:
    """The arguments of a class, including those that it passes on to its parents.

    Args:
        path: dotted, `package.module.Class`.

    Raises:
        ImportError: there is no such module, or no such class in it.
    """
    module, _, name = path.rpartition(".")
    for node in _source(module).body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return list(_arguments(node, module))
    if (home := _where(name, module)) is None:
        raise ImportError(f"there is no class {name} in {module}.")
    return options(home)  # it is imported there from another module


def _arguments(node: ast.ClassDef, module: str) -> Iterator[Option]:
    """Yield the arguments of a class, then those of its parents that it does not override."""
    makers = [f for f in node.body if isinstance(f, ast.FunctionDef) and f.name == "__init__"]
    texts = _texts(ast.get_docstring(node) or "")
    taken: set[str] = set()
    for maker in makers:
        texts |= _texts(ast.get_docstring(maker) or "")
        for option in _signature(maker, texts):
            taken.add(option.name)
            yield option
    if makers and makers[0].args.kwarg is None:
        return
    for base in node.bases:
        path = _where(ast.unparse(base), module)
        if path is not None and not path.startswith("lightning."):
            yield from (option for option in options(path) if option.name not in taken)


def _signature(maker: ast.FunctionDef, texts: dict[str, str]) -> Iterator[Option]:
    given = maker.args
    plain = [*given.posonlyargs, *given.args]
    missing = [None] * (len(plain) - len(given.defaults))
    pairs = [*zip(plain, [*missing, *given.defaults], strict=True)][1:]  # not self
    pairs += zip(given.kwonlyargs, given.kw_defaults, strict=True)
    for argument, default in pairs:
        shown = None if default is None else _plain(default)
        yield Option(argument.arg, _kind(argument), shown, texts.get(argument.arg, ""))


def _kind(argument: ast.arg) -> str:
    """Return the type of an argument for display; empty if it is a class of the program."""
    if argument.annotation is None:
        return ""
    kind = ast.unparse(argument.annotation).removesuffix(" | None")
    if kind.startswith("Literal["):
        return " or ".join(kind[len("Literal[") : -1].replace("'", "").split(", "))
    return "" if kind.isidentifier() and not hasattr(builtins, kind) else kind


def _plain(default: ast.expr) -> str:
    """A default as it would be written on the command line."""
    try:
        value = ast.literal_eval(default)
    except ValueError:
        return ast.unparse(default)
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False) if value is not None else "None"


def _texts(docstring: str) -> dict[str, str]:
    """The help of each argument."""
    from docstring_parser import parse

    return {p.arg_name: " ".join((p.description or "").split()) for p in parse(docstring).params}


def _where(name: str, module: str) -> str | None:
    """The dotted path of a class that a module calls by a name; None if it has no such class."""
    for node in _source(module).body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return f"{module}.{name}"
        for alias in node.names if isinstance(node, ast.ImportFrom | ast.Import) else ():
            called, home = alias.asname or alias.name, getattr(node, "module", None)
            if called == name and home and not getattr(node, "level", 0):
                return f"{home}.{alias.name}"
            if name.startswith(f"{called}.") and isinstance(node, ast.Import):
                return f"{alias.name}{name.removeprefix(called)}"
    return None


@cache
def _source(module: str) -> ast.Module:
    spec = find_spec(MOVED.get(module, module)) if module else None
    if spec is None or spec.origin is None or not Path(spec.origin).is_file():
        raise ImportError(f"there is no module {module!r}.")
    return ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
