"""Texts of `mavis --help`, of `mavis objectives` and its like, and of the unknown-command error."""

from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches

from mavis.cli.parsing import EVERYWHERE

Words = tuple[str, ...]

EXAMPLES = {  # one of each command, by part of the overview
    "getting started": {
        ("fit",): "mavis fit --objective humor",
        ("generate",): 'mavis generate "How do I cook rice?" --weights.humor 1 --compare',
        ("serve",): "mavis serve --preset.warm '{humor: 1, helpfulness: 0.5}'",
        ("objectives", "list"): "mavis objectives list",
        ("objectives", "new"): "mavis objectives new brevity",
        ("objectives", "check"): "mavis objectives check humor",
    },
    "evaluation, comparison and more": {
        ("validate",): "mavis validate --objective humor",
        ("test",): "mavis test --objective humor",
        ("pareto",): "mavis pareto --objectives humor,helpfulness --methods best_of,mavis",
        ("tune",): "mavis tune --objectives humor",
        ("parm",): "mavis parm --objectives humor,helpfulness",
        ("judge",): "mavis judge ours.jsonl theirs.jsonl --model NAME --url http://HOST/v1",
        ("sandbox", "build"): "mavis sandbox build",
    },
}
WIDTH = 18  # of the names


def overview(summaries: Mapping[Words, str]) -> str:
    """List all commands with their summaries, starting with those that a new user needs."""
    lines = ["usage: mavis COMMAND [OPTIONS]     (mavis COMMAND --help lists a command's options)"]
    for title, examples in EXAMPLES.items():
        lines += ["", f"{title}:"]
        for name, example in examples.items():
            lines += [_line(name, summaries[name]), f"  {'':<{WIDTH}}   $ {example}"]
    lines += ["", "with every command:"]
    lines += [f"  {', '.join(flags):<{WIDTH}} {text}" for flags, text in EVERYWHERE]
    lines.append(f"  {'--version':<{WIDTH}} print the version and exit")
    return "\n".join(lines)


def family(first: str, summaries: Mapping[Words, str]) -> str:
    """List the subcommands of a command; empty if it has none."""
    lines = [_line(n, text) for n, text in summaries.items() if n[0] == first and len(n) > 1]
    return "\n".join([f"usage: mavis {first} COMMAND [OPTIONS]", "", *lines]) if lines else ""


def unknown(words: Iterable[str], names: Iterable[Words]) -> str:
    """Return the error for an unknown command: the most similar one, and all that exist.

    >>> unknown(["genrate", "hi"], [("fit",), ("generate",)])
    "no command 'genrate' (did you mean 'generate'?); there are: fit, generate."
    """
    asked, known = list(words)[:2], list(names)
    families = {name[0] for name in known if len(name) > 1}
    near = list(_nearest(asked, known))
    name = " ".join(asked if asked[0] in families or (near and " " in near[0]) else asked[:1])
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    return f"no command {name!r}{hint}; there are: {', '.join(map(' '.join, known))}."


def _nearest(asked: list[str], known: list[Words]) -> Iterator[str]:
    for length in (2, 1):
        names = [" ".join(name) for name in known if len(name) == length]
        if len(asked) >= length:
            yield from get_close_matches(" ".join(asked[:length]), names, n=1, cutoff=0.7)
    firsts = {name[0]: " ".join(name) for name in reversed(known)}
    yield from (firsts[word] for word in get_close_matches(asked[0], firsts, n=1))


def _line(name: Words, summary: str) -> str:
    return f"  {' '.join(name):<{WIDTH}} {summary}"
