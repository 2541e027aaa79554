"""Why a decoder fails, and whether it is started again."""

from __future__ import annotations

import pytest

from streamfleet_worker.video.hardware.faults import RESTART_WINDOW, RestartLimit, failure_of


@pytest.mark.parametrize(
    ("output", "code", "cause", "why"),
    [
        ("", -9, "killed", "was killed by SIGKILL"),
        ("ERROR: from element /a: Bad.", -11, "killed", "was killed by SIGSEGV"),
        ("", -99, "killed", "was killed by signal 99"),
        (
            'WARNING: erroneous pipeline: no element "nvv4l2decoder"\n',
            1,
            "missing",
            "GStreamer has no element nvv4l2decoder",
        ),
        (
            "WARNING: erroneous pipeline: could not link a to b\n",
            1,
            "refused",
            "GStreamer says: could not link a to b",
        ),
        (
            "NvMMLiteOpen : Block\nERROR: from element /GstPipeline:pipeline0/a: Failed to process.\nmore",
            1,
            "refused",
            "GStreamer says: Failed to process.",
        ),
        ("", 3, "exited", "ended with code 3"),
    ],
)
def test_the_end_of_a_decoder_tells_its_cause(output: str, code: int, cause: str, why: str) -> None:
    failure = failure_of(output, code)

    assert (failure.cause, str(failure)) == (cause, why)


def test_what_gstreamer_says_is_cut() -> None:
    assert len(str(failure_of(f"ERROR: a: {'x' * 4000}", 1))) < 200


def test_a_decoder_that_worked_is_started_again_twice_a_minute() -> None:
    limit = RestartLimit()

    assert [limit.allows(now, worked=True) for now in (0.0, 1.0, 2.0, RESTART_WINDOW + 0.5)] == [
        True,
        True,
        False,
        True,
    ]


def test_a_decoder_that_never_worked_is_not_started_again() -> None:
    limit = RestartLimit()

    assert not limit.allows(0.0, worked=False)
    assert limit.allows(1.0, worked=True)
