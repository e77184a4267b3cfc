"""Decoding speed: many ragged prompts at once, against one prompt after the other.

python benchmarks/decode.py --size small --rows 16 --candidates 40
"""

from collections.abc import Sequence
from typing import Any, get_args

import numpy as np
import torch
from clock import Run, compare, medians, report, take_turns
from jsonargparse import auto_cli
from models import SIZES, network_of, prompts_of, reference_of, sizes_of, text_of
from plain import guided, sampled

from mavis.decoding.guides import Reading
from mavis.decoding.kv_cache import CachedRows
from mavis.decoding.model_card import Source
from mavis.decoding.policy import GuidedPolicy
from mavis.decoding.reference import ReferencePolicy
from mavis.decoding.tilt import RowSettings
from mavis.decoding.value_model import ValueModel

FEW = 15  # candidates: the published setting
BETA = 1.0


def decode(
    size: str = "small",
    rows: int = 16,
    candidates: int = 40,
    tokens: int = 64,
    objectives: int = 2,
    shortest: int = 16,
    longest: int = 64,
    repetitions: int = 3,
    plain_rows: int = 4,
    runs: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Measure guided and unguided decoding.

    Args:
        size: of the random pair: tiny, small or medium.
        rows: prompts that are answered side by side.
        candidates: K.
        tokens: new tokens per prompt.
        objectives: M, each with a value model of its own.
        shortest: tokens of the shortest prompt.
        longest: tokens of the longest prompt.
        repetitions: how often each way takes its turn.
        plain_rows: how many of the prompts the plain loop answers; one after the other, so that
            its speed does not depend on it.
        runs: which ways to measure; none is all.
    """
    pair = SIZES[size]
    reference = reference_of(pair)
    prompts = prompts_of(pair, rows, shortest, longest)
    texts = [text_of(prompt) for prompt in prompts]
    names = [f"objective{number}" for number in range(objectives)]
    sources: dict[Source, tuple[ValueModel, ...]] = {
        source: tuple(network_of(pair, reference, source, name) for name in names)
        for source in get_args(Source)
    }

    def ours(networks: tuple[ValueModel, ...], top_k: int) -> Run:
        def run() -> int:
            policy = GuidedPolicy(reference, networks)
            answers = policy.generate(texts, beta=BETA, top_k=top_k, max_tokens=tokens, rows=rows)
            return sum(len(answer.tokens) for answer in answers)

        return run

    def plain(top_k: int) -> Run:
        def run() -> int:
            some = prompts[:: max(1, rows // plain_rows)][:plain_rows]
            for prompt in some:
                guided(reference.model, sources["state"], prompt, 1, tokens, top_k, BETA)
            return len(some) * tokens

        return run

    def hf() -> int:
        return rows * (sampled(reference.model, prompts, tokens, candidates).shape[1] - longest)

    few = min(FEW, candidates)
    ways: dict[str, Run] = {
        "unguided": ours((), candidates),
        "transformers generate": hf,
        "action": ours(sources["action"], candidates),
        "shared": ours(sources["shared"], candidates),
        f"state K={few}": ours(sources["state"], few),
        f"plain K={few}": plain(few),
        "state": ours(sources["state"], candidates),
        "plain": plain(candidates),
    }
    ways = {name: run for name, run in ways.items() if not runs or name in runs}
    rates = take_turns(ways, repetitions)
    ratios = compare(
        rates,
        {
            "action / plain": ("action", "plain", "at least", 8),
            "action : generate (time)": ("action", "transformers generate", "at most", 1.4),
            "shared : unguided (time)": ("shared", "unguided", "at most", 1.1),
            f"state K={few} / plain": (f"state K={few}", f"plain K={few}", "at least", 3.5),
        },
    )
    return {
        "benchmark": "decode",
        "size": size,
        "million_parameters": sizes_of(pair),
        "rows": rows,
        "candidates": candidates,
        "tokens": tokens,
        "objectives": objectives,
        "unit": "tokens",
        "per_cpu_second": medians(rates),
        "ratios": ratios,
        "value_error": {s: value_error(reference, sources[s][0], prompts) for s in sources},
        "value_tolerance": 1e-4,
    }


@torch.inference_mode()
def value_error(
    reference: ReferencePolicy, network: ValueModel, prompts: Sequence[list[int]], steps: int = 4
) -> float:
    """The largest gap between a value from the rows cache and one from its whole sequence."""
    random = np.random.default_rng(1)
    cache = CachedRows(reference.model, len(prompts), hidden=True)
    source = network.start(len(prompts))
    index, texts, worst = np.arange(len(prompts)), [list(p) for p in prompts], 0.0
    settings = RowSettings(*torch.ones(5, len(texts)))  # no source of ours asks for them
    unread = [text[:-1] for text in texts]
    source.extend(Reading(index, unread, cache.extend(index, unread), settings))
    for _ in range(steps):
        unread = [text[-1:] for text in texts]
        source.extend(Reading(index, unread, cache.extend(index, unread), settings))
        options = torch.from_numpy(random.integers(0, reference.vocabulary, (len(texts), 3)))
        found = source.values(index, options)
        for text, some, values in zip(texts, options, found, strict=True):
            for token, value in zip(some, values, strict=True):
                worst = max(worst, float((value - _naive(reference, network, text, token)).abs()))
        source.commit(index, torch.zeros(len(texts), dtype=torch.long))
        for text, token in zip(texts, options[:, 0].tolist(), strict=True):
            text.append(token)
    return worst


def _naive(
    reference: ReferencePolicy, network: ValueModel, text: list[int], token: torch.Tensor
) -> torch.Tensor:
    """One value, by a forward of everything that was said."""
    is_state = network.card.source == "state"
    whole = torch.tensor([[*text, int(token)] if is_state else text])
    trunk = network.trunk or reference.model.base_model
    hidden = trunk(input_ids=whole, use_cache=False).last_hidden_state[0, -1]
    return (
        network.state_values(hidden) if is_state else network.action_values(hidden, token[None])[0]
    )


def main(args: list[str] | None = None) -> None:
    """Run from the command line."""
    report(auto_cli(decode, args=args, as_positional=False))


if __name__ == "__main__":
    main()
