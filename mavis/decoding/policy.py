"""The guided policy as people use it: load it, ask it, with weights of one's own per prompt."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Unpack

from mavis.decoding.arguments import (
    AllWeights,
    Numbers,
    Stop,
    Weights,
    Whole,
    vectors,
    whole_number,
)
from mavis.decoding.beam import search
from mavis.decoding.decode import OnToken, replies
from mavis.decoding.guidance import MixingRule, PolicyRows
from mavis.decoding.guides import Guide, objectives_of, relative_strength_of
from mavis.decoding.prompt_requests import (
    AnswerSettings,
    CandidateSettings,
    Completion,
    PromptRequest,
    Refuse,
    RequestSettings,
    listed,
    ready,
    requests,
)
from mavis.decoding.reference import ReferencePolicy
from mavis.decoding.request import SamplingParams
from mavis.decoding.scoring import SIDE_BY_SIDE, Score, Step, all_tokens, score, walk
from mavis.decoding.tilt import tilt
from mavis.prompts import Prompt
from mavis.reward import Units


@dataclass(frozen=True, repr=False)
class GuidedPolicy:
    """π ∝ π_ref · exp(β Σ λ_m Q_m): a reference policy and the value models that may tilt it.

    Args:
        reference: π_ref.
        guides: the value models, or others.
        rule: how their values bend the reference policy.
    """

    reference: ReferencePolicy
    guides: tuple[Guide, ...] = ()
    rule: MixingRule = tilt
    objectives: tuple[str, ...] = field(init=False)  # the M axis

    def __post_init__(self) -> None:
        """Name the outputs of all value models in a row."""
        object.__setattr__(self, "objectives", objectives_of(self.guides))

    def __repr__(self) -> str:
        """Name the models; their layers would fill pages."""
        return f"GuidedPolicy({self.reference.name!r}, objectives={self.objectives})"

    @property
    def beta(self) -> float:
        """The strength of the tilt that the guides were made for: of a value model 1 / η.

        Of value models for different strengths it is the smallest, so that none is overdone. Other
        policies are mixed at strength 1: their log-ratios are in nats, as π_ref is.
        """
        values = [guide.natural_beta for guide in self.guides if guide.units]
        betas = [beta for beta in values if beta is not None]
        if betas:
            return min(betas)
        others = {guide.natural_beta for guide in self.guides if not guide.units}
        return others.pop() or SamplingParams.beta if others else SamplingParams.beta

    @property
    def units(self) -> dict[str, Units]:
        """Standard units of the rewards, by objective, as far as the guides know them."""
        return {name: units for guide in self.guides for name, units in guide.units.items()}

    def vector(self, weights: Weights) -> tuple[float, ...]:
        """Weights by name as a vector [M]; an objective that is not named weighs nothing.

        Raises:
            ValueError: a weight is for an objective that no value model here is of.
        """
        return vectors(weights, self.objectives, 1)[0]

    def generate(
        self,
        prompts: Prompt | Iterable[Prompt],
        weights: AllWeights = None,
        beta: Numbers | None = None,
        temperature: Numbers = 1.0,
        top_k: Whole = 40,
        top_p: Numbers = 1.0,
        max_tokens: Whole = 64,
        n: int = 1,
        seed: Whole = 0,
        stop: Stop | None = None,
        rows: int = 64,
        on_token: OnToken | None = None,
    ) -> list[Completion]:
        """Answer prompts; every setting is one for all, or one per prompt in a list or an array.

        The answer to a prompt depends on the prompt, its settings and its seed alone, not on what
        else is asked: equal prompts with equal settings get equal answers.

        Args:
            prompts: texts or chats (lists of messages); or a single one.
            weights: λ by objective; None weighs every loaded objective 1, and a number is the
                weight of the only one. An array [P, M] is in the order of `objectives`.
            beta: strength of the tilt; None is what the value models were trained for, 1 / η, and
                for a value model of several objectives more where the weights mix them.
            temperature: of the reference policy; 0 takes the most likely token.
            top_k: candidates per token; 0 is the whole vocabulary.
            top_p: probability mass of the candidates.
            max_tokens: the longest reply.
            n: replies per prompt.
            seed: of the random draws.
            stop: strings that end a reply and are no part of it: a list for all prompts, or a list
                of one list per prompt.
            rows: how many replies are written side by side.
            on_token: called with every token as it comes, after the place of its answer in what
                is returned.

        Returns:
            P · n answers, those of one prompt together.

        Raises:
            ValueError: a setting is out of range, or a prompt is empty or too long.
        """
        how: RequestSettings = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
        how |= {"max_tokens": max_tokens, "seed": seed, "stop": stop}
        asked = self.requests(prompts, weights, beta, **how)
        return list(self._answers(asked, n, rows, on_token=on_token))

    def stream(
        self,
        prompts: Prompt | Iterable[Prompt],
        weights: AllWeights = None,
        beta: Numbers | None = None,
        *,
        n: int = 1,
        rows: int = 64,
        refuse: Refuse | None = None,
        **settings: Unpack[RequestSettings],
    ) -> Iterator[Completion]:
        """As `generate`: the same answers in the same order, each as soon as it is its turn.

        Everything is checked before the first answer is written. Where there is a `refuse`, a
        prompt that cannot be answered is no error: `refuse(number, error)` is called, and the
        others are answered.
        """
        asked = self.requests(prompts, weights, beta, **settings)
        return self._answers(asked, n, rows, True, refuse)

    def requests(
        self,
        prompts: Prompt | Iterable[Prompt],
        weights: AllWeights = None,
        beta: Numbers | None = None,
        **settings: Unpack[RequestSettings],
    ) -> list[PromptRequest]:
        """Prompts with their settings, which are those of `generate`; checked when they are used.

        Raises:
            ValueError: a setting is of a wrong length, or no number.
        """
        asked = listed(prompts)
        if beta is None:
            every = vectors(weights, self.objectives, len(asked))
            beta = [self.beta * relative_strength_of(self.guides, one) for one in every] or 1.0
        return requests(asked, self.objectives, weights, beta, **settings)

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

    def beam_search(
        self,
        prompts: Prompt | Iterable[Prompt],
        weights: AllWeights = None,
        beta: Numbers | None = None,
        *,
        beams: int = 4,
        **settings: Unpack[AnswerSettings],
    ) -> list[list[Completion]]:
        """Search for the most likely answers; all but `beams` is as in `generate`.

        Args:
            prompts: texts or chats; or a single one.
            weights: λ by objective.
            beta: strength of the tilt.
            beams: W, how many answers are kept alive for each prompt.
            **settings: temperature, top_k, top_p, max_tokens and stop.

        Returns:
            for each prompt up to W answers, most likely first.

        Raises:
            ValueError: a setting is out of range, or a prompt is empty or too long.
        """
        return list(self.search(self.requests(prompts, weights, beta, seed=0, **settings), beams))

    def search(
        self,
        asked: Sequence[PromptRequest],
        beams: int = 4,
        rows: int = 64,
        refuse: Refuse | None = None,
    ) -> Iterator[list[Completion]]:
        """As `beam_search`, with all settings of each prompt spelled out; prompt by prompt.

        Everything is checked first; `refuse` is as in `stream`.
        """
        beams = whole_number("beams", beams)
        encoded = ready(asked, self.objectives, self.rule, self.reference, refuse)
        return search(self.reference, self.guides, self.rule, rows, encoded, beams)

    def score(
        self,
        prompts: Prompt | Iterable[Prompt],
        completions: Collection[Completion | str | Sequence[int]],
        weights: AllWeights = None,
        beta: Numbers | None = None,
        **settings: Unpack[CandidateSettings],
    ) -> list[Score]:
        """Say how likely given answers are, token by token, and which objective wants them.

        Args:
            prompts: P texts or chats; or a single one.
            completions: P answers: of any policy, as texts without an end token, or as tokens.
            weights: λ by objective.
            beta: strength of the tilt.
            **settings: temperature, top_k and top_p, as in `generate`.

        Returns:
            a score for each; what decoding reported of its own answers, to rounding.

        Raises:
            ValueError: a setting is out of range, an answer has no tokens, or the two are not
                equally many, or too long.
        """
        return score(*self._given(prompts, completions, weights, beta, settings))

    def walk(
        self,
        prompts: Prompt | Iterable[Prompt],
        completions: Collection[Completion | str | Sequence[int]],
        weights: AllWeights = None,
        beta: Numbers | None = None,
        **settings: Unpack[CandidateSettings],
    ) -> Iterator[Step]:
        """Go through given answers, with the candidates for each token; arguments as of `score`."""
        return walk(*self._given(prompts, completions, weights, beta, settings))

    def _given(
        self,
        prompts: Prompt | Iterable[Prompt],
        completions: Collection[Completion | str | Sequence[int]],
        weights: AllWeights,
        beta: Numbers | None,
        settings: CandidateSettings,
    ) -> tuple[PolicyRows, list[PromptRequest], list[list[int]]]:
        """Check given answers; return rows to read them in, their prompts, and their tokens."""
        asked = self.requests(prompts, weights, beta, max_tokens=1, seed=0, stop=None, **settings)
        tokens = all_tokens(completions, len(asked), self.reference)
        asked = [replace(one, limit=len(its)) for one, its in zip(asked, tokens, strict=True)]
        encoded = ready(asked, self.objectives, self.rule, self.reference)
        count = max(1, min(SIDE_BY_SIDE, len(tokens)))
        return PolicyRows(self.reference, self.guides, self.rule, count), encoded, tokens

    def _answers(
        self,
        asked: Sequence[PromptRequest],
        n: int,
        rows: int,
        in_order: bool = False,
        refuse: Refuse | None = None,
        on_token: OnToken | None = None,
    ) -> Iterator[Completion]:
        """Check all that is asked, then answer it; `in_order` begins with the first prompts."""
        n, rows = whole_number("n", n), whole_number("rows", rows)
        encoded = ready(asked, self.objectives, self.rule, self.reference, refuse)
        window = max(1, rows // n) if in_order else len(asked)
        rows = min(rows, max(1, n * len(encoded)))
        decoded = (self.reference, self.guides, self.rule, rows)
        return replies(*decoded, encoded, n, window, on_token)
