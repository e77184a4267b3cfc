"""What joint credit foretells a state from: the state before, and random features of that.

What a policy expects of the state after its next token is no linear function of the state before:
least of all under a guided policy, whose choices follow what the state says of tokens' values. What
is foretold wrongly there stays in the credit of tokens, and there it is a bias. So a regression on
the state s gets functions of it beside it, each a random direction that is cut off at zero,

    g(s) = [max(0, R ŝ + b), s, 1]

with ŝ of mean 0 and deviation 1 over its entries (random features: Rahimi and Recht 2007).
"""

import torch
from torch import Tensor, nn

NONLINEAR = 1024  # random features


class StateFeatures(nn.Module):
    """g(s) of states that are H wide.

    Args:
        width: H.
        nonlinear: random features; 0: the state and a one alone.
    """

    directions: Tensor
    offsets: Tensor

    def __init__(self, width: int, nonlinear: int = NONLINEAR) -> None:
        super().__init__()
        random = torch.Generator().manual_seed(width)
        directions = torch.randn(width, nonlinear, generator=random) / width**0.5
        # They are saved: sums of earlier rounds belong to them, and to no other draw.
        kept = nonlinear > 0  # checkpoints of before there were any have none
        self.register_buffer("directions", directions, persistent=kept)
        offsets = torch.randn(nonlinear, generator=random)
        self.register_buffer("offsets", offsets, persistent=kept)
        self.width = nonlinear + width + 1  # G, the number of features

    def forward(self, states: Tensor) -> Tensor:
        """G features [..., G] of the states [..., H], float32."""
        states = states.float()
        linear = torch.cat([states, torch.ones_like(states[..., :1])], -1)
        if not len(self.offsets):
            return linear
        apart = states - states.mean(-1, keepdim=True)
        unit = apart / apart.square().mean(-1, keepdim=True).sqrt().clamp(min=1e-6)
        return torch.cat([torch.relu(unit @ self.directions + self.offsets), linear], -1)
