"""`RolloutDataModule`: in each round, the current guided policy writes a new training set."""

from collections.abc import Sequence
from typing import Any, Literal

from torch.utils.data import DataLoader

from mavis.decoding.prompt_filter import check_enough
from mavis.decoding.request import SamplingParams
from mavis.decoding.row_memory import fitting_rows
from mavis.objective import Objective, common_source, find
from mavis.options import at_least, fraction, positive
from mavis.training.batching import Batch, batches, loader
from mavis.training.collect import SECONDS
from mavis.training.pack_candidates import with_candidates
from mavis.training.packing import Pack, round_packs
from mavis.training.rollout import Shape
from mavis.training.round_trees import RoundTrees
from mavis.training.run_folder import check_reference
from mavis.training.strength import Strength
from mavis.training.tree import Tree
from mavis.training.weightings import Weighting

WHOLE_TREE = 4096  # tokens of a tree that joint credit reads uncut


class RolloutDataModule(RoundTrees):
    """Rollout trees of the current guided policy, scored, with targets, and packed.

    `train_dataloader` is called once a round. It samples the round's trees with the current policy,
    or reads them from disk; each of several processes samples its share.

    Args:
        objectives: names of the M installed objectives that values are learned for.
        prompts: prompts: a file, a folder, MODULE:FUNCTION or a hub data set (None: the
            objective's own).
        column: column of prompts (None: it is detected).
        on_bad_row: what to do at a row without a valid prompt.
        template: dotted name of a function prompt -> text, for the chat template.
        template_args: arguments of the chat template, such as `{enable_thinking: false}`.
        reference: reference policy: a folder, a GGUF file or a hub name.
        rounds: rounds of policy improvement; 2 of several objectives.
        epochs: passes over a round's trees.
        trees: trees per round, one a prompt.
        first_trees: trees of round 0 (several objectives: 3 ×).
        most_trees: joint credit adds up to so many (None: 4 ×).
        trees_of: a run whose trees are used, scored anew.
        first_branching: children per node of first trees, by level.
        branching: children per node of later trees, by level.
        max_tokens: longest answer, in tokens.
        kl_budget: nats per answer that guidance may cost, beside truncation.
        eta: price of a nat of KL in the targets, in standard units of reward (None: 1 / beta).
        beta: strength of the guidance (None: 1 / eta, or what spends the budget).
        temperature: sampling temperature.
        top_k: most likely tokens to choose from; 0 is the whole vocabulary.
        top_p: probability mass of the most likely tokens to choose from.
        rows: answers that are sampled at once (None: 8 to 128, by the free memory).
        batch_tokens: most tokens in a batch.
        prefix_discount: below 1: learn from partial replies, too; see `objectives check`.
        held_out: validation prompts answered.
        best_of: reference answers to a third of these prompts.
        seed: seed of all random draws.
    """

    def __init__(
        self,
        objectives: tuple[str, ...],
        prompts: str | None = None,
        column: str | None = None,
        on_bad_row: Literal["stop", "skip"] = "stop",
        template: str | None = None,
        template_args: dict[str, Any] | None = None,
        reference: str = "sandbox/reference",
        rounds: int = 3,
        epochs: int = 3,
        trees: int = 168,
        first_trees: int | None = None,
        most_trees: int | None = None,
        trees_of: str | None = None,
        first_branching: tuple[int, ...] = (4, 2, 2),
        branching: tuple[int, ...] = (4, 2, 2),
        max_tokens: int = 64,
        kl_budget: float = 2.0,
        eta: float | None = None,
        beta: float | None = None,
        temperature: float = 1.0,
        top_k: int = 40,
        top_p: float = 1.0,
        rows: int | None = None,
        batch_tokens: int = 512,
        prefix_discount: float = 1.0,
        held_out: int = 200,
        best_of: int = 32,
        seed: int = 0,
    ) -> None:
        super().__init__()
        at_least(1, rounds=rounds, epochs=epochs, trees=trees, batch_tokens=batch_tokens)
        at_least(1, rows=1 if rows is None else rows)
        at_least(1, first_trees=1 if first_trees is None else first_trees)
        at_least(trees, most_trees=trees if most_trees is None else most_trees)
        at_least(2, held_out=held_out, best_of=best_of)  # spreads need two
        # At temperature 0, a tree of likeliest tokens has no two branches.
        positive(eta=eta, kl_budget=kl_budget, temperature=temperature)
        fraction(prefix_discount=prefix_discount)
        self.objectives = tuple(find(name) for name in objectives)
        self.shapes = (Shape(first_branching, max_tokens), Shape(branching, max_tokens))
        self.source = common_source("data.prompts", prompts, self.objectives)
        self.column, self.on_bad_row = column, on_bad_row
        self.reference_name, self.template, self.template_args = reference, template, template_args
        self.rounds, self.epochs, self.trees, self.trees_of = rounds, epochs, trees, trees_of
        self.most_trees, self._begun_with, self._first_trees = most_trees, trees, first_trees
        self.max_tokens, self.prefix_discount = max_tokens, prefix_discount
        self.kl_budget = kl_budget if eta is None and beta is None else None
        self.strength = Strength(beta, eta, self.kl_budget)
        self.unguided = SamplingParams((), self.strength.beta, temperature, top_k, top_p)
        self._rows, self.batch_tokens, self.seed = rows, batch_tokens, seed
        self.held_out, self.best_of = held_out, best_of
        self.round = 0  # the current round; finished ones are in the checkpoint
        self.facts: dict[str, float] = {}  # of the round's trees
        self.explainable: dict[Weighting, dict[str, float]] = {}  # of its rewards; see `siblings`
        self.loaders: dict[int, DataLoader[Batch]] = {}  # by round: the current one's, once made
        self._groups: dict[int, list[list[Pack]]] = {}  # by round: this process's batches

    def setup(self, stage: str) -> None:
        """Read and check every prompt, and have the reference policy answer the held-out ones."""
        check_reference(self.folder, self.reference, self.collector.world.rank == 0)
        splits = ("train", "validation", "test") if stage == "test" else ("train", "validation")
        self._begin_as_before()
        self.prompts = {split: self._read(split) for split in splits}
        self._begin_with_those()
        for split in splits[1:]:
            check_enough(self.prompts[split], self.source, split)
        self.sampling((1.0,) * len(self.objectives)).check([one.name for one in self.objectives])
        self.rows = fitting_rows(self._rows, self.reference, self.prompts["train"], self.max_tokens)
        if self.collector.world.rank == 0:
            self._say_trees()
        _ = self.units  # an error before anything is trained if a reward is constant
        self.strength.covariance = self.covariance

    @property
    def objective(self) -> Objective:
        """The first objective: plots, cards and messages name it."""
        return self.objectives[0]

    def train_dataloader(self) -> DataLoader[Batch]:
        """The round's packs in batches, the same number of them for each process."""
        round_ = min(self.round, self.rounds - 1)  # Lightning calls this after the last round, too
        if round_ not in self.loaders:
            earlier = range(round_) if self.rereads else ()
            before = [group for at in earlier for group in self._batches(at)]
            mine = self._batches(round_)
            self._grow("validation", round_)  # while the policy is the one that begins the round
            self.loaders = {round_: loader(mine, (self.seed, round_), before, self.epochs)}
        return self.loaders[round_]

    def _batches(self, round_: int) -> list[list[Pack]]:
        """This process's batches of a round's packs, as many as of every other process."""
        known = self._groups.get(round_)
        if known is None:
            packs = self.packs(self._grow("train", round_), self.prefix_discount)
            groups = batches(packs, self.batch_tokens, (self.seed, round_))
            world = self.collector.world
            even = len(groups) // world.size * world.size
            if even == 0:
                raise ValueError(f"data.trees is too small for {world.size} processes.")
            mine = groups[world.rank : even : world.size]
            known = self.complete(mine)
            if self.reads_candidates:
                # Other losses' targets depend on the price of the round that reads them.
                self._groups = {**(self._groups if self.rereads else {}), round_: known}
        return known

    def complete(self, groups: list[list[Pack]]) -> list[list[Pack]]:
        """The batches, with candidates if the loss asks for their values."""
        if not self.reads_candidates:
            return groups
        return with_candidates(groups, self.reference, self.unguided)

    def grown(self, more: int) -> DataLoader[Batch]:
        """The packs of so many more trees of the first round, which are added to those it has."""
        there, before = self.trees, self.facts
        self.trees += more
        packs = self.packs(self._grow("train", 0)[there:], self.prefix_discount)
        for name in SECONDS:
            self.facts[name] += before[name]
        groups, world = batches(packs, self.batch_tokens, (self.seed, there)), self.collector.world
        return loader(groups[world.rank :: world.size])

    def val_dataloader(self) -> DataLoader[Batch]:
        """Packs of held-out trees, grown by the same policy as the round's."""
        return self._held_out_loader("validation")

    def test_dataloader(self) -> DataLoader[Batch]:
        """Packs of trees on the test prompts."""
        return self._held_out_loader("test")

    def _held_out_loader(self, split: str) -> DataLoader[Batch]:
        packs = self.packs(self._grow(split, self.round))
        return loader(batches(packs, self.batch_tokens, (self.seed,)))

    def state_dict(self) -> dict[str, Any]:
        """The number of finished rounds, their trees, and the strength after the last of them."""
        return {"rounds": self.round, "trees": self.trees, **self.strength.state()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resume after the finished rounds."""
        self.round = int(state_dict["rounds"])
        self.trees = state_dict.get("trees", self.trees)  # older checkpoints are of as many
        self.strength.restore(state_dict)

    def packs(self, trees: Sequence[Tree], prefix_discount: float = 1.0) -> list[Pack]:
        """Trees as what is learned from, cut where token credit allows it."""
        cap = max(self.batch_tokens, WHOLE_TREE if self.pooled else 1)
        prices = [self.strength.eta / self.strength.relative(tree.weights) for tree in trees]
        return round_packs(trees, self.units, prices, cap, prefix_discount)
