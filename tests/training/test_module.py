"""The value module: it can memorise, every argument of it counts, and its schedule is a round's."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mavis.evaluation.metrics import sibling_rank_correlation
from mavis.reward import Units
from mavis.training.module import ValueModule, value_losses
from mavis.training.packing import collate, pack_tree
from mavis.training.tree import Segment, build_tree

LORA = {"r": 2, "lora_alpha": 4, "target_modules": ["q_proj", "v_proj"]}


@pytest.fixture(scope="module")
def reference(build_reference):
    return build_reference(layers=4)


def make_tree():
    """Tokens that are all different, so that a value network can tell every state apart."""
    leaf = lambda *tokens: Segment(list(tokens), [0.0] * len(tokens), "x", "end")  # noqa: E731
    stem = lambda *tokens: Segment(list(tokens), [0.0] * len(tokens))  # noqa: E731
    inner = {(0,): stem(3, 4), (1,): stem(5, 6, 7)}
    leaves = {(0, 0): leaf(8, 9), (0, 1): leaf(10), (1, 0): leaf(11, 12), (1, 1): leaf(13, 14)}
    return build_tree("p", {(): stem(20, 21)} | inner | leaves)


def batch_of(tree, seed=0):
    targets = np.random.default_rng(seed).normal(size=(len(tree.tokens), 1)).astype(np.float32)
    return collate(pack_tree(tree, targets, 1000))


class Data(SimpleNamespace):
    """As much of the data module as the module asks for."""

    def train_dataloader(self):
        return [None] * self.batches


def trainer_of(data):
    """As much of the trainer as the module asks for."""
    known = {"accumulate_grad_batches": 1, "precision_plugin": None}
    return SimpleNamespace(datamodule=data, **known)


def module_on(reference, round=0, batches=20, epochs=3, **arguments):  # noqa: A002
    data = Data(
        reference=reference,
        objectives=(SimpleNamespace(name="trial", reward=len),),
        units=(Units(1.0, 2.0),),
        eta=0.5,
        round=round,
        epochs=epochs,
        batches=batches,
    )
    module = ValueModule(**arguments)
    module._trainer = trainer_of(data)
    module.configure_model()
    return module


def rates(module):
    """The learning rate of every step of a round."""
    setting = module.configure_optimizers()
    optimizer, schedule = setting["optimizer"], setting["lr_scheduler"]["scheduler"]
    assert setting["lr_scheduler"]["interval"] == "step"
    found = []
    for _ in range(module.data.batches * module.data.epochs):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


@pytest.mark.parametrize(
    "arguments", [{}, {"source": "state"}, {"lora": LORA}, {"trunk": 1}], ids=str
)
def test_it_memorises_a_tree(reference, arguments):
    module = module_on(reference, **arguments).train()
    batch = batch_of(make_tree())
    optimizer = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], lr=1e-2)
    frozen = {n: p.clone() for n, p in module.named_parameters() if not p.requires_grad}
    first = value_losses(module(batch), batch.targets).item()
    for _ in range(150):
        optimizer.zero_grad()
        loss = value_losses(module(batch), batch.targets).mean()
        loss.backward()
        optimizer.step()
    assert first > 0.3
    assert loss.item() < 1e-3
    assert all(torch.equal(dict(module.named_parameters())[n], p) for n, p in frozen.items())
    assert bool(frozen) == ("lora" in arguments)


def test_the_card_says_what_it_is_of(reference):
    card = module_on(reference, source="state").network.card
    assert (card.source, card.objectives, card.units) == ("state", ("trial",), (Units(1.0, 2.0),))
    assert (card.reference, card.eta) == (reference.name, 0.5)
    assert card.fingerprint == reference.fingerprint


def test_the_network_is_built_once(reference):
    module = module_on(reference)
    network = module.network
    module.configure_model()
    assert module.network is network


def test_source_and_trunk(reference):
    def layers(**arguments):
        trunk = module_on(reference, **arguments).network.trunk
        return trunk and trunk.config.num_hidden_layers

    assert layers() == 2
    assert layers(trunk=3) == 3
    assert layers(source="shared") is None


def test_lora_trains_less(reference):
    def trained(**arguments):
        parameters = module_on(reference, **arguments).network.parameters()
        return sum(p.numel() for p in parameters if p.requires_grad)

    assert trained(lora=LORA) < trained() / 2


def test_the_reference_is_no_part_of_the_checkpoint(reference):
    module = module_on(reference, source="shared")
    assert all(name.startswith("network.head") for name in module.state_dict())


def test_rate_rises_then_falls():
    shape = [20, 3]

    def expected(step, rate, warmup, steps):
        return rate * min(1, (step + 1) / warmup, (steps - step) / (steps - warmup))

    for round_, lr in ((0, 0.01), (1, 0.005)):
        module = ValueModule(lr=0.01, later_lr=0.5, warmup=6)
        data = Data(round=round_, epochs=shape[1], batches=shape[0])
        module._trainer = trainer_of(data)
        module.network = torch.nn.Linear(1, 1)
        found = rates(module)
        assert found == pytest.approx([expected(s, lr, 6, 60) for s in range(60)])
        assert max(found) == pytest.approx(lr)
        assert 0 < found[-1] < lr / 20


@pytest.mark.parametrize("batches", [1, 2, 5])
def test_a_round_of_few_steps_still_learns(batches):
    """Warm-up takes half of a short round at most."""
    module = ValueModule(lr=1.0, warmup=1000)
    module._trainer = trainer_of(Data(round=0, epochs=1, batches=batches))
    module.network = torch.nn.Linear(1, 1)
    found = rates(module)
    assert all(rate > 0 for rate in found)
    assert max(found) > 0.6


def test_weight_decay_and_warmup_count(reference):
    optimizer = module_on(reference, weight_decay=0.3).configure_optimizers()["optimizer"]
    assert optimizer.param_groups[0]["weight_decay"] == 0.3
    assert rates(module_on(reference, warmup=5))[4] > rates(module_on(reference, warmup=10))[4]


def test_frozen_parameters_are_not_trained(reference):
    module = module_on(reference, lora=LORA)
    optimizer = module.configure_optimizers()["optimizer"]
    trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert trained == {id(p) for p in module.network.parameters() if p.requires_grad}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lr": 0.0}, "lr must be above 0, got 0.0"),
        ({"lr": math.nan}, "lr must be above 0, got nan"),
        ({"later_lr": -1.0}, "later_lr must be above 0"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        ValueModule(**arguments)


def test_too_many_layers(reference):
    with pytest.raises(ValueError, match="trunk must be 1 to 4 layers"):
        module_on(reference, trunk=5)


def test_validation_metrics(reference):
    """Over all batches together, and against formulas written out."""
    module = module_on(reference)
    tree = make_tree()
    torch.manual_seed(3)
    torch.nn.init.normal_(module.network.head.mix.weight, std=0.3)
    found = {}
    module.log_dict = lambda metrics, **_: found.update(metrics)
    predicted, targets, node = [], [], []
    for seed in range(3):
        batch = batch_of(tree, seed)
        batch = batch._replace(siblings=batch.siblings + 100 * seed * (batch.siblings >= 0))
        with torch.no_grad():
            module.validation_step(batch, 0)
            known = batch.targets.isfinite()[..., 0]
            predicted += module(batch)[known][:, 0].tolist()
        targets += batch.targets[known][:, 0].tolist()
        node += batch.siblings[known].tolist()
    module.on_validation_epoch_end()
    predicted, targets, node = map(np.array, (predicted, targets, node))
    errors = ((predicted - targets) ** 2).sum()
    assert found["val_loss"] == pytest.approx(errors / len(targets), rel=1e-5)
    spread = ((targets - targets.mean()) ** 2).sum()
    assert found["r2"] == pytest.approx(1 - errors / spread, rel=1e-5)
    ends = node >= 0
    assert found["sibling_rank_correlation"] == pytest.approx(
        sibling_rank_correlation(predicted[ends], targets[ends], node[ends])
    )
    ((depth, said, wanted),) = module.calibration
    assert depth.min() == 0
    np.testing.assert_allclose(said, predicted, rtol=1e-6)
    np.testing.assert_allclose(wanted, targets, rtol=1e-6)
    assert module._seen == []
