"""Locate the trained models of each method, and check that they suit the method.

Only model cards are loaded, so that a sweep with missing or wrong models is refused at once.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from shlex import quote

import torch

from mavis.baselines.mod_divergences import mixture
from mavis.baselines.parm import preferences
from mavis.baselines.policy_card import DEFAULT_METHOD, label, tuned_folder
from mavis.comparison.config import ParetoConfig
from mavis.comparison.preferences import Weighting, told
from mavis.comparison.provenance import divergence, lack, purpose

TUNED_UNDER = (
    "reverse_kl",
    "forward_kl",
    "jsd",
    "alpha",
)  # the divergences that `mavis tune` offers


@dataclass(frozen=True)
class Models:
    """Where the models of a comparison are.

    Args:
        runs: the folder of all runs; `{seed}` in it stands for the number of the replicate.
        tuned: how the policies of mod, soup and morlhf were tuned.
        divergence: divergence that policies were tuned under, and that MOD mixes them under.
        alpha: parameter of the α-divergence.
        lora: whether the policies are LoRA adapters.
        values: folders of value models, by objective, where they lie elsewhere; with `{seed}`, too.
        policies: folders of single-objective policies, by objective, where they lie elsewhere.
        given: options that training has in common with the sweep, for the commands that are named.
        base: base model of all adapters, in place of the one that each adapter names.
    """

    runs: str = "runs"
    tuned: str = DEFAULT_METHOD
    divergence: str = "reverse_kl"
    alpha: float | None = None
    lora: bool = False
    values: Mapping[str, str] = field(default_factory=dict)
    policies: Mapping[str, str] = field(default_factory=dict)
    given: Mapping[str, str] = field(default_factory=dict)
    base: str | None = None

    @classmethod
    def of(cls, config: ParetoConfig) -> "Models":
        """Read the locations from the options of a comparison."""
        names = {field.name for field in fields(cls)} & {field.name for field in fields(config)}
        return cls(**{name: getattr(config, name) for name in names})

    def folders(
        self, method: str, objectives: Sequence[str], weightings: Sequence[Weighting], seed: int
    ) -> dict[str, Path]:
        """Return the folders that a method needs, by objective, or by weighting for morlhf.

        Raises:
            FileNotFoundError: a model is missing; the error names the command that trains it.
            ValueError: a model was trained for something else.
        """
        found, make = self._places(method, objectives, weightings, seed)
        others = self._others(method, seed)
        keys = {told(w, objectives): w for w in weightings}
        for name, place in found.items():
            if lacking := lack(method, Path(place)):
                said = f"`{make[name]}{self._options(method, seed)}` makes it."
                if place == others.get(name):
                    said = f"{lacking}."
                raise FileNotFoundError(f"{method} needs a model of {name} at {place}: {said}")
            wanted = label(objectives, keys[name]) if method == "morlhf" else name
            if (made := purpose(Path(place))) not in {None, wanted}:
                raise ValueError(f"{method}: the model at {place} is for {made}, not for {name}.")
            under = divergence(Path(place))
            if under not in {None, (self.divergence, self.alpha)}:
                raise ValueError(
                    f"{method}: the policy at {place} was tuned under {_under(*under)}, "
                    f"not under {_under(self.divergence, self.alpha)}."
                )
        return {name: Path(place) for name, place in found.items()}

    def places(
        self, method: str, objectives: Sequence[str], weightings: Sequence[Weighting], seed: int
    ) -> list[Path]:
        """Return the folders that a method needs, whether or not they exist."""
        found, _ = self._places(method, objectives, weightings, seed)
        return [Path(place) for place in found.values()]

    def check(self, objectives: Sequence[str]) -> None:
        """Raise ValueError for options that contradict each other.

        A policy must be mixed under the divergence that it was tuned under.
        """
        for place in (self.runs, *self.values.values(), *self.policies.values()):
            if unknown := set(re.findall(r"\{[^{}]*\}", place)) - {"{seed}"}:
                raise ValueError(
                    f"folders may have {{seed}} in them, got {min(unknown)} in {place}."
                )
        for what, given in (("values", self.values), ("policies", self.policies)):
            if stray := set(given) - set(objectives):
                raise ValueError(
                    f"{what} are those of {', '.join(objectives)}, got --{what}.{min(stray)}."
                )
        mixture(self.divergence, self.alpha)
        if set(objectives) <= set(self.policies):  # the user chose them
            return
        if self.divergence not in {"reverse_kl", *(TUNED_UNDER if self.tuned == "dpo" else ())}:
            raise ValueError(
                f"divergence {self.divergence} is not available with --tuned {self.tuned}: dpo "
                f"tunes under {', '.join(TUNED_UNDER)} (--tuned dpo), "
                "the others only under reverse_kl."
            )

    def check_weights(self, methods: Sequence[str], weightings: Sequence[Weighting]) -> None:
        """Raise ValueError for weights that a method does not support."""
        weights = torch.tensor(weightings)  # [W, M]
        nothing = torch.zeros(len(weights), 1)  # log-ratios of one candidate
        if "mod" in methods:
            rule = mixture(self.divergence, self.alpha)
            rule(nothing, torch.zeros_like(weights)[:, None], weights, torch.ones(len(weights)))
        if "parm" in methods:
            preferences(weights)

    def _options(self, method: str, seed: int) -> str:
        """Format the remaining options of the command that trains a method's models."""
        fit = method == "mavis"
        told = {("data." if fit else "") + name: value for name, value in self.given.items()}
        if seed and "{seed}" in self.runs:
            told["seed_everything" if fit else "seed"] = str(seed)
        return "".join(f" --{name} {quote(value)}" for name, value in told.items())

    def _others(self, method: str, seed: int) -> dict[str, str]:
        """Return the folders that the user has given."""
        others = self.values if method == "mavis" else self.policies
        return {name: _of_seed(place, seed) for name, place in others.items()}

    def _places(
        self, method: str, objectives: Sequence[str], weightings: Sequence[Weighting], seed: int
    ) -> tuple[dict[str, str], dict[str, str]]:
        """Return the expected model folders and the commands that train the models, by name."""
        runs = Path(_of_seed(self.runs, seed))
        others = self._others(method, seed)
        names = ",".join(objectives)
        keys = {told(w, objectives): w for w in weightings}
        if method == "mavis":
            found = {n: others.get(n, str(runs / n / "value")) for n in objectives}
            make = {n: f"mavis fit --objective {n} --out {runs / n}" for n in objectives}
        elif method in ("mod", "soup"):
            found = {n: others.get(n, self._tuned(runs, [n], (1.0,))) for n in objectives}
            make = {n: f"{self._tune(runs)} --objectives {n}" for n in objectives}
        elif method == "morlhf":
            found = {key: self._tuned(runs, objectives, w) for key, w in keys.items()}
            make = {k: f"{self._tune(runs)} --objectives {names} --weights {k}" for k in keys}
        elif method == "parm":
            found = {names: str(runs / "tuned" / f"parm-{'+'.join(objectives)}")}
            make = {names: f"mavis parm --objectives {names} --out {found[names]}"}
        else:
            return {}, {}
        return found, make

    def _tuned(self, runs: Path, objectives: Sequence[str], weights: Weighting) -> str:
        kind = (self.tuned, self.divergence, self.lora)
        return str(tuned_folder(runs / "tuned", objectives, weights, *kind))

    def _tune(self, runs: Path) -> str:
        more = "" if self.divergence == "reverse_kl" else f" --divergence {self.divergence}"
        more += "" if self.alpha is None else f" --alpha {self.alpha:g}"
        more += " --lora" if self.lora else ""
        return f"mavis tune --method {self.tuned}{more} --out {runs / 'tuned'}"


def _of_seed(place: str, seed: int) -> str:
    return place.replace("{seed}", str(seed))


def _under(divergence: str, alpha: float | None) -> str:
    return divergence if alpha is None else f"{divergence} with alpha {alpha:g}"
