"""`mavis tune`, on a tiny model: what it makes, what it tells TRL, and how it goes on."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mavis.baselines.policy_card import TunedCard
from mavis.baselines.policy_guides import mod
from mavis.baselines.train import tune as tune_module
from mavis.baselines.train.config import TuneConfig
from mavis.baselines.train.run import last_checkpoint
from mavis.cli.tune import tune
from mavis.comparison.checkpoints import Models
from mavis.comparison.config import ParetoConfig
from mavis.comparison.methods import open_method
from mavis.comparison.preferences import as_option
from mavis.comparison.setting import Setting
from mavis.decoding.policy import GuidedPolicy
from mavis.decoding.prompt_filter import fitting_prompts
from mavis.decoding.reference import ReferencePolicy
from mavis.evaluation.evaluate import evaluate
from mavis.objective import find
from mavis.prompts import digest

pytest.importorskip("trl")

Tune = Callable[..., Path]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tracking store for all of these tests: making one takes seconds."""
    return f"sqlite:///{(tmp_path_factory.mktemp('store') / 'mlflow.db').as_posix()}"


@pytest.fixture
def tiny_tune(tiny_folder: Path, plugin: Path, tmp_path: Path, store: str) -> Tune:  # noqa: ARG001
    """`tiny_tune("rloo", eta=1)`: a training of seconds; the folder of its policy."""

    def run(method: str = "rloo", **more: Any) -> Path:
        settings = {
            "objectives": "trial",
            "reference": str(tiny_folder / "reference"),
            "prompts": str(tiny_folder / "prompts"),
            "out": str(tmp_path / "runs" / "tuned"),
            "steps": 2,
            "batch": 4,
            "generations": 2,
            "max_tokens": 6,
            "rows": 8,
            "held_out": 4,
            "best_of": 4,
            "lr": 1e-2,
            "tracking": store,
        }
        tune(TuneConfig(method=method, **(settings | more)))
        out = Path(str((settings | more)["out"]))
        return max(out.glob(f"{method}*"), key=lambda folder: folder.stat().st_mtime)

    return run


@pytest.mark.parametrize("method", ["rloo", "grpo", "dpo"])
def test_each_method_makes_a_policy_that_loads(method, tiny_tune, tiny_folder, capsys):
    folder = tiny_tune(method)
    policy = ReferencePolicy.load(str(folder))
    assert policy.ends == ReferencePolicy.load(str(tiny_folder / "reference")).ends
    assert GuidedPolicy(policy).generate(["a tum"], max_tokens=4)[0].tokens
    before = ReferencePolicy.load(str(tiny_folder / "reference")).model.state_dict()
    after = policy.model.state_dict()
    assert any(not before[name].equal(after[name]) for name in before)
    card = TunedCard.read(folder)
    assert (card.method, card.objectives, card.weights, card.lora) == (
        method,
        ("trial",),
        (1.0,),
        False,
    )
    assert {"reward", "reward_se", "kl", "trial"} <= set(card.measured)
    assert card.cpu_seconds > 0
    assert not (folder / "checkpoints").exists()
    assert not list(folder.rglob("*.bin")) + list(folder.rglob("*.pt*"))
    assert (folder / "README.md").is_file()
    assert capsys.readouterr().out.startswith(f"policy   {folder}\nmeasured reward")


def test_sft_learns_the_replies_it_is_given(tiny_tune, tmp_path):
    file = tmp_path / "said.jsonl"
    rows = [{"prompt": f"a tum{'um' * at}", "response": "is mine"} for at in range(12)]
    file.write_text("\n".join(map(json.dumps, rows)))
    folder = tiny_tune("sft", objectives="", prompts=str(file), steps=30, batch=8, lr=3e-2)
    answers = GuidedPolicy(ReferencePolicy.load(str(folder))).generate(["a tumum"], n=8)
    assert sum(answer.text == "is mine" for answer in answers) >= 6
    assert TunedCard.read(folder).objectives == ()


# peft reads an attribute that newer transformers have under another name.
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")
def test_an_adapter_is_saved_as_one(tiny_tune, tiny_folder):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tiny_tune("rloo", lora=True)
    assert folder.name == "rloo-trial-lora"
    assert (folder / "adapter_model.safetensors").is_file()
    assert not (folder / "model.safetensors").exists()
    base = AutoModelForCausalLM.from_pretrained(tiny_folder / "reference")
    count = sum(p.numel() for p in base.parameters())
    model = PeftModel.from_pretrained(base, folder)
    assert model.peft_config["default"].r == 16
    assert AutoTokenizer.from_pretrained(folder).eos_token == "<end>"
    card = TunedCard.read(folder)
    assert card.lora
    assert 0 < card.parameters < count


def test_prompts_are_those_of_the_training_split(tiny_tune):
    card = TunedCard.read(tiny_tune("grpo", steps=4))
    known = {digest(f"a n{'um' * at} is") for at in range(10)}
    assert len(card.prompts) == 8  # 4 steps · 4 answers / 2 per prompt
    assert set(card.prompts) <= known


def test_a_finished_policy_is_not_trained_again(tiny_tune, monkeypatch, capsys):
    folder = tiny_tune("rloo")
    before = (folder / "model.safetensors").stat().st_mtime_ns
    capsys.readouterr()
    monkeypatch.setattr("mavis.baselines.train.tune.train", None)
    assert tiny_tune("rloo") == folder
    output = capsys.readouterr().out
    assert output.startswith(f"{folder} is finished: reward ")
    assert output.count("\n") == 1
    assert (folder / "model.safetensors").stat().st_mtime_ns == before


@pytest.mark.parametrize("lora", [False, True])
def test_a_flipped_bit_in_a_policy_is_named_wherever_it_is_used(lora, tiny_tune, tiny_folder):
    folder = tiny_tune("rloo", lora=lora)
    weights = folder / ("adapter_model.safetensors" if lora else "model.safetensors")
    assert weights.stat().st_mode == (folder / "README.md").stat().st_mode
    content = bytearray(weights.read_bytes())
    content[-2] ^= 64
    weights.write_bytes(content)
    reference = ReferencePolicy.load(str(tiny_folder / "reference"))
    with pytest.raises(ValueError, match=rf"{weights} is damaged or was changed"):
        mod(reference, {"trial": folder})
    with pytest.raises(ValueError, match=r"remove .*/tuned\.json, and `mavis tune` trains it"):
        tiny_tune("rloo", lora=lora)
    (folder / "tuned.json").unlink()
    tiny_tune("rloo", lora=lora)
    mod(reference, {"trial": folder})
    for file in (folder / "SHA256SUMS", folder / ".tuned.json.sha256"):  # as they were once
        file.unlink()
    mod(reference, {"trial": folder})
    assert TunedCard.read(folder).lora is lora


def test_other_settings_are_refused(tiny_tune):
    tiny_tune("rloo")
    with pytest.raises(ValueError, match=r"holds a policy with eta = 0.5, not 1.0: give another"):
        tiny_tune("rloo", eta=1.0)


def test_a_reference_with_other_weights_is_another_one(tiny_tune, monkeypatch):
    tiny_tune("rloo")
    monkeypatch.setattr(ReferencePolicy, "weights_digest", "others")
    with pytest.raises(ValueError, match=r"policy with other reference weights: give another"):
        tiny_tune("rloo")


class Killed(Exception):  # noqa: N818
    pass


@pytest.mark.parametrize("method", ["rloo", "grpo", "dpo"])
def test_a_killed_training_goes_on_and_comes_to_the_same(method, tiny_tune, tmp_path, monkeypatch):
    from safetensors.torch import load_file

    from mavis.baselines.train.run import TrainingWatch

    whole = load_file(
        tiny_tune(method, steps=8, out=str(tmp_path / "a" / "t")) / "model.safetensors"
    )
    steps: list[int] = []
    usual = TrainingWatch.on_step_end

    def counted(self, args, state, control, **more):
        steps.append(state.global_step)
        usual(self, args, state, control, **more)
        if len(steps) == 5:
            raise Killed

    monkeypatch.setattr(TrainingWatch, "on_step_end", counted)
    with pytest.raises(Killed):
        tiny_tune(method, steps=8, out=str(tmp_path / "b" / "t"))
    folder = tmp_path / "b" / "t" / f"{method}-trial"
    with pytest.raises(FileNotFoundError):
        TunedCard.read(folder)
    with pytest.raises(ValueError, match=r"holds a policy with lr = 0.01, not 0.02"):
        tiny_tune(method, steps=8, lr=0.02, out=str(tmp_path / "b" / "t"))
    tiny_tune(method, steps=8, out=str(tmp_path / "b" / "t"))
    assert steps == [1, 2, 3, 4, 5, 5, 6, 7, 8]  # a checkpoint is written behind the callback
    resumed = load_file(folder / "model.safetensors")
    assert all(torch.allclose(whole[name], resumed[name], atol=1e-5) for name in whole)
    assert not (folder / "run.json").exists()


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt", "trainer_state.json"])
def test_a_damaged_checkpoint_is_named_and_its_steps_made_again(name, tmp_path, tiny_lm):
    """Truncated, as a full disk leaves it, or with a bit flipped where there is a checksum."""
    for number in (5, 10):
        folder = tmp_path / "checkpoints" / f"checkpoint-{number}"
        tiny_lm().save_pretrained(folder)
        torch.save({"step": torch.ones(100)}, folder / "optimizer.pt")
        (folder / "trainer_state.json").write_text(json.dumps({"global_step": number}))
    assert last_checkpoint(tmp_path) == str(folder)
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: len(content) // 2])
    with pytest.warns(UserWarning, match=f"{folder / name} is damaged"):
        assert last_checkpoint(tmp_path) == str(folder.with_name("checkpoint-5"))
    assert not folder.exists()


def test_a_flipped_bit_is_seen_where_there_is_a_checksum(tmp_path):
    folder = tmp_path / "checkpoints" / "checkpoint-3"
    folder.mkdir(parents=True)
    torch.save({"step": torch.ones(100)}, folder / "optimizer.pt")
    (folder / "trainer_state.json").write_text("{}")
    content = bytearray((folder / "optimizer.pt").read_bytes())
    at = content.index(torch.ones(100).numpy().tobytes()) + 50
    content[at] ^= 1
    (folder / "optimizer.pt").write_bytes(content)
    with pytest.warns(UserWarning, match=r"optimizer\.pt is damaged"):
        assert last_checkpoint(tmp_path) is None


@pytest.mark.parametrize("pad", [None, "<end>"])
@pytest.mark.parametrize("method", ["rloo", "grpo", "dpo", "sft"])
def test_models_without_a_padding_token_of_their_own(method, pad, tiny_tune, tiny_folder, tmp_path):
    """As base models have it: no chat template, so that replies end at the human's next turn."""
    reference = ReferencePolicy.load(str(tiny_folder / "reference"))
    reference.tokenizer.pad_token = pad
    for config in (reference.model.config, reference.model.generation_config):
        config.pad_token_id = pad and 0
    reference.model.save_pretrained(tmp_path / "base")
    reference.tokenizer.save_pretrained(tmp_path / "base")
    lines = [{"chosen": f"\n\nHuman: a {'um' * n}?\n\nAssistant: It is."} for n in range(24)]
    (tmp_path / "hh.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    more = {} if method != "sft" else {"objectives": ""}
    given = {"reference": str(tmp_path / "base"), "prompts": str(tmp_path / "hh.jsonl"), "steps": 1}
    policy = ReferencePolicy.load(str(tiny_tune(method, **given, **more)))
    assert policy.tokenizer.pad_token == pad  # as it was
    assert policy.ends == reference.ends


def test_a_model_that_never_ends_is_refused_at_once(tiny_tune, tiny_folder, tmp_path, monkeypatch):
    reference = ReferencePolicy.load(str(tiny_folder / "reference"))
    reference.tokenizer.eos_token = None
    for config in (reference.model.config, reference.model.generation_config):
        config.eos_token_id = None
    reference.model.save_pretrained(tmp_path / "base")
    reference.tokenizer.save_pretrained(tmp_path / "base")
    monkeypatch.setattr("mavis.baselines.train.setup.evaluate", None)
    with pytest.raises(ValueError, match=f"{tmp_path / 'base'} has no end-of-text token"):
        tiny_tune("rloo", reference=str(tmp_path / "base"))


def test_killed_while_it_is_measured_it_does_not_train_again(tiny_tune, monkeypatch):
    def dies(*_, **__):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("mavis.baselines.train.tune.PolicyTrainer._measure", dies)
        with pytest.raises(Killed):
            tiny_tune("grpo", steps=3)
    monkeypatch.setattr("mavis.baselines.train.run.TrainingWatch.on_step_end", dies)
    card = TunedCard.read(tiny_tune("grpo", steps=3))
    assert card.measured["kl"] > 0


def test_the_price_of_kl_is_in_deviations_of_the_weighted_reward(tiny_tune, monkeypatch):
    """Two objectives that are one and the same: half and half is that one again."""
    asked = {}
    train = tune_module.train

    def spy(config, data, folder, watch):
        asked[tuple(reward.weight for reward in data.rewards)] = config.eta
        return train(config, data, folder, watch)

    monkeypatch.setattr(tune_module, "train", spy)
    tiny_tune("rloo", objectives="trial,rival", weights="trial=0.5,rival=0.5;trial=2,rival=0")
    assert asked[0.5, 0.5] == pytest.approx(0.5, rel=1e-5)  # their reward is the same function
    assert asked[(2.0,)] == pytest.approx(2 * 0.5, rel=1e-5)


def test_weights_that_cancel_each_other_are_refused(tiny_tune):
    with pytest.raises(ValueError, match="weighted reward of trial and rival is constant: nothing"):
        tiny_tune("rloo", objectives="trial,rival", weights="trial=1,rival=-1")


def test_a_policy_is_measured_on_other_draws_than_its_units(tiny_tune, monkeypatch):
    seeds = []

    def spy(*given, seed, **more):
        seeds.append(seed)
        return evaluate(*given, seed=seed, **more)

    monkeypatch.setattr("mavis.baselines.train.setup.evaluate", spy)
    tiny_tune("rloo", seed=3)
    assert seeds == [3, 4]


@pytest.mark.parametrize("lora", [False, True])
def test_a_tuned_policy_has_one_kl_whoever_reports_it(lora, tiny_tune, tiny_folder):
    """That of `mavis tune` is the one of MORLHF in `mavis pareto`, and so are the rewards."""
    folder = tiny_tune("rloo", lora=lora, steps=4)
    card = TunedCard.read(folder)
    reference = ReferencePolicy.load(str(tiny_folder / "reference"))
    prompts = fitting_prompts(reference, str(tiny_folder / "prompts"), "validation", None, 6, 0)
    config = ParetoConfig(seeds=2, best_of=4, max_tokens=6, rows=8)
    setting = Setting(reference, (find("trial"),), prompts[:4], config)
    names, weights = ("trial",), (1.0,)
    places = {as_option(weights, names): folder}
    method = open_method("morlhf", reference, names, Models(""), places)
    assert method.strength == 1.0
    point = setting.point("morlhf", weights, 1.0, lambda _: method.open(weights))
    same = point.only(1)  # what is tuned under seed 0 is measured under seed 1
    assert card.measured["kl"] == pytest.approx(same.kl.mean(), abs=1e-5)
    assert card.measured["trial"] == pytest.approx(same.mean_rewards(card.units)["trial"], abs=1e-5)
    assert card.measured["length"] == same.summary["length"]
    assert card.measured["kl"] > 1e-4


def test_a_grid_trains_a_policy_for_each_vector(tiny_tune, tmp_path, capsys):
    tiny_tune("dpo", objectives="trial,rival", weights="grid:0.5", steps=1)
    folders = sorted(folder.name for folder in (tmp_path / "runs" / "tuned").iterdir())
    assert folders == ["dpo-rival", "dpo-trial", "dpo-trial0.5_rival0.5"]
    assert "trial " in capsys.readouterr().out
    assert TunedCard.read(tmp_path / "runs" / "tuned" / "dpo-rival").objectives == ("rival",)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"objectives": "humour"}, "no objective 'humour' \\(did you mean 'humor'\\?\\)"),
        ({"objectives": ""}, "objectives must be named: add --objectives"),
        (
            {"objectives": "trial,trial"},
            "objectives must not contain duplicates, got trial, trial",
        ),
        ({"weights": "humor=1"}, "weights must have the columns trial; humor=1 has humor"),
        ({"weights": "trial"}, "weights must be grid:STEP, .* there is no file 'trial'"),
        ({"weights": "trial=x"}, "weights must be finite numbers, got .*'x'"),
        ({"weights": "trial=0"}, "weights must not all be 0"),
        (
            {"weights": "grid:0.3"},
            "weights: the step of a grid must divide 1, as 0.1 does, got 0.3",
        ),
        ({"method": "ppo"}, "method must be one of rloo, grpo, dpo, sft, got 'ppo'"),
        ({"method": "sft"}, "objectives must be left out for sft"),
        (
            {"divergence": "jsd"},
            "divergence can only be chosen for dpo: rloo always uses reverse_kl",
        ),
        ({"method": "dpo", "divergence": "alpha"}, "the alpha divergence needs an alpha in"),
        (
            {"alpha": 0.5},
            r"only used with the alpha divergence \(got divergence=reverse_kl, alpha=0.5\)",
        ),
        ({"method": "dpo", "divergence": "alpha", "alpha": 2.0}, r"alpha must be in \[0, 1\]"),
        ({"eta": 0.0}, "eta must be a positive number, got 0.0"),
        ({"lr": -1.0}, "lr must be a positive number, got -1.0"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"held_out": 1}, "held_out must be at least 2, got 1"),
        ({"generations": 1}, "generations must be at least 2 for rloo, got 1"),
        ({"generations": 3}, r"batch must be a multiple of generations \(3\) for rloo, got 4"),
        ({"method": "dpo", "generations": 3}, "generations must be an even number for dpo, got 3"),
        ({"method": "dpo", "batch": 3}, "batch must be even for dpo, got 3"),
        ({"device": "abacus"}, "device 'abacus' is not available here; there are: cpu"),
        ({"reference": "./nowhere"}, "reference './nowhere' is missing"),
        ({"prompts": "nowhere.jsonl"}, "there is no such file"),
        ({"max_tokens": 158}, "are longer than the reference's context of 160: shorten them"),
    ],
)
def test_bad_input_is_answered_in_a_line(options, message, tiny_tune):
    with pytest.raises((ValueError, LookupError, FileNotFoundError), match=message) as caught:
        tiny_tune(**({"method": "rloo"} | options))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("missing", "lora"), [("trl", False), ("peft", True)])
def test_a_missing_extra_is_named(missing, lora, tiny_tune, monkeypatch):
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name, *_: None if name == missing else object()
    )
    with pytest.raises(ImportError, match=rf'{missing} is not .*pip install "mavis\[baselines\]"'):
        tiny_tune("rloo", lora=lora)


@pytest.mark.parametrize(
    ("divergence", "alpha", "name", "order"),
    [
        ("forward_kl", None, "forward_kl", 0.5),
        ("jsd", None, "js_divergence", 0.5),
        ("alpha", 0.25, "alpha_divergence", 0.75),
    ],
)
def test_trl_is_told_the_divergence(divergence, alpha, name, order, tiny_tune, monkeypatch):
    given: list[Any] = []
    monkeypatch.setattr("trl.DPOTrainer.train", lambda self, **_: given.append(self.args))
    tiny_tune("dpo", divergence=divergence, alpha=alpha, eta=0.2)
    assert (given[0].f_divergence_type, given[0].beta) == (
        name,
        0.8,
    )  # 4 η: labels are four times as sharp
    if alpha is not None:  # TRL's exponent α' − 1 is MOD's −α
        assert given[0].f_alpha_divergence_coef == order


@pytest.mark.parametrize("method", ["rloo", "grpo"])
def test_trl_is_told_the_price_of_kl(method, tiny_tune, monkeypatch):
    given: list[Any] = []
    kind = f"trl.{method.upper()}Trainer.train"
    monkeypatch.setattr(kind, lambda self, **_: given.append(self))
    tiny_tune(method, eta=0.2)
    args = given[0].args
    assert args.beta == (0.2 if method == "rloo" else 0.1)  # η, and η·(1 − 1/2)
    assert args.gradient_accumulation_steps == args.steps_per_generation
    assert args.top_k == 0
    if method == "rloo":
        assert not args.normalize_advantages
    else:
        assert (args.loss_type, args.scale_rewards) == ("dr_grpo", "none")
        assert args.use_bias_correction_kl
    reference = ReferencePolicy.load(
        given[0].args.output_dir and str(given[0].ref_model.name_or_path)
    )
    for row in given[0].train_dataset:
        tokens = given[0].processing_class(row["prompt"])["input_ids"]
        assert tokens == reference.encode(row["text"]).tokens
