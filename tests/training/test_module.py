"""The value module: it can memorise, every argument of it counts, and its schedule is a round's."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from losses_of_each import value_losses

from mavis.evaluation.metrics import sibling_rank_correlation
from mavis.reward import Units
from mavis.training.batching import collate
from mavis.training.module import ValueModule
from mavis.training.packing import pack_tree
from mavis.training.rates import parameter_groups
from mavis.training.strength import Strength
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
    known = {"accumulate_grad_batches": 1, "precision_plugin": None, "ckpt_path": "last.ckpt"}
    known["world_size"] = 1
    return SimpleNamespace(datamodule=data, **known)


def module_on(reference, round=0, batches=20, epochs=3, seed=0, **arguments):  # noqa: A002
    data = Data(
        reference=reference,
        objectives=(SimpleNamespace(name="trial", reward=len),),
        units=(Units(1.0, 2.0),),
        strength=Strength(None, 0.5),
        prefix_discount=1.0,
        seed=seed,
        round=round,
        epochs=epochs,
        batches=batches,
    )
    module = ValueModule(**arguments)
    module._trainer = trainer_of(data)
    module.configure_model()
    return module


def rates(module):
    """The learning rates of every step of a round [S, G], of each group of parameters."""
    setting = module.configure_optimizers()
    optimizer, schedule = setting["optimizer"], setting["lr_scheduler"]["scheduler"]
    assert setting["lr_scheduler"]["interval"] == "step"
    found = []
    for _ in range(module.data.batches * module.data.epochs):
        found.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    return np.array(found)


@pytest.mark.parametrize(
    "arguments", [{}, {"source": "state"}, {"lora": LORA}, {"trunk": 1}], ids=str
)
def test_it_memorises_a_tree(reference, arguments):
    module = module_on(reference, **arguments).train()
    batch = batch_of(make_tree())
    optimizer = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], lr=1e-2)
    frozen = {n: p.clone() for n, p in module.named_parameters() if not p.requires_grad}
    first = value_losses(module(batch), batch.targets).item()
    for _ in range(250):
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


CHOICES = [
    # What is asked for, and what is chosen of a small reference and of a large one.
    ({}, ("action", "token"), ("state", "joint")),
    ({"source": "state"}, ("state", "token"), ("state", "joint")),
    ({"source": "action"}, ("action", "token"), ("action", "token")),
    ({"source": "shared"}, ("shared", "token"), ("shared", "joint")),
    ({"source": "shared", "credit": "joint"}, ("shared", "joint"), ("shared", "joint")),
    ({"credit": "joint"}, ("state", "joint"), ("state", "joint")),
    ({"credit": "token"}, ("action", "token"), ("state", "token")),
    ({"lora": LORA}, ("action", "token"), ("state", "token")),
]


@pytest.mark.parametrize(("arguments", "small", "large"), CHOICES, ids=str)
def test_what_is_chosen_by_size(reference, monkeypatch, arguments, small, large):
    for limit, (source, credit) in ((20_000_000, small), (1000, large)):
        monkeypatch.setattr("mavis.training.value_design.SMALL", limit)
        module = module_on(reference, **arguments)
        assert module.network.card.source == source
        assert module.joint == (credit == "joint")
        assert (module.joint_head is not None) == module.joint


@pytest.mark.parametrize(("given", "layers"), [(None, 2), (3, 3)])
def test_joint_credit_trains_the_head_alone(reference, given, layers):
    module = module_on(reference, credit="joint", trunk=given)
    assert module.network.trunk.config.num_hidden_layers == layers
    trained = [name for name, p in module.named_parameters() if p.requires_grad]
    assert trained == ["network.head.state.weight", "network.head.state.bias"]


def test_joint_credit_reads_no_more_layers_than_there_are(build_reference):
    module = module_on(build_reference(layers=1), credit="joint")
    assert module.network.trunk.config.num_hidden_layers == 1


def test_a_step_of_joint_credit_foresees(reference):
    module = module_on(reference, credit="joint")
    batch = batch_of(make_tree())
    module.joint_head.begin()
    loss = module.training_step(batch, 0)
    loss.backward()
    assert loss.item() == 0
    head = module.network.head.state
    assert all((p.grad == 0).all() for p in head.parameters())  # none unused: every process steps
    output = module.network.trunk(
        batch.tokens,
        attention_mask=batch.mask.float().log(),
        position_ids=batch.position,
        output_hidden_states=True,
    )
    states = torch.cat([torch.nn.functional.rms_norm(h[0], h.shape[-1:], eps=1e-12)
                        for h in output.hidden_states], -1)  # fmt: skip
    before = module.joint_head.states(states[batch.previous[0]])[2:].double()
    assert (before[:, -1] == 1).all()
    torch.testing.assert_close(
        module.joint_head.foresight.before, before.T @ before, rtol=1e-4, atol=1e-3
    )


def test_lora_trains_less(reference):
    def trained(**arguments):
        parameters = module_on(reference, **arguments).network.parameters()
        return sum(p.numel() for p in parameters if p.requires_grad)

    assert trained(lora=LORA) < trained() / 2


def test_the_reference_is_no_part_of_the_checkpoint(reference):
    module = module_on(reference, source="shared")
    assert all(name.startswith("network.head") for name in module.state_dict())


def test_rates_rise_then_fall(reference):
    """Those of all parts by the same schedule, which a later round begins lower."""

    def share(step, warmup, steps):
        return min(1, (step + 1) / warmup, (steps - step) / (steps - warmup))

    shape = np.array([share(step, 6, 60) for step in range(60)])
    trunk = []
    for round_, later in ((0, 1.0), (1, 0.5)):
        module = module_on(reference, round_, trunk_lr=0.01, lr=0.2, later_lr=0.5, warmup=6)
        found = rates(module)
        rate = [group["lr"] for group in parameter_groups(module.network, reference, 0.2, 0.01, 0)]
        assert len(rate) == 4
        np.testing.assert_allclose(found, later * np.outer(shape, rate))
        trunk.append(found[:, -1])
        assert (found[-1] > 0).all()
        assert (found[-1] < found.max(0) / 20).all()
    assert [rates.max() for rates in trunk] == pytest.approx([0.01, 0.005])


@pytest.mark.parametrize("batches", [1, 2, 5])
def test_a_round_of_few_steps_still_learns(reference, batches):
    """Warm-up takes half of a short round at most."""
    found = rates(module_on(reference, batches=batches, epochs=1, trunk_lr=1.0, warmup=1000))
    assert (found > 0).all()
    assert found[:, -1].max() > 0.6


def test_weight_decay_and_warmup_count(reference):
    *head, trunk = (
        module_on(reference, weight_decay=0.3).configure_optimizers()["optimizer"].param_groups
    )
    assert trunk["weight_decay"] == 0.3
    assert [group["weight_decay"] for group in head] == [0.0] * 3  # it starts at zero
    five, ten = (rates(module_on(reference, warmup=warmup)) for warmup in (5, 10))
    assert (five[4] > ten[4]).all()


def test_frozen_parameters_are_not_trained(reference):
    module = module_on(reference, lora=LORA)
    optimizer = module.configure_optimizers()["optimizer"]
    trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert trained == {id(p) for p in module.network.parameters() if p.requires_grad}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lr": 0.0}, "lr must be a positive number, got 0.0"),
        ({"lr": math.nan}, "lr must be a positive number, got nan"),
        ({"later_lr": -1.0}, "later_lr must be a positive number"),
        ({"trunk_lr": 0.0}, "trunk_lr must be a positive number"),
        ({"credit": "joint", "source": "action"}, "joint credit is of `state` or `shared` values"),
        ({"layers": (1,), "source": "action"}, "layers are of `shared` or `state` values"),
        ({"credit": "joint", "lora": LORA}, "joint credit trains no adapters"),
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


@pytest.mark.parametrize("source", ["shared", "state"])
def test_a_checkpoint_of_before_joint_credit(reference, monkeypatch, source):
    """It goes on from the last state, and by token credit, as it began."""
    old = module_on(reference, source=source)
    torch.nn.init.normal_(old.network.head.state.weight)
    monkeypatch.setattr("mavis.training.value_design.SMALL", 1000)
    module = module_on(reference, source=source)
    assert module.joint_head is not None
    assert module.network.card.layers != ()
    resume(module, old.state_dict())
    assert module.joint_head is None
    assert not module.joint
    assert module.network.card.layers == ()
    assert all(p.requires_grad for p in module.network.parameters())
    batch = batch_of(make_tree())
    assert torch.equal(module(batch), old(batch))


def resume(module, state):
    """What Lightning does with the state of a checkpoint."""
    module.on_load_checkpoint({"state_dict": state})
    module.load_state_dict(state)


def test_a_network_begins_as_its_seed_says_whatever_was_drawn_before(reference):
    """A run that was stopped in its first round begins anew; a reward may draw, too."""

    def inner(seed):
        return module_on(reference, source="shared", seed=seed).network.head.residual.up.weight

    torch.manual_seed(1)
    one = inner(7)
    after = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(1), after)  # and it leaves the global stream as it is
    assert torch.equal(inner(7), one)
    assert not torch.equal(inner(8), one)


def learn(module, batch):
    """Both passes of joint credit over a batch."""
    joint = module.joint_head
    joint.begin()
    module.training_step(batch, 0)
    joint.expect(lambda part: part)
    joint.add(*module._read(batch))
    joint.finish(lambda part: part)


def test_a_checkpoint_of_before_joint_credit_read_layers(reference):
    """It goes on from the last state of the trunk, with the equations of its rounds."""
    old = module_on(reference, credit="joint", layers=())
    batch = batch_of(make_tree())
    torch.nn.init.normal_(old.network.head.state.weight)
    learn(old, batch)
    module = module_on(reference, credit="joint")
    assert len(module.network.card.layers) == 3
    resume(module, old.state_dict())
    assert module.network.card.layers == ()
    assert torch.equal(module.joint_head.equations.squares, old.joint_head.equations.squares)
    assert torch.equal(module(batch), old(batch))
    learn(module, batch)
    assert module.joint_head.equations.replies == 8


def test_layers_stay_what_they_were_when_others_would_be_chosen(reference, monkeypatch):
    old, checkpoint = module_on(reference, source="shared", credit="joint"), {}
    old.on_save_checkpoint(checkpoint)
    monkeypatch.setattr("mavis.training.value_design.DEPTH", 0.8)
    module = module_on(reference, source="shared", credit="joint")
    assert module.network.card.layers == (3,)
    module.on_load_checkpoint({"state_dict": old.state_dict(), **checkpoint})
    assert module.network.card.layers == old.network.card.layers == (2,)


def test_a_checkpoint_of_other_values_is_refused(reference):
    old = module_on(reference, source="state", credit="joint", layers=(1,))
    for module in (
        module_on(reference, source="state", credit="joint", layers=(0, 1)),
        module_on(reference, source="state", credit="token"),
    ):
        with pytest.raises(ValueError, match="is of values that are built otherwise"):
            resume(module, old.state_dict())
