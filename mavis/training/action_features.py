"""The features that joint credit learns an action head over, and how its weights follow from them.

Joint credit needs values that are linear in few features, and an action head multiplies all
dimensions of a state by all of an embedding. So of the states s only the r = 32 directions count in
which they differ most, z(s), each of unit variance, and of the embeddings the 16 directions in
which tokens do, e_a; and what a token is worth by itself is linear in its embedding, less the mean
of all tokens and of unit root mean square, ẽ_a:

    φ(s, a) = [ẽ_a, z(s) ⊗ e_a / √r]

Values ⟨θ, φ(s, a)⟩ are an action head's, exactly: those of the products are its mix, of low rank;
those of ẽ, and what the products owe to the mean of z, are its values of the tokens.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from mavis.decoding.value_heads import ActionHead

STATES = 32  # directions of the states that are multiplied by those of the tokens
TOKENS = 16  # directions of the tokens that are multiplied by those of the states
ALONE = 1024  # directions of the tokens that count by themselves
PART = 16384  # tokens whose embeddings are worked on at once
FAINT = 1e-6  # of the largest variance: a direction in which states do not differ


class ActionFeatures(nn.Module):
    """φ(s, a) of an action head.

    Args:
        head: whose values will be linear in them.
        table: token embeddings [V, E].
    """

    mean: Tensor
    directions: Tensor
    alone: Tensor
    crossed: Tensor

    def __init__(self, head: ActionHead, table: Tensor) -> None:
        super().__init__()
        self._head, self._table = [head], [table.detach()]  # in lists: not saved with this
        width, size = head.state.in_features, table.shape[1]
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("directions", torch.zeros(width, min(STATES, width)))
        # Directions of ẽ_a [E, e] and of e_a [E, d]. They are saved, as those of the states: where
        # two are equally large, another machine may find others, which sums of earlier rounds do
        # not belong to.
        self.register_buffer("alone", torch.zeros(size, min(ALONE, size)))
        self.register_buffer("crossed", torch.zeros(size, min(TOKENS, size)))
        # The number of features.
        self.width = self.alone.shape[1] + self.directions.shape[1] * self.crossed.shape[1]

    @property
    def ready(self) -> bool:
        """Whether it knows in which directions states and tokens differ."""
        return bool(self.directions.any())

    def prepare(self, states: Tensor, total: Callable[[Tensor], Tensor]) -> None:
        """Find the directions in which states [N, H] differ most, and those of the tokens.

        `total` adds a tensor up over processes.
        """
        h = states.cpu().double()  # not every device knows double precision
        h = torch.cat([h, torch.ones_like(h[:, :1])], 1)
        sums = total(h.T @ h)
        mean = sums[:-1, -1] / sums[-1, -1]
        covariance = sums[:-1, :-1] / sums[-1, -1] - torch.outer(mean, mean)
        variance = covariance.diagonal().clamp(min=0.0)
        apart = variance > FAINT * variance.max()
        size = torch.where(apart, variance, 1.0).rsqrt() * apart
        values, vectors = torch.linalg.eigh(size[:, None] * covariance * size)
        count = self.directions.shape[1]
        values, vectors = values.flip(0)[:count], vectors.flip(1)[:, :count]
        differ = values > FAINT * values[0]
        whiten = torch.where(differ, values, 1.0).rsqrt() * differ
        self.mean.copy_(mean)
        self.directions.copy_(size[:, None] * vectors * whiten)
        self._prepare_tokens()

    def _prepare_tokens(self) -> None:
        """Find the directions in which tokens differ most; only a fit that learns pays for it."""
        (table,) = self._table
        alone, crossed = table.new_zeros(2, *2 * table.shape[1:], dtype=torch.float32)
        for part in self._parts():
            rows = self._rows(part)
            alone += _units(rows).T @ _units(rows)
            crossed += rows.T @ rows
        scale = (crossed.diagonal().mean() / len(table)).sqrt().clamp(min=1e-12)
        self.alone.copy_(_leading(alone, self.alone.shape[1]))
        self.crossed.copy_(_leading(crossed, self.crossed.shape[1]) / scale)

    def forward(self, states: Tensor, tokens: Tensor) -> Tensor:
        """φ [..., D] of the states [..., H] that tokens [...] are chosen at."""
        rows = self._rows(tokens)
        z = (states.float() - self.mean) @ self.directions
        products = z[..., :, None] * (rows @ self.crossed)[..., None, :] / z.shape[-1] ** 0.5
        return torch.cat([_units(rows) @ self.alone, products.flatten(-2)], -1)

    @torch.no_grad()
    def write(self, weights: Tensor) -> None:
        """Let the head's values be ⟨θ, φ⟩, for θ [D, M]."""
        (head,), outputs, weights = self._head, weights.shape[1], weights.to(self.mean)
        count, few = self.directions.shape[1], self.alone.shape[1]
        own, products = weights[:few], weights[few:]
        products = products.T.reshape(outputs, count, -1) / count**0.5  # [M, r, d]
        mix = self.crossed @ products.transpose(1, 2) @ self.directions.T  # [M, E, H]
        head.mix.weight.copy_(mix.reshape(outputs * mix.shape[1], -1))
        for part in self._parts():
            rows = self._rows(part)
            head.token[part] = _units(rows) @ (self.alone @ own) - rows @ (mix @ self.mean).T
        nn.init.zeros_(head.state.weight)
        nn.init.zeros_(head.state.bias)

    def _parts(self) -> Iterator[slice]:
        """Slices of the vocabulary: in float32, the table of a large model is several gigabytes."""
        for begin in range(0, len(self._table[0]), PART):
            yield slice(begin, begin + PART)

    def _rows(self, tokens: Tensor | slice) -> Tensor:
        """Embeddings [..., E] of tokens less the head's centre, float32."""
        (head,), (table,) = self._head, self._table
        rows: Tensor = table[tokens].float() - head.centre.float()
        return rows


def _units(rows: Tensor) -> Tensor:
    """Rows [..., E] of unit root mean square."""
    return rows / rows.square().mean(-1, keepdim=True).sqrt().clamp(min=1e-6)


def _leading(squares: Tensor, count: int) -> Tensor:
    """The directions [E, count] in which rows of the second moments [E, E] are largest."""
    vectors: Tensor = torch.linalg.eigh(squares.cpu()).eigenvectors
    return vectors.flip(1)[:, :count]
