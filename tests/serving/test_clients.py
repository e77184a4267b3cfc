"""Clients that others have written, as they are: LangChain, and an evaluation harness."""

import json
import os
import subprocess
import sys

import pytest

WEIGHTS = {"humor": 1.0, "kind": -0.5}
PROMPT = "an um"


@pytest.fixture
def model(served):
    from langchain_openai import ChatOpenAI

    return ChatOpenAI(
        base_url=served.v1,
        api_key="none",
        model="mavis",
        temperature=1.0,
        max_tokens=8,
        seed=3,
        extra_body={"weights": WEIGHTS, "beta": 2.0},
    )


def wanted(served, prompt=PROMPT, seed=3):
    """What the policy itself answers."""
    chat = [{"role": "user", "content": prompt}]
    (answer,) = served.policy.generate([chat], WEIGHTS, 2.0, max_tokens=8, seed=seed)
    return answer.text


def test_langchain_asks(model, served):
    reply = model.invoke(PROMPT)
    assert reply.content == wanted(served)
    assert reply.usage_metadata["output_tokens"] > 0


def test_langchain_streams(model, served):
    chunks = list(model.stream(PROMPT))
    assert len(chunks) > 2
    assert "".join(chunk.content for chunk in chunks) == wanted(served)


def test_langchain_asks_at_once(model, served):
    prompts = [PROMPT, "a num", "a tum is"]
    replies = model.batch(prompts)
    assert [reply.content for reply in replies] == [wanted(served, p) for p in prompts]


@pytest.fixture
def harness(served, tmp_path):
    """`harness(kind, place, output, *words, **task)`: the samples of a task of one's own."""
    rows = [
        {"question": "a tum is", "choices": ["an um", "um um"], "label": 0},
        {"question": "an um", "choices": ["a num", "is"], "label": 1},
    ]
    data = tmp_path / "toy.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def run(kind, place, *words, **task):
        how = {
            "task": "toy",
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(data)}},
            "test_split": "test",
            "doc_to_text": "{{question}}",
            **task,
        }
        (tmp_path / "toy.yaml").write_text(json.dumps(how))  # JSON is YAML
        arguments = {"base_url": f"{served.v1}/{place}", "num_concurrent": 2, "max_length": 40}
        arguments |= {"model": "mavis:humor=1", "max_gen_toks": 6}
        named = ",".join(f"{name}={value}" for name, value in arguments.items())
        command = [sys.executable, "-m", "lm_eval", "run", "--model", kind, "--model_args", named]
        command += ["--tasks", "toy", "--include_path", str(tmp_path), "--log_samples"]
        command += ["--output_path", str(tmp_path / "out"), *words]
        offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home"), "OPENAI_API_KEY": "x"}
        done = subprocess.run(command, env=os.environ | offline, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
        (file,) = (tmp_path / "out").rglob("samples_toy*.jsonl")
        samples = [json.loads(line) for line in file.read_text().splitlines()]
        return sorted(samples, key=lambda sample: sample["doc_id"])

    return run


def test_likelihoods_of_a_harness_are_those_of_score(harness, served, scored):
    choices = {"output_type": "multiple_choice", "doc_to_choice": "{{choices}}"}
    samples = harness("local-completions", "completions", **choices, doc_to_target="label")
    encode = served.policy.reference.continued
    for sample in samples:
        for choice, answer in zip(sample["doc"]["choices"], sample["resps"], strict=True):
            question = sample["doc"]["question"]
            context, whole = encode(question), encode(f"{question} {choice}")
            log_prob = scored(served.policy, whole, {"humor": 1.0})[len(context) - 1 :]
            assert float(answer[0][0]) == pytest.approx(sum(log_prob), abs=1e-5)


def test_a_harness_asks_for_chats(harness, served):
    how = {"output_type": "generate_until", "doc_to_target": "", "generation_kwargs": {"until": []}}
    samples = harness("local-chat-completions", "chat/completions", "--apply_chat_template", **how)
    for sample in samples:
        chat = [{"role": "user", "content": sample["doc"]["question"]}]
        (answer,) = served.policy.generate([chat], {"humor": 1.0}, max_tokens=6, temperature=0)
        assert sample["resps"][0][0].strip() == answer.text.strip()
