"""The command line: `main` calls the training command or function that the first words name.

Function signatures define the options, and docstrings the help texts. No heavy library is imported
before a command needs it.
"""

import os
import sys
import warnings
from argparse import ArgumentParser
from collections.abc import Sequence
from contextlib import ExitStack
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from platform import python_version

import yaml

from mavis.cli.errors import complaint, status
from mavis.cli.overview import family, overview, unknown
from mavis.cli.parsing import Command, call, manner
from mavis.loudness import Loudness, hush, loudness, settle
from mavis.signals import Terminated, stopped_by_signals

TRAINING = {
    "fit": "Train a value model of one objective or several, round by round.",
    "validate": "Measure the last round's values on held-out trees.",
    "test": "Measure the last round's policy on the test prompts.",
}
RESUMED = {"fit", "tune", "parm", "pareto", "judge"}  # commands that resume after an interruption
HELP = {"-h", "--help"}
LIBRARIES = ("torch", "transformers", "lightning")


def commands() -> dict[tuple[str, ...], Command]:
    """Return the plain commands by name."""
    from mavis.cli.generate import generate
    from mavis.cli.judge import judge
    from mavis.cli.objectives import check_objective, list_objectives, new_objective
    from mavis.cli.pareto import pareto
    from mavis.cli.parm import parm
    from mavis.cli.sandbox import build
    from mavis.cli.serve import serve
    from mavis.cli.tune import tune

    return {
        ("generate",): generate,
        ("serve",): serve,
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
    """Run a command; this is the entry point of the `mavis` script.

    Returns:
        the exit status: 0, 1 (it failed), 2 (bad input), 130 (interrupted) or 128 + the number of
        a signal that ended it: 143 (terminated), 129 (hung up).
    """
    words = list(sys.argv[1:] if args is None else args)
    debug = False
    try:
        with stopped_by_signals(), ExitStack() as stack:
            words, level, debug = manner(words)
            stack.enter_context(loudness(level))
            stack.enter_context(warnings.catch_warnings())
            settle(speak=level == "verbose")
            if level == "verbose":
                warnings.simplefilter("default")
                print(f"mavis: {_versions()}", file=sys.stderr)
            elif args is None:  # the process is ours alone
                hush()
            _run(words, level)
    except (KeyboardInterrupt, SystemExit, Terminated) as stop:
        return _stopped(stop, words[0] if words else "")
    except BrokenPipeError:  # `mavis generate … | head`: nobody reads on
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if debug:
            raise
        print(f"mavis: error: {complaint(error)}", file=sys.stderr)
        return status(error)
    return 0


def _stopped(stop: KeyboardInterrupt | SystemExit | Terminated, command: str) -> int:
    """Print that a command was stopped, and whether it can be resumed."""
    # Lightning exits on an interrupt: what it was is in the context.
    if isinstance(stop, KeyboardInterrupt) or isinstance(stop.__context__, KeyboardInterrupt):
        event, code = "interrupted", 130
    elif isinstance(stop, Terminated):
        event, code = "terminated", stop.status
    else:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    resumed = "; the same command resumes from here" if command in RESUMED else ""
    print(f"mavis: {event}{resumed}.", file=sys.stderr)
    return code


def _run(words: list[str], level: Loudness) -> None:
    if words[:1] == ["help"]:
        words = [*words[1:], "--help"]
    if not words or words[0] in HELP:
        print(overview(_summaries()))
    elif words[0] in {"--version", "-V"}:
        print(f"mavis {version('mavis')}")
    elif words[0] in TRAINING:
        everything = "--help=all" in words or ("all" in words and bool(HELP & set(words)))
        words = ["--help" if word == "--help=all" else word for word in words]
        names = _objectives(words)
        if HELP & set(words):
            from mavis.cli.fit_help import page

            print(page(words, TRAINING[words[0]], names), flush=True)
            if not everything:
                return
            words = [words[0], *(["--objectives", ",".join(names)] if names else []), "--help"]
            print("\nall options, as listed by Lightning:\n", flush=True)
        from mavis.cli.fit import train

        bars = ["--trainer.enable_progress_bar", "false"] if level == "quiet" else []
        train([*words, *bars], names)
    else:
        _run_plain(words)


def _summaries() -> dict[tuple[str, ...], str]:
    """Return the one-line description of each command."""
    plain = {name: (each.__doc__ or "").splitlines()[0] for name, each in commands().items()}
    return {(name,): text for name, text in TRAINING.items()} | plain


def _objectives(words: list[str]) -> tuple[str, ...]:
    """What a training command is to learn, from the command line or a configuration file.

    They are looked up before the training commands are imported, which takes seconds.
    """
    from mavis.objective import available, find, named

    peek = ArgumentParser(add_help=False, allow_abbrev=False)
    for option in ("--objective", "--objectives"):
        peek.add_argument(option, nargs="?")
    peek.add_argument("-c", "--config", action="append", default=[], nargs="?")
    options = peek.parse_known_args(words)[0]
    one, several = options.objective, options.objectives
    given = named(one, several)
    for file in reversed(options.config):
        if file is None:
            raise ValueError("-c needs the name of a configuration file.")
        if not Path(file).is_file():
            raise FileNotFoundError(f"configuration file {file!r} does not exist: check -c.")
        settings = yaml.safe_load(Path(file).read_text()) or {}
        kept = named(settings.get("objective"), settings.get("objectives"))
        if given and kept and (len(given) > 1) != (len(kept) > 1):
            raise ValueError(
                f"{file} is of {', '.join(kept)}: leave out {', '.join(given)}, or -c."
            )
        if one is None and several is None:
            one, several = settings.get("objective"), settings.get("objectives")
    names = named(one, several)
    for name in names:
        find(name)
    if not names and not HELP & set(words):
        raise ValueError(f"--objective is missing; installed: {', '.join(available())}.")
    return names


def _run_plain(words: list[str]) -> None:
    """Call the command that the first words name with the remaining arguments."""
    functions = commands()
    for length in (2, 1):
        if (name := tuple(words[:length])) in functions:
            call(functions[name], " ".join(name), words[length:])
            return
    text = family(words[0], _summaries())
    if not text or not all(word.startswith("-") for word in words[1:]):
        raise ValueError(unknown(words, _summaries()))
    print(text)


def _versions() -> str:
    """Return the versions of mavis and its main libraries, for logs and bug reports."""
    versions = [f"version {version('mavis')}", f"Python {python_version()}"]
    for name in LIBRARIES:
        try:
            versions.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            versions.append(f"no {name}")
    return ", ".join(versions)


if __name__ == "__main__":
    sys.exit(main())
