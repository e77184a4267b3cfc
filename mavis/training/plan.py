"""`mavis fit --plan`: probes what a fit is made of for less than a minute, and estimates the rest.

The reference policy and the prompts are loaded and checked as a fit does it. Then both policies
decode at the fit's own number of rows, the reward scores some of the answers, and the trainer
learns from a few batches of trees that are drawn up, not sampled. Every draw is keyed; the trainer
writes into a folder that is thrown away.
"""

import resource
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from mavis.decoding.policy import GuidedPolicy
from mavis.decoding.request import Output, SamplingParams
from mavis.decoding.row_memory import GUIDED, token_bytes
from mavis.decoding.value_model import ValueModel, decoding
from mavis.prompts import plain
from mavis.reward import Units, score
from mavis.training.batching import batches, loader
from mavis.training.data import RolloutDataModule
from mavis.training.decoding_speed import Clock, speed
from mavis.training.drawn_trees import Lengths, draw_tree, tree_size
from mavis.training.estimate import Rates, Size, Speed, parts, report
from mavis.training.packing import MOST
from mavis.training.prefixes import prefix_places
from mavis.training.rollout import grow
from mavis.training.round_trees import VALIDATION_TREES
from mavis.training.run_folder import check_reference, finished_rounds
from mavis.training.weightings import measured

SECONDS = 4.0  # that a probe may take, about
REPLIES = 256  # of the reference that lengths are measured on, if there is time
TREES = 24  # that are drawn up to learn from
BATCHES = 12  # that are learned from in a pass
KEEP = 1.0  # seconds a round for pictures and tracking
ROW_BYTES = 26  # on disk, of a sampled token: its id, its numbers and its text
CANDIDATE_BYTES = 8  # of a candidate beside it: its id and its log-probability
WEIGHTS = 4  # bytes of a weight on disk
TRACKED = 0.15e9  # bytes of memory that MLflow and the pictures take
BASE = 3e6  # bytes of pictures and settings, and of MLflow's data base


class Plan(Callback):
    """Probes a fit from within its trainer, and stops it after a few batches.

    Args:
        out: the run folder, in which nothing is written.
        started: CPU seconds that were spent before the trainer began: what is loaded.
        taken: rounds whose trees another run has (`--data.trees_of`).
        clock: tells seconds.
    """

    def __init__(
        self, out: Path, started: float = 0.0, taken: int = 0, clock: Clock = time.perf_counter
    ) -> None:
        self.out, self.clock, self._started, self._taken = out, clock, started, taken
        self.finished = finished_rounds(out)
        self._began = clock()
        self._passes: list[list[float]] = []  # seconds of each batch in each pass
        self._solve = 0.0
        self._at = 0.0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Probe the reference policy and the reward, after the data module has read the prompts."""
        del stage, pl_module
        data: RolloutDataModule = trainer.datamodule  # type: ignore[attr-defined]
        self.data = data
        check_reference(self.out, data.reference, keep=False)
        self._load = self._started + self.clock() - self._began
        policy, sampling = GuidedPolicy(data.reference), data.sampling()
        self._reference, outputs = self._decode(policy, sampling, REPLIES)
        replies = [(len(one.tokens), one.reason in ("end", "stop")) for one in outputs]
        self.lengths = Lengths.measure(replies, data.max_tokens)
        self._outputs = [one for one in outputs if one.tokens]
        self._growth = self._grow(policy, sampling)
        self._reward = self._score()
        self._ceiling = min(data.ceiling, len(data.prompts["train"]))
        data.most_trees = data.trees  # a probe grows none
        self._draw_up()

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Probe the guided policy, when the value network has been built."""
        del trainer
        network = pl_module.network
        assert isinstance(network, ValueModel)
        policy = GuidedPolicy(self.data.reference, (network,))
        trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
        self._weights = sum(p.numel() for p in network.parameters()), trained
        equal = measured(len(policy.objectives))[-1]
        with decoding(network):
            self._guided, _ = self._decode(policy, self.data.sampling(equal), 1)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin a pass."""
        del trainer, pl_module
        self._passes.append([])
        self._at = self.clock()

    def on_train_batch_end(self, trainer: Trainer, *_: object) -> None:
        """Take the time of a batch; end the pass when it has taken long enough."""
        self._passes[-1].append(self.clock() - self._at)
        self._at = self.clock()
        if sum(self._passes[-1]) > 2 * SECONDS:
            trainer.should_stop = True

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the time of what follows the last batch of a pass."""
        del trainer, pl_module
        self._solve = max(self._solve, self.clock() - self._at)

    def report(self) -> str:
        """The estimate, for people."""
        size, rates = self.size(), self.rates()
        return report(size, rates, self._memory(), self._disk(size))

    def size(self) -> Size:
        """How much the fit has still to do."""
        data, left = self.data, max(0, self.data.rounds - self.finished)
        held_out = self.data.prompts["validation"]
        thirds = min(len(held_out), -(-data.held_out // 3))
        return Size(
            rounds=left,
            first=None if self.finished else data.shapes[0],
            later=data.shapes[1],
            trees=min(data.trees, len(data.prompts["train"])),
            first_trees=min(data.first_trees, len(data.prompts["train"])),
            ceiling=0 if self.finished else self._ceiling,
            validation_trees=min(VALIDATION_TREES, len(held_out)),
            baseline=0 if self.finished else thirds,
            judged=thirds,
            best_of=data.best_of,
            held_out=min(data.held_out, len(held_out)),
            epochs=data.epochs,
            rows=data.rows,
            prompt=float(np.mean([len(one.request.tokens) for one in self._outputs])),
            prefixes=data.prefix_discount < 1,
            finished=self.finished,
            taken=max(0, self._taken - self.finished),
            rereads=data.rereads,
            weightings=len(measured(len(data.objectives))),
        )

    def rates(self) -> Rates:
        """What has been measured."""
        first, *later = self._passes
        first = first[1:] or first  # the first batch of all warms up
        per_token = len(self._groups) / self._tokens  # batches
        learn, solve = float(np.mean(first)) * per_token, self._solve
        if self.data.pooled:  # a second pass, which the probe has done before it solved
            solve = max(0.0, solve - sum(first))
            learn *= 2
        return Rates(
            lengths=self.lengths,
            reference=self._reference,
            guided=self._guided,
            growth=self._growth,
            reward=self._reward,
            learn=learn,
            again=float(np.mean(later[0])) * per_token if later and later[0] else learn,
            solve=solve,
            keep=KEEP,
            load=self._load,
        )

    def _decode(
        self, policy: GuidedPolicy, sampling: SamplingParams, wanted: int
    ) -> tuple[Speed, list[Output]]:
        data = self.data
        prompts = [*data.prompts["validation"], *data.prompts["train"]]
        limits = (data.max_tokens, data.rows, wanted, SECONDS)
        return speed(policy, prompts, sampling, *limits, data.seed, self.clock)

    def _grow(self, policy: GuidedPolicy, sampling: SamplingParams) -> float:
        """How much longer trees take than replies of as many tokens: rows are copied for them."""
        data, (shape, _) = self.data, self.data.shapes
        prompts = data.prompts["train"][: 2 * TREES]
        read = sum(len(data.reference.encode(prompt).tokens) for prompt in prompts)
        tokens, leaves = (len(prompts) * each for each in tree_size(shape, self.lengths))

        def seconds(tokens: float) -> float:
            at_once = min(leaves, data.rows)
            return self._reference.seconds(read, tokens, at_once, data.max_tokens)

        if seconds(tokens) > SECONDS:  # of a large model: its steps outweigh all copies
            return 1.0
        before = self.clock()
        seed = (data.seed, data.rounds)  # no round of the fit
        how = [sampling] * len(prompts)
        trees = [tree for _, tree in grow(policy, prompts, shape, how, seed, data.rows)]
        taken = self.clock() - before
        sampled = sum(len(tree.tokens) - int(tree.start[1]) for tree in trees)
        return max(1.0, taken / max(1e-9, seconds(sampled)))

    def _score(self) -> float:
        """Seconds that the rewards take per reply; what they load is loading."""
        data, reference = self.data, self.data.reference
        rows = [
            (plain(o.request.tag), reference.decode(o.tokens, o.request.stop))
            for o in self._outputs
        ]
        total = 0.0
        for one in data.objectives:
            for number, count in enumerate((2, 16, 64, len(rows))):
                prompts, replies = zip(*rows[:count], strict=True)
                before = self.clock()
                scores = score(one.name, one.reward, prompts, replies, one.scores_thoughts)
                seconds = self.clock() - before
                self._load += 0.0 if number else seconds  # the first call loads what it needs
                if seconds > SECONDS / 4:
                    break
            total += seconds / len(replies)
            if len(replies) >= REPLIES / 4:
                Units.measure(scores, one.name)  # raises an error where they are constant
        return total

    def _draw_up(self) -> None:
        """Put trees that nobody has sampled where the trainer looks for those of the round."""
        data = self.data
        pool = np.concatenate([one.tokens for one in self._outputs]).astype(np.int64)
        random = np.random.default_rng(data.seed)
        trees = []
        for at, prompt in enumerate(data.prompts["train"][:TREES]):
            start = data.reference.encode(prompt).tokens
            tree = draw_tree(start, pool, data.shapes[0], self.lengths, (data.seed, at, "plan"))
            rewards = random.normal(size=(len(tree.leaves), len(data.objectives)))
            prefixes = random.normal(size=(len(prefix_places(tree)), len(data.objectives)))
            scores = rewards.astype(np.float32), prefixes.astype(np.float32)
            trees.append(replace(tree, rewards=scores[0], prefixes=scores[1]))
        self._tokens = sum(len(tree.tokens) for tree in trees)
        packs = data.packs(trees, data.prefix_discount)
        self._groups = data.complete(batches(packs, data.batch_tokens, (data.seed, 0)))
        data.loaders = {0: loader(self._groups[:BATCHES], (data.seed, 0))}

    def _memory(self) -> float:
        """The peak in bytes: what the probe has taken, and rows that it has not filled."""
        data, device = self.data, self.data.reference.model.device
        longest = max(len(one.request.tokens) for one in self._outputs) + data.max_tokens
        width = max(len(one.request.tokens) + len(one.tokens) for one in self._outputs)
        each = GUIDED * token_bytes(data.reference.model)
        missing = data.rows * each * max(0, longest - width)
        if device.type == "cuda":
            return float(torch.cuda.max_memory_reserved(device) + missing)
        unit = 1 if sys.platform == "darwin" else 1024
        return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit + TRACKED + missing)

    def _disk(self, size: Size) -> float:
        """Bytes in the run folder, and those that MLflow keeps."""
        weights, trained = self._weights
        # The value model, the checkpoint with Adam's two moments, and what MLflow registers.
        models = WEIGHTS * (3 * weights + 2 * trained)
        found = parts(size, self.rates())
        sampled = sum(found[n].tokens for n in ("reference answers", "rollouts", "evaluation"))
        top_k = self.data.unguided.top_k or self.data.reference.vocabulary
        known = CANDIDATE_BYTES * min(MOST, top_k) if self.data.reads_candidates else 0
        return BASE + models + ROW_BYTES * sampled + known * found["rollouts"].tokens


def run(trainer: Trainer, module: LightningModule, data: RolloutDataModule) -> str:
    """Probe a fit with a trainer whose callbacks hold a `Plan`; return the estimate.

    Raises:
        ValueError: as the fit would: a reward fails, prompts are too few, and so on.
    """
    plan = next(each for each in trainer.callbacks if isinstance(each, Plan))  # type: ignore[attr-defined]
    if plan.finished >= data.rounds:
        return f"the run in {plan.out} is finished: nothing is left to train."
    # Units are measured on all answers of the reference, which is what a plan does not wait for.
    data.units = (Units(0.0, 1.0),) * len(data.objectives)
    data.covariance = tuple(tuple(map(float, row)) for row in np.eye(len(data.objectives)))
    trainer.fit(module, datamodule=data)
    return plan.report()
