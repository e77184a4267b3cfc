"""The server under load, against the same decoder called directly and against no guidance.

python benchmarks/serve.py --size small --requests 1000 --in_flight 32

Clients run in a process of their own, over loopback, each request with a length and weights of its
own. CPU seconds are the server's.
"""

import asyncio
import json
import subprocess
import sys
import threading
from time import perf_counter, process_time
from typing import Any

import numpy as np
import torch
from jsonargparse import auto_cli
from models import SIZES, network_of, prompts_of, reference_of, text_of
from openai import AsyncOpenAI

from mavis.decoding.policy import GuidedPolicy
from mavis.serving.app import create_app
from mavis.serving.decoder_thread import DecoderThread
from mavis.serving.presets import Presets
from mavis.serving.run import Listener, listen
from mavis.serving.settings import Settings

SHORTEST, LONGEST = 8, 64  # tokens of a prompt
TURNS = 3  # of what is called directly, whose median counts


def measure(
    size: str = "small",
    requests: int = 1000,
    in_flight: int = 32,
    tokens: int = 32,
    client_of: str | None = None,
) -> None:
    """Print a table, and one line of JSON.

    Args:
        size: of the random pair, as in `models.py`.
        requests: how many.
        in_flight: how many of them at the same time; as many rows has the server.
        tokens: new tokens of the longest reply; the shortest has half of them.
        client_of: the URL of a server, whose load this process is to be.
    """
    pair = SIZES[size]
    prompts = prompts_of(pair, requests, SHORTEST, LONGEST)
    random = np.random.default_rng(0)
    limits = random.integers(tokens // 2, tokens + 1, requests).tolist()
    weights = random.uniform(-1, 1, (requests, 2)).round(3).tolist()
    if client_of is not None:
        print(json.dumps(asyncio.run(_load(client_of, prompts, limits, weights, in_flight))))
        return
    torch.set_num_threads(1)
    reference = reference_of(pair)
    names = ("one", "other")
    guides = tuple(network_of(pair, reference, "action", name) for name in names)
    policy = GuidedPolicy(reference, guides)
    words = {"size": size, "requests": requests, "in_flight": in_flight, "tokens": tokens}
    unguided = GuidedPolicy(reference)
    served = _served(policy, in_flight, words)
    texts = [text_of(prompt) for prompt in prompts]

    def direct(asked: GuidedPolicy, mixed: list[dict[str, float]] | None) -> float:
        begin = process_time()
        asked.generate(texts, mixed, max_tokens=limits, rows=in_flight)
        return process_time() - begin

    mixed = [dict(zip(names, one, strict=True)) for one in weights]
    direct(policy, mixed)
    turns = [
        (direct(policy, mixed), direct(policy, mixed[:1] * requests), direct(unguided, None))
        for _ in range(TURNS)
    ]
    alone, same, plain = (float(np.median(column)) for column in zip(*turns, strict=True))
    ratios = {
        "server : decoder (CPU)": served["cpu"] / alone,
        "guided : unguided (CPU)": alone / plain,
        "weights of its own for each row : one weighting (CPU)": alone / same,
    }
    for name, ratio in ratios.items():
        print(f"{name:55} {ratio:.2f}", file=sys.stderr)
    found = {"benchmark": "serve", **words, **served, "decoder_cpu": alone, "ratios": ratios}
    print(json.dumps(found))


def _served(policy: GuidedPolicy, rows: int, words: dict[str, Any]) -> dict[str, Any]:
    """What the load's clients have seen, and the CPU seconds that the server took."""
    decoding = DecoderThread(policy, rows, 4 * rows)
    settings = Settings(longest=min(512, policy.reference.context))
    app = create_app(decoding, Presets(policy.objectives, {}), settings)
    opened = listen("127.0.0.1", 0)
    server = Listener(app, decoding, 5.0)
    thread = threading.Thread(target=server.run, args=([opened],), daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{opened.getsockname()[1]}/v1"
    command = [sys.executable, __file__, "--client_of", url]
    command += [word for name, value in words.items() for word in (f"--{name}", str(value))]
    try:
        begin = process_time()
        said = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout
        cpu = process_time() - begin
    finally:
        server.should_exit = True
        thread.join(60)
        opened.close()
    return {**json.loads(said.splitlines()[-1]), "cpu": cpu}


async def _load(
    url: str,
    prompts: list[list[int]],
    limits: list[int],
    weights: list[list[float]],
    in_flight: int,
) -> dict[str, Any]:
    """Ask all requests, so many at a time; what was seen of it."""
    first: list[float] = []
    later: list[float] = []
    room, count = asyncio.Semaphore(in_flight), 0

    async def ask(client: AsyncOpenAI, at: int) -> int:
        async with room:
            before, written = perf_counter(), 0
            mixed = dict(zip(("one", "other"), weights[at], strict=True))
            stream = await client.completions.create(
                model="mavis",
                prompt=prompts[at],
                max_tokens=limits[at],
                seed=at,
                stream=True,
                extra_body={"weights": mixed},
            )
            async for _ in stream:
                now = perf_counter()
                (later if written else first).append(now - before)
                before, written = now, written + 1
            return written

    async with AsyncOpenAI(base_url=url, api_key="none", max_retries=0, timeout=600) as client:
        begin = perf_counter()
        count = sum(await asyncio.gather(*(ask(client, at) for at in range(len(prompts)))))
        wall = perf_counter() - begin

    def spread(values: list[float]) -> dict[str, float]:
        return {f"p{p}": round(float(np.percentile(values, p)), 4) for p in (50, 99)}

    return {
        "lost": len(prompts) - len(first),
        "written": count,
        "tokens_per_second": round(count / wall, 1),
        "first_token_s": spread(first),
        "next_token_s": spread(later),
    }


def main(args: list[str] | None = None) -> None:
    """Run from the command line."""
    auto_cli(measure, args=args, as_positional=False)


if __name__ == "__main__":
    main()
