"""The command line: `main` sends the first words to a training command or to a plain function.

Signatures are the options, docstrings the help. Light commands import nothing heavy before they
run.
"""

import os
import sys
from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from inspect import signature
from pathlib import Path
from typing import Any

import yaml

TRAINING = {
    "fit": "Train an objective's value model, round by round.",
    "validate": "Measure the last round's values on held-out trees.",
    "test": "Measure the last round's policy on the test prompts.",
}
RESUMED = {"fit", "tune", "parm", "pareto", "judge"}  # what a killed command has finished is kept
Command = Callable[..., None]
NOISE = (  # what the parser says around the reason why a value fits none of an option's types
    *("Does not validate against", "Subtypes:", "Errors:", "Given value type:"),
    *("Expected a <class 'NoneType'>", "Given value: NestedArg"),
)


def commands() -> dict[tuple[str, ...], Command]:
    """The plain commands, by their words."""
    from mavis.commands import check_objective, list_objectives, new_objective
    from mavis.generate import generate
    from mavis.measure.compare import pareto
    from mavis.measure.judge.judge import judge
    from mavis.measure.tuning.parm_run import parm
    from mavis.measure.tuning.tune import tune
    from mavis.sandbox.build import build

    return {
        ("generate",): generate,
        ("tune",): tune,
        ("parm",): parm,
        ("pareto",): pareto,
        ("judge",): judge,
        ("objectives", "list"): list_objectives,
        ("objectives", "check"): check_objective,
        ("objectives", "new"): new_objective,
        ("sandbox", "build"): build,
    }


def main(args: Sequence[str] | None = None) -> int:
    """Run a command; the way in of the `mavis` script, and of tests.

    Returns:
        the exit status: 0, 1 (it failed), 2 (bad input) or 130 (interrupted).
    """
    words = list(sys.argv[1:] if args is None else args)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    _calm()
    try:
        _run(words)
    except (KeyboardInterrupt, SystemExit) as stop:
        # Lightning exits on an interrupt: what it was is in the context.
        if isinstance(stop, KeyboardInterrupt) or isinstance(stop.__context__, KeyboardInterrupt):
            resumed = "; the same command goes on from here" if set(words[:1]) & RESUMED else ""
            print(f"mavis: interrupted{resumed}.", file=sys.stderr)
            return 130
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BrokenPipeError:  # `mavis generate … | head`: nobody reads on
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if debug:
            raise
        print(f"mavis: error: {_brief(error)}", file=sys.stderr)
        return 2 if isinstance(error, ValueError | LookupError | FileNotFoundError) else 1
    return 0


def _run(words: list[str]) -> None:
    if not words or words[0] in {"-h", "--help"}:
        print(_overview())
    elif words[0] in TRAINING:
        name = _objective(words)
        from mavis.training import train

        train(words, name)
    else:
        _run_plain(words)


def _objective(words: list[str]) -> str | None:
    """The objective that a training command names, itself or in a configuration file.

    It is looked up first: that takes no time, and the training commands take seconds to load.
    """
    from mavis.objective import available, find

    peek = ArgumentParser(add_help=False, allow_abbrev=False)
    peek.add_argument("--objective")
    peek.add_argument("-c", "--config", action="append", default=[])
    known = peek.parse_known_args(words)[0]
    name: str | None = known.objective
    for file in reversed(known.config):
        if not Path(file).is_file():
            raise FileNotFoundError(f"config {file!r} is a missing file.")
        if name is None:
            name = (yaml.safe_load(Path(file).read_text()) or {}).get("objective")
    if name is not None:
        find(name)
    elif not {"-h", "--help"} & set(words):
        raise ValueError(f"--objective is missing; installed: {', '.join(available())}.")
    return name


def _run_plain(words: list[str]) -> None:
    """Find the command that the first words name, parse the others, and call it."""
    table = commands()
    for length in (2, 1):
        if (name := tuple(words[:length])) in table:
            _call(table[name], " ".join(name), words[length:])
            return
    known = [" ".join(name) for name in [*((word,) for word in TRAINING), *table]]
    family = [name for name in known if name.split()[0] == words[0]]
    if family and not [word for word in words[1:] if not word.startswith("-")]:
        print("\n".join(f"mavis {name} --help" for name in family))
        return
    asked = " ".join(words[:2])
    raise ValueError(f"no command {asked!r}; there are: {', '.join(known)}.")


def _call(function: Command, name: str, words: list[str]) -> None:
    from docstring_parser import parse
    from jsonargparse import ArgumentParser

    class BriefParser(ArgumentParser):
        def error(self, message: str, ex: Exception | None = None) -> None:  # type: ignore[override]
            raise ValueError(message) from ex

    text = parse(function.__doc__ or "")
    parser = BriefParser(prog=f"mavis {name}", description=text.short_description)
    help_of = {parameter.arg_name: parameter.description for parameter in text.params}
    by_hand: set[str | int] = set()
    for key, parameter in signature(function).parameters.items():
        if parameter.default is False:  # a flag is given, or not; it takes no value
            parser.add_argument(f"--{key}", action="store_true", help=help_of.get(key))
            by_hand.add(key)
        elif parameter.annotation == list[str] and parameter.default is parameter.empty:
            parser.add_argument(key, nargs="*", type=str, help=help_of.get(key))
            by_hand.add(key)
        elif parameter.annotation == list[str]:  # one at a time, each exactly as it was written
            text_of_one = {"type": str, "metavar": "TEXT", "help": help_of.get(key)}
            parser.add_argument(f"--{key}", action="append", default=[], **text_of_one)
            by_hand.add(key)
    parser.add_function_arguments(function, skip=by_hand, as_positional=True)
    arguments: dict[str, Any] = parser.parse_args(words).as_dict()
    function(**arguments)


def _overview() -> str:
    """What `mavis --help` says."""
    lines = [f"  {name:<18} {text}" for name, text in TRAINING.items()]
    for name, function in commands().items():
        summary = (function.__doc__ or "").splitlines()[0]
        lines.append(f"  {' '.join(name):<18} {summary}")
    return "\n".join(
        [
            "usage: mavis COMMAND [OPTIONS]     (mavis COMMAND --help lists a command's options)",
            "",
            *lines,
            "",
            "  --debug            show the whole traceback of an error",
        ]
    )


def _calm() -> None:
    """Keep libraries from telephoning and from talking over our own lines."""
    for name in ("MLFLOW_DISABLE_TELEMETRY", "HF_HUB_DISABLE_TELEMETRY"):
        os.environ.setdefault(name, "true")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


def _brief(error: BaseException) -> str:
    """The first lines of an error, without what its library says about usage."""
    lines = [line.strip().removeprefix("- ") for line in str(error).splitlines()]
    text = (
        " ".join([line for line in lines if line and not line.startswith(NOISE)][:4])
        or type(error).__name__
    )
    known = ValueError | LookupError | OSError | ImportError | RuntimeError
    text = text.strip("'\"") if isinstance(error, LookupError) else text
    return text if isinstance(error, known) else f"{type(error).__name__}: {text}"


if __name__ == "__main__":
    sys.exit(main())
