"""A device that is not there is named, with those that are."""

import pytest

from mavis.devices import check_device


@pytest.mark.parametrize("name", [None, "cpu"])
def test_devices_that_are_there(name):
    check_device(name)


@pytest.mark.parametrize("name", ["cuda:99", "warp drive"])
def test_devices_that_are_not(name):
    with pytest.raises(
        ValueError, match=f"device '{name}' is not available here; .* cpu"
    ) as raised:
        check_device(name)
    assert "\n" not in str(raised.value)
