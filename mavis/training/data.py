"""`RolloutDataModule`: in each round, the current guided policy writes a new training set."""

import sys
from collections.abc import Sequence
from typing import Any, Literal

from torch.utils.data import DataLoader

from mavis.decoding.policy import GuidedPolicy
from mavis.decoding.prompt_filter import check_enough, fitting_prompts
from mavis.decoding.request import SamplingParams
from mavis.decoding.row_memory import fitting_rows
from mavis.decoding.value_model import ValueModel, decoding
from mavis.objective import Objective, common_source, find
from mavis.options import at_least, fraction, positive
from mavis.prompts import BadRow, Prompt, plain
from mavis.training import collect, siblings
from mavis.training.batching import Batch, batches, loader
from mavis.training.collect import SECONDS, collect_trees, facts_of, score_prefixes
from mavis.training.held_out import HeldOutPrompts
from mavis.training.packing import Pack, round_packs
from mavis.training.progress_bar import aside
from mavis.training.ridge import WORTH
from mavis.training.rollout import Shape
from mavis.training.run_folder import check_reference
from mavis.training.strength import Strength
from mavis.training.tree import Tree
from mavis.training.weightings import Weighting, drawn

VALIDATION_TREES = 16
WHOLE_TREE = 4096  # tokens of a tree that joint credit reads uncut
MORE = 4  # times `trees` that joint credit may come to read of the first round


class RolloutDataModule(HeldOutPrompts):
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
        rounds: rounds of policy improvement; each samples from the last one's policy.
        epochs: passes over a round's trees.
        trees: trees per round, one a prompt.
        most_trees: joint credit doubles the first round's, while it helps, to these (None: 4 ×).
        trees_of: a run whose trees are used, scored anew.
        first_branching: children per node at each level of a tree, in the first round.
        branching: children per node at each level, in later rounds.
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
        best_of: reference answers to a third of these prompts, for units and best-of-N.
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
        self.most_trees, self._first_trees = most_trees, trees
        self.max_tokens, self.prefix_discount = max_tokens, prefix_discount
        self.kl_budget = kl_budget if eta is None and beta is None else None
        self.strength = Strength(beta, eta)
        self.unguided = SamplingParams((), self.strength.beta, temperature, top_k, top_p)
        self._rows, self.batch_tokens, self.seed = rows, batch_tokens, seed
        self.held_out, self.best_of = held_out, best_of
        self.round = 0  # the current round; finished ones are in the checkpoint
        self.facts: dict[str, float] = {}  # of the round's trees
        self.explainable: dict[Weighting, dict[str, float]] = {}  # of its rewards; see `siblings`
        self.loaders: dict[int, DataLoader[Batch]] = {}  # by round: the current one's, once made

    @property
    def pooled(self) -> bool:
        """Whether the trees of all rounds are learned from together, as joint credit does."""
        return bool(self.trainer and getattr(self.trainer.lightning_module, "joint", False))

    @property
    def ceiling(self) -> int:
        """How many trees the first round may come to have."""
        most = (self.most_trees or MORE * self._first_trees) if self.pooled else self.trees
        return most if self.trees_of is None else self.trees  # nothing more is rolled out

    @property
    def rereads(self) -> bool:
        """Whether a round learns from the trees of earlier rounds anew.

        Of several objectives they are too few by themselves, as each belongs to weights of its own.
        """
        return len(self.objectives) > 1 and not self.pooled

    def setup(self, stage: str) -> None:
        """Read and check every prompt, and have the reference policy answer the held-out ones."""
        check_reference(self.folder, self.reference, self.collector.world.rank == 0)
        splits = ("train", "validation", "test") if stage == "test" else ("train", "validation")
        if self.trees_of is not None:  # that run may have added to its first trees
            self.trees = max(self.trees, collect.trees_in(self.folder / "rollouts/round-0/train"))
        self.prompts = {split: self._read(split) for split in splits}
        for split in splits[1:]:
            check_enough(self.prompts[split], self.source, split)
        self.sampling((1.0,) * len(self.objectives)).check([one.name for one in self.objectives])
        self.rows = fitting_rows(self._rows, self.reference, self.prompts["train"], self.max_tokens)
        there, first = len(self.prompts["train"]), self.collector.world.rank == 0
        if self.trees < (self.most_trees or 0) and not self.pooled and first:
            print("mavis: --data.most_trees is of joint credit: no tree is added.", file=sys.stderr)
        if self.trees > there and first:
            print(
                f"mavis: {self.source} has {there} training prompts: a round has as many trees, "
                f"not {self.trees}; more rounds answer them anew.",
                file=sys.stderr,
            )
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
            trees = [tree for at in (*earlier, round_) for tree in self._grow("train", at)]
            packs = self.packs(trees, self.prefix_discount)
            groups = batches(packs, self.batch_tokens, (self.seed, round_))
            world = self.collector.world
            even = len(groups) // world.size * world.size
            self._grow("validation", round_)  # while the policy is the one that begins the round
            if even == 0:
                raise ValueError(f"data.trees is too small for {world.size} processes.")
            mine = loader(groups[world.rank : even : world.size], (self.seed, round_))
            self.loaders = {round_: mine}
        return self.loaders[round_]

    def worth_growing(self, growth: float) -> int:
        """How many more trees the first round is to have: as many again, or 0 if they are enough.

        Args:
            growth: by what factor what is explained grows when trees are doubled; NaN where nothing
                is explained yet.
        """
        most = min(self.ceiling, len(self.prompts["train"]))
        return 0 if self.round or growth < WORTH else max(0, min(self.trees, most - self.trees))

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

    def _read(self, split: str) -> list[Prompt]:
        """As many prompts of a split as the run needs, in the seed's order."""
        held_out = max(self.held_out, VALIDATION_TREES)
        wanted = self.rounds * self.ceiling if split == "train" else held_out
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
        first, count = round_ * self.trees, min(self.trees, len(prompts))
        return [prompts[at % len(prompts)] for at in range(first, first + count)]

    def _weights(self, prompt: Prompt, policy: GuidedPolicy, round_: int) -> Weighting:
        """What guides the tree of a prompt."""
        if not policy.guides:
            return ()
        return drawn((self.seed, round_, plain(prompt)), len(policy.objectives))

    def packs(self, trees: Sequence[Tree], prefix_discount: float = 1.0) -> list[Pack]:
        """Trees as what is learned from, cut where token credit allows it."""
        cap = max(self.batch_tokens, WHOLE_TREE if self.pooled else 1)
        prices = [self.strength.eta / self.strength.relative(tree.weights) for tree in trees]
        return round_packs(trees, self.units, prices, cap, prefix_discount)
