"""The learning rates of a value network: one option serves models of every width."""

from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from mavis.decoding.reference import SMALL, ReferencePolicy
from mavis.decoding.value_heads import ActionHead
from mavis.decoding.value_model import ValueModel

PROBED = 32  # states that their size is measured on
TOKEN_SHARE = 1e-3  # of the head's rate, for a token's own value: it is seen seldom
RESIDUAL_SHARE = 0.2  # of the head's rate, for its hidden layer, over the numbers of a state
# Of the trunk, for those with fewer than 20 million parameters to train, and for larger ones.
TRUNK_RATES = (1e-3, 1e-4)


def parameter_groups(
    network: ValueModel,
    reference: ReferencePolicy,
    lr: float,
    trunk_lr: float | None,
    weight_decay: float,
) -> list[dict[str, Any]]:
    """What is trained, with the rate of each part.

    A first step of Adam moves every weight by its rate, and so a value by the rate times the sum
    over its inputs. The head's rates are divided by that sum: one rate serves every width.

    Args:
        network: what is trained.
        reference: the policy whose states it values.
        lr: how far the head's first step moves a value, in standard units.
        trunk_lr: learning rate of the trunk (None: by the number of its trained parameters).
        weight_decay: of the trunk, and of the head's hidden layer.

    Returns:
        parameter groups of an optimizer.
    """
    head, trunk = network.head, network.trunk
    size = _state_size(network, reference)
    rates = [(list(head.state.parameters()), lr / size)]
    if isinstance(head, ActionHead):
        apart = (network.table.detach().float() - head.centre).abs().sum(-1).mean()
        rates += [(list(head.mix.parameters()), lr / (size * float(apart)))]
        rates += [([head.token], lr * TOKEN_SHARE)]
    groups: list[dict[str, Any]] = [{"params": part, "lr": rate} for part, rate in rates]
    if isinstance(head, ActionHead) and head.residual is not None:
        # Its norm makes numbers of about 1 of a state, whatever their size was.
        inner, rate = list(head.residual.parameters()), RESIDUAL_SHARE * lr / head.state.in_features
        groups.append({"params": inner, "lr": rate, "weight_decay": weight_decay})
    if trunk is not None:
        few = trunk.num_parameters(only_trainable=True) < SMALL
        rate = trunk_lr or TRUNK_RATES[0 if few else 1]
        trained = [p for p in trunk.parameters() if p.requires_grad]
        groups.append({"params": trained, "lr": rate, "weight_decay": weight_decay})
    return [group for group in groups if group["params"]]


def rise_and_fall(optimizer: Optimizer, steps: int, warmup: int) -> LambdaLR:
    """A schedule of rates that rise for `warmup` steps, at most half of all, then fall to 0."""
    rise = min(warmup, max(1, steps // 2))

    def share(step: int) -> float:
        return max(0.0, min(1.0, (step + 1) / rise, (steps - step) / max(1, steps - rise)))

    return LambdaLR(optimizer, share)


@torch.no_grad()
def _state_size(network: ValueModel, reference: ReferencePolicy) -> float:
    """The sum over a state's absolute entries, mean over some states."""
    trunk: Any = network.trunk or reference.model.base_model
    tokens = torch.linspace(0, reference.vocabulary - 1, PROBED).long()
    states = network.states(trunk, input_ids=tokens[None].to(trunk.device))
    return float(states.float().abs().sum(-1).mean())
