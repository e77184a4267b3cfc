"""Tiny models, made in code and seeded, and the slow plain recomputation that all is held against.

Everything here is a fixture; those that make things return a function, so that a test says what it
needs: `tiny_lm("gpt2", layers=3)`, `tiny_network(reference, "state", ("humor", "kind"))`.
"""

import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout
from io import StringIO
from itertools import accumulate
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read when the hub's client is imported
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # and this, too

import pytest
import torch
from comparison_fixtures import (  # noqa: F401 - fixtures of several folders
    analysis,
    disk_reference,
    setting,
    sweep,
    tiny_runs,
    two_objectives,
)
from tokenizers import Tokenizer, decoders, models
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from mavis.cli.main import main
from mavis.decoding.model_card import ModelCard, Source
from mavis.decoding.reference import ReferencePolicy
from mavis.decoding.request import Request, SamplingParams, stream
from mavis.decoding.value_model import ValueModel, build_network
from mavis.reward import Units

# These see six tokens back: mistral in every layer, the others in every second one.
WINDOWED = ("mistral", "gemma2", "gemma3_text")
WINDOW = 6
FAMILIES = ("llama", "gpt2", "qwen2", "qwen3", "gemma", "gpt_neox", *WINDOWED)

# Enough to spell a dialogue, and for the default top-k of 40. The last three are longer tokens, so
# that strings cross their borders.
TOKENS = (
    *("<end>", "<pad>", "<unk>"),
    *"anstumibe\n :?.HArdlohfywgcjkpqvxz,",
    *("um", "an", "st"),
)
CONTEXT = 160


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    """Each family of models that the rows cache is promised for."""
    return str(request.param)


@pytest.fixture(scope="session")
def tiny_tokenizer() -> Callable[..., PreTrainedTokenizerBase]:
    """`tiny_tokenizer(vocab)`: characters and a few merges; the first `vocab` of TOKENS."""

    def build(vocab: int = len(TOKENS)) -> PreTrainedTokenizerBase:
        ids = {token: at for at, token in enumerate(TOKENS[:vocab])}
        merges = [(pair[0], pair[1]) for pair in ("um", "an", "st") if pair in ids]
        core = Tokenizer(models.BPE(vocab=ids, merges=merges, unk_token="<unk>"))
        core.decoder = decoders.Fuse()
        special = {"eos_token": "<end>", "pad_token": "<pad>", "unk_token": "<unk>"}
        return PreTrainedTokenizerFast(tokenizer_object=core, **special)

    return build


@pytest.fixture(scope="session")
def tiny_lm() -> Callable[..., PreTrainedModel]:
    """`tiny_lm(family, vocab, layers, seed, **config)`: a causal LM with weights that matter.

    All but gpt2 and gpt_neox have fewer key heads than query heads; gpt2 has learned positions.
    """

    def build(
        family: str = "llama", vocab: int = len(TOKENS), layers: int = 2, seed: int = 0, **more: Any
    ) -> PreTrainedModel:
        settings = {
            "vocab_size": vocab,
            "hidden_size": 32,
            "num_hidden_layers": layers,
            "num_attention_heads": 4,
            "max_position_embeddings": CONTEXT,
            "bos_token_id": None,
            "eos_token_id": 0,
            "pad_token_id": 1,
        }
        if family not in ("gpt2", "gpt_neox"):
            settings["num_key_value_heads"] = 1 if family == "gemma" else 2
        if family != "gpt2":
            settings["intermediate_size"] = 48
        if family in ("qwen3", "gemma", "gemma2", "gemma3_text"):
            settings["head_dim"] = 8
        if family in WINDOWED:
            settings["sliding_window"] = WINDOW
        if family in ("gemma2", "gemma3_text"):
            kinds = ("sliding_attention", "full_attention")
            settings["layer_types"] = [kinds[at % 2] for at in range(layers)]
        config = AutoConfig.for_model(family, **(settings | more))
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = AutoModelForCausalLM.from_config(config)
        shake(model, seed, 0.3)
        return model.eval()

    return build


def shake(module: nn.Module, seed: int, scale: float) -> None:
    """Move every parameter by noise, the same for the same seed."""
    noise = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += scale * torch.randn(parameter.shape, generator=noise)


@pytest.fixture(scope="session")
def build_reference(
    tiny_lm: Callable[..., PreTrainedModel],
    tiny_tokenizer: Callable[..., PreTrainedTokenizerBase],
) -> Callable[..., ReferencePolicy]:
    """`build_reference(family, vocab, layers, seed, chat_template, template, **config)`."""

    def build(
        family: str = "llama",
        vocab: int = len(TOKENS),
        layers: int = 2,
        seed: int = 0,
        chat_template: str | None = None,
        template: str | None = None,
        **config: Any,
    ) -> ReferencePolicy:
        tokenizer = tiny_tokenizer(vocab)
        tokenizer.chat_template = chat_template
        model = tiny_lm(family, vocab, layers, seed, **config)
        return ReferencePolicy(model, tokenizer, f"tiny {family}", template)

    return build


@pytest.fixture(scope="session")
def tiny_reference(build_reference: Callable[..., ReferencePolicy]) -> ReferencePolicy:
    """A llama of two layers over all of TOKENS. Shared by all tests: it is frozen, leave it so."""
    return build_reference()


@pytest.fixture(scope="session")
def tiny_network() -> Callable[..., ValueModel]:
    """`tiny_network(reference, source, objectives, seed, trunk, lora, layers)`, weights random."""

    def build(
        reference: ReferencePolicy,
        source: Source = "action",
        objectives: Sequence[str] = ("humor",),
        seed: int = 1,
        trunk: int | str | None = None,
        lora: dict[str, Any] | None = None,
        layers: Sequence[int] = (),
    ) -> ValueModel:
        units = tuple(Units(0.5, 2.0) for _ in objectives)
        card = ModelCard(
            source=source,
            layers=tuple(layers),
            objectives=tuple(objectives),
            units=units,
            reference=reference.name,
            fingerprint=reference.fingerprint,
            head_width=6 if source == "shared" else 0,
        )
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            network = build_network(card, reference, trunk, lora).eval()
        shake(network.head, seed, 0.3)
        if card.head_width:  # it adds to the state, and does not drown it
            network.head.residual.down.weight.data *= 0.2
        if network.trunk is not None:
            shake(network.trunk, seed + 1, 0.05)
        return network

    return build


@pytest.fixture(scope="session")
def naive() -> type["Naive"]:
    """`naive(reference, networks)`: the guided policy by full forwards and plain Python floats."""
    return Naive


class Naive:
    """The guided policy from whole token sequences: no cache, no padding, no shared code."""

    def __init__(self, reference: ReferencePolicy, networks: Sequence[ValueModel] = ()) -> None:
        self.reference, self.guides = reference, networks

    def hidden(self, model: PreTrainedModel, *sequences: Sequence[int]) -> torch.Tensor:
        """The last hidden states [R, H] of a headless model after sequences of one length."""
        with torch.no_grad():
            output = model(input_ids=torch.tensor([list(s) for s in sequences]), use_cache=False)
        states: torch.Tensor = output.last_hidden_state
        return states[:, -1]

    def inner(
        self, model: PreTrainedModel, tokens: Sequence[int], layers: Sequence[int]
    ) -> torch.Tensor:
        """States of a model after its layers, each of unit root mean square [n · H]."""
        with torch.no_grad():
            ids = torch.tensor([list(tokens)])
            output = model(ids, output_hidden_states=True, use_cache=False)
        states = [output.hidden_states[at][0, -1].double() for at in layers]
        return torch.cat([h / math.sqrt(sum(x * x for x in h.tolist()) / len(h)) for h in states])

    def logits(self, tokens: Sequence[int]) -> list[float]:
        """The reference's next-token logits [V]."""
        ids = torch.tensor([list(tokens)])
        with torch.no_grad():
            output = self.reference.model(input_ids=ids, use_cache=False)
        numbers: list[float] = output.logits[0, -1].tolist()
        return numbers

    def values(self, tokens: Sequence[int], candidates: Sequence[int]) -> list[list[float]]:
        """The value of each candidate for each objective [K][M], network after network."""
        columns = [self._values(network, tokens, candidates) for network in self.guides]
        return [[q for column in columns for q in column[k]] for k in range(len(candidates))]

    def _values(
        self, network: ValueModel, tokens: Sequence[int], candidates: Sequence[int]
    ) -> list[list[float]]:
        head = {name: tensor.double() for name, tensor in network.head.state_dict().items()}
        weight, bias = head["state.weight"], head["state.bias"]
        if network.card.source == "state":
            ends = self.hidden(network.trunk, *([*tokens, a] for a in candidates)).double()
            if layers := network.card.layers:
                ends = torch.stack(
                    [self.inner(network.trunk, [*tokens, a], layers) for a in candidates]
                )
            return [(weight @ state + bias).tolist() for state in ends]
        model = self.reference.model.base_model if network.trunk is None else network.trunk
        table = model.get_input_embeddings().weight.detach().double()
        state = self.hidden(model, tokens)[0].double()
        if network.card.layers:
            state = self.inner(self.reference.model, tokens, network.card.layers)
        if network.card.head_width:
            scale = (state.var(unbiased=False) + 1e-5).sqrt()
            level = (state - state.mean()) / scale * head["residual.norm.weight"]
            inner = head["residual.up.weight"] @ (level + head["residual.norm.bias"])
            inner = inner + head["residual.up.bias"]
            inner = inner * (1 + torch.erf(inner / 2**0.5)) / 2
            state = state + head["residual.down.weight"] @ inner + head["residual.down.bias"]
        mixed = (head["mix.weight"] @ state).reshape(len(network.card.objectives), -1)
        common, apart = weight @ state + bias, table - head["centre"]
        return [(common + mixed @ apart[a] + head["token"][a]).tolist() for a in candidates]

    def step(self, tokens: Sequence[int], sampling: SamplingParams) -> "NaiveStep":
        """Everything about one step, by the formulas of the tilt written out."""
        scaled = [z / sampling.temperature for z in self.logits(tokens)]
        total = math.log(sum(math.exp(z) for z in scaled))
        log_ref = {a: z - total for a, z in enumerate(scaled)}
        order = sorted(log_ref, key=lambda a: -log_ref[a])[: sampling.top_k or None]
        chosen: list[int] = []
        for a in order:
            if sum(math.exp(log_ref[c]) for c in chosen) < sampling.top_p or not chosen:
                chosen.append(a)
        values = self.values(tokens, chosen)
        score = {
            a: log_ref[a]
            + sampling.beta * sum(w * q for w, q in zip(sampling.weights, v, strict=True))
            for a, v in zip(chosen, values, strict=True)
        }
        top = max(score.values())
        norm = top + math.log(sum(math.exp(s - top) for s in score.values()))
        return NaiveStep({a: s - norm for a, s in score.items()}, log_ref)

    def run(self, job: Request) -> list[int]:
        """The tokens of a job without stop strings, drawn with the job's own stream."""
        draws, tokens = stream(job.key), list(job.tokens)
        for _ in range(job.limit):
            log_pi, uniform = self.step(tokens, job.sampling).log_pi, draws.random()
            mass = list(accumulate(math.exp(p) for p in log_pi.values()))
            pick = list(log_pi)[sum(m <= uniform * mass[-1] for m in mass)]
            tokens.append(pick)
            if pick in self.reference.ends:
                break
        return tokens[len(job.tokens) :]


class NaiveStep:
    """log π of the candidates, likely ones first, and log π_ref of all tokens."""

    def __init__(self, log_pi: dict[int, float], log_ref: dict[int, float]) -> None:
        self.log_pi, self.log_ref = log_pi, log_ref

    @property
    def kl(self) -> float:
        """KL(π ‖ π_ref)."""
        return sum(math.exp(p) * (p - self.log_ref[a]) for a, p in self.log_pi.items())

    @property
    def truncation(self) -> float:
        """−log π_ref(C)."""
        return -math.log(sum(math.exp(self.log_ref[a]) for a in self.log_pi))


PLUGIN = '''
"""Objectives whose reward a test may exchange: it looks `behave` up when it is called."""

from mavis import Objective


def letters(prompts, responses):
    return [response.count("a") - 0.1 * len(response) for response in responses]


behave = letters


def reward(prompts, responses):
    return behave(prompts, responses)


trial = Objective(name="trial", reward=reward)
rival = Objective(name="rival", reward=reward)
'''


@pytest.fixture(scope="session")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with an installed plugin `mavis_trial`: the objectives `trial` and `rival`."""
    folder = tmp_path_factory.mktemp("plugin")
    (folder / "mavis_trial.py").write_text(PLUGIN)
    info = folder / "mavis_trial-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mavis-trial\nVersion: 1.0\n")
    lines = [f"{name} = mavis_trial:{name}" for name in ("trial", "rival")]
    (info / "entry_points.txt").write_text("\n".join(["[mavis.objectives]", *lines, ""]))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        yield folder


@pytest.fixture(scope="session")
def tiny_folder(
    tmp_path_factory: pytest.TempPathFactory, build_reference: Callable[..., ReferencePolicy]
) -> Path:
    """A folder with the tiny llama, `reference/`, and prompts for it, `prompts/`."""
    folder = tmp_path_factory.mktemp("tiny")
    reference = build_reference()
    reference.model.save_pretrained(folder / "reference")
    reference.tokenizer.save_pretrained(folder / "reference")
    (folder / "prompts").mkdir()
    for split, count in (("train", 10), ("validation", 5), ("test", 4)):
        mark = split[-1]
        lines = [json.dumps({"prompt": f"a {mark}{'um' * at} is"}) for at in range(count)]
        (folder / "prompts" / f"{split}.jsonl").write_text("\n".join(lines))
    return folder


@pytest.fixture(scope="session")
def fit_words(tiny_folder: Path, plugin: Path) -> Callable[..., list[str]]:  # noqa: ARG001
    """`fit_words(out, "--data.eta", "1")`: a fit of seconds; words given later win."""

    def build(out: Path, *more: str, command: str = "fit") -> list[str]:
        settings = {
            "reference": tiny_folder / "reference",
            "prompts": tiny_folder / "prompts",
            "rounds": 2,
            "epochs": 2,
            "trees": 4,
            "first_branching": [3, 2],
            "branching": [2, 2],
            "max_tokens": 8,
            "top_k": 12,
            "rows": 16,
            "batch_tokens": 64,
            "held_out": 5,
            "best_of": 4,
        }
        words = [command, "--objective", "trial", "--out", str(out)]
        words += [word for k, v in settings.items() for word in (f"--data.{k}", str(v))]
        quiet = ("logger", "enable_progress_bar")
        words += [word for name in quiet for word in (f"--trainer.{name}", "false")]
        return [*words, "--trainer.accelerator", "cpu", *more]

    return build


@pytest.fixture(scope="session")
def tiny_fit(tmp_path_factory: pytest.TempPathFactory, fit_words: Callable[..., list[str]]) -> Path:
    """The folder of a fit of two rounds. Shared by all tests: copy it to change it.

    What the command said is in `said.txt`.
    """
    folder = tmp_path_factory.mktemp("runs") / "trial"
    with redirect_stdout(StringIO()) as said, torch.random.fork_rng():
        status = main(fit_words(folder))
    assert status == 0
    (folder / "said.txt").write_text(said.getvalue())
    return folder
