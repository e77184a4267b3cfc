"""The server as real clients see it: the `openai` package, and raw HTTP beside it."""

import asyncio
import json
import math
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial

import httpx2
import openai
import pytest
from openai.types import Completion
from openai.types.chat import ChatCompletionChunk
from waiting import until

CHAT = [{"role": "user", "content": "a um is tum"}]
PROMPT = "a um is tum"


@pytest.fixture(scope="module")
def opened():
    """`opened(server, key)`: a client, which is closed in the end."""
    with ExitStack() as stack:

        def build(server, key="none"):
            client = openai.OpenAI(base_url=server.v1, api_key=key, max_retries=0)
            return stack.enter_context(client)

        yield build


@pytest.fixture(scope="module")
def client(served, opened):
    return opened(served)


def post(server, path, body, **more):
    data = body if isinstance(body, bytes | str) else json.dumps(body)
    return httpx2.post(f"{server.url}{path}", content=data, timeout=60, **more)


def ask(client, **more):
    how = {"model": "mavis", "messages": CHAT, "max_tokens": 8, "seed": 3}
    return client.chat.completions.create(**how | more)


def shown(server, line):
    return line in httpx2.get(f"{server.url}/metrics").text


@pytest.mark.parametrize("weights", [{"humor": 1.0}, {"humor": -1.0, "sense": 2.0}, {}])
@pytest.mark.parametrize("temperature", [0, 1.0])
def test_a_reply_is_that_of_generate(client, served, weights, temperature):
    extra = {"weights": weights, "beta": 1.5, "top_k": 12}
    found = ask(client, n=3, temperature=temperature, extra_body=extra)
    full = dict.fromkeys(served.policy.objectives, 0.0) | weights
    wanted = served.policy.generate(
        [CHAT], [full], beta=1.5, top_k=12, n=3, seed=3, max_tokens=8, temperature=temperature
    )
    assert [choice.message.content for choice in found.choices] == [one.text for one in wanted]
    reasons = {"end": "stop", "stop": "stop", "length": "length"}
    assert [choice.finish_reason for choice in found.choices] == [
        reasons[one.reason] for one in wanted
    ]
    assert found.usage.completion_tokens == sum(len(one.tokens) for one in wanted)
    assert found.mavis["weights"] == full
    assert found.mavis["beta"] == 1.5
    for choice, one in zip(found.choices, wanted, strict=True):
        kl = one.kl - one.kl_truncation
        assert choice.mavis["kl"] == pytest.approx(kl, abs=1e-4)
        assert choice.mavis["kl_truncation"] == pytest.approx(one.kl_truncation, abs=1e-4)


def test_a_stream_says_what_the_whole_does(client):
    whole = ask(client, n=2, logprobs=True, top_logprobs=3)
    chunks = list(
        ask(
            client,
            n=2,
            logprobs=True,
            top_logprobs=3,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    *others, last = chunks
    assert last.choices == []
    assert last.usage == whole.usage
    for choice in whole.choices:
        mine = [c for one in others for c in one.choices if c.index == choice.index]
        assert mine[0].delta.role == "assistant"
        assert "".join(c.delta.content for c in mine) == choice.message.content
        logged = [entry for c in mine[1:] for entry in c.logprobs.content]
        assert logged == choice.logprobs.content
        assert [c.finish_reason for c in mine[:-1]] == [None] * (len(mine) - 1)
        assert mine[-1].finish_reason == choice.finish_reason
        assert mine[-1].mavis == choice.mavis
    assert len(others) == 2 + whole.usage.completion_tokens  # a chunk a token, after the openings


def test_chunks_are_of_the_types_of_the_package(served):
    """The client builds them without looking; here every field is checked."""
    more = {"stream": True, "stream_options": {"include_usage": True}, "max_tokens": 4}
    bodies = {
        "/v1/chat/completions": ({"messages": CHAT, "logprobs": True}, ChatCompletionChunk),
        "/v1/completions": ({"prompt": PROMPT, "logprobs": 2}, Completion),
    }
    for path, (body, kind) in bodies.items():
        lines = post(served, path, body | more).text.split("\n\n")
        chunks = [line.removeprefix("data: ") for line in lines if line.startswith("data: {")]
        assert len(chunks) >= 3
        for chunk in chunks:
            # OpenAI sends null until a reply ends, which the type of completions leaves out.
            ended = chunk.replace('"finish_reason":null', '"finish_reason":"stop"')
            kind.model_validate_json(ended, strict=True)


def test_the_async_client_and_many_at_once(served):
    async def every():
        async with openai.AsyncOpenAI(base_url=served.v1, api_key="none") as client:
            weightings = [{"humor": at / 5 - 1, "sense": 1 - at / 9} for at in range(10)]
            asked = [
                client.chat.completions.create(
                    model="mavis",
                    messages=CHAT,
                    max_tokens=12,
                    seed=at,
                    extra_body={"weights": weights},
                )
                for at, weights in enumerate(weightings)
            ]
            return weightings, await asyncio.gather(*asked)

    weightings, found = asyncio.run(every())
    for at, (weights, one) in enumerate(zip(weightings, found, strict=True)):
        full = dict.fromkeys(served.policy.objectives, 0.0) | weights
        (alone,) = served.policy.generate([CHAT], [full], seed=at, max_tokens=12)
        assert one.choices[0].message.content == alone.text


def test_models_are_presets(client):
    names = [model.id for model in client.models.list()]
    assert names == [
        "mavis",
        "mavis:humor",
        "mavis:kind",
        "mavis:sense",
        "mavis:both",
        "reference",
    ]
    found = ask(client, model="mavis:both")
    assert found.mavis["weights"] == {"humor": 1.0, "kind": 0.5, "sense": 0.0}
    spelt = ask(client, model="mavis:humor=1,kind=0.5")
    assert spelt.choices == found.choices
    assert ask(client, model="reference").mavis["kl"] == pytest.approx(0, abs=1e-5)
    assert client.models.retrieve("mavis:humor").mavis["weights"]["humor"] == 1.0
    with pytest.raises(openai.NotFoundError, match="there is no model 'gpt-4'"):
        ask(client, model="gpt-4")
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-4")


def test_attribution_adds_up_to_the_tilt(client, served):
    extra = {"attribution": True, "weights": {"humor": 1.0, "kind": -0.5}, "beta": 1.2}
    found = ask(client, logprobs=True, extra_body=extra)
    tokens = found.choices[0].mavis["attribution"]
    (one,) = served.policy.generate(
        [CHAT], [{"humor": 1.0, "kind": -0.5}], beta=1.2, seed=3, max_tokens=8
    )
    (score,) = served.policy.score([CHAT], [one.tokens], [{"humor": 1.0, "kind": -0.5}], beta=1.2)
    for name in served.policy.objectives:
        parts = [token["parts"][name] for token in tokens]
        assert parts == pytest.approx(score.parts[name], abs=1e-5)
    logged = [entry.logprob for entry in found.choices[0].logprobs.content]
    assert logged == pytest.approx(score.log_prob, abs=1e-5)


def test_completions_take_text_and_ids(client, served):
    reference = served.policy.reference
    ids = reference.continued(PROMPT)
    texts = client.completions.create(model="mavis", prompt=[PROMPT, "um a"], seed=1, n=2)
    assert [choice.index for choice in texts.choices] == [0, 1, 2, 3]
    from_ids = client.completions.create(model="mavis", prompt=ids, seed=1, n=2)
    assert [c.text for c in from_ids.choices] == [c.text for c in texts.choices[:2]]
    assert from_ids.usage.prompt_tokens == len(ids)
    pieces = client.completions.create(model="mavis", prompt=ids, seed=1, stream=True)
    assert "".join(chunk.choices[0].text for chunk in pieces) == texts.choices[0].text


def test_echoed_log_probabilities_are_those_of_score(client, served, scored):
    """As lm-eval's loglikelihoods ask for them: token ids, one new token, greedy."""
    ids = served.policy.reference.continued(PROMPT)
    found = client.completions.create(
        model="mavis:humor", prompt=[ids], max_tokens=1, logprobs=2, echo=True, temperature=0
    )
    logged = found.choices[0].logprobs
    assert len(logged.token_logprobs) == len(ids) + 1
    assert logged.token_logprobs[0] is None
    assert logged.top_logprobs[0] is None
    wanted = scored(served.policy, ids, {"humor": 1.0})
    assert logged.token_logprobs[1:-1] == pytest.approx(wanted, abs=1e-5)
    # Whether a token is the likeliest is asked by comparing floats.
    greedy = [
        own == max(top.values())
        for own, top in zip(logged.token_logprobs[1:], logged.top_logprobs[1:], strict=True)
    ]
    assert greedy[-1]
    only = client.completions.create(
        model="mavis:humor", prompt=[ids], max_tokens=0, logprobs=1, echo=True
    )
    assert only.choices[0].logprobs.token_logprobs == logged.token_logprobs[:-1]
    assert only.usage.completion_tokens == 0


def test_a_session_is_told_in_its_loop(client, served, monkeypatch):
    """Its queue is of the loop, and no other thread may touch it."""
    loops, inner = [], served.decoding.submit

    def watched(asked, loop=None):
        loops.append(loop)
        return inner(asked, loop)

    monkeypatch.setattr(served.decoding, "submit", watched)
    ask(client, max_tokens=2)
    assert [isinstance(loop, asyncio.AbstractEventLoop) for loop in loops] == [True]


def test_a_load_test_writes_as_much_as_it_asks_for(client):
    """Past end tokens, which have no text; a reply that does not come to one is the same."""
    kept = 0
    for seed in range(40):
        whole = ask(client, seed=seed, max_tokens=20)
        endless = ask(client, seed=seed, max_tokens=20, extra_body={"ignore_eos": True})
        assert endless.usage.completion_tokens == 20
        assert endless.choices[0].finish_reason == "length"
        assert endless.choices[0].message.content.startswith(whole.choices[0].message.content)
        kept += whole.usage.completion_tokens < 20
    assert kept > 0


def test_stop_strings_never_show(client, served):
    (whole,) = served.policy.generate([CHAT], seed=3, max_tokens=12, beta=1.0)
    middle = len(whole.text) // 2
    stop = [whole.text[middle : middle + 3]]
    for stream in (False, True):
        found = ask(client, stop=stop, stream=stream, max_tokens=12, extra_body={"beta": 1.0})
        if stream:
            chunks = list(found)
            text = "".join(c.choices[0].delta.content for c in chunks)
            reason = chunks[-1].choices[0].finish_reason
        else:
            text, reason = found.choices[0].message.content, found.choices[0].finish_reason
        weights = dict.fromkeys(served.policy.objectives, 1 / 3)
        (wanted,) = served.policy.generate(
            [CHAT], weights, seed=3, max_tokens=12, beta=1.0, stop=[stop]
        )
        assert text == wanted.text
        assert reason == ("length" if wanted.reason == "length" else "stop")


@pytest.mark.parametrize(
    ("field", "value", "param"),
    [
        ("temperature", "hot", "temperature"),
        ("temperature", -1, "temperature"),
        ("n", 0, "n"),
        ("n", True, "n"),
        ("max_tokens", 2.5, "max_tokens"),
        ("stop", [""], "stop"),
        ("top_logprobs", 3, "top_logprobs"),
        ("weights", {"humour": 1}, "weights"),
        ("weights", {"humor": None}, "weights"),
        ("weights", [1], "weights"),
        ("beta", -1, "beta"),
        ("presence_penalty", 0.5, "presence_penalty"),
        ("tools", [{"type": "function"}], "tools"),
        ("response_format", {"type": "json_object"}, "response_format"),
        ("guided_json", {}, "guided_json"),
        ("messages", [], "messages"),
        ("messages", [{"role": "tool", "content": "5"}], "messages"),
        ("messages", [{"role": "user", "content": [{"type": "image_url"}]}], "messages"),
        ("messages", [{"role": "user", "content": ""}], None),
        ("messages", [{"role": "user", "content": "a um " * 60}], "messages"),
        ("max_tokens", 4000, "messages"),
        ("stream_options", {"include": 1}, "stream_options"),
    ],
)
def test_a_field_is_honoured_or_named(served, field, value, param):
    body = {"model": "mavis", "messages": CHAT, "max_tokens": 2} | {field: value}
    response = post(served, "/v1/chat/completions", body)
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param
    assert "\n" not in error["message"]


def test_fields_without_an_effect_are_counted(served):
    more = {"user": "me", "presence_penalty": 0, "logit_bias": None, "top_k": -1}
    parts = [{"type": "text", "text": PROMPT, "cache_control": {}}]
    body = {"messages": [{"role": "user", "content": parts}], "max_completion_tokens": 2}
    assert post(served, "/v1/chat/completions", body | more).status_code == 200
    page = httpx2.get(f"{served.url}/metrics").text
    assert 'mavis_ignored_fields_total{field="user"}' in page
    assert 'field="top_k"' not in page


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"\xff\xfe", 400),
        (b"", 400),
        (b"[" * 100_000, 400),
        (b'{"messages": NaN}', 400),
        (b'"text"', 400),
        (b" " * (9 << 20), 413),
    ],
)
def test_bodies_that_are_none(served, body, status):
    response = post(served, "/v1/chat/completions", body)
    assert response.status_code == status
    assert response.json()["error"]["message"]
    assert post(served, "/health", b"").status_code == 405
    assert httpx2.get(f"{served.url}/nothing").json()["error"]["type"] == "not_found_error"
    assert httpx2.get(f"{served.url}/health").status_code == 200


def test_ids_out_of_range(served):
    response = post(served, "/v1/completions", {"prompt": [1, 10**6]})
    assert response.status_code == 400
    assert "must be in 0" in response.json()["error"]["message"]


def test_keys(serving, opened):
    with serving(keys=("right", "other")) as server:
        for key in ("right", "other"):
            ask(opened(server, key))
        with pytest.raises(openai.AuthenticationError, match="missing or wrong"):
            ask(opened(server, "wrong"))
        assert httpx2.get(f"{server.v1}/models").status_code == 401
        assert httpx2.get(f"{server.url}/health").status_code == 200
        assert "right" not in httpx2.get(f"{server.url}/metrics").text


def test_a_full_queue_asks_for_patience(serving):
    with serving(rows=1, waiting=1) as server:
        held = threading.Event()
        server.decoding.call(partial(held.wait, 30))  # nothing is decoded meanwhile
        with ThreadPoolExecutor(2) as pool:
            body = {"messages": CHAT, "max_tokens": 2}
            running = [pool.submit(post, server, "/v1/chat/completions", body) for _ in range(2)]
            until(lambda: server.decoding.in_flight == 2)
            response = post(server, "/v1/chat/completions", body)
            assert response.status_code == 429
            assert int(response.headers["Retry-After"]) > 0
            held.set()
            assert [one.result(30).status_code for one in running] == [200, 200]


def test_a_client_that_leaves_gives_its_rows_back(serving, opened):
    with serving(rows=1, waiting=4, longest=64) as server:
        body = json.dumps({"messages": CHAT, "n": 3, "stream": True})
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        for number, read in enumerate((False, True), start=1):
            held = threading.Event()
            server.decoding.call(partial(held.wait, 30))  # nothing is decoded meanwhile
            with socket.create_connection(("127.0.0.1", int(server.url.rsplit(":", 1)[1]))) as raw:
                raw.sendall(f"{head}{body}".encode())
                until(lambda: server.decoding.in_flight == 3)
                if read:
                    raw.recv(100)
            until(partial(shown, server, f"mavis_unfinished_total {number}.0"))
            held.set()
            until(lambda: server.decoding.in_flight == 0)
        assert server.decoding.call(lambda: server.decoding._decoder.idle).result(30)
        ask(opened(server))


def test_a_request_has_a_time_limit(serving, opened):
    with serving(seconds=0.0) as server:
        body = {"messages": CHAT, "max_tokens": 8}
        assert post(server, "/v1/chat/completions", body).status_code == 504
        streamed = post(server, "/v1/chat/completions", body | {"stream": True})
        assert streamed.status_code == 200
        with pytest.raises(openai.APIError, match="took more than"):
            list(ask(opened(server), stream=True))
        until(lambda: server.decoding.in_flight == 0)


def test_a_stream_that_waits_shows_that_it_lives(serving):
    with serving(rows=1, keep_alive=0.01) as server:
        held = threading.Event()
        server.decoding.call(partial(held.wait, 30))
        with httpx2.stream(
            "POST",
            f"{server.v1}/chat/completions",
            content=json.dumps({"messages": CHAT, "stream": True, "max_tokens": 2}),
        ) as response:
            lines = response.iter_lines()
            assert any(line == ": keep-alive" for line in lines)
            held.set()
            assert list(lines)[-2:] == ["data: [DONE]", ""]


def test_a_model_that_fails_is_an_error_and_the_server_goes_on(serving, opened, monkeypatch):
    with serving() as server:
        client = opened(server)
        with monkeypatch.context() as patch:

            def broken(*_):
                raise ValueError("reference tiny gave NaN")

            patch.setattr("mavis.decoding.guidance.PolicyRows.step", broken)
            with pytest.raises(openai.InternalServerError, match="gave NaN"):
                ask(client)
            with pytest.raises(openai.APIError, match="gave NaN"):
                list(ask(client, stream=True))
        assert ask(client).choices[0].message.content
        until(lambda: server.decoding.in_flight == 0)


def test_facts_for_harnesses(served):
    ids = post(served, "/tokenize", {"prompt": PROMPT, "add_special_tokens": False}).json()
    tokenizer = served.policy.reference.tokenizer
    assert ids["tokens"] == list(tokenizer(PROMPT, add_special_tokens=False).input_ids)
    info = httpx2.get(f"{served.url}/tokenizer_info").json()
    assert info["eos_token"] == tokenizer.eos_token
    assert httpx2.get(f"{served.url}/version").json()["version"]


def test_nothing_of_json_is_infinite(client):
    """A token that top-k leaves out has no probability."""
    found = client.completions.create(
        model="reference",
        prompt=PROMPT,
        max_tokens=1,
        logprobs=1,
        echo=True,
        extra_body={"top_k": 1},
    )
    known = found.choices[0].logprobs.token_logprobs[1:]
    assert all(math.isfinite(one) for one in known)
    assert min(known) == -9999.0


def test_a_client_that_leaves_while_its_prompt_is_scored(serving, opened):
    """The thread that decodes goes on, and nobody is scored who does not listen."""
    with serving(rows=1) as server:
        held = threading.Event()
        server.decoding.call(partial(held.wait, 30))
        body = json.dumps({"prompt": PROMPT, "max_tokens": 0, "echo": True, "logprobs": 1})
        head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        with socket.create_connection(("127.0.0.1", int(server.url.rsplit(":", 1)[1]))) as raw:
            raw.sendall(f"{head}{body}".encode())
            until(lambda: server.decoding.in_flight == 1)
        until(partial(shown, server, 'mavis_requests_total{path="/v1/completions",status="499"}'))
        held.set()
        assert ask(opened(server)).choices
        assert httpx2.get(f"{server.url}/health").status_code == 200


def test_scoring_a_prompt_has_a_time_limit_and_takes_a_place(serving):
    body = {"prompt": [PROMPT] * 2, "max_tokens": 0, "echo": True, "logprobs": 1}
    with serving(seconds=0.0) as server:
        assert post(server, "/v1/completions", body).status_code == 504
    with serving(rows=1, waiting=0) as server:
        response = post(server, "/v1/completions", body)
        assert response.status_code == 400
        assert response.json()["error"]["message"] == "prompts times n may be 1 here: ask in parts."


def test_equal_prompts_are_drawn_anew_unless_there_is_a_seed(client):
    how = {"model": "mavis", "prompt": [PROMPT] * 8, "max_tokens": 10, "temperature": 2.0}
    free, seeded = client.completions.create(**how), client.completions.create(**how, seed=1)
    assert len({choice.text for choice in free.choices}) > 1
    assert len({choice.text for choice in seeded.choices}) == 1


HUGE = 10**400


@pytest.mark.parametrize("name", ["beta", "temperature", "top_p", "top_k", "n", "seed", "logprobs"])
def test_numbers_without_end(served, name):
    response = post(served, "/v1/completions", f'{{"prompt": "a", "{name}": {HUGE}}}')
    assert response.status_code == 400
    assert response.json()["error"]["param"] == name


@pytest.mark.parametrize("weight", ["1e200", "-1e300", str(HUGE), "20000"])
def test_weights_that_are_too_large(served, weight):
    response = post(
        served, "/v1/completions", f'{{"prompt": "a", "weights": {{"humor": {weight}}}}}'
    )
    assert response.status_code == 400
    named = post(served, "/v1/completions", {"prompt": "a", "model": f"mavis:humor={weight}"})
    assert named.status_code == 400


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {"prompt": "a", "\ud800": 1}),
        ("/v1/completions", {"prompt": "\ud800"}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a", "\ud800": 1}]}),
        ("/v1/chat/completions", {"messages": [{"role": "\ud800", "content": "a"}]}),
        ("/tokenize", {"prompt": "\ud800"}),
        ("/tokenize", {"prompt": "a", "add_special_tokens": "yes"}),
        ("/tokenize", {"prompt": "a", "more": 1}),
        ("/v1/chat/completions", {"messages": CHAT, "stream_options": {"include_usage": "true"}}),
        ("/v1/chat/completions", {"messages": [CHAT[0] | {"refusal": "no"}]}),
        ("/v1/chat/completions", {"messages": CHAT, "max_tokens": 2, "max_completion_tokens": 3}),
    ],
)
def test_what_cannot_be_honoured_is_refused(served, path, body):
    response = post(served, path, body)
    assert response.status_code == 400
    assert response.json()["error"]["message"]


def test_a_prompt_may_fill_the_context_when_it_is_only_scored(client):
    for tokens, new in ((48, 0), (47, 1)):
        found = client.completions.create(
            model="mavis", prompt=[5] * tokens, max_tokens=new, logprobs=1, echo=True
        )
        assert len(found.choices[0].logprobs.tokens) == tokens + new
    with pytest.raises(openai.BadRequestError, match="shorten one of them"):
        client.completions.create(model="mavis", prompt=[5] * 48, max_tokens=1)


def test_offsets_are_places_in_the_text(client):
    how = {"model": "mavis", "prompt": PROMPT, "logprobs": 1, "seed": 4, "max_tokens": 12}
    whole = client.completions.create(**how, echo=True).choices[0]
    offsets = whole.logprobs.text_offset
    assert offsets == sorted(offsets)
    assert offsets[-1] <= len(whole.text)
    alone = client.completions.create(**how).choices[0].logprobs
    assert alone.text_offset[0] == 0
    pieces = [one.choices[0] for one in client.completions.create(**how, stream=True)]
    assert [at for one in pieces for at in one.logprobs.text_offset] == alone.text_offset
    begin = len(whole.text) - len("".join(one.text for one in pieces))
    assert [at + begin for at in alone.text_offset] == offsets[-len(alone.text_offset) :]


def test_keys_of_other_alphabets_and_requests_without_bodies(serving):
    with serving(keys=("schlüssel",)) as server:
        headers = {"Authorization": "Bearer schlüssel".encode()}
        assert httpx2.get(f"{server.v1}/models", headers=headers).status_code == 200
        assert httpx2.head(f"{server.url}/health").status_code == 200
        assert httpx2.head(f"{server.v1}/models", headers=headers).status_code == 200
        assert httpx2.put(f"{server.url}/health").headers["allow"]


def test_replies_that_outlast_the_drain_are_told_so(serving):
    body = {"messages": CHAT, "max_tokens": 12}
    with ThreadPoolExecutor(2) as pool:
        with serving(rows=1, drain=0.0) as server:
            held = threading.Event()
            server.decoding.call(partial(held.wait, 30))
            asked = [
                pool.submit(post, server, "/v1/chat/completions", body | {"stream": stream})
                for stream in (False, True)
            ]
            until(lambda: server.decoding.in_flight == 2)
            threading.Timer(0.5, held.set).start()
        whole, streamed = (one.result(30) for one in asked)
    assert whole.status_code == 503
    assert whole.json()["error"]["message"] == "the server is stopping."
    assert json.loads(streamed.text.strip().splitlines()[-1].removeprefix("data: "))["error"]


def test_fields_as_clients_of_vllm_send_them(client):
    """In `vllm_xargs`, where weights are text."""
    own = {"weights": {"humor": 1.0, "kind": -0.5}, "beta": 1.5, "top_k": 12}
    theirs = {"vllm_xargs": own | {"weights": "humor=1, kind=-.5"}}
    found = [ask(client, extra_body=extra).choices[0].message.content for extra in (own, theirs)]
    assert found[0] == found[1]
    for extra, message in (
        ({"vllm_xargs": {"weights": "humour=1"}}, "humour"),
        ({"vllm_xargs": {"weights": "humor"}}, "must be NAME=X,NAME=X"),
        ({"vllm_xargs": {"seed": 1}}, "vllm_xargs may hold weights, beta, top_k alone"),
        ({"vllm_xargs": {"beta": 1}, "beta": 2}, "beta is in vllm_xargs and beside it"),
        ({"vllm_xargs": 3}, "vllm_xargs may hold"),
        ({"weights": [1]}, "weights must be numbers by objective"),
    ):
        with pytest.raises(openai.BadRequestError, match=message):
            ask(client, extra_body=extra)
