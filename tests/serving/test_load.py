"""Many clients at once, some of whom leave, dawdle, ask nonsense or too much: nothing is lost."""

import asyncio
import random
import threading

import openai
import pytest
from waiting import until

CHAT = [{"role": "user", "content": "a um is tum"}]
REQUESTS, IN_FLIGHT, LIMIT = 160, 16, 14
KINDS = {"leaves": 8, "dawdles": 8, "malformed": 8, "too long": 4}  # the others are plain


@pytest.fixture(scope="module")
def load():
    """Of each request what kind it is, and its weights."""
    draw = random.Random(1)
    kinds = [kind for kind, count in KINDS.items() for _ in range(count)]
    kinds += ["plain"] * (REQUESTS - len(kinds))
    draw.shuffle(kinds)
    names = ("humor", "kind", "sense")
    weights = [{name: round(draw.uniform(-1, 1), 2) for name in names} for _ in kinds]
    return list(zip(kinds, weights, strict=True))


async def ask(client, room, seed, kind, weights):
    """The text of a reply, or why there is none."""
    how = {"model": "mavis", "messages": CHAT, "max_tokens": LIMIT, "seed": seed}
    how["extra_body"] = {"weights": weights}
    if kind == "malformed":
        how["extra_body"] = {"weights": {"nothing": 1.0}}
    if kind == "too long":
        how["messages"] = [{"role": "user", "content": "a um " * 100}]
    async with room:
        try:
            if kind not in {"leaves", "dawdles"}:
                whole = await client.chat.completions.create(**how)
                return whole.choices[0].message.content
            text, stream = "", await client.chat.completions.create(**how, stream=True)
            async for chunk in stream:
                if kind == "leaves":
                    await stream.close()
                    return None
                await asyncio.to_thread(threading.Event().wait, 0.005)
                text += chunk.choices[0].delta.content
            return text
        except openai.BadRequestError as error:
            return error.status_code


def test_nothing_is_lost_or_wrong(serving, load):
    with serving(rows=8, waiting=64) as server:

        async def every():
            room = asyncio.Semaphore(IN_FLIGHT)
            async with openai.AsyncOpenAI(base_url=server.v1, api_key="-", max_retries=0) as client:
                asked = [ask(client, room, at, *one) for at, one in enumerate(load)]
                return await asyncio.gather(*asked)

        found = asyncio.run(every())
        kept = [at for at, (kind, _) in enumerate(load) if kind in {"plain", "dawdles"}]
        wanted = server.policy.generate(
            [CHAT] * len(kept), [load[at][1] for at in kept], seed=kept, max_tokens=LIMIT
        )
        for at, one in zip(kept, wanted, strict=True):
            assert found[at] == one.text, load[at]
        for (kind, _), reply in zip(load, found, strict=True):
            assert (reply == 400) == (kind in {"malformed", "too long"})
        # All rows are back, as they were.
        until(lambda: server.decoding.in_flight == 0)
        assert server.decoding.call(lambda: server.decoding._decoder.idle).result(30)
        assert server.decoding.in_flight == 0
        assert server.decoding.call(lambda: server.decoding._tickets).result(30) == {}
