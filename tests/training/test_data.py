"""The data module: rollouts disturb nothing, and every setting of it counts."""

import json
import math
from itertools import chain
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mavis.cli.main import main
from mavis.decoding.model_card import ModelCard
from mavis.decoding.value_model import build_network
from mavis.storage import Shards
from mavis.training.data import RolloutDataModule


@pytest.fixture
def make(tiny_folder, plugin, tmp_path):  # noqa: ARG001
    """`make(rank=0, size=1, **settings)`: a data module under as much of a trainer as it needs."""

    def build(rank=0, size=1, folder="run", **changes):
        settings = {"first_branching": (2, 2), "branching": (2, 2), "max_tokens": 8, "top_k": 12}
        settings |= {"trees": 4, "held_out": 4, "best_of": 4, "batch_tokens": 64}
        paths = {n: str(tiny_folder / n) for n in ("prompts", "reference")}
        data = RolloutDataModule(("trial",), **(paths | settings | changes))
        data.trainer = SimpleNamespace(
            default_root_dir=str(tmp_path / folder),
            lightning_module=None,
            strategy=SimpleNamespace(root_device=torch.device("cpu"), barrier=lambda *_: None),
            global_rank=rank,
            world_size=size,
            is_global_zero=rank == 0,
            progress_bar_callback=None,
        )
        data.setup("fit")
        names = {"reference": data.reference.name, "fingerprint": data.reference.fingerprint}
        card = ModelCard(source="action", objectives=("trial",), units=data.units, **names)
        network = build_network(card, data.reference)
        torch.nn.init.normal_(network.head.mix.weight, std=0.5)
        data.trainer.lightning_module = SimpleNamespace(network=network)
        return data

    return build


def test_bad_rows_are_skipped_and_counted_once(make, tmp_path, capsys):
    rows = [json.dumps(f"a tum {'is ' * n}".strip()) for n in range(30)]
    file = tmp_path / "prompts.jsonl"
    file.write_text("\n".join([*rows[:3], '[{"role": "tool", "content": "5"}]', *rows[3:]]))

    data = make(prompts=str(file), on_bad_row="skip")
    assert set(chain(*data.prompts.values())) <= set(map(json.loads, rows))
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "skipped" in line]
    assert f"mavis: 1 of 31 rows of {str(file)!r} were skipped, the first because" in line
    with pytest.raises(ValueError, match=r"in row 4 of .* --data\.on_bad_row skip"):
        make(prompts=str(file), folder="other")


def test_more_trees_than_prompts_are_as_many_as_prompts_and_that_is_said(make, tmp_path, capsys):
    file = tmp_path / "prompts.jsonl"
    file.write_text("\n".join(json.dumps(f"a tum {'is ' * n}".strip()) for n in range(30)))
    data = make(prompts=str(file), trees=40)
    count = len(data.prompts["train"])
    assert count < 30
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{count} training prompts: a round has as many trees, not 40" in line
    assert len(data._grow("train", 0)) == count
    make(prompts=str(file), trees=count, folder="enough")
    assert capsys.readouterr().err == ""


def tokens_of(loader):
    return [batch.tokens.tolist() for batch in loader]


def targets_of(loader):
    found = np.concatenate([batch.targets.numpy().flatten() for batch in loader])
    return sorted(found[np.isfinite(found)].tolist())


@pytest.mark.parametrize("round_", [0, 1])
@pytest.mark.parametrize("training", [True, False])
def test_rollouts_disturb_nothing(make, training, round_):
    data = make()
    data.round = round_
    network = data.trainer.lightning_module.network.train(training)
    network.head.eval()  # one part another way: it comes back as the whole was
    weights = {name: p.clone() for name, p in network.named_parameters()}
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()
    with torch.enable_grad():
        data.train_dataloader()
        data.evaluate(network, "validation", data.folder / "x", (1.0,))
        assert torch.is_grad_enabled()
    assert network.training == training
    assert network.trunk.training == training
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]
    assert all(torch.equal(weights[name], p) for name, p in network.named_parameters())
    assert all(p.requires_grad for p in network.parameters())
    assert all(p.grad is None for p in network.parameters())
    assert not any(p.requires_grad for p in data.reference.model.parameters())


def test_units_are_those_of_the_reference(make):
    data = make()
    rows = Shards(data.folder / "reference" / "validation" / "made").rows()
    raw = [text.count("a") - 0.1 * len(text) for row in rows for text in row["responses"]]
    assert len(raw) == 8  # four answers to the first third of the held-out prompts
    (units,) = data.units
    assert units.mean == pytest.approx(np.mean(raw), abs=1e-6)
    assert units.std == pytest.approx(np.std(raw, ddof=1), abs=1e-6)


def test_every_token_of_the_round_is_learned_once(make):
    data = make()
    trees = data._grow("train", 0)
    expected = sum(len(tree.tokens) - tree.start[1] for tree in trees)
    for _ in range(2):
        assert len(targets_of(data.train_dataloader())) == expected
    assert data.facts["tokens"] == expected
    assert data.facts["trees"] == 4
    assert data.facts["abstained"] == 0


def test_an_epoch_has_an_order_of_its_own(make):
    """The order is named by seed, round and epoch, not by how often a pass was begun."""
    loader = make().train_dataloader()
    loader.sampler.set_epoch(0)
    first = tokens_of(loader)
    assert tokens_of(loader) == first
    loader.sampler.set_epoch(1)
    second = tokens_of(loader)
    assert second != first
    assert sorted(map(str, second)) == sorted(map(str, first))


def test_the_loader_is_made_once_a_round(make):
    data = make()
    loader = data.train_dataloader()
    assert data.train_dataloader() is loader
    data.round = 1
    assert data.train_dataloader() is not loader


def test_a_later_round_is_guided_and_takes_other_prompts(make):
    data = make()
    assert {t.log_ratio.any() for t in data._grow("train", 0)} == {False} or all(
        np.abs(t.log_ratio).max() < 1e-5 for t in data._grow("train", 0)
    )
    assert any(np.abs(t.log_ratio).max() > 0.01 for t in data._grow("train", 1))
    first, second = (data._chosen("train", k) for k in (0, 1))
    assert not set(first) & set(second)
    assert len(set(data._chosen("train", 2))) == 4  # ten prompts: it begins again


def test_validation_trees_are_grown_with_the_round(make):
    """By the policy of its beginning, so that training does not change what is measured."""
    data = make()
    data.round = 1
    data.train_dataloader()
    before = targets_of(data.val_dataloader())
    network = data.trainer.lightning_module.network
    torch.nn.init.normal_(network.head.mix.weight, std=2.0)
    assert targets_of(data.val_dataloader()) == before


def test_after_the_last_round_nothing_is_grown(make):
    data = make(rounds=1)
    data.train_dataloader()
    data.round = 1
    data.train_dataloader()
    assert [path.name for path in (data.folder / "rollouts").iterdir()] == ["round-0"]


def test_the_count_of_rounds_is_kept(make):
    data = make()
    data.round = 3
    other = make()
    other.load_state_dict(data.state_dict())
    assert other.round == 3


def test_two_ranks_take_as_many_batches_each(make):
    one = make(folder="one")
    alone = targets_of(one.train_dataloader())
    make_both = [make(rank, 2, folder="two") for rank in (1, 0)]
    for data in make_both:  # each makes its share; a barrier would wait here
        data._grow("train", 0)
        data._baselines.clear()
        del data.units  # measured before the other's share was there
    loaders = []
    for data in make_both:
        data.loaders = {}
        loaders.append(data.train_dataloader())
    assert len(loaders[0]) == len(loaders[1]) > 0
    both = sorted(targets_of(loaders[0]) + targets_of(loaders[1]))
    assert len(alone) - len(both) <= 64  # at most one batch is left over
    nearest = np.abs(np.subtract.outer(both, alone)).min(1)
    assert nearest.max() < 1e-5


def test_eta_and_beta(make):
    def found(**given):
        data = make(**given)
        assert data.sampling((1.0,)).beta == data.strength.beta
        return data.strength.beta, data.strength.eta, data.kl_budget

    assert found() == (2.0, 0.5, 2.0)  # until there are values to find a strength for
    assert found(kl_budget=0.5) == (1.0, 1.0, 0.5)
    assert found(eta=0.25) == (4.0, 0.25, None)
    assert found(beta=4.0) == (4.0, 0.25, None)
    assert found(eta=0.25, beta=1.0) == (1.0, 0.25, None)
    for changes in ({"eta": 0.0}, {"eta": -1.0}, {"eta": math.inf}, {"eta": math.nan}):
        with pytest.raises(ValueError, match="eta must be a positive number"):
            make(**changes)


def test_joint_credit_reads_trees_uncut(make):
    data = make(batch_tokens=16)
    trees = data._grow("train", 0)
    assert len(data.packs(trees)) > len(trees)
    data.trainer.lightning_module.joint = True
    assert len(data.packs(trees)) == len(trees)


def test_the_strength_is_kept_with_the_rounds(make):
    data, resumed = make(), make(folder="other")
    data.round = 3
    data.strength.set(5.0)
    resumed.load_state_dict(data.state_dict())
    assert (resumed.round, resumed.strength.beta, resumed.sampling((1.0,)).beta) == (3, 5.0, 5.0)
    resumed.load_state_dict({"rounds": 1})  # of a run of before the strength was kept
    assert (resumed.round, resumed.strength.beta) == (1, 5.0)


@pytest.mark.parametrize(
    "changes",
    [
        {"max_tokens": 6},
        {"temperature": 0.5},
        {"top_k": 3},
        {"top_p": 0.4},
        {"seed": 1},
        {"first_branching": (3, 2)},
        {"trees": 2},
        {"template": "string.capwords"},
    ],
    ids=str,
)
def test_every_setting_counts(make, changes):
    def grown(data):
        return [tree.tokens.tolist() for tree in data._grow("train", 0)]

    assert grown(make(folder="as it is")) != grown(make(folder="changed", **changes))


def test_eta_changes_targets_of_guided_trees(make):
    def targets(data):
        data.round = 1
        return targets_of(data.train_dataloader())

    torch.manual_seed(0)
    one = targets(make(folder="one", beta=2.0))
    torch.manual_seed(0)
    other = targets(make(folder="two", beta=2.0, eta=1.0))
    assert len(one) == len(other)
    assert np.abs(np.array(one) - other).max() > 0.01


def test_a_round_in_the_middle_of_a_fit_leaves_the_module_alone(fit_words, tmp_path, monkeypatch):
    """As above, but under Lightning: in training mode, with gradients on."""
    seen = []
    inner = RolloutDataModule._grow

    def watched(self, split, round_):
        module = self.trainer.lightning_module
        before = module.training, module.network.training, torch.get_rng_state()
        trees = inner(self, split, round_)
        after = module.training, module.network.training, torch.get_rng_state()
        seen.append(before[:2] == after[:2] and torch.equal(before[2], after[2]))
        return trees

    monkeypatch.setattr(RolloutDataModule, "_grow", watched)
    monkeypatch.setattr("mavis.training.callbacks._plots", lambda *_: [])
    assert main(fit_words(tmp_path / "run", "--data.epochs", "1")) == 0
    assert len(seen) >= 4
    assert all(seen)


def test_rows_that_cannot_fit_are_refused_before_anything_is_sampled(
    fit_words, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr("mavis.decoding.row_memory.free_memory", lambda _: 2_000_000)
    assert main(fit_words(tmp_path / "run", "--data.rows", "512")) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "--data.rows 512 needs about" in line
    assert not (tmp_path / "run" / "reference" / "validation").exists()


def test_rows_are_chosen_by_memory(make, monkeypatch):
    monkeypatch.setattr("mavis.decoding.row_memory.free_memory", lambda _: 1)
    assert make(rows=None).rows == 8
    monkeypatch.setattr("mavis.decoding.row_memory.free_memory", lambda _: 1 << 40)
    assert make(rows=None).rows == 128
    assert make(rows=5).rows == 5
