"""Heads: what makes values of the states of a trunk, or of the reference policy's own."""

import torch
from torch import Tensor, nn


def _zero(layer: nn.Linear) -> nn.Linear:
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


class Residual(nn.Module):
    """h + W₂ gelu(W₁ norm(h)): what no linear head can read from frozen states; W₂ starts at zero.

    Args:
        hidden: H numbers of a state.
        width: of the layer between.
    """

    def __init__(self, hidden: int, width: int) -> None:
        super().__init__()
        self.norm, self.up = nn.LayerNorm(hidden), nn.Linear(hidden, width)
        self.down = _zero(nn.Linear(width, hidden))

    def forward(self, hidden: Tensor) -> Tensor:
        """[..., H] -> [..., H]."""
        return hidden + torch.as_tensor(self.down(nn.functional.gelu(self.up(self.norm(hidden)))))


class ActionHead(nn.Module):
    """Q(s, a) = b(h) + ⟨W h, E_a − c⟩ + B_a, for M objectives.

    E is a table of token embeddings, so that a token never taken borrows from its neighbours, and
    nothing but the bias B grows with the vocabulary. c is the mean embedding when training begins:
    all tokens of a language model have a large part in common, which says nothing of one token
    against another. W, b and B start at zero. With a width, h is first sent through a `Residual`.
    """

    centre: Tensor

    def __init__(
        self, hidden: int, embedding: int, vocabulary: int, outputs: int, width: int = 0
    ) -> None:
        super().__init__()
        self.residual = Residual(hidden, width) if width else None
        self.state = _zero(nn.Linear(hidden, outputs))
        self.mix = _zero(nn.Linear(hidden, outputs * embedding, bias=False))
        self.token = nn.Parameter(torch.zeros(vocabulary, outputs))
        self.register_buffer("centre", torch.zeros(embedding))

    def forward(self, hidden: Tensor, tokens: Tensor, table: Tensor) -> Tensor:
        """Values of some tokens at some states.

        Args:
            hidden: [..., H].
            tokens: ids [..., K].
            table: embeddings [V, E].

        Returns:
            float32 [..., K, M].
        """
        # One direction in embedding space per state and objective; a token's value is how far it
        # lies along it. So K candidates cost one product, and similar tokens get similar values.
        outputs, look_up = self.token.shape[1], nn.functional.embedding  # faster than indexing
        hidden = hidden.to(self.mix.weight.dtype)
        if self.residual is not None:
            hidden = self.residual(hidden)
        direction = self.mix(hidden).unflatten(-1, (outputs, -1)).float()  # [..., M, E]
        apart = look_up(tokens, table).float() - self.centre.float()  # [..., K, E]
        meeting = apart @ direction.transpose(-1, -2)  # [..., K, M]
        value: Tensor = (
            meeting + self.state(hidden).float()[..., None, :] + look_up(tokens, self.token).float()
        )
        return value


class StateHead(nn.Module):
    """V(s) for M objectives: one linear layer, zero at the start."""

    def __init__(self, hidden: int, outputs: int) -> None:
        super().__init__()
        self.state = _zero(nn.Linear(hidden, outputs))

    def forward(self, hidden: Tensor) -> Tensor:
        """Values float32 [..., M] of the states [..., H]."""
        return torch.as_tensor(self.state(hidden.to(self.state.weight.dtype))).float()
