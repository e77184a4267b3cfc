"""The options of `mavis pareto`."""

import json as jsonlib
import math
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from shlex import quote
from typing import ClassVar, Literal

from mavis.options import (
    Options,
    PolicyOptions,
    PromptCount,
    at_least,
    check_alpha,
    listed,
    positive,
)

METHODS = ("reference", "best_of", "mavis", "mavis_linear", "mod", "soup", "morlhf", "parm")
UNTRAINED = ("reference", "best_of")  # methods of π_ref alone, without training or a strength
ALONE = (*UNTRAINED, "mavis")  # the default for one objective, where there is nothing to mix
TOGETHER = (*ALONE, "mod", "soup")
UNTOLD = ("json", "tracking", "device")  # options that do not change the results


@dataclass(frozen=True)
class ParetoConfig(PolicyOptions, PromptCount, Options):
    """Options of `mavis pareto`: which methods are compared, on what, and at which KL.

    Args:
        out: output folder of the sweep
        methods: comma-separated methods out of reference, best_of, mavis, mavis_linear, mod, soup,
            morlhf, parm (default: reference, best_of, mavis, mod, soup; for a single objective the
            first three of these)
        kl: KL to the reference, in nats per answer, at which methods are compared
        split: split of the data set that prompts are taken from
        seeds: number of seeds, each with its own answer to every prompt; if --runs contains {seed},
            each seed also has its own models
        runs: folder that holds the runs of `mavis fit` and `mavis tune`
        values: folder of an objective's value model, as --values.NAME PATH (default:
            RUNS/NAME/value)
        policies: folder of an objective's tuned policy, as --policies.NAME PATH
        tuned: training method of the policies that mod, soup and morlhf use
        base: base model that adapters are loaded on, instead of the one each adapter names
        temperature: sampling temperature of the reference policy
        top_k: number of candidates per token, for every method; 0 means the whole vocabulary
        reference_point: reference point of the hypervolume, as one reward per objective in standard
            units
        json: print the results as one JSON object
    """

    RENAMED: ClassVar[Mapping[str, str]] = {"source": "prompts"}

    out: str = "runs/pareto"
    methods: str | list[str] | None = None
    weights: str = "grid:0.2"
    kl: float = 2.0
    split: str = "test"
    num_prompts: int = 200
    seeds: int = 1
    runs: str = "runs"
    values: dict[str, str] = field(default_factory=dict)
    policies: dict[str, str] = field(default_factory=dict)
    tuned: Literal["rloo", "grpo", "dpo"] = "rloo"
    divergence: Literal["reverse_kl", "forward_kl", "jsd", "alpha", "jeffrey"] = "reverse_kl"
    base: str | None = None
    temperature: float = 1.0
    top_k: int = 40
    reference_point: list[float] | None = None
    json: bool = False

    def __post_init__(self) -> None:
        """Check the values."""
        super().__post_init__()
        _ = self.chosen
        corner, names = self.reference_point, self.names
        finite = corner is None or (len(corner) == len(names) and all(map(math.isfinite, corner)))
        if names and not finite:
            raise ValueError(
                f"reference_point must be one finite number for each of {', '.join(names)}, "
                f"got {corner}."
            )
        check_alpha(self.divergence, self.alpha)
        positive(kl=self.kl, temperature=self.temperature)
        at_least(2, num_prompts=self.num_prompts)  # a standard deviation needs two
        at_least(1, seeds=self.seeds, best_of=self.best_of)

    @property
    def chosen(self) -> list[str]:
        """The methods that are compared."""
        if self.methods is None:
            return list(ALONE if len(self.names) == 1 else TOGETHER)
        chosen = listed("methods", self.methods)
        for method in chosen:
            if method not in METHODS:
                raise ValueError(f"methods must be of {', '.join(METHODS)}, got {method!r}.")
        if not chosen:
            raise ValueError(f"methods must be some of {', '.join(METHODS)}, got none.")
        return chosen

    @property
    def command(self) -> str:
        """The command line that gives these options, without defaults.

        >>> ParetoConfig(objectives=["humor", "kind"], values={"kind": "a b"}).command
        "mavis pareto --objectives humor,kind --values.kind 'a b'"
        """
        words = ["mavis pareto"]
        for option in fields(self):
            name, value = option.name, getattr(self, option.name)
            default = {} if option.default is MISSING else option.default
            if value == default or name in UNTOLD:
                continue
            if isinstance(value, dict) and name != "template_args":
                words += [f"--{name}.{key} {quote(str(place))}" for key, place in value.items()]
            elif value is True:
                words.append(f"--{name}")
            elif name in ("reference_point", "template_args"):
                words.append(f"--{name} {quote(jsonlib.dumps(value))}")
            else:
                text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
                words.append(f"--{name} {quote(text)}")
        return " ".join(words)
