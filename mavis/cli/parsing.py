"""Parses a plain command's arguments: its signature has the options, its docstring the help."""

import re
from argparse import SUPPRESS
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from inspect import Parameter, signature
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from mavis.loudness import Loudness
from mavis.options import Options

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

Command = Callable[..., None]

DEBUG = "--debug"
LOUDNESS: dict[str, Loudness] = {
    **dict.fromkeys(("-q", "--quiet"), "quiet"),
    **dict.fromkeys(("-v", "--verbose"), "verbose"),
}
EVERYWHERE = (  # options of every command, which `manner` removes before parsing
    (("-q", "--quiet"), "print only results and errors, no bars"),
    (("-v", "--verbose"), "print more, including the logs and warnings of libraries"),
    ((DEBUG,), "print the full traceback of an error"),
)
KINDS = {"int": "a whole number", "float": "a number", "str": "a text", "dict": "NAME VALUE pairs"}


def manner(words: Sequence[str]) -> tuple[list[str], Loudness, bool]:
    """Split off the options that every command accepts.

    Arguments after `--` are never options.

    >>> manner(["generate", "-q", "--", "-v"])
    (['generate', '--', '-v'], 'quiet', False)

    Returns:
        the remaining arguments, the verbosity, and whether tracebacks are wanted.

    Raises:
        ValueError: both --quiet and --verbose are given.
    """
    end = words.index("--") if "--" in words else len(words)
    kept, levels, debug = [], set[Loudness](), False
    for word in words[:end]:
        level = LOUDNESS.get(word)
        if level is not None:
            levels.add(level)
        elif word == DEBUG:
            debug = True
        else:
            kept.append(word)
    if len(levels) > 1:
        raise ValueError("--quiet and --verbose exclude each other: give one of them.")
    return [*kept, *words[end:]], levels.pop() if levels else "normal", debug


def call(function: Command, name: str, words: Sequence[str]) -> None:
    """Parse the arguments of a command, and call it with them."""
    parsed = parser(function, name).parse_args(list(words)).as_dict()
    given = {key: parsed[key] for key in parameters(function)}
    if (config := config_of(function)) is None:
        function(**given)
    else:
        function(config(**given))


def config_of(function: Command) -> type[Options] | None:
    """Return the dataclass that holds a command's options, or None if its parameters do."""
    kinds = [parameter.annotation for parameter in signature(function).parameters.values()]
    is_config = len(kinds) == 1 and isinstance(kinds[0], type) and issubclass(kinds[0], Options)
    return kinds[0] if is_config else None


def parameters(function: Command) -> Mapping[str, Parameter]:
    """Return the options of a command by name."""
    return signature(config_of(function) or function).parameters


def parser(function: Command, name: str) -> "ArgumentParser":
    """Build the parser of `mavis NAME`, which raises a ValueError for invalid arguments."""
    from docstring_parser import parse
    from jsonargparse import ArgumentParser

    config, taken = config_of(function), parameters(function)
    renamed = config.RENAMED if config else {}

    class BriefParser(ArgumentParser):
        def error(self, message: str, ex: Exception | None = None) -> None:  # type: ignore[override]
            text = _with_nearest(_in_words(message), [f"--{key}" for key in taken], renamed)
            raise ValueError(text) from ex

    about = parse(function.__doc__ or "")
    description = " ".join(
        f"{about.short_description or ''} {about.long_description or ''}".split()
    )
    built = BriefParser(prog=f"mavis {name}", description=description)
    texts = [parse(one.__doc__ or "") for one in reversed(config.__mro__)] if config else [about]
    help_of = {each.arg_name: each.description for text in texts for each in text.params}
    skip: set[str | int] = set()  # what is added here instead of by jsonargparse
    for key, parameter in taken.items():
        flag, how = f"--{key}", dict[str, Any]()
        if parameter.default is False:  # a flag, which takes no value
            how = {"action": "store_true"}
        elif parameter.annotation == list[str] and parameter.default is parameter.empty:
            flag, how = key, {"nargs": "*", "default": [], "type": str}
        elif parameter.annotation == list[str]:  # a repeatable option with verbatim texts
            how = {"action": "append", "default": [], "metavar": "TEXT"}
        if how:
            built.add_argument(flag, help=help_of.get(key), **how)
            skip.add(key)
    if config is None:
        built.add_function_arguments(function, as_group=False, skip=skip, as_positional=True)
    else:
        built.add_class_arguments(config, as_group=False, skip=skip)
    everywhere = built.add_argument_group("with every command")
    for flags, text in EVERYWHERE:
        everywhere.add_argument(*flags, action="store_true", default=SUPPRESS, help=text)
    return built


def _in_words(message: str) -> str:
    """Rewrite a parser message without Python's names of types.

    >>> _in_words("Expected a <class 'float'>. Got value: nan")
    'expected a number. Got value: nan'
    >>> _in_words("Expected a typing.Literal['a', 'b']. Got value: c")
    "expected one of ['a', 'b']. Got value: c"
    """
    text = re.sub(r'Parser key "([^"]+)":', r"--\1:", message)
    text = re.sub(r" *-? *Expected an? <class 'NoneType'>\.?\n?", "", text)  # it may be left out
    text = re.sub(r"Expected an? typing\.Literal", "expected one of ", text)
    kind = r"Expected an? <class '(\w+)'>"
    return re.sub(kind, lambda match: f"expected {KINDS.get(match[1], f'a {match[1]}')}", text)


def _with_nearest(
    message: str, options: Sequence[str], renamed: Mapping[str, str] = MappingProxyType({})
) -> str:
    """Suggest the current name of an unknown option, or the most similar option.

    >>> _with_nearest("unrecognized arguments: --limit=1", [], {"limit": "num_prompts"})
    'there is no option --limit any more: it is called --num_prompts now.'
    >>> _with_nearest("unrecognized arguments: --weight.humor 1", ["--weights"])
    'there is no option --weight.humor (did you mean --weights.humor?).'
    >>> _with_nearest("ambiguous option: --objective could match --objectives, --objectives+", [])
    'there is no option --objective (did you mean --objectives?).'
    """
    kind, _, rest = message.partition(": ")
    words = rest.split()
    if kind not in {"unrecognized arguments", "ambiguous option"} or not words:
        return message
    asked = words[0].split("=")[0]
    stem, dot, leaf = asked.partition(".")
    if (today := renamed.get(stem.removeprefix("--"))) is not None:
        return f"there is no option {asked} any more: it is called --{today} now."
    near = get_close_matches(stem, options, n=1)
    if kind == "ambiguous option":  # NAME+ is how the parser adds to a list
        near = [word.rstrip(",") for word in words[3:] if not word.rstrip(",").endswith("+")]
    if not asked.startswith("-") or len(near) != 1:
        return message
    return f"there is no option {asked} (did you mean {near[0]}{dot}{leaf}?)."
