"""The second pass of joint credit, over trees that are added to while that explains more."""

import sys
from collections.abc import Callable

from torch import Tensor
from torch.utils.data import DataLoader

from mavis.loudness import quiet
from mavis.progress import track
from mavis.training import advice
from mavis.training.batching import Batch
from mavis.training.credit import Total
from mavis.training.data import RolloutDataModule
from mavis.training.joint_head import JointHead
from mavis.training.progress_bar import aside

Read = Callable[[Batch], tuple[Tensor, Tensor, Batch]]


def second_pass(joint: JointHead, data: RolloutDataModule, read: Read, total: Total) -> float:
    """Read a round's trees for their equations, solve, and grow as many more while that helps.

    Args:
        joint: that has had its first pass.
        data: of the fit.
        read: the states after and before every token of a batch [B, T, H], and the batch.
        total: adds a tensor up over processes.

    Returns:
        by what factor what is explained would grow with twice the trees, the mean over objectives.
    """
    trainer = data.trainer
    assert trainer is not None

    def solved(loader: DataLoader[Batch]) -> float:
        with aside(trainer):
            for batch in track(loader, "credit", "batches", len(loader)):
                joint.add(*read(batch))
        return float(joint.finish(total).doubling.mean())

    growth = solved(data.train_dataloader())
    while more := data.worth_growing(growth):
        if trainer.is_global_zero and not quiet():
            with aside(trainer):
                print(f"mavis: {advice.growing(more, growth, data)}", file=sys.stderr)
        growth = solved(data.grown(more))
    return growth
