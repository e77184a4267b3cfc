"""A server of the tiny models in a thread of this process, for the real clients to call."""

import threading
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch

from mavis.decoding.guidance import PolicyRows
from mavis.decoding.policy import GuidedPolicy
from mavis.decoding.prompt_requests import PromptRequest
from mavis.decoding.scoring import score
from mavis.serving.app import create_app
from mavis.serving.decoder_thread import DecoderThread
from mavis.serving.presets import Presets
from mavis.serving.run import Listener, listen
from mavis.serving.settings import Settings


@pytest.fixture(scope="session")
def policy(tiny_reference, tiny_network):
    """Two objectives, whose values matter."""
    network = tiny_network(tiny_reference, "action", ("humor", "kind"), seed=1)
    other = tiny_network(tiny_reference, "state", ("sense",), seed=2)
    with torch.no_grad():
        other.head.state.weight.mul_(8)
    return GuidedPolicy(tiny_reference, (network, other))


@pytest.fixture(scope="session")
def serving(policy):
    """`serving(rows=…, waiting=…, preset={}, **settings)`: a block in which a server answers."""

    @contextmanager
    def begun(rows=4, waiting=8, preset=None, of=policy, front=None, drain=0.0, **settings):
        decoding = DecoderThread(of, rows, waiting)
        presets = Presets(of.objectives, preset or {})
        how = Settings(**({"longest": 48} | settings))
        app = create_app(decoding, presets, how, front)
        opened = listen("127.0.0.1", 0)
        server = Listener(app, decoding, drain)
        thread = threading.Thread(target=server.run, args=([opened],), daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{opened.getsockname()[1]}"
        try:
            yield SimpleNamespace(url=url, v1=f"{url}/v1", decoding=decoding, policy=of)
        finally:
            server.should_exit = True
            thread.join(30)
            decoding.close(0.0)
            opened.close()
        assert not thread.is_alive()

    return begun


@pytest.fixture(scope="session")
def scored():
    """`scored(policy, ids, weights)`: log π of all tokens but the first; nothing is cut off."""

    def of(policy, ids, weights):
        (how,) = policy.requests("?", weights, top_k=0, temperature=0)
        rows = PolicyRows(policy.reference, policy.guides, policy.rule, 1)
        asked = PromptRequest("", how.sampling, len(ids) - 1, 0, tokens=ids[:1])
        (found,) = score(rows, [asked], [ids[1:]])
        return found.log_prob

    return of


@pytest.fixture(scope="module")
def served(serving):
    """A server for a whole module."""
    with serving(preset={"both": {"humor": 1.0, "kind": 0.5}}) as server:
        yield server
