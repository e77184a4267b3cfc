"""What adding up values costs, exactly: every policy over a small vocabulary, by enumeration.

python benchmarks/mixing.py --toys 40 --kl 1.0

A toy has V tokens, replies of T tokens, a random reference policy, and two rewards of whole replies
that are random, too: some of each reply's reward is a sum over its tokens, and the rest is not.
For each weighting λ, six ways to guide the reference spend the same KL, and their gain in the
weighted reward is compared with that of the best policy of all, π_ref(y) exp(β Σ λ_m r_m(y)).
"""

import json
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from jsonargparse import auto_cli

Array = npt.NDArray[np.float64]
Values = Callable[[float], list[Array]]  # of a strength: Q(s, a) [V^t, V] for each place t
WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0)  # of the first reward
SWEEPS = 30  # of the fixed point of a policy and its own values


class Toy:
    """A reference policy over replies [V^T], and two rewards of them [2, V^T]."""

    def __init__(self, seed: int, tokens: int, length: int, additive: float) -> None:
        random = np.random.default_rng(seed)
        self.tokens, self.length = tokens, length
        places = range(length)
        self.reference = [_softmax(random.normal(size=(tokens**t, tokens))) for t in places]
        whole = random.normal(size=(2, tokens**length))
        steps = [random.normal(size=(2, 1, tokens)) for _ in places]
        sums = np.zeros((2, 1))
        for step in steps:  # of a reply's tokens, each at its place
            sums = (sums[..., None] + step).reshape(2, -1)
        mixed = np.sqrt(additive / length) * sums + np.sqrt(1 - additive) * whole
        chance = self.chance(self.reference)
        mixed -= mixed @ chance[:, None]
        self.rewards = mixed / np.sqrt(np.square(mixed) @ chance)[:, None]

    def chance(self, policy: list[Array]) -> Array:
        """The probability of every reply [V^T]."""
        found = np.ones((1, 1))
        for step in policy:
            found = found.reshape(-1, 1) * step
        return found.ravel()

    def kl(self, policy: list[Array]) -> float:
        """KL(π ‖ π_ref) of replies, in nats."""
        mine, theirs = self.chance(policy), self.chance(self.reference)
        said = mine > 0  # what is too unlikely for a float is never said
        return float(np.sum(mine[said] * np.log(mine[said] / theirs[said])))

    def tilt(self, values: list[Array], beta: float) -> list[Array]:
        """π(a|s) ∝ π_ref(a|s) exp(β Q(s, a))."""
        both = zip(self.reference, values, strict=True)
        return [_softmax(np.log(step) + beta * q) for step, q in both]

    def expected(self, reward: Array, policy: list[Array]) -> list[Array]:
        """Q(s, a) [V^t, V]: the mean of a reward [V^T] of replies that the policy goes on with."""
        return self._back(reward, policy, lambda step, q: (step * q).sum(1))

    def soft(self, reward: Array, beta: float) -> list[Array]:
        """Q(s, a) of the best policy: 1/β log E_π_ref exp(β r)."""

        def mean(step: Array, q: Array) -> Array:
            top = q.max(1, keepdims=True)
            inside = (step * np.exp(beta * (q - top))).sum(1)
            return np.asarray(top[:, 0] + np.log(inside) / beta)

        return self._back(reward, self.reference, mean)

    def _back(
        self, reward: Array, policy: list[Array], mean: Callable[[Array, Array], Array]
    ) -> list[Array]:
        found, after = [], reward
        for step in reversed(policy):
            found.append(after.reshape(-1, self.tokens))
            after = mean(step, found[-1])
        return found[::-1]


def _softmax(logits: Array) -> Array:
    odds = np.exp(logits - logits.max(1, keepdims=True))
    return np.asarray(odds / odds.sum(1, keepdims=True))


def spending(toy: Toy, values: Values, kl: float) -> tuple[list[Array], float]:
    """The policy of some values that is `kl` nats from the reference, and its strength."""
    low, high = 0.0, 64.0
    for _ in range(40):
        beta = (low + high) / 2
        policy = toy.tilt(values(beta), beta)
        low, high = (beta, high) if toy.kl(policy) < kl else (low, beta)
    return policy, beta


def linear(toy: Toy, kl: float) -> list[list[Array]]:
    """Q_1 and Q_2 whose weighted sums are nearest to the best values of all weightings at once."""
    rows = np.array([[share, 1 - share] for share in WEIGHTS])
    best = [_optimum(toy, weights @ toy.rewards, kl) for weights in rows]
    fit = np.linalg.pinv(rows)  # [2, W]
    return [
        [np.tensordot(one, np.stack(place), 1) for place in zip(*best, strict=True)] for one in fit
    ]


def added(weights: Array, parts: Sequence[list[Array]]) -> list[Array]:
    """Σ_m λ_m Q_m, place by place."""
    places = zip(*parts, strict=True)
    return [np.tensordot(weights, np.stack(place), 1) for place in places]


def ways(
    toy: Toy, weights: Array, alone: Sequence[list[Array]], fitted: Sequence[list[Array]]
) -> dict[str, Values]:
    """Values of the weighted reward, by how they are had."""
    mixed = weights @ toy.rewards
    first = toy.expected(mixed, toy.reference)

    def pairs(beta: float) -> list[Array]:
        """And half of β times the variance of what is still open: Σ λ_m λ_n Cov(r_m, r_n)."""
        square = toy.expected(np.square(mixed), toy.reference)
        return [q + beta / 2 * (s - q**2) for q, s in zip(first, square, strict=True)]

    def under_it(beta: float) -> list[Array]:
        """Of the policy that they guide, less what it pays: its own sum, found by iteration."""
        values = first
        for _ in range(SWEEPS):
            policy = toy.tilt(values, beta)
            charged = _charged(toy, policy, 1 / max(beta, 1e-9))
            parts = [toy.expected(reward, policy) for reward in toy.rewards]
            sums = added(weights, parts)
            values = [q - c for q, c in zip(sums, charged, strict=True)]
        return values

    return {
        "sum, under the reference": lambda _: first,
        "sum, each at its own optimum": lambda _: added(weights, alone),
        "sum, fitted to all optima": lambda _: added(weights, fitted),
        "with pairs, under the reference": pairs,
        "sum, under the mixed policy": under_it,
        "optimum": lambda beta: toy.soft(mixed, beta),
    }


def _charged(toy: Toy, policy: list[Array], eta: float) -> list[Array]:
    """η times the KL that is still to come after each token [V^t, V]."""
    found: list[Array] = []
    after = np.zeros(toy.tokens**toy.length)
    for step, reference in zip(reversed(policy), reversed(toy.reference), strict=True):
        later = after.reshape(-1, toy.tokens)
        found.append(later)
        after = (step * (eta * np.log(step / reference) + later)).sum(1)
    return found[::-1]


def compared(toy: Toy, kl: float) -> dict[str, list[float]]:
    """The share of the best gain that each way has, for each of the weights."""
    alone = [_optimum(toy, reward, kl) for reward in toy.rewards]
    fitted = linear(toy, kl)
    found: dict[str, list[float]] = {}
    for share in WEIGHTS:
        weights = np.array([share, 1 - share])
        gains = {
            name: float(weights @ toy.rewards @ toy.chance(spending(toy, values, kl)[0]))
            for name, values in ways(toy, weights, alone, fitted).items()
        }
        for name, gain in gains.items():
            found.setdefault(name, []).append(gain / gains["optimum"])
    return found


def _optimum(toy: Toy, reward: Array, kl: float) -> list[Array]:
    """The values of the best policy that is `kl` nats from the reference."""
    return toy.soft(reward, spending(toy, lambda beta: toy.soft(reward, beta), kl)[1])


def measure(
    toys: int = 40, tokens: int = 4, length: int = 4, kl: float = 1.0, additive: float = 0.5
) -> None:
    """Print the share of the best gain that each way has, by the weight of the first reward.

    Args:
        toys: how many random ones.
        tokens: V.
        length: T.
        kl: nats that every policy spends.
        additive: share of a reward's variance that is a sum over tokens.
    """
    shares: dict[str, list[list[float]]] = {}
    for seed in range(toys):
        for name, row in compared(Toy(seed, tokens, length, additive), kl).items():
            shares.setdefault(name, []).append(row)
    means = {name: np.mean(rows, 0).round(4).tolist() for name, rows in shares.items()}
    settings = {"toys": toys, "tokens": tokens, "length": length, "kl": kl, "additive": additive}
    for name, row in means.items():
        print(f"{name:32} {'  '.join(f'{x:.3f}' for x in row)}")
    print(json.dumps({"benchmark": "mixing", **settings, "weights": WEIGHTS, "shares": means}))


def main(args: list[str] | None = None) -> None:
    """Run from the command line."""
    auto_cli(measure, args=args, as_positional=False)


if __name__ == "__main__":
    main()
