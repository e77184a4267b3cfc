"""What tests of whole fits share: runs that are compared, and stopped."""

import json

import pytest
import torch

from mavis.storage import Shards


def metrics(folder):
    """Without the seconds, which no two runs share."""
    entries = json.loads((folder / "metrics.json").read_text())
    return [{k: v for k, v in e.items() if not k.startswith("seconds")} for e in entries]


def rows(folder):
    return sorted(Shards(folder).rows(), key=lambda row: row["index"])


@pytest.fixture(scope="session")
def same_run():
    """`same_run(folder, other)`: both came to the same measurements, trees and weights."""
    return _same_run


def _same_run(folder, other):
    assert len(metrics(folder)) == len(metrics(other)) >= 2
    for mine, theirs in zip(metrics(folder), metrics(other), strict=True):
        assert mine.keys() == theirs.keys()
        for name, value in theirs.items():
            if value is None:
                assert mine[name] is None, name
            else:
                assert mine[name] == pytest.approx(value, rel=1e-3, abs=1e-4, nan_ok=True), name
    made = sorted(path.relative_to(other) for path in other.rglob("made"))
    assert made == sorted(path.relative_to(folder) for path in folder.rglob("made"))
    for place in made:
        for mine, theirs in zip(rows(folder / place), rows(other / place), strict=True):
            assert mine["index"] == theirs["index"]
            assert mine["tokens"] == theirs["tokens"]
    weights, expected = (
        torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for run in (folder, other)
    )
    for name, tensor in expected.items():
        torch.testing.assert_close(weights[name], tensor, atol=1e-4, rtol=1e-3)


@pytest.fixture(scope="session")
def stopper():
    """`stopper(inner, nth, error)`: raises when it is called for the nth time, and only then."""
    return Stopper


class Stopper:
    """Raises when it is called for the nth time, and only then."""

    def __init__(self, inner, nth, error):
        self.inner, self.left, self.error = inner, nth, error

    def __call__(self, *args, **kwargs):
        self.left -= 1
        if self.left == 0:
            raise self.error
        return self.inner(*args, **kwargs)

    def __get__(self, instance, _):
        return lambda *args, **kwargs: self(instance, *args, **kwargs)
