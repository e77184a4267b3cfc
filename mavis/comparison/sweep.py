"""Sweep every method over weightings and strengths until it passes the common KL.

From a method's natural strength, the sweep multiplies or divides by √2 until the mean KL has passed
the KL of the comparison. The points on either side allow interpolation; all points together make
the reward–KL curve. Every point is saved when it is finished, and is never decoded twice.
"""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

from mavis.baselines.policy_guides import check_policy
from mavis.classifier import ClassifierReward
from mavis.comparison.checkpoints import Models
from mavis.comparison.methods import Chosen, MethodModels, as_deployed, open_method
from mavis.comparison.preferences import Weighting, label
from mavis.comparison.provenance import Folders, identity, tokenizer
from mavis.comparison.setting import Setting
from mavis.decoding.policy import GuidedPolicy
from mavis.decoding.reference import ReferencePolicy
from mavis.evaluation.samples import ScoredSamples
from mavis.hub import lasting, locate
from mavis.storage import check_same, read_json, write_json

SETTINGS, SPEED = "sweep.json", "speed.json"
POINTS = "points"  # the subfolder of a sweep
# Names of no objective, under which an option is stored beside the digests of the models:
RULE = "--divergence"  # of mod
BASE = "--base"  # of models that may be adapters
POLICIES = {"mod", "soup", "morlhf"}
OVER_BASES = POLICIES | {"parm"}
RUNG = 2**0.5  # from one strength to the next: KL about doubles
RUNGS = 12  # most steps from the natural strength: up to 64 times it, or a 64th

Digests = dict[str, list[dict[str, str]]]  # method -> for each seed, a digest of each model


@dataclass(frozen=True)
class Sweep:
    """A folder of points that were decoded under one setting."""

    folder: Path
    setting: Setting
    models: Models
    weightings: tuple[Weighting, ...]

    def open(self, methods: Sequence[str]) -> dict[str, list[dict[str, Path]]]:
        """Find every method's models, and check that the folder belongs to this sweep.

        Returns:
            the model folders by method, for each seed.

        Raises:
            FileNotFoundError: a model is missing.
            ValueError: a model is not what its method needs, or has another tokenizer than the
                reference, or the folder holds points of other settings, or of other models.
        """
        # Settings that cannot be decoded with must not be recorded in the folder.
        self.setting.sampling((), 0.0).check(())
        names, seeds = self.setting.names, self.setting.config.seeds
        folders = {
            m: [self.models.folders(m, names, self.weightings, seed) for seed in range(seeds)]
            for m in methods
        }
        _check_tokenizers(folders, self.setting.reference)
        rule = f"{(self.models.divergence, self.models.alpha)}"
        base = lasting(self.models.base) if self.models.base else "its own"
        digests = {}
        for method in methods:
            options = {RULE: rule} if method == "mod" else {}
            options |= {BASE: base} if method in OVER_BASES else {}
            digests[method] = [
                {name: identity(place) for name, place in places.items()} | options
                for places in folders[method]
            ]
        # Every point depends on the reference policy and the rewards.
        digests["reference"] = [self._setting_digests()] * seeds
        settings = self.setting.settings()
        file = self.folder / SETTINGS
        if file.is_file():
            before = read_json(file)
            if not (isinstance(before, dict) and {"settings", "models"} <= before.keys()):
                raise ValueError(
                    f"{file} is damaged: it is not the record of a sweep. Give another --out."
                )
            check_same(self.folder, "sweep", before["settings"], settings)
            digests = _with_earlier(self.folder, before["models"], digests)
        write_json(file, {"settings": settings, "models": digests})
        return folders

    def _setting_digests(self) -> dict[str, str]:
        """Compute digests of the local models that all points depend on: π_ref and the rewards."""
        setting = self.setting
        named = {"reference": setting.reference.name}
        for objective in setting.objectives:
            if isinstance(objective.reward, ClassifierReward):
                named[f"reward of {objective.name}"] = objective.reward.model
        places = {what: Path(locate(name, what)) for what, name in named.items()}
        return {what: identity(place) for what, place in places.items() if place.is_dir()}

    def shares_models(self, method: str) -> bool:
        """Whether two seeds share a model although each should have its own."""
        seeds = read_json(self.folder / SETTINGS)["models"][method]
        names = {name for digests in seeds for name in digests} - {RULE, BASE}
        shared = any(len({digests.get(name) for digests in seeds}) < len(seeds) for name in names)
        return shared and "{seed}" in self.models.runs

    def reference(self) -> ScoredSamples:
        """Return π_ref's answers."""
        return self._kept("reference", (), 0.0, lambda _: self._plain)

    def best_of(self) -> ScoredSamples:
        """Return the answers of π_ref that best-of-N chooses from, [P, best_of]."""
        return self._kept("best_of", (), 0.0, lambda _: self._plain, self.setting.config.best_of)

    def load(self, method: str, folders: Folders) -> MethodModels:
        """Return a method's models, which are loaded when they are first used."""
        shared = (method, self.setting.reference, self.setting.names, self.models)
        return MethodModels(method, partial(open_method, *shared), folders)

    def curves(self, models: MethodModels, kl: float) -> Iterator[list[ScoredSamples]]:
        """Yield a method's points for each weighting, by strength, on both sides of a KL."""
        for weights in self.weightings:
            choose = models.weighted(weights)
            make = partial(self._kept, models.method, weights, choose=choose)
            yield reach(make, models.start(weights), kl)

    def speed(self, models: MethodModels) -> float:
        """Measure a method's tokens per CPU second at the middle weighting, as deployed."""
        file = self.folder / POINTS / models.method / SPEED
        if _must_write(file, read_json):
            middle = self.weightings[len(self.weightings) // 2]
            policy = as_deployed(models.weighted(middle)(0))
            speed = self.setting.speed(policy, models.strength)
            write_json(file, {"tokens_per_cpu_second": speed})
        return float(read_json(file)["tokens_per_cpu_second"])

    @cached_property
    def _plain(self) -> Chosen:
        return GuidedPolicy(self.setting.reference), ()

    def _kept(
        self,
        method: str,
        weights: Weighting,
        strength: float,
        choose: Callable[[int], Chosen],
        n: int = 1,
    ) -> ScoredSamples:
        """Load a point from its file; decode and save it first if it is missing."""
        names = list(self.setting.names) if weights else []
        file = place(self.folder, method, weights, strength, names)
        if _must_write(file, ScoredSamples.load):
            point = self.setting.point(method, weights, strength, choose, n)
            point.save(file)
        return ScoredSamples.load(file)


def reach(make: Callable[[float], ScoredSamples], start: float, kl: float) -> list[ScoredSamples]:
    """Step the strength until the KL of every seed has passed a value; sort points by strength.

    `make` returns the point at a strength; the KL is the mean in nats per answer.
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
    """Return the file of a point."""
    return folder / POINTS / method / f"{label(weights, names)}@{strength:.4g}.parquet"


def _must_write(file: Path, read: Callable[[Path], object]) -> bool:
    """Whether a file must be written: it is missing or damaged. Damage is reported."""
    if not file.is_file():
        return True
    try:
        read(file)
    except ValueError:
        print(f"mavis: {file} is damaged: it is made again.", file=sys.stderr)
        return True
    return False


def _check_tokenizers(folders: Mapping[str, Folders], reference: ReferencePolicy) -> None:
    for method, seeds in folders.items():
        for folder in (place for places in seeds for place in places.values()):
            if method in POLICIES:  # a policy may have more tokens than the reference
                check_policy(folder, reference)
            elif (fingerprint := tokenizer(folder)) and not reference.knows(fingerprint):
                raise ValueError(
                    f"{method}: {folder} and the reference {reference.name} have different "
                    "tokenizers: compare models that were made from this reference."
                )


def _with_earlier(folder: Path, before: Digests, now: Digests) -> Digests:
    """Merge the digests of this sweep's models with those that earlier points were made with."""
    merged = dict(before)
    for method, seeds in now.items():
        if not any((folder / POINTS / method).glob("*.parquet")):
            merged[method] = seeds  # no point was finished with the earlier models
            continue
        pairs = list(zip(before.get(method, [{}] * len(seeds)), seeds, strict=True))
        changed = {n for old, new in pairs for n, one in new.items() if old.get(n, one) != one}
        if changed == {RULE}:
            raise ValueError(
                f"{folder} holds points of {method} under another divergence: give another --out."
            )
        if changed:
            raise ValueError(
                f"{folder} holds points of other models of {method}, or of these before they were "
                f"trained anew ({', '.join(sorted(changed))}): give another --out."
            )
        merged[method] = [old | new for old, new in pairs]
    return merged
