"""Beam search: the most likely replies of a policy, whatever guides it.

A beam is a request of the decoder that ranks its next tokens in place of drawing one, and forks
into those that live on; the beams of all prompts take their steps together. Ended replies wait
until no living beam can still overtake them: a log-probability only falls.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from mavis.decoding.decoder import Decoder
from mavis.decoding.guidance import MixingRule
from mavis.decoding.guides import Guide
from mavis.decoding.prompt_requests import Completion, PromptRequest, completion
from mavis.decoding.reference import ReferencePolicy
from mavis.decoding.request import Event, Output, Ranked, Request


@dataclass
class _Beam:
    """A reply so far, and log π of it in nats."""

    output: Output
    score: float = 0.0

    def grown(self, event: Event, chosen: Ranked, reference: ReferencePolicy) -> "_Beam":
        """The beam with one token more."""
        before, tokens = self.output, [*self.output.tokens, chosen.token]
        output = Output(
            request=replace(before.request, tokens=[*before.request.tokens, chosen.token]),
            tokens=tokens,
            log_ratio=[*before.log_ratio, chosen.log_prob - chosen.log_ref],
            kl=[*before.kl, event.kl],
            truncation=[*before.truncation, event.truncation],
            log_ref=[*before.log_ref, chosen.log_ref],
            reason=reference.ending(tokens, before.request.stop),
        )
        return _Beam(output, self.score + chosen.log_prob)


@dataclass
class _Search:
    """One prompt's: the living beams by the number of their request, and the ended ones."""

    width: int
    limit: int  # tokens of a reply, at most
    alive: dict[int, _Beam] = field(default_factory=dict)
    ended: list[_Beam] = field(default_factory=list)
    ranked: dict[int, Event] = field(default_factory=dict)  # of this step, beam by beam

    def best(self) -> list[_Beam]:
        """The W most likely replies."""
        every = [*self.ended, *self.alive.values()]
        return sorted(every, key=lambda beam: -beam.score)[: self.width]

    def grow(self, reference: ReferencePolicy) -> dict[int, list[_Beam]]:
        """Take a step with all living beams; which of them go on, by the number of their parent."""
        parents = sorted(self.ranked)  # in the order in which they were forked, best first
        options = [
            (self.alive[number].score + likely.log_prob, number, likely)
            for number in parents
            for likely in self.ranked[number].ranked
        ]
        options.sort(key=lambda option: -option[0])
        # From the likeliest on, across all beams: each either ends, or lives on in one of W places.
        living: list[tuple[int, _Beam]] = []
        for _, number, likely in options:
            if len(living) == self.width:  # those that end take no living one's place
                break
            beam = self.alive[number].grown(self.ranked[number], likely, reference)
            if beam.output.reason:
                self.ended.append(beam)
            else:
                living.append((number, beam))
        # log π falls with every token, so a living beam can still be overtaken, never rise again.
        self.ended = sorted(self.ended, key=lambda beam: -beam.score)[: self.width]
        if len(self.ended) == self.width:  # a living beam below all of them stays there
            living = [one for one in living if one[1].score > self.ended[-1].score]
        if living and len(living[0][1].output.tokens) == self.limit:
            for _, beam in living:
                beam.output.reason = "length"
                self.ended.append(beam)
            living = []
        self.ranked.clear()
        return {n: [beam for parent, beam in living if parent == n] for n in parents}


def search(
    reference: ReferencePolicy,
    guides: Sequence[Guide],
    rule: MixingRule,
    rows: int,
    asked: Sequence[PromptRequest],
    width: int,
) -> Iterator[list[Completion]]:
    """Yield up to W = `width` replies to each checked prompt, most likely first.

    As many beams take their steps together as there are rows, but those of one prompt at least.
    """
    together = max(1, rows // width)
    for begin in range(0, len(asked), together):
        part = asked[begin : begin + together]
        # A row for every beam that may live: all take a step before the best of them are known.
        yield from _together(Decoder(reference, guides, rule, width * len(part)), part, width)


def _together(
    decoder: Decoder, asked: Sequence[PromptRequest], width: int
) -> list[list[Completion]]:
    reference = decoder.reference
    searches = [_Search(width, one.limit) for one in asked]
    home: dict[int, _Search] = {}  # of a request's number, whose beam it is
    for one, mine in zip(asked, searches, strict=True):
        # The end tokens among the W likeliest take no living beam's place: as many more are asked.
        ranked = reference.vocabulary if one.stop else width + len(reference.ends)
        request = Request(
            one.tokens, 1, one.sampling, ("beam",), one.stop, hold=True, ranked=ranked
        )
        number = decoder.add(request)
        home[number] = mine
        mine.alive[number] = _Beam(Output(request))
    while not decoder.idle:
        for event in decoder.step():
            home[event.id].ranked[event.id] = event
        for mine in searches:
            if mine.ranked and len(mine.ranked) == len(mine.alive):
                _go_on(decoder, mine, home)
    return [
        [completion(reference, request.prompt, beam.output) for beam in one.best()]
        for one, request in zip(searches, asked, strict=True)
    ]


def _go_on(decoder: Decoder, one: _Search, home: dict[int, _Search]) -> None:
    """Fork the beams of a prompt that live on, and give back the rows of the others."""
    grown = one.grow(decoder.reference)
    one.alive = {}
    for parent, beams in grown.items():
        numbers = decoder.fork(parent, [beam.output.request for beam in beams])
        del home[parent]
        for number, beam in zip(numbers, beams, strict=True):
            home[number] = one
            one.alive[number] = beam
