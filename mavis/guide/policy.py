"""The guided policy as people use it: load it, ask it, with weights of one's own per prompt."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import torch

from mavis.guide.decode import decode
from mavis.guide.jobs import Job, Sampling, Span
from mavis.guide.network import ValueNetwork, objectives_of, read_card
from mavis.guide.reference import Encoded, ReferencePolicy, spare_threads
from mavis.guide.states import Rule
from mavis.guide.tilt import tilt
from mavis.guide.values import Guide
from mavis.prompts import Prompt

T = TypeVar("T")
Weights = Mapping[str, float]


@dataclass(frozen=True)
class Answer:
    """One reply of a policy."""

    prompt: Prompt
    text: str
    tokens: list[int]
    kl: float  # nats against the untruncated reference: exact sums over the candidates
    kl_sampled: float  # the same from the log-ratios of the sampled tokens
    kl_truncation: float  # the part that is due to top-k and top-p alone
    log_ref: float  # log-probability under the untruncated reference, nats
    reason: str  # "end", "stop" or "length"


@dataclass(frozen=True)
class GuidedPolicy:
    """π ∝ π_ref · exp(β Σ λ_m Q_m): a reference policy and the value models that may tilt it.

    Args:
        reference: π_ref.
        networks: the value models, or other guides.
        rule: how their values bend the reference policy.
    """

    reference: ReferencePolicy
    networks: tuple[ValueNetwork | Guide, ...] = ()
    rule: Rule = tilt
    objectives: tuple[str, ...] = field(init=False)  # the M axis

    def __post_init__(self) -> None:
        """Name the outputs of all value models in a row."""
        object.__setattr__(self, "objectives", objectives_of(self.networks))

    @property
    def beta(self) -> float:
        """The strength of the tilt that the value models were trained for, 1 / η.

        Other policies are mixed at strength 1: their log-ratios are in nats, as π_ref is.

        Raises:
            ValueError: they were trained for different ones.
        """
        cards = [network.card for network in self.networks if isinstance(network, ValueNetwork)]
        etas = {card.eta for card in cards if card.eta}
        if len(etas) > 1:
            raise ValueError(
                "beta must be given: the value models were trained for different strengths "
                f"(eta {', '.join(f'{eta:g}' for eta in sorted(etas))})."
            )
        if etas:
            return 1 / etas.pop()
        return 1.0 if len(cards) < len(self.networks) else Sampling.beta

    def vector(self, weights: Weights) -> tuple[float, ...]:
        """Weights by name as a vector [M]; an objective that is not named weighs nothing.

        Raises:
            ValueError: a weight is for an objective that no value model here is of.
        """
        unknown = [name for name in weights if name not in self.objectives]
        if unknown:
            loaded = ", ".join(self.objectives) or "none"
            raise ValueError(
                f"weights must be for objectives with a value model (loaded: {loaded}), "
                f"got {unknown[0]!r}. `mavis fit --objective {unknown[0]}` makes one."
            )
        return tuple(float(weights.get(name, 0.0)) for name in self.objectives)

    def generate(
        self,
        prompts: Sequence[Prompt],
        weights: Weights | Sequence[Weights] | None = None,
        beta: float | Sequence[float] | None = None,
        temperature: float | Sequence[float] = 1.0,
        top_k: int | Sequence[int] = 40,
        top_p: float | Sequence[float] = 1.0,
        max_tokens: int | Sequence[int] = 64,
        n: int = 1,
        seed: int | Sequence[int] = 0,
        rows: int = 64,
    ) -> list[Answer]:
        """Answer prompts; every setting is one for all, or a sequence with one per prompt.

        The answer to a prompt depends on the prompt, its settings and its seed alone, not on what
        else is asked: equal prompts with equal settings get equal answers.

        Args:
            prompts: texts or chats (lists of messages).
            weights: λ by objective; None weighs every loaded objective 1.
            beta: strength of the tilt; None is what the value models were trained for, 1 / η.
            temperature: of the reference policy.
            top_k: candidates per token; 0 is the whole vocabulary.
            top_p: probability mass of the candidates.
            max_tokens: the longest reply.
            n: replies per prompt.
            seed: of the random draws.
            rows: how many replies are written side by side.

        Returns:
            len(prompts) · n answers, those of one prompt together.

        Raises:
            ValueError: a setting is out of range, or a prompt is empty or too long.
        """
        single = "text" if isinstance(prompts, str) else "chat"
        if single == "text" or any(isinstance(prompt, Mapping) for prompt in prompts):
            raise ValueError(
                f"prompts must be a sequence of prompts, got one {single}: wrap it in [ ]."
            )
        count = len(prompts)
        if weights is None:
            weights = dict.fromkeys(self.objectives, 1.0)
        if beta is None:
            beta = self.beta
        columns = zip(
            [self.vector(w) for w in _per_prompt("weights", weights, count)],
            _per_prompt("beta", beta, count),
            _per_prompt("temperature", temperature, count),
            _per_prompt("top_k", top_k, count),
            _per_prompt("top_p", top_p, count),
            strict=True,
        )
        samplings = [Sampling(*column) for column in columns]
        limits = _per_prompt("max_tokens", max_tokens, count)
        seeds = _per_prompt("seed", seed, count)
        return self.sample(prompts, samplings, limits, seeds, n, rows)

    def sample(
        self,
        prompts: Sequence[Prompt],
        samplings: Sequence[Sampling],
        limits: Sequence[int],
        seeds: Sequence[int],
        n: int = 1,
        rows: int = 64,
    ) -> list[Answer]:
        """As `generate`, with everything spelled out per prompt."""
        if n < 1:
            raise ValueError(f"n must be at least 1, got {n}.")
        encoded = [self._encode(prompt, at) for at, prompt in enumerate(prompts)]
        for at, (sampling, limit, start) in enumerate(zip(samplings, limits, encoded, strict=True)):
            sampling.check(self.objectives)
            if limit % 1:
                raise ValueError(f"max_tokens must be a whole number, got {limit}.")
            if limit < 1:
                raise ValueError(f"max_tokens must be at least 1, got {limit} for prompt {at}.")
            if len(start.tokens) + limit > self.reference.context:
                raise ValueError(
                    f"prompt {at} ({len(start.tokens)} tokens) and max_tokens ({limit}) must fit "
                    f"into the context of {self.reference.context} tokens: shorten one of them."
                )
        self._try_rule(samplings)
        # A prompt is read once; its n answers fork from there.
        roots = [
            Job(start.tokens, 0, samplings[at], ("root",), tag=(at, -1))
            for at, start in enumerate(encoded)
        ]
        roots.sort(key=lambda job: len(job.tokens))  # a row pays for the longest one beside it

        def answers_to(root: Span) -> list[Job]:
            at, copy = root.job.tag
            if copy >= 0:
                return []
            start = encoded[at]
            key = (seeds[at], *start.tokens, "sample")
            return [
                Job(
                    start.tokens,
                    limits[at],
                    samplings[at],
                    (*key, copy),
                    start.stop,
                    tag=(at, copy),
                )
                for copy in range(n)
            ]

        answers: dict[tuple[int, int], Answer] = {}
        size = min(rows, max(1, n * len(roots)))
        spans = decode(
            self.reference, self.networks, roots, rule=self.rule, rows=size, follow=answers_to
        )
        for span in spans:
            if span.job.limit:
                answers[span.job.tag] = self._answer(prompts[span.job.tag[0]], span)
        return [answers[key] for key in sorted(answers)]

    def _try_rule(self, samplings: Sequence[Sampling]) -> None:
        """Show a rule all settings, on states of one candidate: what it refuses, it refuses now."""
        if samplings:
            weights = torch.tensor([sampling.weights for sampling in samplings])  # [n, M]
            nothing = torch.zeros(len(samplings), 1)
            beta = torch.tensor([sampling.beta for sampling in samplings])
            self.rule(nothing, torch.zeros_like(weights)[:, None], weights, beta)

    def _encode(self, prompt: Prompt, at: int) -> Encoded:
        try:
            return self.reference.encode(prompt)
        except ValueError as error:
            raise ValueError(f"prompt {at}: {error}") from error

    def _answer(self, prompt: Prompt, span: Span) -> Answer:
        return Answer(
            prompt=prompt,
            text=self.reference.decode(span.tokens, span.job.stop),
            tokens=span.tokens,
            kl=sum(span.kl),
            kl_sampled=sum(span.log_ratio),
            kl_truncation=sum(span.truncation),
            log_ref=sum(span.log_ref),
            reason=span.reason,
        )


def load(
    values: Mapping[str, str | Path] | None = None,
    reference: str | None = None,
    device: str | None = None,
) -> GuidedPolicy:
    """Load a guided policy.

    A small model on a CPU gets one torch thread, unless OMP_NUM_THREADS is set: more are slower.

    Args:
        values: the folder of each objective's value model, by objective
            (`{"humor": "runs/humor/value"}`).
        reference: the reference policy; None takes the one the value models were trained under,
            or the embedded one.
        device: where to run; None takes an accelerator if there is one.

    Raises:
        FileNotFoundError: a folder is missing, or is no model.
        ValueError: a value model is of another objective, was trained under another reference
            than the others, or does not fit the reference policy.
    """
    folders = {name: Path(folder) for name, folder in (values or {}).items()}
    cards = {name: read_card(folder) for name, folder in folders.items()}
    for name, card in cards.items():
        if name not in card.objectives:
            raise ValueError(
                f"values.{name} must be a value model of {name}, but {folders[name]} is of "
                f"{', '.join(card.objectives)}."
            )
    for what in ("reference", "template"):
        told = {str(getattr(card, what)) for card in cards.values()}
        if len(told) > 1 and (reference is None or what == "template"):
            raise ValueError(
                f"value models must be of one {what}, got {' and '.join(sorted(told))}."
            )
    first = next(iter(cards.values()), None)
    name = reference or (first.reference if first else "sandbox/reference")
    policy = ReferencePolicy.load(name, first.template if first else None, device)
    spare_threads(policy.model)
    networks = [
        ValueNetwork.from_pretrained(folder, policy) for folder in dict.fromkeys(folders.values())
    ]
    return GuidedPolicy(policy, tuple(networks))


def _per_prompt(name: str, value: T | Sequence[T], count: int) -> list[T]:
    """One setting for all prompts, or one for each, as a list of one for each."""
    if isinstance(value, Sequence):
        if len(value) != count:
            raise ValueError(f"{name} must be one or one per prompt ({count}), got {len(value)}.")
        return list(value)
    return [value] * count
