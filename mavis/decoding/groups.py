"""Which rows go through a model together: in one call all are as long as the longest of them."""

from collections.abc import Sequence

READ_CALL = 64  # tokens: what one more call costs, where prompts are read
STEP_CALL = 4096  # positions looked back at: what one more call costs, in a step


def read_together(lengths: Sequence[int]) -> list[list[int]]:
    """Group texts of so many tokens, so that little is padded.

    >>> read_together([3, 200, 4])
    [[0, 2], [1]]
    """
    groups: list[list[int]] = []
    total = 0
    for at in sorted(range(len(lengths)), key=lambda at: lengths[at]):
        length = lengths[at]
        if not groups or length * (len(groups[-1]) + 1) > total + length + READ_CALL:
            groups.append([])
            total = 0
        groups[-1].append(at)
        total += length
    return groups


def by_cost(lengths: Sequence[int]) -> list[list[int]]:
    """Group rows of so many tokens for a step, so that a long one does not tax the short ones.

    A row looks back at as many positions as the longest of its group has. A group is cut where that
    saves more positions than one more call costs.

    >>> by_cost([10, 500, 12]), by_cost([10] * 15 + [500])
    ([[0, 1, 2]], [[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14], [15]])
    """
    order = sorted(range(len(lengths)), key=lambda at: lengths[at])
    groups: list[list[int]] = []
    while order:
        longest = lengths[order[-1]]
        saved = [(at + 1) * (longest - lengths[order[at]]) for at in range(len(order))]
        cut = max(range(len(order)), key=lambda at: saved[at])
        start = cut + 1 if saved[cut] > STEP_CALL else 0
        groups.insert(0, sorted(order[start:]))
        order = order[:start]
    return groups
