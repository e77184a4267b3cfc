"""Weights by the name of a model: clients that can send nothing else choose among presets.

`mavis` weighs all objectives equally, `mavis:humor` one alone, `mavis:NAME` is a preset of the
server's, `mavis:humor=1,helpfulness=-0.5` spells the weights out, and `reference` is not guided.
"""

from collections.abc import Mapping, Sequence

from mavis.decoding.request import STRONGEST
from mavis.serving.errors import Refused

NAME, REFERENCE = "mavis", "reference"

Weights = dict[str, float]


class Presets:
    """The models that a server offers.

    Args:
        objectives: that its value models know.
        named: weights of presets by their names, without `mavis:`.

    Raises:
        ValueError: a preset has weights that cannot be.
    """

    def __init__(self, objectives: Sequence[str], named: Mapping[str, Mapping[str, float]]) -> None:
        self.objectives = tuple(objectives)
        equal = 1 / max(1, len(self.objectives))
        self.table: dict[str, Weights] = {NAME: dict.fromkeys(self.objectives, equal)}
        for one in self.objectives:
            self.table[f"{NAME}:{one}"] = self.checked({one: 1.0}, "model")
        for name, weights in named.items():
            try:
                self.table[f"{NAME}:{name}"] = self.checked(weights, f"preset.{name}")
            except Refused as error:
                raise ValueError(error.message) from error
        self.table[REFERENCE] = dict.fromkeys(self.objectives, 0.0)

    def weights(self, model: str) -> Weights:
        """The weights that a model's name stands for.

        Raises:
            Refused: there is no such model.
        """
        if model in self.table:
            return self.table[model]
        head, _, spelt = model.partition(":")
        if head != NAME or "=" not in spelt:
            known = ", ".join(self.table)
            raise Refused(
                404,
                f"there is no model {model!r}; there are: {known}, and {NAME}:NAME=X,…",
                "model",
            )
        return self.spelt(spelt, "model", 404)

    def spelt(self, text: str, param: str, status: int = 400) -> Weights:
        """The weights that a text like `humor=1,helpfulness=-0.5` spells out.

        Raises:
            Refused: it is no such text (by `status`), or as `checked`.
        """
        pairs = [part.partition("=")[::2] for part in text.split(",")]
        given = {name.strip(): number(value) for name, value in pairs}
        if None in given.values() or len(given) < len(pairs):
            raise Refused(status, f"{param} {text!r} must be NAME=X,NAME=X", param)
        return self.checked(given, param)

    def checked(self, weights: Mapping[str, object], param: str) -> Weights:
        """A weight for each objective, 0 where none is given.

        Raises:
            Refused: an objective is not there, or a weight is no finite number; `param` is the
                field that they come from.
        """
        found = dict.fromkeys(self.objectives, 0.0)
        for name, value in weights.items():
            if name not in self.objectives:
                known = ", ".join(self.objectives) or "none"
                raise Refused(400, f"{param} names {name!r}; objectives here: {known}.", param)
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise Refused(400, f"{param}: the weight of {name} must be a number.", param)
            if not abs(value) <= STRONGEST:
                size = f"between {-STRONGEST:g} and {STRONGEST:g}"
                raise Refused(400, f"{param}: the weight of {name} must be {size}.", param)
            found[name] = float(value)
        return found


def number(text: str) -> float | None:
    """A number as people write it; None for anything else.

    >>> number(" -.5"), number("1_0"), number("x")
    (-0.5, None, None)
    """
    try:
        return None if "_" in text else float(text)
    except ValueError:
        return None
