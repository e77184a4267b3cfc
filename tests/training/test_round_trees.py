"""How many trees a round has, and which trees it reads again."""

import pytest

from mavis.training.batching import loader


def shown(groups, earlier, passes, epochs):
    """Which packs each pass reads; `groups` and `earlier` are single tokens of packs."""
    found = loader(groups, (7, 1), earlier, passes)
    order = found.sampler
    passes_read = []
    for epoch in epochs:
        order.set_epoch(epoch)
        passes_read.append(list(order))
    assert {len(one) for one in passes_read} == {len(order)}
    return passes_read


@pytest.mark.parametrize(("new", "old", "passes"), [(5, 7, 3), (4, 2, 3), (6, 0, 2), (3, 9, 1)])
def test_a_round_reads_its_own_batches_in_each_pass_and_earlier_ones_once(new, old, passes):
    groups, earlier = [[at] for at in range(new)], [[new + at] for at in range(old)]
    read = shown(groups, earlier, passes, range(passes, 2 * passes))  # its second round
    again = sorted(at for one in read for at in one if at >= new)
    assert set(again) == {new + at for at in range(old)}
    assert len(again) < old + passes  # but for what rounding up reads twice
    for one in read:
        assert sorted(at for at in one if at < new) == list(range(new))
    assert read == shown(groups, earlier, passes, range(passes, 2 * passes))
