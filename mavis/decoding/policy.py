"""The guided policy as people use it: load it, ask it, with weights of one's own per prompt."""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import torch

from mavis.decoding.arguments import Numbers, Stop, Weights, Whole, vectors, whole_number
from mavis.decoding.decoder import decode
from mavis.decoding.guidance import MixingRule
from mavis.decoding.guides import Guide
from mavis.decoding.prompt_requests import PromptRequest, check, requests
from mavis.decoding.reference import Encoded, PromptTooLong, ReferencePolicy
from mavis.decoding.request import Output, Request, SamplingParams
from mavis.decoding.tilt import tilt
from mavis.decoding.value_model import ValueModel, objectives_of
from mavis.prompts import Prompt

Refuse = Callable[[int, ValueError], None]


@dataclass(frozen=True)
class Completion:
    """One reply of a policy."""

    prompt: Prompt
    text: str
    tokens: list[int]
    kl: float  # nats against the untruncated reference: exact sums over the candidates
    kl_sampled: float  # the same from the log-ratios of the sampled tokens
    kl_truncation: float  # the part that is due to top-k and top-p alone
    log_ref: float  # log-probability under the untruncated reference, nats
    reason: str  # "end", "stop" or "length"


@dataclass(frozen=True, repr=False)
class GuidedPolicy:
    """π ∝ π_ref · exp(β Σ λ_m Q_m): a reference policy and the value models that may tilt it.

    Args:
        reference: π_ref.
        networks: the value models, or other guides.
        rule: how their values bend the reference policy.
    """

    reference: ReferencePolicy
    networks: tuple[ValueModel | Guide, ...] = ()
    rule: MixingRule = tilt
    objectives: tuple[str, ...] = field(init=False)  # the M axis

    def __post_init__(self) -> None:
        """Name the outputs of all value models in a row."""
        object.__setattr__(self, "objectives", objectives_of(self.networks))

    def __repr__(self) -> str:
        """Name the models; their layers would fill pages."""
        return f"GuidedPolicy({self.reference.name!r}, objectives={self.objectives})"

    @property
    def beta(self) -> float:
        """The strength of the tilt that the value models were trained for, 1 / η.

        Other policies are mixed at strength 1: their log-ratios are in nats, as π_ref is.

        Raises:
            ValueError: they were trained for different ones.
        """
        cards = [network.card for network in self.networks if isinstance(network, ValueModel)]
        etas = {card.eta for card in cards if card.eta}
        if len(etas) > 1:
            raise ValueError(
                "beta must be given: the value models were trained for different strengths "
                f"(eta {', '.join(f'{eta:g}' for eta in sorted(etas))})."
            )
        if etas:
            return 1 / etas.pop()
        return 1.0 if len(cards) < len(self.networks) else SamplingParams.beta

    def vector(self, weights: Weights) -> tuple[float, ...]:
        """Weights by name as a vector [M]; an objective that is not named weighs nothing.

        Raises:
            ValueError: a weight is for an objective that no value model here is of.
        """
        return vectors(weights, self.objectives, 1)[0]

    def generate(
        self,
        prompts: Prompt | Iterable[Prompt],
        weights: float | Weights | Collection[Weights | Numbers] | None = None,
        beta: Numbers | None = None,
        temperature: Numbers = 1.0,
        top_k: Whole = 40,
        top_p: Numbers = 1.0,
        max_tokens: Whole = 64,
        n: int = 1,
        seed: Whole = 0,
        stop: Stop | None = None,
        rows: int = 64,
    ) -> list[Completion]:
        """Answer prompts; every setting is one for all, or one per prompt in a list or an array.

        The answer to a prompt depends on the prompt, its settings and its seed alone, not on what
        else is asked: equal prompts with equal settings get equal answers.

        Args:
            prompts: texts or chats (lists of messages); or a single one.
            weights: λ by objective; None weighs every loaded objective 1, and a number is the
                weight of the only one. An array [P, M] is in the order of `objectives`.
            beta: strength of the tilt; None is what the value models were trained for, 1 / η.
            temperature: of the reference policy; 0 takes the most likely token.
            top_k: candidates per token; 0 is the whole vocabulary.
            top_p: probability mass of the candidates.
            max_tokens: the longest reply.
            n: replies per prompt.
            seed: of the random draws.
            stop: strings that end a reply and are no part of it: a list for all prompts, or a list
                of one list per prompt.
            rows: how many replies are written side by side.

        Returns:
            P · n answers, those of one prompt together.

        Raises:
            ValueError: a setting is out of range, or a prompt is empty or too long.
        """
        beta = self.beta if beta is None else beta
        settings = (beta, temperature, top_k, top_p, max_tokens, seed, stop)
        asked = requests(prompts, self.objectives, weights, *settings)
        return list(self._answers(asked, n, rows))

    def stream(
        self,
        prompts: Prompt | Iterable[Prompt],
        weights: float | Weights | Collection[Weights | Numbers] | None = None,
        beta: Numbers | None = None,
        temperature: Numbers = 1.0,
        top_k: Whole = 40,
        top_p: Numbers = 1.0,
        max_tokens: Whole = 64,
        n: int = 1,
        seed: Whole = 0,
        stop: Stop | None = None,
        rows: int = 64,
        refuse: Refuse | None = None,
    ) -> Iterator[Completion]:
        """As `generate`: the same answers in the same order, each as soon as it is its turn.

        Everything is checked before the first answer is written. Where there is a `refuse`, a
        prompt that cannot be answered is no error: `refuse(number, error)` is called, and the
        others are answered.
        """
        beta = self.beta if beta is None else beta
        settings = (beta, temperature, top_k, top_p, max_tokens, seed, stop)
        asked = requests(prompts, self.objectives, weights, *settings)
        return self._answers(asked, n, rows, True, refuse)

    def sample(
        self,
        prompts: Sequence[Prompt],
        samplings: Sequence[SamplingParams],
        limits: Sequence[int],
        seeds: Sequence[int],
        n: int = 1,
        rows: int = 64,
    ) -> list[Completion]:
        """As `generate`, with everything spelled out per prompt."""
        columns = zip(prompts, samplings, limits, seeds, strict=True)
        return list(self._answers([PromptRequest(*column) for column in columns], n, rows))

    def _answers(
        self,
        asked: Sequence[PromptRequest],
        n: int,
        rows: int,
        in_order: bool = False,
        refuse: Refuse | None = None,
    ) -> Iterator[Completion]:
        """Check all that is asked, then answer it; `in_order` begins with the first prompts."""
        n, rows = whole_number("n", n), whole_number("rows", rows)
        for name, number in {"n": n, "rows": rows}.items():
            if number < 1:
                raise ValueError(f"{name} must be at least 1, got {number}.")
        check(asked, self.objectives, self.reference)
        self._try_rule([request.sampling for request in asked])
        started: list[tuple[PromptRequest, Encoded]] = []
        for at, request in enumerate(asked):
            try:
                started.append((request, self._start(request, at)))
            except ValueError as error:
                if refuse is None:
                    raise
                refuse(at, error)
        window = max(1, rows // n) if in_order else len(asked)
        return self._in_turn(started, n, rows, window)

    def _start(self, request: PromptRequest, at: int) -> Encoded:
        """The tokens of a prompt, which must leave room for the longest reply."""
        try:
            encoded = self.reference.encode(request.prompt)
        except ValueError as error:
            kind = PromptTooLong if isinstance(error, PromptTooLong) else ValueError
            raise kind(f"prompt {at}: {error}") from error
        if len(encoded.tokens) + request.limit > self.reference.context:
            raise PromptTooLong(
                f"prompt {at} ({len(encoded.tokens)} tokens) and max_tokens ({request.limit}) must "
                f"fit into the context of {self.reference.context} tokens: shorten one of them."
            )
        return encoded

    def _in_turn(
        self, started: Sequence[tuple[PromptRequest, Encoded]], n: int, rows: int, window: int
    ) -> Iterator[Completion]:
        """Answers, prompt after prompt, each as soon as it and all before it are written."""
        # A prompt is read once; its n answers fork from there. A row pays for the longest one
        # beside it, so prompts of like length are read together.
        roots = [
            Request(start.tokens, 0, request.sampling, ("root",), tag=(at, -1))
            for at, (request, start) in enumerate(started)
        ]
        roots.sort(key=lambda job: (job.tag[0] // window, len(job.tokens)))

        def answers_to(root: Output) -> list[Request]:
            at, copy = root.job.tag
            if copy >= 0:
                return []
            one, start = started[at]
            key, stop = (one.seed, *start.tokens, "sample"), (*start.stop, *one.stop)
            return [
                Request(start.tokens, one.limit, one.sampling, (*key, copy), stop, tag=(at, copy))
                for copy in range(n)
            ]

        spans = decode(
            self.reference,
            self.networks,
            roots,
            rule=self.rule,
            rows=min(rows, max(1, n * len(started))),
            follow=answers_to,
        )
        written: dict[tuple[int, int], Completion] = {}
        turns = ((at, copy) for at in range(len(started)) for copy in range(n))
        turn = next(turns, None)
        for span in spans:
            if span.job.limit:
                at, _ = span.job.tag
                written[span.job.tag] = self._answer(started[at][0].prompt, span)
            while turn in written:
                yield written.pop(turn)
                turn = next(turns, None)

    def _try_rule(self, samplings: Sequence[SamplingParams]) -> None:
        """Show a rule all settings, on states of one candidate: what it refuses, it refuses now."""
        if samplings:
            weights = torch.tensor([sampling.weights for sampling in samplings])  # [n, M]
            nothing = torch.zeros(len(samplings), 1)
            beta = torch.tensor([sampling.beta for sampling in samplings])
            self.rule(nothing, torch.zeros_like(weights)[:, None], weights, beta)

    def _answer(self, prompt: Prompt, span: Output) -> Completion:
        return Completion(
            prompt=prompt,
            text=self.reference.decode(span.tokens, span.job.stop),
            tokens=span.tokens,
            kl=sum(span.kl),
            kl_sampled=sum(span.log_ratio),
            kl_truncation=sum(span.truncation),
            log_ref=sum(span.log_ref),
            reason=span.reason,
        )
