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
from mavis.comparison.preferences import Weighting, as_option
from mavis.comparison.provenance import divergence, lack, purpose
from mavis.value_places import places as value_places

VALUES = ("mavis", "mavis_linear")  # methods of value models
TUNED_UNDER = ("reverse_kl", "forward_kl", "jsd", "alpha")  # the divergences of `mavis tune`


@dataclass(frozen=True)
class Models:
    """Where the models of a comparison are. Every folder may have `{seed}` in its name."""

    runs: str = "runs"  # the folder of all runs
    tuned: str = DEFAULT_METHOD  # how the policies of mod, soup and morlhf were tuned
    divergence: str = "reverse_kl"  # that policies were tuned under, and that MOD mixes them under
    alpha: float | None = None  # parameter of the α-divergence
    lora: bool = False  # whether the policies are LoRA adapters
    # Folders of value models and of single-objective policies, by objective, if they lie elsewhere:
    values: Mapping[str, str] = field(default_factory=dict)
    policies: Mapping[str, str] = field(default_factory=dict)
    # Options that training has in common with the sweep, for the commands in error messages:
    given: Mapping[str, str] = field(default_factory=dict)
    base: str | None = None  # base model of all adapters, in place of the one that each names

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
        places, commands = self.expected(method, objectives, weightings, seed)
        given = self._given(method, seed)
        by_name = {as_option(w, objectives): w for w in weightings}
        for name, place in places.items():
            if missing := lack(method, place):
                remedy = f"`{commands[name]}{self._options(method, seed)}` makes it."
                if place == given.get(name):
                    remedy = f"{missing}."
                raise FileNotFoundError(
                    f"{method} needs a model of {name} at {place}: {remedy} --methods names those "
                    "that are compared, such as reference,best_of,mavis."
                )
            wanted = label(objectives, by_name[name]) if method == "morlhf" else name
            made = purpose(place)
            several = made.split("+") if made and method in VALUES else []
            if made not in {None, wanted} and wanted not in several:
                raise ValueError(f"{method}: the model at {place} is for {made}, not for {name}.")
            under = divergence(place)
            if under not in {None, (self.divergence, self.alpha)}:
                raise ValueError(
                    f"{method}: the policy at {place} was tuned under {_under(*under)}, "
                    f"not under {_under(self.divergence, self.alpha)}."
                )
        return places

    def expected(
        self, method: str, objectives: Sequence[str], weightings: Sequence[Weighting], seed: int
    ) -> tuple[dict[str, Path], dict[str, str]]:
        """Return the expected model folders and the commands that train the models, by name."""
        runs = _of_seed(self.runs, seed)
        kind = (self.tuned, self.divergence, self.lora)
        names = ",".join(objectives)
        if method in VALUES:
            own = {n: runs / n / "value" for n in objectives}
            places = value_places(runs, objectives) if method == "mavis" else own
            commands = {n: _fit(place.parent) for n, place in places.items()}
        elif method in ("mod", "soup"):
            places = {n: tuned_folder(runs / "tuned", [n], (1.0,), *kind) for n in objectives}
            commands = {n: f"{self._tune(runs)} --objectives {n}" for n in objectives}
        elif method == "morlhf":
            by_name = {as_option(w, objectives): w for w in weightings}
            places = {
                n: tuned_folder(runs / "tuned", objectives, w, *kind) for n, w in by_name.items()
            }
            tune = f"{self._tune(runs)} --objectives {names} --weights"
            return places, {n: f"{tune} {n}" for n in by_name}
        elif method == "parm":
            place = runs / "tuned" / f"parm-{'+'.join(objectives)}"
            return {names: place}, {names: f"mavis parm --objectives {names} --out {place}"}
        else:
            return {}, {}
        given = self._given(method, seed)
        return {name: given.get(name, place) for name, place in places.items()}, commands

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
        fit = method in VALUES
        options = {("data." if fit else "") + name: value for name, value in self.given.items()}
        if seed and "{seed}" in self.runs:
            options["seed_everything" if fit else "seed"] = str(seed)
        return "".join(f" --{name} {quote(value)}" for name, value in options.items())

    def _given(self, method: str, seed: int) -> dict[str, Path]:
        """Return the folders that the user has given, by objective."""
        given = self.values if method in VALUES else self.policies
        return {name: _of_seed(place, seed) for name, place in given.items()}

    def _tune(self, runs: Path) -> str:
        more = "" if self.divergence == "reverse_kl" else f" --divergence {self.divergence}"
        more += "" if self.alpha is None else f" --alpha {self.alpha:g}"
        more += " --lora" if self.lora else ""
        return f"mavis tune --method {self.tuned}{more} --out {runs / 'tuned'}"


def _fit(run: Path) -> str:
    """The command that makes a run, whose name is that of its objectives."""
    names = run.name.split("+")
    option = f"--objectives {','.join(names)}" if len(names) > 1 else f"--objective {run.name}"
    return f"mavis fit {option} --out {run}"


def _of_seed(place: str, seed: int) -> Path:
    return Path(place.replace("{seed}", str(seed)))


def _under(divergence: str, alpha: float | None) -> str:
    return divergence if alpha is None else f"{divergence} with alpha {alpha:g}"
