"""What is wrong with a device as a whole."""

from __future__ import annotations

import pytest

from streamfleet_core.protocol.limits import MAX_REASON
from streamfleet_core.protocol.status import MissingAccelerator
from streamfleet_worker.decisions.device_trouble import device_trouble

MISSING = MissingAccelerator("no CUDA", "install it")


@pytest.mark.parametrize(
    ("missing", "throttled", "expected"),
    [
        (None, "", ""),
        (MISSING, "", "no CUDA"),
        (None, "too hot", "throttled: too hot"),
        (MISSING, "too hot", "throttled: too hot; no CUDA"),
    ],
)
def test_all_that_is_wrong_is_in_one_text(
    missing: MissingAccelerator | None, throttled: str, expected: str
) -> None:
    assert device_trouble(missing, throttled) == expected


def test_the_text_is_as_short_as_the_broker_takes() -> None:
    missing = MissingAccelerator("m" * MAX_REASON, "")

    assert len(device_trouble(missing, "t" * 200).encode()) <= MAX_REASON
