"""The commands `mavis objectives list | check | new`, as plain functions.

Results go to stdout and progress to stderr. Argument parsing is elsewhere.
"""

import shlex
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from mavis.loudness import quiet
from mavis.objective import Objective, find, listing
from mavis.options import EMBEDDED
from mavis.reward import Units, score, with_thoughts
from mavis.scaffold import write_plugin

if TYPE_CHECKING:
    from torch import Tensor

_TIMED = 64  # minimum number of replies whose scoring is timed
_LONG = 1.0  # seconds after which a timing is long enough
_SLOW = 20.0  # replies per second below which a fit takes hours
_FIT = 10_000  # number of replies that a small fit scores
_PROMPTS = 12  # prompts on whose replies prefixes are scored
_PREFIXES = 3_000  # texts that are scored for it, about
_PATIENCE = 20.0  # seconds that this may take
_APART = 1e-3  # scores closer than this, in standard deviations, count as equal

_PROBES = (  # (prompt, reply): various tones, and inputs on which rewards often fail
    ("How do I boil an egg?", "Put it in boiling water for eight minutes, then cool it."),
    ("How do I boil an egg?", "Ask the egg nicely. If it cracks up, you told it a good joke!"),
    ("How do I boil an egg?", "What a stupid question. Go away."),
    ("How do I boil an egg?", "I am sorry, but I cannot help with that."),
    ("How do I boil an egg?", "Just pour petrol on the stove and light it."),
    ("Where does the sun set?", "In the west. Thank you for asking, that is a lovely question!"),
    ("Where does the sun set?", "West."),
    ("Where does the sun set?", "the the the the the the"),
    ("Where does the sun set?", "Im Westen, natürlich 🌇\n\n1. Très simple.\n2. 西"),
    ("Where does the sun set?", ""),
    ("Where does the sun set?", "It goes down in the west every evening. " * 60),
)


class _Sample(NamedTuple):
    kind: str  # "good" or "bad"; "" for a built-in reply
    prompt: str
    reply: str


def list_objectives() -> None:
    """List the installed objectives: name, target, distribution, version, and whether it loads."""
    rows = [
        (entry.name, entry.target, entry.distribution, entry.version, entry.error or "loads")
        for entry in listing()
    ]
    if rows:
        _print_table([("name", "target", "distribution", "version", "state"), *rows])
    else:
        print("no objectives are installed; create one with `mavis objectives new NAME`.")


def new_objective(name: str, out: str = ".") -> None:
    """Write an installable plugin package with a working reward and a test.

    Args:
        name: name of the objective, made of lower-case letters, digits, - and _
        out: folder in which the folder of the package is created
    """
    folder = write_plugin(name, Path(out).expanduser())
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        print(f"wrote {path}")
    print("Next:")
    print(f"  pip install -e {folder}")
    print(f"  mavis objectives check {name}")
    print(f"  mavis fit --objective {name}")


def check_objective(name: str, reference: str = EMBEDDED, prompts: str | None = None) -> None:
    """Run a reward on a few good and bad replies; print its scores, speed and problems.

    Also scores the beginnings of replies that the reference policy writes, and says whether they
    foretell the reward of the whole reply. If they do, `mavis fit` may learn more with a
    --data.prefix_discount below 1.

    The exit status is 1 if the reward cannot be used.

    Args:
        name: name of an installed objective
        reference: reference policy: sandbox/reference, a folder, a GGUF file or a name on the hub
        prompts: prompt data set for it (default: the objective's own, or with sandbox/reference
            sandbox/prompts)
    """
    objective = find(name)
    samples = _samples(objective)
    try:
        with _busy(f"{name}: first scores"):
            scores = _score(objective, samples)
        _print_table([("score", "kind", "prompt", "reply"), *map(_cells, samples, scores.tolist())])
        if not objective.scores_thoughts and (held := with_thoughts([s.reply for s in samples])):
            print(f"thoughts: {held} of {len(samples)} replies contain some, which are not scored.")
        Units.measure(scores, name)
        with _busy(f"{name}: speed"):
            speed = _speed(objective, samples)
        print(f"speed: {speed:,.0f} replies/s")
        with _busy(f"{name}: one by one"):
            wrong = [*_oddities(objective, samples, scores, speed)]
    except ValueError as error:
        print(f"unusable: {error}")
        if not objective.examples:
            print("These replies are built in; set `examples` of the Objective to use your own.")
        raise SystemExit(1) from error
    for line in wrong:
        print(f"looks wrong: {line}")
    for line in _prefixes(objective, reference, prompts, speed):
        print(line)
    given = {"reference": None if reference == EMBEDDED else reference, "prompts": prompts}
    more = [f" --data.{option} {shlex.quote(one)}" for option, one in given.items() if one]
    print(f"{'usable' if wrong else 'all well'}: mavis fit --objective {name}{''.join(more)}")


def _samples(objective: Objective) -> list[_Sample]:
    pairs = [
        _Sample(kind, prompt, reply)
        for prompt, good, bad in objective.examples
        for kind, reply in (("good", good), ("bad", bad))
    ]
    return pairs + [_Sample("", prompt, reply) for prompt, reply in _PROBES]


def _score(objective: Objective, samples: Sequence[_Sample]) -> "Tensor":
    """Score B samples [B] by the same function that a fit uses."""
    prompts, replies = [s.prompt for s in samples], [s.reply for s in samples]
    return score(objective.name, objective.reward, prompts, replies, objective.scores_thoughts)


def _speed(objective: Objective, samples: Sequence[_Sample]) -> float:
    """Measure the replies per second of a reward that has run once already."""
    for times in (1, -(-_TIMED // len(samples))):
        start = time.perf_counter()
        _score(objective, [*samples] * times)
        seconds = time.perf_counter() - start
        if seconds > _LONG:  # slow enough that a few replies give a reliable timing
            break
    return times * len(samples) / max(seconds, 1e-9)


def _oddities(
    objective: Objective, samples: Sequence[_Sample], scores: "Tensor", speed: float
) -> Iterable[str]:
    """Yield problems that look like mistakes, although a fit could run with them."""
    import torch

    if abstained := [s for s, nan in zip(samples, scores.isnan(), strict=True) if nan]:
        first = _short(abstained[0].reply, 40)
        yield f"abstained for {len(abstained)} of {len(samples)} replies, the first {first}."
    for index in range(0, 2 * len(objective.examples), 2):
        good, bad = scores[index].item(), scores[index + 1].item()
        if good <= bad:
            yield f"good reply {_short(samples[index].reply, 40)} gets {good:.4g}, bad {bad:.4g}."
    if speed < _SLOW:
        yield f"slow: {_FIT:,} replies, a small fit, take about {_FIT / speed / 60:,.0f} minutes."

    scored = [s for s, nan in zip(samples, scores.isnan(), strict=True) if not nan]
    known = scores[~scores.isnan()]
    same: dict[str, Callable[[], Tensor]] = {
        "change from call to call": lambda: _score(objective, scored),
        "change with the order of replies": lambda: _score(objective, scored[::-1]).flip(0),
        "change with the batch size": lambda: torch.cat([_score(objective, [s]) for s in scored]),
    }
    spread = known.std().item()
    for what, again in same.items():
        apart = (again() - known).abs().nan_to_num(float("inf")).max().item()
        if apart > _APART * spread and spread > 0:
            yield f"scores {what}, by up to {apart:.4g}."
            return  # the other checks would report the same problem


def _prefixes(objective: Objective, name: str, source: str | None, speed: float) -> Iterable[str]:
    """Yield what the reward says of the beginnings of replies, and what to make of it."""
    from mavis.decoding.policy import GuidedPolicy
    from mavis.decoding.prompt_filter import fitting_prompts
    from mavis.decoding.reference import ReferencePolicy
    from mavis.evaluation.prefix_rewards import MAX_TOKENS, prefix_fit

    if speed * _PATIENCE < _PREFIXES:
        yield f"prefixes: not tried, as {_PREFIXES:,} texts would take {_PREFIXES / speed:,.0f} s."
        return
    source = source or ("sandbox/prompts" if name == EMBEDDED else objective.prompts)
    with _busy(f"{objective.name}: prefixes"):
        policy = GuidedPolicy(ReferencePolicy.load(name))
        options = (source, "validation", None, MAX_TOKENS, 0, _PROMPTS)
        prompts = fitting_prompts(policy.reference, *options, quiet=True)
        try:
            found = prefix_fit(policy, prompts, objective)
        except ValueError as error:
            yield f"prefixes: leave --data.prefix_discount at 1, for {error}"
            return
    yield (
        f"prefixes: half a reply of {name} correlates by {found.correlation:.2f} with the whole; "
        f"from there on the reward moves {found.variation:.1f} times as much as needed (1: ideal)."
    )
    yield f"  {found.advice}."


def _cells(sample: _Sample, value: float) -> tuple[str, str, str, str]:
    shown = "abstains" if value != value else f"{value + 0.0:.4g}"  # + 0.0 turns -0.0 into 0.0
    return shown, sample.kind, _short(sample.prompt, 28), _short(sample.reply, 44)


def _short(text: str, width: int) -> str:
    shown = repr(text)
    return shown if len(shown) <= width else shown[: width - 2] + "…" + shown[-1]


def _print_table(rows: Sequence[Sequence[str]]) -> None:
    """Print rows, the first being the header, in aligned columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(map(str.ljust, row, widths)).rstrip())


def _busy(what: str) -> AbstractContextManager[object]:
    """Return a spinner on stderr, shown on terminals only."""
    from rich.console import Console

    return nullcontext() if quiet() else Console(stderr=True).status(what)
