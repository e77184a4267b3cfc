"""Guidance inside vLLM: what needs no engine here, and the engine itself by `make test-vllm`."""

import json
import socket
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import mavis
from mavis.cli.main import main
from mavis.decoding.decode import decode
from mavis.decoding.loading import load
from mavis.decoding.model_card import ModelCard
from mavis.decoding.reference import ReferencePolicy
from mavis.decoding.request import Request, SamplingParams, row_settings
from mavis.decoding.value_model import build_network
from mavis.integrations.vllm import command, plugin
from mavis.integrations.vllm.asked import Asked, read
from mavis.integrations.vllm.shared import SharedTilt, embedding_table, folders
from mavis.reward import Units

OBJECTIVES = ("humor", "helpfulness")
MODEL = str(Path(mavis.__file__).parent / "sandbox" / "assets" / "reference")
WEIGHTS = [
    {"humor": 1.0},
    {"humor": -1.0, "helpfulness": 2.0},
    {"helpfulness": -0.5},
    {"humor": 0.3, "helpfulness": 0.3},
]
BETAS, TOP_KS = (0.5, 1.0, 2.0, 4.0), (5, 40, 1024, 0)


def save(folder, source="shared", layers=()):
    """A value model of the sandbox's reference, with random values."""
    reference = ReferencePolicy.load(MODEL, None, "cpu")
    card = ModelCard(
        source=source,
        objectives=OBJECTIVES,
        units=(Units(0.0, 1.0),) * 2,
        reference=reference.name,
        fingerprint=reference.fingerprint,
        eta=0.5,
        layers=layers,
        head_width=8 if source == "shared" else 0,
    )
    network = build_network(card, reference)
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for part in network.head.parameters():
            part.copy_(0.05 * torch.randn(part.shape, generator=random))
    network.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def value(tmp_path_factory):
    return save(tmp_path_factory.mktemp("shared") / "value")


@pytest.fixture(scope="module")
def policy(value):
    return load([value], MODEL, "cpu")


def asking(extra=None, **settings):
    return SimpleNamespace(extra_args=extra, **settings)


@pytest.mark.parametrize("last", [False, True])
def test_the_tilt_is_the_policys(tmp_path, last):
    """On the engine's logits and states, with settings of its own for each row."""
    place = save(tmp_path / "value", layers=(4,) if last else ())
    policy = load([place], MODEL, "cpu")
    guided = SharedTilt(dict.fromkeys(OBJECTIVES, place), MODEL, torch.device("cpu"))
    prompts = [f"How do I {verb}?" for verb in ("sing", "run", "cook")]
    ids = [policy.reference.encode(prompt).tokens for prompt in prompts]
    rows = [SamplingParams((1.0, -0.5), 2.0, 0.7, 12), SamplingParams((0.0, 3.0), 0.5, 1.3, 0)]
    rows.append(SamplingParams((-1.0, 0.0), 4.0, 0.0, 5))
    run = policy.reference.model
    outputs = [run(torch.tensor([row]), output_hidden_states=True) for row in ids]
    logits = torch.cat([one.logits[:, -1] for one in outputs])
    hidden = torch.cat([one.hidden_states[-1][:, -1] for one in outputs])
    settings = row_settings(rows, policy.reference.vocabulary, torch.device("cpu"))
    found = guided(logits, hidden, settings) / settings.temperature[:, None]
    for at, row in enumerate(rows):
        weights = dict(zip(OBJECTIVES, row.weights, strict=True))
        how = {"temperature": row.temperature, "top_k": row.top_k}
        for token in found[at].topk(4).indices.tolist():
            (score,) = policy.score([prompts[at]], [[token]], weights, row.beta, **how)
            assert float(found[at, token]) == pytest.approx(score.log_prob[0], abs=1e-4)
        assert float(found[at].exp().sum()) == pytest.approx(1, abs=1e-5)


def test_the_embeddings_alone_are_read(policy):
    wanted = policy.reference.model.get_input_embeddings().weight
    assert torch.equal(embedding_table(Path(MODEL)), wanted)


def test_the_strength_is_the_policys(value, policy):
    guided = SharedTilt(dict.fromkeys(OBJECTIVES, value), MODEL, torch.device("cpu"))
    (request,) = policy.requests("?", {"humor": 1.0})
    assert guided.strength((1.0, 0.0)) == request.sampling.beta


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"source": "action"}, r"reads `action` values: vLLM carries `shared` values"),
        ({"layers": (2,)}, "reads earlier layers"),
    ],
)
def test_what_an_engine_cannot_carry_is_named(tmp_path, how, message):
    place = save(tmp_path / "value", **how)
    with pytest.raises(ValueError, match=message):
        SharedTilt({"humor": place}, MODEL, torch.device("cpu"))


def test_an_objective_that_a_value_model_has_not(value):
    with pytest.raises(ValueError, match="has no values of kind, but of humor, helpfulness"):
        SharedTilt({"kind": value}, MODEL, torch.device("cpu"))


def test_values_are_named_by_the_environment(value, monkeypatch):
    monkeypatch.setenv("MAVIS_VALUES", json.dumps({"humor": value}))
    assert folders() == {"humor": value}
    for wrong in ("", "[1]", "{"):
        monkeypatch.setenv("MAVIS_VALUES", wrong)
        with pytest.raises(ValueError, match="MAVIS_VALUES must name value models"):
            folders()


def test_without_values_the_plugin_does_nothing(monkeypatch):
    monkeypatch.delenv("MAVIS_VALUES", raising=False)
    plugin.keep_states()
    assert "mavis.integrations.vllm.engine" not in sys.modules  # and so nothing of vLLM's


def test_what_a_request_asks_for():
    extra = {"weights": "humor=1, helpfulness=-.5", "beta": 3, "top_k": 7.0}
    assert read(asking(extra), OBJECTIVES) == Asked((1.0, -0.5), 3, 7)
    assert read(asking({"weights": "helpfulness=1"}), OBJECTIVES).weights == (0.0, 1.0)
    assert read(asking(), OBJECTIVES) == Asked((0.5, 0.5), None, 40)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        (asking({"weights": "humour=1"}), "humour"),
        (asking({"weights": "humor=nan"}), "the weight of humor must be"),
        (asking({"weights": "humor"}), "'humor' must be NAME=X,NAME=X"),
        (asking({"weights": 1.0}), "must be text, like humor=1"),
        (asking({"beta": "2"}), "beta in vllm_xargs must be a number, got '2'"),
        (asking({"beta": 1e9}), "must be at most 10000"),
        (asking({"top_k": 2.5}), "must be a whole number"),
        (asking({"temperatur": 1}), "vllm_xargs knows weights, beta, top_k, got 'temperatur'"),
        (asking(top_k=5), "top_k 5 would change the guided policy: leave it out, or give it in"),
        (asking(top_p=0.9), r"top_p 0\.9 would change the guided policy: leave it out\."),
        (asking(presence_penalty=0.5), r"presence_penalty 0\.5 would change"),
    ],
)
def test_what_cannot_be_honoured_is_named(params, message):
    with pytest.raises(ValueError, match=message):
        read(params, OBJECTIVES)


# The command


@pytest.fixture
def vllm_there(monkeypatch):
    monkeypatch.setattr(command, "find_spec", lambda _: object())


@pytest.mark.usefixtures("vllm_there")
def test_the_command_line(value):
    values = dict.fromkeys(OBJECTIVES, value)
    server = command.Server(values, port=81, keys=("secret",), rows=7, longest=99)
    server.check()
    words = server.command
    options = dict(zip(words[3::2], words[4::2], strict=True))
    assert words[1:3] == ["-m", "vllm.entrypoints.openai.api_server"]
    assert options["--model"] == MODEL
    assert options["--logits-processors"] == "mavis.integrations.vllm.engine:GuidedLogits"
    assert (options["--host"], options["--port"]) == ("127.0.0.1", "81")
    assert (options["--max-num-seqs"], options["--max-model-len"]) == ("7", "99")
    assert not any("secret" in word for word in words)  # everybody may list processes
    assert server.environment["VLLM_API_KEY"] == "secret"
    assert json.loads(server.environment["MAVIS_VALUES"]) == values


class Engine:
    """Answers as vLLM's server does, and maybe as another policy."""

    def __init__(self, policy, sign=1.0):
        self.policy, self.sign, self.asked = policy, sign, []

    def tokens(self, prompt, extra):
        name, weight = extra["weights"].split("=")
        self.asked.append(name)
        (one,) = self.policy.requests("?", {name: self.sign * float(weight)}, top_k=10)
        request = Request(prompt, 12, replace(one.sampling, temperature=0.0), ("engine",))
        (output,) = decode(self.policy.reference, self.policy.guides, [request])
        return output.tokens


@pytest.mark.parametrize("sign", [1.0, 0.0])
def test_an_engine_that_is_guided_otherwise_is_found_out(value, policy, monkeypatch, capsys, sign):
    server = command.Server(dict.fromkeys(OBJECTIVES, value))
    engine = Engine(policy, sign)
    monkeypatch.setattr(command.Server, "_tokens", lambda _, *asked: engine.tokens(*asked))
    wrong = server._differing()
    if sign:
        assert wrong == ""
        assert len(engine.asked) == 8
        assert "vLLM's guided answers are ours" in capsys.readouterr().err
    else:
        assert "vLLM answers 'Tell me about rice.' otherwise than mavis does" in wrong


@pytest.mark.usefixtures("vllm_there")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "vLLM must be told which values: give --values.NAME FOLDER"),
        (("--preset.warm", "{humor: 1}"), "--preset is of mavis's own server"),
        (("--device", "cpu"), "--device is of mavis's own server"),
        (("--drain", "5"), "--drain is of mavis's own server"),
        (("--max_waiting", "9"), "--max_waiting is of mavis's own server"),
    ],
)
def test_what_vllm_cannot_be_told(capsys, words, message):
    assert main(["serve", "--engine", "vllm", *words]) == 2
    assert message in capsys.readouterr().err


def test_without_vllm_a_line_says_so(value, capsys):
    if command.find_spec("vllm"):
        pytest.skip("vLLM is here")
    assert main(["serve", "--engine", "vllm", "--values.humor", value]) == 1
    assert "there is no vLLM in this environment: pip install vllm" in capsys.readouterr().err


@pytest.mark.usefixtures("vllm_there")
def test_a_port_in_use_is_said_before_it_starts(value, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        words = ["serve", "--engine", "vllm", "--values.humor", value, "--port", port]
        assert main(words) != 0
    assert port in capsys.readouterr().err


@pytest.mark.usefixtures("vllm_there")
def test_values_that_an_engine_cannot_carry_are_refused_before_it_starts(tmp_path, capsys):
    place = save(tmp_path / "value", source="action")
    assert main(["serve", "--engine", "vllm", "--values.humor", place]) == 2
    assert "vLLM carries `shared` values of the last state" in capsys.readouterr().err


# The engine itself


@pytest.fixture(scope="module")
def engine(value):
    """vLLM with few blocks, so that it must put requests off and take them up again."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MAVIS_VALUES", json.dumps(dict.fromkeys(OBJECTIVES, value)))
        patch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        patch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
        patch.setenv("VLLM_CPU_OMP_THREADS_BIND", "nobind")
        from vllm import LLM

        yield LLM(
            MODEL,
            dtype="float32",
            max_model_len=128,
            enforce_eager=True,
            max_num_batched_tokens=64,
            max_num_seqs=24,
            block_size=32,
            num_gpu_blocks_override=16,
            disable_log_stats=False,
            logits_processors=["mavis.integrations.vllm.engine:GuidedLogits"],
        )


def mixed(policy, count):
    """Prompts with unlike weights, strengths and candidates: ours, and vLLM's parameters."""
    from vllm import SamplingParams as Theirs

    verbs = ("cook rice", "fix my old bike", "write a letter", "plant a tree", "sing")
    for at in range(count):
        prompt = f"How do I {verbs[at % 5]}?"
        weights, beta, top_k = WEIGHTS[at % 4], BETAS[at // 4 % 4], TOP_KS[at // 16 % 4]
        extra = {"weights": ",".join(f"{name}={w}" for name, w in weights.items())}
        extra |= {"beta": beta, "top_k": top_k}
        theirs = Theirs(temperature=0, max_tokens=40 + at % 50, extra_args=extra)
        ids = policy.reference.encode(prompt).tokens
        yield prompt, weights, beta, top_k, theirs, {"prompt_token_ids": ids}


@pytest.mark.vllm
def test_greedy_tokens_are_ours_through_preemptions(engine, policy):
    asked = list(mixed(policy, 64))
    outputs = engine.generate([one[-1] for one in asked], [one[-2] for one in asked])
    preemptions = next(m for m in engine.get_metrics() if m.name == "vllm:num_preemptions")
    assert preemptions.value >= 10
    for (prompt, weights, beta, top_k, theirs, _), output in zip(asked, outputs, strict=True):
        how = {"temperature": 0, "top_k": top_k, "max_tokens": theirs.max_tokens}
        (wanted,) = policy.generate([prompt], weights, beta, **how)
        assert list(output.outputs[0].token_ids) == wanted.tokens


@pytest.mark.vllm
def test_samples_have_our_log_probabilities(engine, policy):
    """The log-ratio of what it samples is, in the mean, the exact KL of our policy."""
    from vllm import SamplingParams as Theirs

    weights, beta, top_k, temperature = {"humor": 1.0, "helpfulness": -0.5}, 2.0, 12, 0.8
    extra = {"weights": "humor=1,helpfulness=-0.5", "beta": beta, "top_k": top_k}
    theirs = Theirs(temperature=temperature, max_tokens=24, n=64, extra_args=extra)
    prompt = "How do I cook rice?"
    ids = policy.reference.encode(prompt).tokens
    (output,) = engine.generate([{"prompt_token_ids": ids}], theirs)
    tokens = [list(one.token_ids) for one in output.outputs]
    how = {"temperature": temperature, "top_k": top_k}
    scores = policy.score([prompt] * len(tokens), tokens, weights, beta, **how)
    ratio = sum(sum(s.log_prob) - sum(s.log_ref) for s in scores)
    assert ratio == pytest.approx(sum(sum(s.kl) for s in scores), rel=0.15)


@pytest.mark.vllm
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"extra_args": {"weights": "humour=1"}}, "humour"),
        ({"top_k": 5}, "top_k 5 would change the guided policy"),
    ],
)
def test_the_engine_refuses_by_name(engine, settings, message):
    from vllm import SamplingParams as Theirs
    from vllm.exceptions import VLLMValidationError

    with pytest.raises(VLLMValidationError, match=message):
        engine.generate([{"prompt_token_ids": [5]}], Theirs(max_tokens=2, **settings))
