"""When the children of a device report."""

from __future__ import annotations

import pytest

from streamfleet_worker.ipc.child_messages import REPORT_INTERVAL, next_report_after


@pytest.mark.parametrize("now", [0.0, 0.3, 12.0, 12.999, 86_400.5])
def test_all_children_report_at_the_same_moments(now: float) -> None:
    due = next_report_after(now)

    assert due % REPORT_INTERVAL == 0
    assert now < due <= now + REPORT_INTERVAL
