"""The trees of each round: how many, of which prompts, and under which weights they are grown."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from mavis.decoding.policy import GuidedPolicy
from mavis.decoding.prompt_filter import fitting_prompts
from mavis.decoding.value_model import ValueModel, decoding
from mavis.prompts import BadRow, Prompt, plain
from mavis.training import collect, siblings
from mavis.training.collect import collect_trees, facts_of, score_prefixes
from mavis.training.held_out import HeldOutPrompts
from mavis.training.packing import MOST
from mavis.training.progress_bar import aside
from mavis.training.ridge import WORTH
from mavis.training.rollout import Shape
from mavis.training.tree import Tree
from mavis.training.weightings import Weighting, drawn

VALIDATION_TREES = 16
MORE = 4  # times `trees` that joint credit may come to read of the first round
MANY = 3  # times `trees` that the first round of several objectives has


class RoundTrees(HeldOutPrompts):
    """What `RolloutDataModule` needs to roll out a round; its options are described there."""

    source: str  # of prompts
    column: str | None
    on_bad_row: Literal["stop", "skip"]
    shapes: tuple[Shape, Shape]  # of trees in the first round, and in later ones
    rounds: int
    trees: int
    most_trees: int | None
    trees_of: str | None
    prefix_discount: float
    round: int  # the current one; finished ones are in the checkpoint
    facts: dict[str, float]  # of the round's trees
    explainable: dict[Weighting, dict[str, float]]  # of its rewards; see `siblings`
    _begun_with: int  # `trees` as given
    _first_trees: int | None  # as given, or as the run was begun with

    @property
    def pooled(self) -> bool:
        """Whether the trees of all rounds are learned from together, as joint credit does."""
        return bool(self.trainer and getattr(self.trainer.lightning_module, "joint", False))

    @property
    def reads_candidates(self) -> bool:
        """Whether the loss asks for the values of all candidates."""
        module = self.trainer and self.trainer.lightning_module
        return bool(getattr(module, "reads_candidates", False))

    @property
    def first_trees(self) -> int:
        """How many trees the first round begins with; joint credit adds to them by itself."""
        if self.pooled:
            return self.trees
        # The reference writes them fast, and of several objectives they count for all weightings.
        many = self.trees * (MANY if len(self.objectives) > 1 else 1)
        return many if self._first_trees is None else self._first_trees

    @property
    def ceiling(self) -> int:
        """How many trees the first round may come to have."""
        grown = self.pooled and self.trees_of is None  # else nothing more is rolled out
        return (self.most_trees or MORE * self._begun_with) if grown else self.trees

    @property
    def rereads(self) -> bool:
        """Whether a round learns from the trees of earlier rounds anew.

        Of several objectives each round's own are few, and all of them teach all weights.
        """
        return len(self.objectives) > 1 and not self.pooled

    def _read(self, split: str) -> list[Prompt]:
        """As many prompts of a split as the run needs, in the seed's order."""
        held_out = max(self.held_out, VALIDATION_TREES)
        first, later = max(self.ceiling, self.first_trees), max(self.ceiling, self.trees)
        wanted = first + (self.rounds - 1) * later if split == "train" else held_out
        quiet, bad = self.collector.world.rank > 0, self.on_bad_row
        options = (self.source, split, self.column, self.max_tokens, self.seed, wanted)
        try:
            return fitting_prompts(self.reference, *options, on_bad_row=bad, quiet=quiet)
        except BadRow as error:
            raise BadRow(f"{error} Leave such rows out by --data.on_bad_row skip.") from error

    def _grow(self, split: str, round_: int) -> list[Tree]:
        """A round's trees on the prompts of a split; those on disk are not sampled again."""
        assert self.trainer is not None
        network = self.trainer.lightning_module.network
        assert isinstance(network, ValueModel)
        folder = self.folder / "rollouts" / f"round-{round_}" / split
        policy = GuidedPolicy(self.reference, (network,) if round_ else ())
        prompts = self._chosen(split, round_)
        with aside(self.trainer), decoding(network):
            trees = collect_trees(
                self.collector,
                folder,
                policy,
                prompts,
                self.objectives,
                self.shapes[min(round_, 1)],
                [self.sampling(self._weights(prompt, policy, round_)) for prompt in prompts],
                (self.seed, round_),
                self.rows,
                MOST if split == "train" and self.reads_candidates else 0,
            )
            if split == "train" and self.prefix_discount < 1:  # held out are whole replies alone
                once = (self.collector, folder, self.reference, prompts, self.objectives)
                trees = score_prefixes(*once, trees)
        facts = facts_of(trees, self.collector)
        if split == "train":
            self.facts = facts
            self.explainable = siblings.by_weighting(trees, self.units)
        if self.collector.world.rank == 0:
            collect.keep_facts(folder, facts)
        return trees

    def _chosen(self, split: str, round_: int) -> Sequence[Prompt]:
        """The prompts of a round: later rounds start where the earlier ones stopped."""
        prompts = self.prompts[split]
        if split != "train":
            return prompts[:VALIDATION_TREES]
        first = self.first_trees + (round_ - 1) * self.trees if round_ else 0
        count = min(self.trees if round_ else self.first_trees, len(prompts))
        return [prompts[at % len(prompts)] for at in range(first, first + count)]

    def _weights(self, prompt: Prompt, policy: GuidedPolicy, round_: int) -> Weighting:
        """What guides the tree of a prompt."""
        if not policy.guides:
            return ()
        return drawn((self.seed, round_, plain(prompt)), len(policy.objectives))

    def worth_growing(self, growth: float) -> int:
        """How many more trees the first round is to have: as many again, or 0 if they are enough.

        Args:
            growth: by what factor what is explained grows when trees are doubled; NaN where nothing
                is explained yet.
        """
        most = min(self.ceiling, len(self.prompts["train"]))
        return 0 if self.round or growth < WORTH else max(0, min(self.trees, most - self.trees))

    @property
    def _there(self) -> int:
        """How many trees of the first round have been finished, by this run or `trees_of`."""
        runs = [self.folder, *([] if self.trees_of is None else [Path(self.trees_of)])]
        return max(collect.trees_in(run / "rollouts/round-0/train") for run in runs)

    def _begin_as_before(self) -> None:
        """Take all first trees of an earlier run, which may have more, or have added to them."""
        if self.trees_of is not None and self.pooled:
            self.trees = max(self.trees, self._there)
        elif self.trees_of is not None:
            self._first_trees = max(self.first_trees, self._there)

    def _begin_with_those(self) -> None:
        """Go on with a run that was begun with fewer trees than a new one would be."""
        usual = min(self.first_trees, len(self.prompts["train"]))
        if not self.pooled and 0 < self._there < usual:
            self._first_trees = self._there

    def _say_trees(self) -> None:
        """Say where there will not be as many trees as were asked for."""
        there, most = len(self.prompts["train"]), max(self.trees, self._first_trees or 0)
        if self.trees < (self.most_trees or 0) and not self.pooled:
            print("mavis: --data.most_trees is of joint credit: no tree is added.", file=sys.stderr)
        if self._first_trees is not None and self.pooled:
            print(
                "mavis: --data.first_trees is not of joint credit: its rounds begin with as many "
                "trees, and more are added where that helps.",
                file=sys.stderr,
            )
        if most > there:
            print(
                f"mavis: {self.source} has {there} training prompts: a round has as many trees, "
                f"not {most}; more rounds answer them anew.",
                file=sys.stderr,
            )
