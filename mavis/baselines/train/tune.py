"""Trains policies one after another; what they share is loaded and measured once."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from mavis.baselines.policy_card import CARD, TunedCard, tuned_folder
from mavis.baselines.policy_guides import guide, save_policy
from mavis.baselines.train.config import TuneConfig
from mavis.baselines.train.data import TrainingData, WeightedReward, end_token, read_dialogues
from mavis.baselines.train.run import TrainingWatch, forget_run, read_run, train
from mavis.baselines.train.setup import TrainingSetup, quiet_libraries
from mavis.baselines.train.trl_trainers import import_trainer
from mavis.checksums import check
from mavis.decoding.adapters import merged
from mavis.decoding.policy import GuidedPolicy
from mavis.decoding.reference import SMALL
from mavis.decoding.request import SamplingParams
from mavis.evaluation.metrics import mean_reward
from mavis.evaluation.samples import ScoredSamples
from mavis.prompts import digest
from mavis.reward import Units
from mavis.storage import alone_in, check_same
from mavis.tracking.mlflow_logger import Tracking


@dataclass(frozen=True)
class PolicyTrainer(TrainingSetup):
    """Trains policies for different weights of the same objectives, of which sft has none.

    Args:
        uri: of the tracking store.
    """

    config: TuneConfig
    uri: str

    def tune(self, out: Path, weights: tuple[float, ...]) -> None:
        """Train the policy for a weight vector, unless it is there already.

        Raises:
            ValueError: its folder holds a policy with other settings.
            RuntimeError: another process is at work in it.
        """
        kept = [(o, w) for o, w in zip(self.objectives, weights, strict=True) if w]
        objectives, lambdas = [o for o, _ in kept], [w for _, w in kept]
        kind = (self.config.method, self.config.divergence, self.config.lora)
        folder = tuned_folder(out, [o.name for o in objectives], lambdas, *kind)
        settings = self.settings(objectives) | {"weights": lambdas}
        with alone_in(folder):
            if (folder / CARD).is_file():
                card = TunedCard.read(folder)
                check_same(folder, "policy", card.settings, settings)
                check(folder, f"remove {folder / CARD}, and `mavis tune` trains it again.")
                print(f"{folder} is finished: {_result(card)}")
                return
            check_same(folder, "policy", read_run(folder).get("settings", {}), settings)
            end_token(self.reference)  # a model without one is refused before it is measured
            rewards = tuple(WeightedReward(o, self._units[o.name], w) for o, w in kept)
            card = self._train(folder, rewards, settings)
        print(_report(folder, card))

    @cached_property
    def _baseline(self) -> ScoredSamples:
        """Answers of the reference policy, whose rewards define the standard units of a fit."""
        return self.reference_answers(self.config.held_out)

    @cached_property
    def _units(self) -> dict[str, Units]:
        """The standard units of each objective by its name."""
        return dict(zip(self._baseline.objectives, self._baseline.units, strict=True))

    @cached_property
    def _examples(self) -> TrainingData:
        """What policies are trained on, but for the rewards."""
        config, many = self.config, self.config.num_prompts
        if config.method == "sft":
            dialogues = read_dialogues(self.source, config.column)[:many]
            prompts, replies = zip(*dialogues, strict=True)
            return TrainingData(self.reference, (), prompts, replies)
        return TrainingData(self.reference, (), tuple(self.prompts("train")[:many]))

    def _spread(self, rewards: Sequence[WeightedReward]) -> float:
        """The standard deviation of the weighted reward over the reference's answers.

        1 for one objective; less for several that conflict, whose weighted reward would otherwise
        buy less KL, and stay nearer to the reference, than any of them alone.

        Raises:
            ValueError: it is 0.
        """
        standard = torch.from_numpy(self._baseline.standard(self._baseline.units)).float()
        by_name = {reward.objective.name: reward.weight for reward in rewards}
        weights = torch.tensor([by_name.get(one.name, 0.0) for one in self.objectives])
        total = standard.flatten(0, 1) @ weights
        spread = float(total[~total.isnan()].std())
        if not spread > 0:
            names = " and ".join(by_name)
            raise ValueError(f"the weighted reward of {names} is constant: nothing to learn.")
        return spread

    def _training_config(self, rewards: Sequence[WeightedReward]) -> TuneConfig:
        """The config with the price in deviations of this reward, and with a learning rate."""
        large = self.reference.model.num_parameters() >= SMALL
        lr = self.config.default_lr(large) if self.config.lr is None else self.config.lr
        spread = self._spread(rewards) if rewards else 1.0
        return replace(self.config, eta=self.config.eta * spread, lr=lr)

    def _train(
        self, folder: Path, rewards: tuple[WeightedReward, ...], settings: dict[str, Any]
    ) -> TunedCard:
        """Train, save and measure a policy, and write its card last of all."""
        config, data = self.config, replace(self._examples, rewards=rewards)
        tracking = Tracking(str(folder), uri=self.uri)
        tracking.log_hyperparams({"tune": settings})
        import_trainer(config.method)
        watch = TrainingWatch(folder, settings, tracking)  # from here on, time is counted
        status = "failed"
        try:
            model = train(self._training_config(rewards), data, folder, watch)
            wall, cpu = watch.seconds
            parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
            with quiet_libraries():
                save_policy(model, self.reference, folder)
            whole = merged(model, str(folder)) if config.lora else model
            measured = self._measure(whole, rewards)
            metrics = {f"held_out/{name}": value for name, value in measured.items()}
            tracking.log_metrics(metrics, config.steps)
            status = "success"
        finally:
            watch.close()
            tracking.finalize(status)
        card = TunedCard(
            **self.card_entries(settings),
            method=config.method,
            objectives=tuple(settings["objectives"]),
            weights=tuple(settings["weights"]),
            units=tuple(reward.units for reward in rewards),
            divergence=config.divergence,
            eta=config.eta,
            train_seconds=round(wall, 1),
            cpu_seconds=round(cpu, 1),
            parameters=parameters,
            lora=config.lora,
            prompts=tuple(sorted({digest(prompt) for prompt in data.prompts})),
            measured=measured,
        )
        card.save(folder)
        forget_run(folder)
        return card

    def _measure(
        self, model: PreTrainedModel, rewards: Sequence[WeightedReward]
    ) -> dict[str, float]:
        """Measure a policy on its answers to the held-out prompts.

        It is decoded as `mavis pareto` decodes it: as a guide of the reference policy, which at
        strength 1 is the policy itself on the reference's candidates, with its exact KL.

        Returns:
            reward (weighted sum, standard units; 0 is the reference's), reward_se, kl (nats per
            response), length (tokens), and the mean reward of each objective by its name.
        """
        policy = GuidedPolicy(self.reference, (guide(self.reference, "tuned", model),))
        objectives = [reward.objective for reward in rewards]
        samples = self.answers(policy, objectives, SamplingParams((1.0,), beta=1.0))
        units = [reward.units for reward in rewards]
        measured = samples.mean_rewards(units)
        if rewards:
            weights = [reward.weight for reward in rewards]
            measured |= mean_reward(samples.standard(units) @ weights)
        return measured | {name: samples.summary[name] for name in ("kl", "length")}


def _result(card: TunedCard) -> str:
    measured = card.measured
    parts = [f"KL {measured['kl']:.1f} nats"]
    if card.objectives:
        reward = f"{measured['reward']:.2f}"
        if measured["reward_se"] == measured["reward_se"]:  # one answer alone has no spread
            reward += f" ± {measured['reward_se']:.2f}"
        parts.insert(0, f"reward {reward} (reference 0.00)")
    if len(card.objectives) > 1:
        parts += [f"{name} {measured[name]:.2f}" for name in card.objectives]
    return ", ".join(parts)


def _report(folder: Path, card: TunedCard) -> str:
    kind = "adapter" if card.lora else "policy"
    return (
        f"{kind:<8} {folder}\n"
        f"measured {_result(card)}\n"
        f"cost     {card.train_seconds:.0f} s ({card.cpu_seconds:.0f} s of CPU), "
        f"{card.parameters:,} parameters, {len(card.prompts)} prompts"
    )
