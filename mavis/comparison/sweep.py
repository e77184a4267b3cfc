"""A sweep: every method answers the same prompts, for every weighting, up to the KL asked for.

Strength goes up or down from a method's natural one, by half an octave at a time, until the mean KL
has passed the one at which methods are compared; the points on either side are what an
interpolation needs, and all of them make the curve of reward against KL. Every point is a file as
soon as it is finished, and is not made again.
"""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

from mavis.baselines.policy_guides import check_policy
from mavis.classifier import ClassifierReward
from mavis.comparison.checkpoints import Models
from mavis.comparison.methods import Chosen, MethodModels, served
from mavis.comparison.preferences import Weighting, label
from mavis.comparison.provenance import identity, tokenizer
from mavis.comparison.setting import Setting
from mavis.decoding.policy import GuidedPolicy
from mavis.decoding.reference import ReferencePolicy
from mavis.decoding.request import SamplingParams
from mavis.evaluation.samples import ScoredSamples
from mavis.hub import lasting, locate
from mavis.storage import check_same, read_json, write_json

SETTINGS, SPEED = "sweep.json", "speed.json"
POINTS = "points"  # the folder of all
RULE = "--divergence"  # beside the models of mod; no objective has such a name
BASE = "--base"  # beside the models of those that may be adapters
POLICIES = {"mod", "soup", "morlhf"}
OVER_BASES = POLICIES | {"parm"}
RUNG = 2**0.5  # from one strength to the next: KL about doubles
RUNGS = 12  # at most, from the natural strength: up to 64 times it, or a 64th

Marks = dict[str, list[dict[str, str]]]  # method -> for each seed, a digest of each model


@dataclass(frozen=True)
class Sweep:
    """A folder of points over one ground."""

    folder: Path
    ground: Setting
    models: Models
    weightings: tuple[Weighting, ...]

    def open(self, methods: Sequence[str]) -> dict[str, list[dict[str, Path]]]:
        """Find every method's models, and see that the folder is for this sweep.

        Returns:
            the models' folders by method, for each seed.

        Raises:
            FileNotFoundError: a model is missing.
            ValueError: a model is not what its method needs, or has another tokenizer than the
                reference, or the folder holds points of other settings, or of other models.
        """
        # What cannot be decoded must not become the settings of the folder.
        plain = SamplingParams((), 1.0, self.ground.temperature, self.ground.top_k)
        plain.check(())
        names, seeds = self.ground.names, range(self.ground.seeds)
        found = {
            m: [self.models.folders(m, names, self.weightings, seed) for seed in seeds]
            for m in methods
        }
        _check_tokenizers(found, self.ground.reference)
        marks = {m: [{n: identity(p) for n, p in f.items()} for f in found[m]] for m in methods}
        if "mod" in marks:
            rule = (self.models.divergence, self.models.alpha)
            marks["mod"] = [mark | {RULE: f"{rule}"} for mark in marks["mod"]]
        base = self.models.base and lasting(self.models.base)
        for method in OVER_BASES & marks.keys():
            marks[method] = [mark | {BASE: base or "its own"} for mark in marks[method]]
        marks["reference"] = [self._ground_marks()] * self.ground.seeds  # all points are on it
        settings = self.ground.settings()
        file = self.folder / SETTINGS
        if file.is_file():
            before = read_json(file)
            if not (isinstance(before, dict) and {"settings", "models"} <= before.keys()):
                raise ValueError(
                    f"{file} is no record of a sweep, so it is damaged: give another --out."
                )
            check_same(self.folder, "sweep", before["settings"], settings)
            marks = _with_earlier(self.folder, before["models"], marks)
        write_json(file, {"settings": settings, "models": marks})
        return found

    def _ground_marks(self) -> dict[str, str]:
        """Digests of the local models that everything is measured by: π_ref, and the rewards."""
        ground = self.ground
        named = {"reference": ground.reference.name}
        for objective in ground.objectives:
            if isinstance(objective.reward, ClassifierReward):
                named[f"reward of {objective.name}"] = objective.reward.model
        places = {what: Path(locate(name, what)) for what, name in named.items()}
        return {what: identity(place) for what, place in places.items() if place.is_dir()}

    def twins(self, method: str) -> bool:
        """Whether two seeds that should have models of their own have the same one."""
        seeds = read_json(self.folder / SETTINGS)["models"][method]
        names = {name for marks in seeds for name in marks} - {RULE, BASE}
        alike = any(len({marks.get(name) for marks in seeds}) < len(seeds) for name in names)
        return alike and "{seed}" in self.models.runs

    def reference(self) -> ScoredSamples:
        """π_ref's answers."""
        return self._kept("reference", (), 0.0, lambda _: self._plain)

    def best_of(self) -> ScoredSamples:
        """π_ref's answers to choose the best of, [P, best_of]."""
        return self._kept("best_of", (), 0.0, lambda _: self._plain, self.ground.best_of)

    def team(self, method: str, folders: Sequence[Mapping[str, Path]]) -> MethodModels:
        """A method's models."""
        ground = self.ground
        return MethodModels(method, ground.reference, ground.names, self.models, folders)

    def curves(self, team: MethodModels, kl: float) -> Iterator[list[ScoredSamples]]:
        """A method's points for every weighting, by strength, on both sides of a KL."""
        for weights in self.weightings:
            choose = team.weighted(weights)
            make = partial(self._kept, team.method, weights, choose=choose)
            yield reach(make, team.strength, kl)

    def speed(self, team: MethodModels) -> float:
        """Tokens per CPU second of a method, served as one would, at the middle weighting."""
        file = self.folder / POINTS / team.method / SPEED
        if _damaged(file, read_json):
            middle = self.weightings[len(self.weightings) // 2]
            chosen = served(team.weighted(middle)(0))
            found = self.ground.speed(chosen, team.strength)
            write_json(file, {"tokens_per_cpu_second": found})
        return float(read_json(file)["tokens_per_cpu_second"])

    @cached_property
    def _plain(self) -> Chosen:
        return GuidedPolicy(self.ground.reference), ()

    def _kept(
        self,
        method: str,
        weights: Weighting,
        strength: float,
        choose: Callable[[int], Chosen],
        n: int = 1,
    ) -> ScoredSamples:
        """A point from its file, or made and written there."""
        names = list(self.ground.names) if weights else []
        file = place(self.folder, method, weights, strength, names)
        if _damaged(file, ScoredSamples.load):
            point = self.ground.point(method, weights, strength, choose, n)
            point.save(file)
        return ScoredSamples.load(file)


def reach(make: Callable[[float], ScoredSamples], start: float, kl: float) -> list[ScoredSamples]:
    """Points from a strength on, until the KL of every seed has passed a value; by strength.

    Args:
        make: the point of a strength.
        start: the first.
        kl: mean nats per answer.
    """
    points = [make(start)]
    for way in (1, -1):
        last = points[0]
        for rung in range(1, RUNGS + 1):
            if (way * (last.kl.mean(0) - kl) >= 0).all():  # [S]
                break
            last = make(start * RUNG ** (way * rung))
            points.append(last)
    return sorted(points, key=lambda point: point.strength)


def place(folder: Path, method: str, weights: Weighting, strength: float, names: list[str]) -> Path:
    """The file of a point."""
    return folder / POINTS / method / f"{label(weights, names)}@{strength:.4g}.parquet"


def _damaged(file: Path, read: Callable[[Path], object]) -> bool:
    """Whether a file has to be made: it is missing, or, as is then said, damaged."""
    if not file.is_file():
        return True
    try:
        read(file)
    except ValueError:
        print(f"mavis: {file} is damaged: it is made again.", file=sys.stderr)
        return True
    return False


def _check_tokenizers(
    found: Mapping[str, Sequence[Mapping[str, Path]]], reference: ReferencePolicy
) -> None:
    for method, seeds in found.items():
        for folder in (one for folders in seeds for one in folders.values()):
            if method in POLICIES:  # which may know more tokens than the reference
                check_policy(folder, reference)
            elif (mark := tokenizer(folder)) is not None and not reference.knows(mark):
                raise ValueError(
                    f"{method}: {folder} and the reference {reference.name} have different "
                    "tokenizers: compare models that were made from this reference."
                )


def _with_earlier(folder: Path, before: Marks, marks: Marks) -> Marks:
    """The models of this sweep beside those that earlier points are of."""
    together = dict(before)
    for method, seeds in marks.items():
        if not any((folder / POINTS / method).glob("*.parquet")):  # a try that came to nothing
            together[method] = seeds
            continue
        pairs = list(zip(before.get(method, [{}] * len(seeds)), seeds, strict=True))
        changed = {n for old, new in pairs for n, mark in new.items() if old.get(n, mark) != mark}
        if changed == {RULE}:
            raise ValueError(
                f"{folder} holds points of {method} under another divergence: give another --out."
            )
        if changed:
            raise ValueError(
                f"{folder} holds points of other models of {method}, or of these before they were "
                f"trained anew ({', '.join(sorted(changed))}): give another --out."
            )
        together[method] = [old | new for old, new in pairs]
    return together
