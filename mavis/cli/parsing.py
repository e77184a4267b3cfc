"""From words to a call: a plain command's signature is its options, its docstring their help."""

import re
from argparse import SUPPRESS
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from inspect import Parameter, signature
from types import MappingProxyType
from typing import TYPE_CHECKING

from mavis.loudness import Loudness
from mavis.options import Options

if TYPE_CHECKING:
    from docstring_parser import Docstring
    from jsonargparse import ArgumentParser

Command = Callable[..., None]

DEBUG = "--debug"
LOUDNESS: dict[str, Loudness] = {
    **dict.fromkeys(("-q", "--quiet"), "quiet"),
    **dict.fromkeys(("-v", "--verbose"), "verbose"),
}
EVERYWHERE = (  # options of every command, which `manner` removes before parsing
    (("-q", "--quiet"), "print only results and errors, without progress bars"),
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
    """Build the parser of a plain command, which raises a ValueError for invalid arguments.

    Args:
        function: the command.
        name: the command's name, as in `mavis NAME`.
    """
    from docstring_parser import parse
    from jsonargparse import ArgumentParser

    config, taken = config_of(function), parameters(function)
    renamed = config.RENAMED if config else {}

    class BriefParser(ArgumentParser):
        def error(self, message: str, ex: Exception | None = None) -> None:  # type: ignore[override]
            said = _with_nearest(_in_words(message), [f"--{key}" for key in taken], renamed)
            raise ValueError(said) from ex

    told = parse(function.__doc__ or "")
    built = BriefParser(prog=f"mavis {name}", description=_about(told))
    texts = [parse(one.__doc__ or "") for one in reversed(config.__mro__)] if config else [told]
    help_of = {each.arg_name: each.description for text in texts for each in text.params}
    by_hand: set[str | int] = set()
    for key, parameter in taken.items():
        if parameter.default is False:  # a flag, which takes no value
            built.add_argument(f"--{key}", action="store_true", help=help_of.get(key))
            by_hand.add(key)
        elif parameter.annotation == list[str] and parameter.default is parameter.empty:
            built.add_argument(key, nargs="*", default=[], type=str, help=help_of.get(key))
            by_hand.add(key)
        elif parameter.annotation == list[str]:  # a repeatable option with verbatim texts
            built.add_argument(
                f"--{key}", action="append", default=[], metavar="TEXT", help=help_of.get(key)
            )
            by_hand.add(key)
    if config is None:
        built.add_function_arguments(function, as_group=False, skip=by_hand, as_positional=True)
    else:
        built.add_class_arguments(config, as_group=False, skip=by_hand)
    everywhere = built.add_argument_group("with every command")
    for flags, said in EVERYWHERE:
        everywhere.add_argument(*flags, action="store_true", default=SUPPRESS, help=said)
    return built


def _about(text: "Docstring") -> str:
    """Join the summary and the description of a docstring."""
    more = " ".join((text.long_description or "").split())
    return " ".join(filter(None, (text.short_description, more)))


def _in_words(message: str) -> str:
    """Rewrite a parser message without Python's names of types.

    >>> _in_words("Expected a <class 'float'>. Got value: nan")
    'expected a number. Got value: nan'
    >>> _in_words("Expected a typing.Literal['a', 'b']. Got value: c")
    "expected one of ['a', 'b']. Got value: c"
    """
    said = re.sub(r'Parser key "([^"]+)":', r"--\1:", message)
    said = re.sub(r" *-? *Expected an? <class 'NoneType'>\.?\n?", "", said)  # it may be left out
    said = re.sub(r"Expected an? typing\.Literal", "expected one of ", said)
    return re.sub(r"Expected an? <class '(\w+)'>", _kind, said)


def _kind(found: re.Match[str]) -> str:
    return f"expected {KINDS.get(found[1], f'a {found[1]}')}"


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
