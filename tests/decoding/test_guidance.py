"""Guidance beside an engine that is not ours: whole forwards, no cache, no decoder."""

from itertools import zip_longest

import numpy as np
import pytest
import torch

from mavis.baselines.policy_guides import guide
from mavis.decoding.guidance import Guidance
from mavis.decoding.kv_cache import ModelOutput
from mavis.decoding.request import SamplingParams, row_settings

TEXTS = ([5, 6, 7], [9, 3], [4, 8, 11, 2])


class Engine:
    """Reads whole texts anew at every step, and shows what the reference policy says of them."""

    def __init__(self, reference, layers=()) -> None:
        self.model, self.layers = reference.model, layers

    def output(self, texts) -> ModelOutput:
        last = []
        for text in texts:
            said = self.model(torch.tensor([text]), output_hidden_states=True, use_cache=False)
            states = [state[0, -1] for state in said.hidden_states]
            last.append((states[-1], said.logits[0, -1].float(), [states[k] for k in self.layers]))
        hidden, logits, inner = zip(*last, strict=True)
        layers = dict(zip(self.layers, map(torch.stack, zip(*inner, strict=True)), strict=True))
        return ModelOutput(torch.stack(hidden), torch.stack(logits), layers)


@pytest.mark.parametrize(
    ("sources", "layers"),
    [
        (("action",), ()),
        (("state",), ()),
        (("shared", "action"), ()),
        (("shared", "shared"), ((1, 0), (2,))),
        (("shared", "shared"), ((), (1,))),
        ((), ()),
    ],
)
def test_it_makes_the_policy_of_logits_that_it_is_shown(
    tiny_reference, tiny_network, naive, sources, layers
):
    guides = [
        tiny_network(tiny_reference, source, (f"objective{at}",), layers=read)
        for at, (source, read) in enumerate(zip_longest(sources, layers, fillvalue=()))
    ]
    sampling = SamplingParams((0.7,) * len(guides), beta=1.2, top_k=6)
    settings = row_settings([sampling] * len(TEXTS), tiny_reference.vocabulary, torch.device("cpu"))
    guidance, rows = Guidance(guides, rows=len(TEXTS)), np.arange(len(TEXTS))
    assert guidance.layers == tuple(sorted(at for read in layers for at in read))
    slow, engine = naive(tiny_reference, guides), Engine(tiny_reference, guidance.layers)
    assert guidance.needs_hidden == ("shared" in sources)
    texts, unread = [list(text) for text in TEXTS], [list(text) for text in TEXTS]
    with torch.inference_mode():
        for _ in range(3):
            output = engine.output(texts)
            guidance.extend(rows, unread, output, settings)
            options, log_pi = guidance.policy(rows, output.logits, settings)
            for at, text in enumerate(texts):
                want = slow.step(text, sampling).log_pi
                found = dict(zip(options.tokens[at].tolist(), log_pi[at].tolist(), strict=True))
                assert found == pytest.approx(want, abs=1e-4)
            chosen = torch.zeros(len(TEXTS), dtype=torch.long)  # the likeliest of the reference
            guidance.commit(rows, chosen)
            unread = options.tokens[:, :1].tolist()
            texts = [[*text, *one] for text, one in zip(texts, unread, strict=True)]


def test_rows_can_be_added_and_copied(tiny_reference, tiny_network, tiny_lm):
    """A copy goes on as the row that it was copied from, in rows that were not there at first."""
    guides = [
        tiny_network(tiny_reference, "action", ("a",)),
        tiny_network(tiny_reference, "state", ("b",)),
        guide(tiny_reference, "c", tiny_lm(seed=3)),
    ]
    sampling = SamplingParams((1.0, -0.5, 0.3), top_k=8)
    settings = row_settings([sampling], tiny_reference.vocabulary, torch.device("cpu"))
    guidance, engine = Guidance(guides, rows=1), Engine(tiny_reference)
    first, second = np.array([0]), np.array([4])
    with torch.inference_mode():
        guidance.extend(first, [[5, 6]], engine.output([[5, 6]]), settings)
        guidance.reserve(5)
        guidance.copy(second, first)
        found = []
        for rows in (first, second):
            output = engine.output([[5, 6, 7]])
            guidance.extend(rows, [[7]], output, settings)
            found.append(guidance.policy(rows, output.logits, settings)[1])
    torch.testing.assert_close(found[0], found[1])


def test_two_guides_of_one_objective_are_refused(tiny_reference, tiny_network):
    twice = [tiny_network(tiny_reference, "action", ("a",))] * 2
    with pytest.raises(ValueError, match="values must be of different objectives, got a twice"):
        Guidance(twice)
