"""One long row beside short ones: what it takes them, and how much memory the caches hold.

python benchmarks/ragged.py --size medium --source action
"""

from typing import Any, Literal

import numpy as np
from clock import Run, compare, medians, report, take_turns
from jsonargparse import auto_cli
from models import SIZES, network_of, reference_of, sizes_of

from mavis.decoding.decode import decode
from mavis.decoding.request import Request, SamplingParams


def ragged(
    size: str = "small",
    source: Literal["none", "action", "state", "shared"] = "none",
    short: int = 15,
    prompt: int = 20,
    longer: int = 400,
    tokens: int = 64,
    repetitions: int = 3,
) -> dict[str, Any]:
    """Measure short rows alone, and beside one that is longer.

    Args:
        size: of the random pair: tiny, small or medium.
        source: of the values that guide, if any.
        short: rows that are short.
        prompt: tokens of their prompts.
        longer: how many more the long row's prompt has.
        tokens: new tokens of each row.
        repetitions: how often each way takes its turn.
    """
    pair, random = SIZES[size], np.random.default_rng(0)
    reference = reference_of(pair)
    guides = () if source == "none" else (network_of(pair, reference, source, "objective"),)

    def row(at: int, length: int) -> Request:
        known = random.integers(5, reference.vocabulary, length).tolist()
        return Request(known, tokens, SamplingParams((1.0,) * len(guides), 1.0), (at,))

    rows = [row(at, prompt) for at in range(short)]
    long = row(short, prompt + longer)

    def timed(requests: list[Request]) -> Run:
        # In units of the short rows' work, so that the ratio of rates is that of times.
        def run() -> int:
            list(decode(reference, guides, requests, rows=len(requests)))
            return short * tokens

        return run

    ways = {"alone": timed(rows), "beside a long row": timed([*rows, long])}
    rates = take_turns(ways, repetitions)
    pairs = {"beside : alone (time)": ("beside a long row", "alone", "at most", 1.2)}
    return {
        "benchmark": "ragged",
        "size": size,
        "source": source,
        "million_parameters": sizes_of(pair),
        "rows": [short, 1],
        "prompt": [prompt, prompt + longer],
        "tokens": tokens,
        "unit": "tokens of the short rows",
        "per_cpu_second": medians(rates),
        "ratios": compare(rates, pairs),
    }


def main(args: list[str] | None = None) -> None:
    """Run from the command line."""
    report(auto_cli(ragged, args=args, as_positional=False))


if __name__ == "__main__":
    main()
