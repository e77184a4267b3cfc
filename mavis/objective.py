"""Objectives: what a plugin bundles, and how an installed plugin is loaded by its name.

A plugin is a Python file that makes an `Objective`, and a line of package metadata that names it:

    [project.entry-points."mavis.objectives"]
    humor = "mavis_objectives.humor:humor"

Names are read from the metadata alone; a plugin is imported when it is asked for, and never
imports or breaks another one. Knows nothing of how a reward is computed.
"""

import difflib
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any, Protocol

from mavis.error_text import reason

if TYPE_CHECKING:
    from torch import Tensor

GROUP = "mavis.objectives"


class Reward(Protocol):
    """What scores replies: any callable, higher is better."""

    def __call__(
        self, prompts: Sequence[str], responses: Sequence[str], /
    ) -> "Sequence[float | None] | Tensor":
        """Score B replies.

        Args:
            prompts: B prompts as plain text (a chat is written out as a dialogue).
            responses: B replies, without the prompt.

        Returns:
            B finite numbers, in order. None or NaN abstains: that reply is left out. A score
            must depend on its own row alone.
        """
        ...


@dataclass(frozen=True)
class Objective:
    """A thing to want from replies.

    Args:
        name: The name of its entry point, for `--objective NAME` and `--weights.NAME`.
        reward: Scores replies, on any scale: values are learned in standard units.
        value: The LightningModule to train, as a class or its dotted path.
        value_args: Arguments of that class which differ from its defaults.
        prompts: The prompts to train on when none are given, in the form `read_prompts` takes.
        examples: (prompt, good reply, bad reply) each, for `mavis objectives check`.
        scores_thoughts: Whether the reward is given what a reply holds between `<think>` and
            `</think>`, too. By default it sees the answer alone.

    Raises:
        TypeError: A reward that cannot be called with prompts and replies, or a field of the
            wrong type.
        ValueError: An empty name or prompts.
    """

    name: str
    reward: Reward
    value: str | type = "mavis.training.module.ValueModule"
    value_args: Mapping[str, Any] = field(default_factory=dict, hash=False)
    prompts: str = "sandbox/prompts"
    examples: tuple[tuple[str, str, str], ...] = ()
    scores_thoughts: bool = False

    def __post_init__(self) -> None:
        """Check the fields while the plugin's author is still looking."""
        if not isinstance(self.name, str) or not self.name:
            raise ValueError(f"name must be the name of the entry point, got {self.name!r}.")
        whose = f"objective {self.name!r}:"
        if not callable(self.reward):
            raise TypeError(f"{whose} reward must be callable, got {self.reward!r}.")
        if problem := unfit(self.reward):
            raise TypeError(f"{whose} {problem}.")
        if not isinstance(self.scores_thoughts, bool):
            raise TypeError(
                f"{whose} scores_thoughts must be True or False, got {self.scores_thoughts!r}."
            )
        if not isinstance(self.value, str | type):
            raise TypeError(f"{whose} value must be a class or dotted path, got {self.value!r}.")
        if not isinstance(self.value_args, Mapping):
            raise TypeError(f"{whose} value_args must be a mapping, got {self.value_args!r}.")
        if not isinstance(self.prompts, str) or not self.prompts:
            raise ValueError(f"{whose} prompts must be a path or name, got {self.prompts!r}.")
        for example in self.examples:
            if len(example) != 3 or not all(isinstance(text, str) for text in example):
                raise ValueError(
                    f"{whose} examples must be (prompt, good reply, bad reply), got {example!r}."
                )


def unfit(reward: Reward) -> str | None:
    """Why a callable cannot be called as a reward, as far as is known without calling it.

    >>> unfit(len)
    'the reward must take prompts and replies as two arguments by position: too many positional \
arguments'
    """
    if isinstance(reward, type):
        name = reward.__name__
        return f"the reward is the class {name} itself: give an instance of it, {name}(...)"
    if inspect.iscoroutinefunction(reward) or inspect.iscoroutinefunction(type(reward).__call__):
        return "the reward is an async function, and must be a plain one that returns numbers"
    try:
        inspect.signature(reward).bind([], [])
    except TypeError as error:
        return f"the reward must take prompts and replies as two arguments by position: {error}"
    except ValueError:  # compiled code may keep its signature to itself
        pass
    return None


class ObjectiveNotFound(LookupError):  # noqa: N818 (reads as the fact)
    """No installed plugin has this name."""


class ObjectiveClash(RuntimeError):  # noqa: N818
    """Two installed distributions offer one name."""


@dataclass(frozen=True)
class Listing:
    """One entry point and whether it can be used."""

    name: str
    target: str  # module:attribute
    distribution: str
    version: str
    error: str | None  # why it cannot be loaded


def available() -> list[str]:
    """The names of the installed objectives, sorted; no plugin is imported."""
    return sorted({point.name for point in _points()})


def find(name: str) -> Objective:
    """Load an installed objective by its name.

    Raises:
        ObjectiveNotFound: No plugin has this name; the nearest one is offered.
        ObjectiveClash: Two distributions have it.
        ImportError: The plugin cannot be imported.
        TypeError: The entry point is not an `Objective`.
        ValueError: The objective calls itself something else.
    """
    points = [point for point in _points() if point.name == name]
    if not points:
        names = available()
        near = difflib.get_close_matches(name, names, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise ObjectiveNotFound(
            f"no objective {name!r}{hint}; installed: {', '.join(names) or 'none'}."
            f" `mavis objectives new {name}` starts one."
        )
    if len(points) > 1:
        owners = " and ".join(sorted(_owner(point)[0] for point in points))
        raise ObjectiveClash(f"objective {name!r} comes from {owners}: uninstall one of them.")
    return _load(points[0])


def named(one: str | None, several: str | Sequence[str] | None) -> tuple[str, ...]:
    """The names that `--objective` or `--objectives` give.

    >>> named(None, "humor, helpfulness")
    ('humor', 'helpfulness')

    Raises:
        ValueError: both are given, several where one is asked for, or a name twice.
    """
    if one is not None and several is not None:
        raise ValueError("give --objective NAME or --objectives NAME,NAME, not both.")
    if one is not None and "," in one:
        raise ValueError(f"--objective takes one name: give --objectives {one}.")
    words = one if several is None else several
    parts = (words or "").split(",") if isinstance(words, str | None) else list(words)
    names = tuple(filter(None, (part.strip() for part in parts)))
    if twice := [name for at, name in enumerate(names) if name in names[:at]]:
        raise ValueError(f"--objectives names {twice[0]} twice.")
    return names


def listing() -> list[Listing]:
    """All entry points, sorted by name, each tried out."""
    points = sorted(_points(), key=lambda point: (point.name, point.value))
    return [
        Listing(point.name, point.value, *_owner(point), error=_error(point)) for point in points
    ]


def _points() -> list[EntryPoint]:
    return list(entry_points(group=GROUP))


def _owner(point: EntryPoint) -> tuple[str, str]:
    return (point.dist.name, point.dist.version) if point.dist else ("unknown", "unknown")


def _load(point: EntryPoint) -> Objective:
    whose = f"objective {point.name!r} ({point.value} of {_owner(point)[0]})"
    try:
        loaded = point.load()
    except (Exception, SystemExit) as error:  # a plugin may raise anything on import
        raise ImportError(f"{whose} cannot be imported: {reason(error, 1000)}") from error
    if not isinstance(loaded, Objective):
        raise TypeError(f"{whose} must be an Objective, got {type(loaded).__name__}.")
    if loaded.name != point.name:
        raise ValueError(f"{whose} calls itself {loaded.name!r}: the two names must be the same.")
    return loaded


def _error(point: EntryPoint) -> str | None:
    try:
        find(point.name)
    except (LookupError, RuntimeError, ImportError, TypeError, ValueError) as error:
        return str(error)
    return None


def common_source(what: str, given: str | None, objectives: Sequence[Objective]) -> str:
    """Where prompts come from: what was asked for, or what all objectives agree on.

    Raises:
        ValueError: nothing was asked for, and they do not agree.
    """
    homes = {one.name: one.prompts for one in objectives}
    if given is None and len(set(homes.values())) > 1:
        listed = ", ".join(f"{name} has {home}" for name, home in homes.items())
        raise ValueError(f"{what} must be given, for the objectives have different ones: {listed}.")
    return given or next(iter(homes.values()), Objective.prompts)


def common_module(objectives: Sequence[Objective]) -> tuple[str, dict[str, Any]]:
    """The dotted path of the module that learns all of some objectives, and its arguments.

    Raises:
        ValueError: they ask for different ones.
    """
    modules = []
    for one in objectives:
        value = one.value
        path = value if isinstance(value, str) else f"{value.__module__}.{value.__qualname__}"
        modules.append((path, dict(one.value_args)))
    other = next((at for at, module in enumerate(modules) if module != modules[0]), None)
    if other is not None:
        raise ValueError(
            f"{objectives[0].name} and {objectives[other].name} ask for different modules, "
            f"{_spelled(modules[0])} and {_spelled(modules[other])}: fit them one by one."
        )
    return modules[0]


def _spelled(module: tuple[str, dict[str, Any]]) -> str:
    path, given = module
    return f"{path}({', '.join(f'{name}={value!r}' for name, value in given.items())})"
