"""Decoding on an accelerator: tokens per second and peak memory, for `gpu.sh`.

python benchmarks/gpu.py --size 135m --rows '[1, 16, 64]' --device cuda
"""

import json
import sys
from collections.abc import Mapping
from time import perf_counter
from typing import Any, Literal

import torch
from clock import Run
from jsonargparse import auto_cli
from models import SIZES, network_of, prompts_of, reference_of, sizes_of, text_of
from plain import guided, sampled

from mavis.decoding.model_card import Source
from mavis.decoding.policy import GuidedPolicy
from mavis.decoding.reference import ReferencePolicy
from mavis.decoding.row_memory import free_memory
from mavis.decoding.value_model import ValueModel

BETA, CANDIDATES, SHORTEST, LONGEST = 1.0, 40, 16, 64
WORK = 4e9  # bytes beside the weights
SOURCES: tuple[Source, ...] = ("action", "shared", "state")


def measure(
    size: str = "135m",
    rows: tuple[int, ...] = (1, 16, 64),
    tokens: int = 64,
    plain_tokens: int = 16,
    device: str = "cuda",
    dtype: Literal["bfloat16", "float32"] = "bfloat16",
) -> None:
    """Print a line of JSON for each number of rows and each way, as soon as it is measured.

    Args:
        size: of the random pair, as in `models.py`.
        rows: how many prompts are answered side by side, in turn.
        tokens: new tokens per prompt.
        plain_tokens: new tokens of the plain loop, which answers one prompt.
        device: where to run.
        dtype: what the reference policy runs in; value models run in float32.
    """
    pair, place, kind = SIZES[size], torch.device(device), getattr(torch, dtype)
    million = sizes_of(pair)
    facts = {"size": size, "million_parameters": million, "device": _name(place), "dtype": dtype}
    needed = (million["base"] * kind.itemsize + 2 * 4 * million["value"]) * 1e6 + WORK
    free = free_memory(place)
    if size == "7b" and free is not None and free < needed:
        _say(facts | {"skipped": f"{free / 1e9:.1f} GB are free, {needed / 1e9:.1f} needed"})
        return
    reference = reference_of(pair, device, kind)
    networks = {source: network_of(pair, reference, source, "humor") for source in SOURCES}
    for count in rows:
        prompts = prompts_of(pair, count, SHORTEST, LONGEST)
        rates: dict[str, float] = {}
        for way, run in _ways(reference, networks, prompts, tokens, plain_tokens).items():
            measured = _timed(run, place)
            rates[way] = measured["per_second"]
            _say(facts | {"rows": count, "way": way} | measured)
        _say(facts | {"rows": count, "ratios": _ratios(rates)})


def _ways(
    reference: ReferencePolicy,
    networks: Mapping[Source, ValueModel],
    prompts: list[list[int]],
    tokens: int,
    plain_tokens: int,
) -> dict[str, Run]:
    """What is measured on some prompts; the plain loop answers the last of them alone."""
    texts, rows = [text_of(prompt) for prompt in prompts], len(prompts)

    def ours(*guides: ValueModel) -> Run:
        policy = GuidedPolicy(reference, guides)

        def run() -> int:
            answers = policy.generate(
                texts, beta=BETA, top_k=CANDIDATES, max_tokens=tokens, rows=rows
            )
            return sum(len(answer.tokens) for answer in answers)

        return run

    def hf() -> int:
        found = sampled(reference.model, prompts, tokens, CANDIDATES)
        return rows * (found.shape[1] - max(map(len, prompts)))

    def plain() -> int:
        state = (networks["state"],)
        guided(reference.model, state, prompts[-1], 1, plain_tokens, CANDIDATES, BETA)
        return plain_tokens

    values = {str(source): ours(network) for source, network in networks.items()}
    return {"unguided": ours(), "transformers generate": hf, **values, "plain": plain}


def _ratios(rates: dict[str, float]) -> dict[str, float]:
    """Our speeds over those of others."""
    pairs = [("unguided", "transformers generate"), ("shared", "unguided"), ("action", "unguided")]
    pairs += [(source, "plain") for source in SOURCES]
    return {f"{one} / {other}": round(rates[one] / rates[other], 2) for one, other in pairs}


def _timed(run: Run, place: torch.device) -> dict[str, float]:
    """Units per second of the wall clock, and the peak of memory; the first run is not counted."""
    run()
    on_cuda = place.type == "cuda"
    if on_cuda:
        torch.cuda.reset_peak_memory_stats(place)
        torch.cuda.synchronize(place)
    begin = perf_counter()
    units = run()
    if on_cuda:
        torch.cuda.synchronize(place)
    found = {"per_second": round(units / (perf_counter() - begin), 1)}
    if on_cuda:
        found["peak_gb"] = round(torch.cuda.max_memory_allocated(place) / 1e9, 2)
    return found


def _name(place: torch.device) -> str:
    return torch.cuda.get_device_name(place) if place.type == "cuda" else place.type


def _say(line: dict[str, Any]) -> None:
    print(json.dumps(line), flush=True)
    print(line, file=sys.stderr, flush=True)


def main(args: list[str] | None = None) -> None:
    """Run from the command line."""
    auto_cli(measure, args=args, as_positional=False)


if __name__ == "__main__":
    main()
