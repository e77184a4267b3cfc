"""Two objectives, one set of trees, one trunk: a fit of one is the case M = 1 of it."""

import warnings

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, Trainer
from losses_of_each import value_losses

from mavis import Objective, ValueModule
from mavis.decoding.value_model import ValueModel
from mavis.reward import identity
from mavis.training import collect
from mavis.training.data import RolloutDataModule


def letters(_, responses):
    return [response.count("a") - 0.1 * len(response) for response in responses]


def early(_, responses):
    return [float("u" in response[:6]) + 0.2 * response.count("m") for response in responses]


def picky(_, responses):
    return [None if len(r) % 2 else r.count("a") - 0.1 * len(r) for r in responses]


OBJECTIVES = {one.__name__: Objective(one.__name__, one) for one in (letters, early, picky)}


class Losses(Callback):
    """Each output's loss [M] before every step, and every batch's targets."""

    def __init__(self):
        self.losses, self.targets = [], []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        del trainer, batch_idx
        with torch.no_grad():
            self.losses.append(value_losses(pl_module(batch), batch.targets))
        self.targets.append(batch.targets)


@pytest.fixture
def fit(tiny_folder, tmp_path, monkeypatch):
    """`fit("letters", "early", epochs=1)`: the module and what it saw; all fits share the trees."""
    monkeypatch.setattr("mavis.training.data.find", OBJECTIVES.get)

    def run(*names, epochs=1, source="action", credit="token"):
        torch.manual_seed(0)
        paths = {n: str(tiny_folder / n) for n in ("prompts", "reference")}
        size = {
            "trees": 8,
            "first_trees": 8,
            "max_tokens": 8,
            "held_out": 5,
            "best_of": 6,
            "batch_tokens": 64,
        }
        data = RolloutDataModule(names, rounds=1, epochs=epochs, **paths, **size)
        module, seen = ValueModule(source, credit, trunk_lr=1e-2), Losses()
        off = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*(does not have many workers|LeafSpec)")
            trainer = Trainer(
                accelerator="cpu",
                max_epochs=epochs,
                default_root_dir=tmp_path,
                num_sanity_val_steps=0,
                reload_dataloaders_every_n_epochs=1,
                gradient_clip_val=1.0,
                callbacks=[seen],
                **dict.fromkeys(off, False),
            )
            trainer.fit(module, data)
        return module, seen

    return run


@pytest.mark.parametrize("source", ["action", "state", "shared"])
def test_both_begin_as_each_does_alone_and_on_the_same_trees(fit, monkeypatch, source):
    _, both = fit("letters", "early", source=source)
    monkeypatch.setattr(collect, "grow", None)  # nothing is rolled out again
    for at, name in enumerate(("letters", "early")):
        module, alone = fit(name, source=source)
        assert module.network.objectives == (name,)
        assert torch.equal(both.losses[0][[at]], alone.losses[0])
        for mine, theirs in zip(both.targets, alone.targets, strict=True):
            torch.testing.assert_close(mine[..., [at]], theirs, atol=0, rtol=0, equal_nan=True)


def test_values_of_both_are_learned(fit):
    module, seen = fit("letters", "early", epochs=12)
    steps = len(seen.losses) // 12
    first, last = (
        torch.stack(part).mean(0) for part in (seen.losses[:steps], seen.losses[-steps:])
    )
    # Later passes aim at the best policies' values, not at the means that these losses are of.
    assert (last < 0.7 * first).all(), (first, last)
    assert len(module.calibration) == 2
    for _, predicted, target in module.calibration:  # on prompts that it was not trained on
        assert np.corrcoef(predicted, target)[0, 1] > 0.3
    figures = module.trainer.callback_metrics
    errors = [np.square(said - wanted).mean() for _, said, wanted in module.calibration]
    assert float(figures["val_loss"]) == pytest.approx(np.mean(errors), rel=1e-5)


def test_joint_credit_of_both_is_that_of_each(fit):
    both, _ = fit("letters", "early", source="state", credit="joint")
    assert both.network.head.state.weight.any()
    for at, name in enumerate(("letters", "early")):
        alone, _ = fit(name, source="state", credit="joint")
        for mine, theirs in zip(both.learned(), alone.learned(), strict=True):
            mine = mine[:, [at]] if mine is both.joint_head.expected else mine[[at]]
            torch.testing.assert_close(mine, theirs, atol=1e-6, rtol=1e-3)


def test_the_card_has_both(fit, tmp_path):
    module, _ = fit("letters", "early")
    network = module.network
    assert network.card.objectives == ("letters", "early")
    assert network.card.units == module.data.units
    assert len({units.mean for units in network.card.units}) == 2
    assert network.card.rewards == tuple(identity(OBJECTIVES[n]) for n in network.objectives)
    network.save_pretrained(tmp_path / "value")
    again = ValueModel.from_pretrained(tmp_path / "value", module.data.reference)
    assert again.card == network.card
    for name, tensor in network.head.state_dict().items():
        assert torch.equal(again.head.state_dict()[name], tensor)


def test_an_abstention_masks_its_objective_only(fit):
    _, seen = fit("picky", "early")
    _, whole = fit("letters", "early")
    lost = 0
    for mine, theirs in zip(seen.targets, whole.targets, strict=True):
        torch.testing.assert_close(mine[..., 1], theirs[..., 1], atol=0, rtol=0, equal_nan=True)
        known, before = mine[..., 0].isfinite(), theirs[..., 0].isfinite()
        assert (before | ~known).all()
        lost += int((before & ~known).sum())
    assert lost > 10
    assert all(losses[1].isfinite() for losses in seen.losses)


def test_the_rollouts_of_both_weigh_them_alike(fit):
    module, _ = fit("letters", "early")
    assert module.data.sampling((0.5, 0.5)).beta > module.data.sampling((1.0, 0.0)).beta
