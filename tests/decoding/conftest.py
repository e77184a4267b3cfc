"""What the tests of decoding share: all three sources at once, and how spans are compared."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from mavis.decoding.decode import decode
from mavis.decoding.reference import ReferencePolicy
from mavis.decoding.request import Output, Request
from mavis.decoding.value_model import ValueModel


@pytest.fixture(scope="session")
def three_networks(
    tiny_reference: ReferencePolicy, tiny_network: Callable[..., ValueModel]
) -> list[ValueModel]:
    """All three sources beside each other, M = 4."""
    return [
        tiny_network(tiny_reference, "state", ("humor", "kind"), seed=1),
        tiny_network(tiny_reference, "action", ("sense",), seed=2, trunk=1),
        tiny_network(tiny_reference, "shared", ("brevity",), seed=3),
    ]


@pytest.fixture(scope="session")
def run() -> Callable[..., dict[Any, Output]]:
    """`run(reference, networks, jobs, rows, follow)`: spans by their job's tag."""

    def decoded(
        reference: ReferencePolicy,
        networks: Sequence[ValueModel],
        jobs: Sequence[Request],
        **options: Any,
    ) -> dict[Any, Output]:
        return {span.request.tag: span for span in decode(reference, networks, jobs, **options)}

    return decoded


@pytest.fixture(scope="session")
def assert_same() -> Callable[..., None]:
    """`assert_same(found, expected)`: the same tokens and ends, and the same nats within 1e-4."""

    def compare(found: dict[Any, Output], expected: dict[Any, Output]) -> None:
        assert found.keys() == expected.keys()
        for tag, span in found.items():
            other = expected[tag]
            assert (span.tokens, span.reason) == (other.tokens, other.reason), tag
            for name in ("log_ratio", "kl", "truncation"):
                assert getattr(span, name) == pytest.approx(getattr(other, name), abs=1e-4), tag

    return compare
