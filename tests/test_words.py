"""The vocabulary: words that the field does not know, and that were replaced, stay out of product code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("api/streamfleet_api", "broker/streamfleet_broker")

# Names of our own → what they are called now. Case counts.
NAMES = {
    "Link": "BrokerClient",
    "LinkError": "BrokerClientError",
    "Happenings": "EventFeed",
    "Audience": "SubscriberRegistry",
    "Follower": "Subscriber",
    "Backlog": "SendQueue",
    "Roster": "PipelineCache",
    "Patience": "HangDetector",
    "Complaints": "LogThrottle",
    "Facts": "FleetQueries",
    "Lookout": "EventListeners",
    "Releases": "Confirmations",
    "Waiting": "PendingReplies",
    "Movement": "Scheduler",
    "Supply": "EntropySource",
    "Ledger": "Tables",
    "Wishes": "Pipelines",
    "Wish": "Assignment",
    "wish": "assignment",
    "wishes": "assignments",
    "wished": "desired",
    "Want": "DesiredStatus",
    "want": "desired_status",
    "Standing": "Snapshot",
    "Audit": "LogEvent",
    "Doorkeeper": "ZapHandler",
    "stirred": "dirty_pipelines",
    "garbled": "receive_malformed",
    "unsaved": "commit_failed",
    "_weigh_losses": "_detect_partition",
    "rev": "revision",
    "applied_rev": "applied_revision",
    "start_gen": "run_generation",
    "ended_start_gen": "ended_run_generation",
    "still_for": "frozen_for",
    "Beat": "Heartbeat",
    "Ack": "HeartbeatAck",
    "beat_ms": "heartbeat_ms",
}
# Words of prose, in any case → plain English.
PROSE = {
    "anew": "again",
    "whoever": "name the client, the device or the operator",
    "nobody": "no client, no device",
    "somebody": "a client, a device",
    "everybody": "all clients",
    "for ever": "until it stops",
    "came": "got, was received",
    "is well": "is healthy",
    "wished for": "desired",
    "the original's": "Roboflow's",
}


def lines(folder: str) -> list[tuple[str, str]]:
    """Each line of the Python files in a folder, with its place."""
    return [
        (f"{path.relative_to(ROOT)}:{number}", line)
        for path in sorted((ROOT / folder).rglob("*.py"))
        for number, line in enumerate(path.read_text().splitlines(), 1)
    ]


@pytest.mark.parametrize("folder", FOLDERS)
def test_replaced_words_stay_out_of_product_code(folder: str) -> None:
    names = re.compile(rf"(?<![\w.])({'|'.join(map(re.escape, NAMES))})(?!\w)")
    prose = re.compile(rf"\b({'|'.join(map(re.escape, PROSE))})\b", re.IGNORECASE)

    found = [
        f"{place}: {match[0]!r}, write {(NAMES | PROSE).get(match[0], PROSE.get(match[0].lower()))!r}"
        for place, line in lines(folder)
        for match in (*names.finditer(line), *prose.finditer(line))
    ]

    assert not found, "\n".join(found)
