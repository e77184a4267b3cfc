"""Where policies are tuned one after another: what they share is loaded and measured once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from mavis.baselines.policy_card import CARD, TunedCard, read_tuned, readme, tuned_folder
from mavis.baselines.policy_guides import guide
from mavis.baselines.train.callback import RUN, TrainingWatch, read_run
from mavis.baselines.train.config import TrainingData, TuneConfig, default_lr
from mavis.baselines.train.data import WeightedReward, end_token, read_dialogues
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
        settings: the options of `mavis tune` that decide what comes out.
        rows: answers that are made, or trained on, side by side.
        uri: of the tracking store.
        device: where to run; None is an accelerator if there is one.
    """

    objectives: tuple[Objective, ...]
    settings: Mapping[str, Any]
    rows: int
    uri: str
    device: str | None = None

    def tune(self, out: Path, weights: tuple[float, ...]) -> None:
        """Train the policy for a weight vector, unless it is there already.

        Raises:
            ValueError: its folder holds one of other settings.
            RuntimeError: another process is at work in it.
        """
        kept = [(o, w) for o, w in zip(self.objectives, weights, strict=True) if w]
        names, lambdas = tuple(o.name for o, _ in kept), tuple(w for _, w in kept)
        given, lora = self.settings, self.settings["lora_rank"] is not None
        folder = tuned_folder(out, names, lambdas, given["method"], given["divergence"], lora)
        settings = dict(self.settings) | {
            "objectives": list(names),
            "weights": list(lambdas),
            "rewards": [identity(o) for o, _ in kept],
            "reference_weights": self.reference.weights_digest,
        }
        with alone_in(folder):
            if (folder / CARD).is_file():
                card = read_tuned(folder)
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
        named = (self.settings["reference"], self.settings["template"])
        policy = ReferencePolicy.load(*named, self.device, self.settings["template_args"])
        spare_threads(policy.model)
        return policy

    @cached_property
    def held_out(self) -> list[Prompt]:
        """The validation prompts that policies are measured on."""
        return self._prompts("validation")[: self.settings["held_out"]]

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
        given = self.settings
        return evaluate(
            GuidedPolicy(self.reference),
            self.held_out[: -(-given["held_out"] // 3)],
            self.objectives,
            SamplingParams(),
            max_tokens=given["max_tokens"],
            n=given["best_of"],
            seed=given["seed"],
            rows=self.rows,
        )

    @cached_property
    def plan(self) -> TuneConfig:
        """How policies are trained."""
        given = {name: self.settings[name] for name in TuneConfig.__dataclass_fields__}
        if given["lr"] is None:
            large = self.reference.model.num_parameters() >= SMALL
            given["lr"] = default_lr(given["method"], large, given["lora_rank"] is not None)
        return TuneConfig(**given)

    @cached_property
    def study(self) -> TrainingData:
        """What policies are trained on, but for the rewards."""
        source, column = self.settings["prompts"], self.settings["column"]
        if self.plan.method == "sft":
            dialogues = read_dialogues(source, column)[: self.plan.prompts]
            return TrainingData(self.reference, (), (), tuple(dialogues), self.rows)
        prompts = self._prompts("train")[: self.plan.prompts]
        return TrainingData(self.reference, (), tuple(prompts), (), self.rows)

    def _prompts(self, split: str) -> list[Prompt]:
        given = self.settings
        source, column = given["prompts"], given["column"]
        return fitting_prompts(
            self.reference, source, split, column, given["max_tokens"], given["seed"]
        )

    def _train(
        self, folder: Path, scales: tuple[WeightedReward, ...], settings: dict[str, Any]
    ) -> TunedCard:
        """Train, save and measure a policy, and write its card last of all."""
        study = replace(self.study, scales=scales)
        tracking = Tracking(str(folder), uri=self.uri)
        tracking.log_hyperparams({"tune": settings})
        import_trainer(self.plan.method)
        watch = TrainingWatch(folder, settings, tracking)  # from here on, time is counted
        status = "failed"
        try:
            plan = replace(self.plan, eta=self.plan.eta * (self.spread(scales) if scales else 1.0))
            model = train(plan, study, folder, [watch])
            seconds = watch.seconds
            parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
            save_policy(model, self.reference, folder)
            measured = self._measure(merged(model), scales)
            tracking.log_metrics({f"held_out/{k}": v for k, v in measured.items()}, self.plan.steps)
            status = "success"
        finally:
            watch.close()
            tracking.finalize(status)
        card = self._card(study, settings, seconds, parameters, measured)
        (folder / "README.md").write_text(readme(card), encoding="utf-8")
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
            max_tokens=self.plan.max_tokens,
            seed=self.plan.seed + 1,  # not the draws that the units were measured on
            rows=self.rows,
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
            method=self.plan.method,
            objectives=tuple(scale.objective.name for scale in study.scales),
            weights=tuple(scale.weight for scale in study.scales),
            units=tuple(scale.units for scale in study.scales),
            reference=self.reference.name,
            fingerprint=self.reference.fingerprint,
            template=self.reference.template,
            divergence=self.plan.divergence,
            eta=self.plan.eta,
            seed=self.plan.seed,
            train_seconds=round(seconds[0], 1),
            cpu_seconds=round(seconds[1], 1),
            parameters=parameters,
            lora=self.plan.lora_rank is not None,
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
