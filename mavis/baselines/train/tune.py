"""Where policies are tuned one after another: what they share is loaded and measured once."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from mavis.baselines.policy_card import CARD, TunedCard, tuned_folder
from mavis.baselines.policy_guides import guide
from mavis.baselines.train.callback import RUN, TrainingWatch, read_run
from mavis.baselines.train.config import TuneConfig
from mavis.baselines.train.data import TrainingData, WeightedReward, end_token, read_dialogues
from mavis.baselines.train.run import forget_checkpoints, merged, save_policy, train
from mavis.baselines.train.trl_trainers import import_trainer
from mavis.checksums import check
from mavis.decoding.policy import GuidedPolicy
from mavis.decoding.prompt_filter import fitting_prompts
from mavis.decoding.reference import SMALL, ReferencePolicy, spare_threads
from mavis.decoding.request import SamplingParams
from mavis.evaluation.evaluate import evaluate
from mavis.evaluation.metrics import mean_reward
from mavis.evaluation.samples import ScoredSamples
from mavis.hub import lasting
from mavis.objective import Objective
from mavis.prompts import Prompt, digest
from mavis.reward import Units, identity
from mavis.storage import alone_in, check_same
from mavis.tracking.mlflow_logger import Tracking


@dataclass(frozen=True)
class PolicyTrainer:
    """Trains policies for different weights of the same objectives.

    Args:
        objectives: what is rewarded; none for sft.
        config: the options of `mavis tune`.
        uri: of the tracking store.
    """

    objectives: tuple[Objective, ...]
    config: TuneConfig
    uri: str

    def tune(self, out: Path, weights: tuple[float, ...]) -> None:
        """Train the policy for a weight vector, unless it is there already.

        Raises:
            ValueError: its folder holds one of other settings.
            RuntimeError: another process is at work in it.
        """
        kept = [(o, w) for o, w in zip(self.objectives, weights, strict=True) if w]
        names, lambdas = tuple(o.name for o, _ in kept), tuple(w for _, w in kept)
        kind = (self.config.method, self.config.divergence, self.config.lora)
        folder = tuned_folder(out, names, lambdas, *kind)
        settings = self.config.settings() | {
            "prompts": self.source,
            "objectives": list(names),
            "weights": list(lambdas),
            "rewards": [identity(o) for o, _ in kept],
            "reference_weights": self.reference.weights_digest,
        }
        with alone_in(folder):
            if (folder / CARD).is_file():
                card = TunedCard.read(folder)
                check_same(folder, "policy", card.settings, settings)
                check(folder, f"remove {folder / CARD}, and `mavis tune` trains it again.")
                print(f"{folder} is finished: {_result(card)}")
                return
            check_same(folder, "policy", read_run(folder).get("settings", {}), settings)
            end_token(self.reference)  # a model without one is refused before it is measured
            scales = tuple(WeightedReward(o, self.units[o.name], w) for o, w in kept)
            card = self._train(folder, scales, settings)
        print(_report(folder, card))

    @cached_property
    def reference(self) -> ReferencePolicy:
        """π_ref."""
        given = self.config
        policy = ReferencePolicy.load(
            lasting(given.reference), given.template, given.device, given.template_args
        )
        spare_threads(policy.model)
        return policy

    @cached_property
    def source(self) -> str:
        """The data set of the prompts."""
        return self.config.source(self.objectives)

    @cached_property
    def held_out(self) -> list[Prompt]:
        """The validation prompts that policies are measured on."""
        return self._prompts("validation")[: self.config.held_out]

    @cached_property
    def units(self) -> dict[str, Units]:
        """Standard units of the objectives, by name: those that `mavis fit` measures."""
        return dict(zip(self._baseline.objectives, self._baseline.units, strict=True))

    def spread(self, scales: Sequence[WeightedReward]) -> float:
        """The standard deviation of the weighted reward over the reference's answers.

        1 for one objective; less for several that conflict, whose weighted reward would otherwise
        buy less KL, and stay nearer to the reference, than any of them alone.
        """
        rewards = torch.from_numpy(self._baseline.standard(self._baseline.units)).float()
        by_name = {scale.objective.name: scale.weight for scale in scales}
        weights = torch.tensor([by_name.get(one.name, 0.0) for one in self.objectives])
        total = rewards.flatten(0, 1) @ weights
        return float(total[~total.isnan()].std())

    @cached_property
    def _baseline(self) -> ScoredSamples:
        """The reference policy's answers to a third of the held-out prompts."""
        given = self.config
        return evaluate(
            GuidedPolicy(self.reference),
            self.held_out[: -(-given.held_out // 3)],
            self.objectives,
            SamplingParams(),
            max_tokens=given.max_tokens,
            n=given.best_of,
            seed=given.seed,
            rows=given.rows,
        )

    @cached_property
    def study(self) -> TrainingData:
        """What policies are trained on, but for the rewards."""
        many, rows = self.config.num_prompts, self.config.rows
        if self.config.method == "sft":
            dialogues = read_dialogues(self.source, self.config.column)[:many]
            return TrainingData(self.reference, (), (), tuple(dialogues), rows)
        return TrainingData(self.reference, (), tuple(self._prompts("train")[:many]), (), rows)

    def _prompts(self, split: str) -> list[Prompt]:
        given = self.config
        room = (given.column, given.max_tokens, given.seed)
        return fitting_prompts(self.reference, self.source, split, *room)

    def _plan(self, scales: Sequence[WeightedReward]) -> TuneConfig:
        """The config with the price in deviations of this reward, and with a learning rate."""
        large = self.reference.model.num_parameters() >= SMALL
        lr = self.config.default_lr(large) if self.config.lr is None else self.config.lr
        spread = self.spread(scales) if scales else 1.0
        if not spread > 0:
            names = " and ".join(scale.objective.name for scale in scales)
            raise ValueError(f"the weighted reward of {names} is constant: nothing to learn.")
        return replace(self.config, eta=self.config.eta * spread, lr=lr)

    def _train(
        self, folder: Path, scales: tuple[WeightedReward, ...], settings: dict[str, Any]
    ) -> TunedCard:
        """Train, save and measure a policy, and write its card last of all."""
        study = replace(self.study, scales=scales)
        tracking = Tracking(str(folder), uri=self.uri)
        tracking.log_hyperparams({"tune": settings})
        import_trainer(self.config.method)
        watch = TrainingWatch(folder, settings, tracking)  # from here on, time is counted
        status = "failed"
        try:
            model = train(self._plan(scales), study, folder, [watch])
            seconds = watch.seconds
            parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
            save_policy(model, self.reference, folder)
            measured = self._measure(merged(model), scales)
            found = {f"held_out/{name}": value for name, value in measured.items()}
            tracking.log_metrics(found, self.config.steps)
            status = "success"
        finally:
            watch.close()
            tracking.finalize(status)
        card = self._card(study, settings, seconds, parameters, measured)
        card.save(folder)
        forget_checkpoints(folder)
        (folder / RUN).unlink(missing_ok=True)
        return card

    def _measure(
        self, model: PreTrainedModel, scales: Sequence[WeightedReward]
    ) -> dict[str, float]:
        """How a policy answers each held-out prompt once.

        It is decoded as `mavis pareto` decodes it: as a guide of the reference policy, which at
        strength 1 is the policy itself on the reference's candidates, with its exact KL.

        Returns:
            reward (weighted sum, standard units; 0 is the reference's), reward_se, kl (nats per
            response), length (tokens), and the mean reward of each objective by its name.
        """
        samples = evaluate(
            GuidedPolicy(self.reference, (guide(self.reference, "tuned", model),)),
            self.held_out,
            [scale.objective for scale in scales],
            SamplingParams((1.0,), beta=1.0),
            max_tokens=self.config.max_tokens,
            seed=self.config.seed + 1,  # not the draws that the units were measured on
            rows=self.config.rows,
        )
        units = [scale.units for scale in scales]
        measured = samples.mean_rewards(units)
        if scales:
            measured |= mean_reward(samples.standard(units) @ [scale.weight for scale in scales])
        return measured | {name: samples.summary[name] for name in ("kl", "length")}

    def _card(
        self,
        study: TrainingData,
        settings: dict[str, Any],
        seconds: tuple[float, float],
        parameters: int,
        measured: dict[str, float],
    ) -> TunedCard:
        seen = study.prompts or [told.prompt for told in study.dialogues]
        return TunedCard(
            method=self.config.method,
            objectives=tuple(scale.objective.name for scale in study.scales),
            weights=tuple(scale.weight for scale in study.scales),
            units=tuple(scale.units for scale in study.scales),
            reference=self.reference.name,
            fingerprint=self.reference.fingerprint,
            template=self.reference.template,
            template_args=self.config.template_args,
            reference_weights=settings["reference_weights"],
            rewards=tuple(settings["rewards"]),
            divergence=self.config.divergence,
            eta=self.config.eta,
            seed=self.config.seed,
            train_seconds=round(seconds[0], 1),
            cpu_seconds=round(seconds[1], 1),
            parameters=parameters,
            lora=self.config.lora,
            prompts=tuple(sorted({digest(prompt) for prompt in seen})),
            settings=settings,
            measured=measured,
        )


def _result(card: TunedCard) -> str:
    found = card.measured
    parts = [f"KL {found['kl']:.1f} nats"]
    if card.objectives:
        spread = f"{found['reward']:.2f}"
        if found["reward_se"] == found["reward_se"]:  # one answer alone has no spread
            spread += f" ± {found['reward_se']:.2f}"
        parts.insert(0, f"reward {spread} (reference 0.00)")
    if len(card.objectives) > 1:
        parts += [f"{name} {found[name]:.2f}" for name in card.objectives]
    return ", ".join(parts)


def _report(folder: Path, card: TunedCard) -> str:
    kind = "adapter" if card.lora else "policy"
    return (
        f"{kind:<8} {folder}\n"
        f"measured {_result(card)}\n"
        f"cost     {card.train_seconds:.0f} s ({card.cpu_seconds:.0f} s of CPU), "
        f"{card.parameters:,} parameters, {len(card.prompts)} prompts"
    )
