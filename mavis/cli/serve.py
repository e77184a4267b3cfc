"""`mavis serve`: answer requests over HTTP, each with weights of its own."""

import os
import stat
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mavis.signals import Terminated
from mavis.value_places import places

if TYPE_CHECKING:
    from mavis.decoding.policy import GuidedPolicy

KEY = "MAVIS_API_KEY"
LONGEST = 2048  # tokens of a prompt and its reply, where nobody says more
SANDBOX = "sandbox/reference"


def serve(
    values: dict[str, str] = {},  # noqa: B006 - a default that the parser can show; not changed
    engine: Literal["mavis", "vllm"] = "mavis",
    runs: str = "runs",
    reference: str | None = None,
    template_args: dict[str, Any] | None = None,
    device: str | None = None,
    host: str = "127.0.0.1",
    port: int = 8000,
    api_key: str | None = None,
    max_rows: int | None = None,
    max_model_len: int | None = None,
    max_waiting: int = 256,
    timeout: float = 600.0,
    drain: float = 30.0,
    preset: dict[str, dict[str, float]] = {},  # noqa: B006
    front: str | None = None,
) -> None:
    """Serve a guided policy over HTTP, as OpenAI's interface, with weights per request.

    Clients of that interface work as they are: base URL http://HOST:PORT/v1, any API key unless
    one is required, and a model of /v1/models: `mavis` weighs all objectives equally, `mavis:NAME`
    is one objective or preset, `mavis:NAME=X,NAME=X` spells weights out, and `reference` is not
    guided. A request may also hold `weights`, `beta`, `top_k` and `attribution`.

    Args:
        values: folder of an objective's value model, as --values.NAME PATH (default: all that lie
            in RUNS and are of the reference)
        engine: mavis, or vllm: run vLLM's own server with guidance in it, for `shared` values of
            the last state; requests then say their weights in vllm_xargs
        runs: folder that holds the runs of `mavis fit`
        reference: reference policy (default: the one that the value models were trained under)
        template_args: arguments passed to its chat template, such as '{enable_thinking: false}'
        device: device to run on, such as cpu or cuda:1 (default: an accelerator if available)
        host: address to listen on; 0.0.0.0 is every address of this machine
        port: port to listen on; 0 takes any that is free
        api_key: file with one key a line, of which a client must send one; only its owner may be
            able to read it (default: the key in MAVIS_API_KEY; none: no key is required)
        max_rows: replies that are written at the same time (default: 8 to 128, by free memory)
        max_model_len: most tokens of a prompt and its reply together (default: the context of the
            reference, 2048 at most)
        max_waiting: replies that may wait for a row; beyond them a request is answered by 429
        timeout: seconds that a request may take
        drain: seconds that requests may go on for after SIGTERM or Ctrl-C
        preset: weights by the name of a model, as --preset.kind '{humor: 1, helpfulness: 0.5}'
        front: results.json of a `mavis pareto` over two of the objectives, for the playground
    """
    _at_least(1, max_rows=max_rows, max_model_len=max_model_len)
    _at_least(0, max_waiting=max_waiting, timeout=timeout, drain=drain)
    _check_port(port)
    keys = _keys(api_key)
    if engine == "vllm":
        idle: dict[str, Any] = {"template_args": template_args, "device": device, "preset": preset}
        idle |= {"front": front, "max_waiting": max_waiting != 256, "timeout": timeout != 600}
        idle |= {"drain": drain != 30}
        _by_vllm(_folders(values), reference, (host, port), keys, (max_rows, max_model_len), idle)
        return
    try:
        from mavis.serving.app import create_app
        from mavis.serving.run import LOOPBACK, listen, run
    except ImportError as error:
        raise ImportError(
            f"serving needs the package {error.name}: pip install 'mavis[serve]'."
        ) from error
    from mavis.decoding.row_memory import fitting_rows
    from mavis.serving.decoder_thread import DecoderThread
    from mavis.serving.pages import front_of
    from mavis.serving.presets import Presets
    from mavis.serving.settings import Settings
    from mavis.storage import read_json

    if front is not None and not Path(front).is_file():
        raise FileNotFoundError(f"front must be the results.json of a sweep; {front} is no file.")
    opened = listen(host, port)  # before a model is loaded, which may take minutes
    try:
        policy = _policy(values, Path(runs).expanduser(), reference, device, template_args)
        presets = Presets(policy.objectives, preset)
        shown = None if front is None else front_of(read_json(Path(front)), policy.objectives)
        longest = _longest(policy, max_model_len)
        rows = fitting_rows(max_rows, policy.reference, [], longest, "--max_rows")
        settings = Settings(keys, longest, timeout)
        decoding = DecoderThread(policy, rows, max_waiting)
        app = create_app(decoding, presets, settings, shown)
        place = f"[{host}]" if ":" in host else host
        print(
            f"mavis: serving {', '.join(policy.objectives) or 'the reference alone'} on "
            f"http://{place}:{opened.getsockname()[1]}/v1 ({rows} rows of {longest} tokens"
            f"{'' if keys else ', no API key'})",
            file=sys.stderr,
            flush=True,
        )
        if host not in LOOPBACK and not keys:
            print(f"mavis: warning: everybody who reaches {host} may ask.", file=sys.stderr)
        with suppress(Terminated, KeyboardInterrupt):  # what was running has come to its end
            run(app, decoding, opened, drain)
    finally:
        opened.close()


def _by_vllm(
    values: Mapping[str, str],
    reference: str | None,
    address: tuple[str, int],
    keys: Sequence[str],
    most: tuple[int | None, int | None],
    idle: Mapping[str, Any],
) -> None:
    """Run vLLM's server.

    Raises:
        RuntimeError: it has failed, or guides otherwise than it should.
        ValueError: an option is given that is none of its, or the values are not for it.
    """
    from mavis.integrations.vllm.command import Server
    from mavis.serving.run import listen

    if given := [name for name, value in idle.items() if value]:
        raise ValueError(f"--{given[0]} is of mavis's own server: leave it out with --engine vllm.")
    server = Server(values, reference, *address, keys, *most)
    server.check()
    listen(*address).close()  # what listens there already is not to be taken for vLLM
    with suppress(Terminated, KeyboardInterrupt):
        if status := server.run():
            raise RuntimeError(f"vLLM has ended with status {status}; what it said is above.")


def _folders(values: Mapping[str, str]) -> dict[str, str]:
    """The folders of value models, where that of a run stands for its `value`."""
    from mavis.decoding.loading import value_folder

    return {name: str(value_folder(place)) for name, place in values.items()}


def _check_port(port: int) -> None:
    """Raise ValueError for what is no number of a port."""
    if not 0 <= port < 1 << 16:
        raise ValueError(f"port must be 0 to 65535, got {port}.")


def _at_least(least: int, **options: float | None) -> None:
    """Raise ValueError for options that are too small."""
    for name, number in options.items():
        if number is not None and not number >= least:
            raise ValueError(f"{name} must be at least {least}, got {number:g}.")


def _longest(policy: "GuidedPolicy", asked: int | None) -> int:
    """How many tokens a prompt and its reply may have together.

    Raises:
        ValueError: more than the reference's context are asked for.
    """
    context = policy.reference.context
    if asked is not None and asked > context:
        raise ValueError(
            f"max_model_len ({asked}) must fit into the context of {context} tokens of "
            f"{policy.reference.name}."
        )
    return min(context, asked or LONGEST)


def _keys(file: str | None) -> tuple[str, ...]:
    """The keys of clients: from a file of one's own, or from the environment.

    Raises:
        FileNotFoundError, ValueError: there is no such file, it has no key, or others can read it.
    """
    if file is None:
        key = os.environ.get(KEY, "").strip()
        return (key,) if key else ()
    path = Path(file).expanduser()
    if not path.is_file():
        raise FileNotFoundError(
            f"api_key must be a file with one key a line, and {file} is none: a key itself would "
            f"be seen by everybody who lists processes. Or set {KEY}."
        )
    if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ValueError(f"{file} can be read by others: chmod 600 {file}.")
    keys = tuple(filter(None, map(str.strip, path.read_text(encoding="utf-8").splitlines())))
    if not keys:
        raise ValueError(f"{file} holds no key: write one into it.")
    return keys


def _policy(
    values: Mapping[str, str],
    runs: Path,
    reference: str | None,
    device: str | None,
    template_args: dict[str, Any] | None,
) -> "GuidedPolicy":
    """The policy of the value models that are given, or that lie in the runs folder."""
    from mavis.decoding.loading import load
    from mavis.decoding.model_card import read_card

    folders = dict(values)
    if not folders:
        wanted = reference or SANDBOX
        cards = {place: read_card(place) for place in sorted(runs.glob("*/value"))}
        fitting = {at: card for at, card in cards.items() if card.reference == wanted}
        for place in cards.keys() - fitting.keys():
            other = cards[place].reference
            print(
                f"mavis: {place} is left out, as it is of {other}: serve that by --reference "
                f"{other}.",
                file=sys.stderr,
            )
        names = sorted({name for card in fitting.values() for name in card.objectives})
        found = places(runs, names)
        folders = {name: str(found[name]) for name in names if found[name] in fitting}
    else:
        folders = _folders(values)
    return load(folders or None, reference, device, template_args)
