"""The vocabulary: words that the field does not know, and that were replaced, stay out of product code."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = (
    "api/streamfleet",
    "api/streamfleet_api",
    "broker/streamfleet_broker",
    "broker/streamfleet_core",
    "worker/streamfleet_worker",
)
PLAIN = (  # whose prose is plain English, too
    "api/streamfleet",
    "api/streamfleet_api",
    "benchmarks",
    "broker/streamfleet_broker",
    "broker/streamfleet_core",
    "demo",
    "examples",
    "tools",
    "worker/streamfleet_worker",
)

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
    "Releases": "DeviceConfirmations",
    "Waiting": "PendingReplies",
    "Movement": "Scheduler",
    "Supply": "RandomSource",
    "Ledger": "RecordIndex",
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
# Fields of the data plane's header and of `inference_metadata`: their receivers know them by short names.
SHORT = {"gen": "generation", "inc": "incarnation"}
KNOWING = {  # the modules that write or read these bytes, or describe them
    "api/streamfleet_api/feeds/zmq_subscription.py",
    "api/streamfleet_api/roboflow/inference_pipelines/result_buffer.py",
    "api/streamfleet_api/v2/stream_docs.py",
    "broker/streamfleet_core/protocol/data_plane.py",
    "broker/streamfleet_core/protocol/prediction.py",
    "worker/streamfleet_worker/agent/status_publisher.py",
    "worker/streamfleet_worker/camera/emitter.py",
    "worker/streamfleet_worker/engine/onnxruntime_errors.py",  # names of C++ files
    "worker/streamfleet_worker/video/outputs/prediction.py",
}


def lines(folder: str) -> list[tuple[str, str]]:
    """Each line of the Python files in a folder, with its place."""
    return [
        (f"{path.relative_to(ROOT)}:{number}", line)
        for path in python_files(ROOT / folder)
        for number, line in enumerate(path.read_text().splitlines(), 1)
    ]


def python_files(folder: Path) -> list[Path]:
    """The Python files in a folder. Results are left out: a test that runs may have a checkout there."""
    found = []
    for root, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name != "results"]
        found += [Path(root, name) for name in names if name.endswith(".py")]
    return sorted(found)


def places(folder: str, words: dict[str, str], pattern: str, flags: int = 0) -> list[str]:
    """Where a folder has one of these words, and what to write instead."""
    compiled = re.compile(pattern.format("|".join(map(re.escape, words))), flags)
    return [
        f"{place}: {match[0]!r}, write {words.get(match[0], words.get(match[0].lower()))!r}"
        for place, line in lines(folder)
        for match in compiled.finditer(line)
    ]


@pytest.mark.parametrize("folder", FOLDERS)
def test_replaced_names_stay_out_of_product_code(folder: str) -> None:
    found = places(folder, NAMES, r"(?<![\w.])({})(?!\w)")

    assert not found, "\n".join(found)


@pytest.mark.parametrize("folder", FOLDERS)
def test_short_names_stay_in_the_bytes_whose_receivers_know_them(folder: str) -> None:
    found = [each for each in places(folder, SHORT, r"\b({})\b") if each.split(":")[0] not in KNOWING]

    assert not found, "\n".join(found)


@pytest.mark.parametrize("folder", PLAIN)
def test_replaced_words_stay_out_of_the_prose_of_product_code(folder: str) -> None:
    found = places(folder, PROSE, r"\b({})\b", re.IGNORECASE)

    assert not found, "\n".join(found)
