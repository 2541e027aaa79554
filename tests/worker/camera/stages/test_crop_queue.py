"""Which crop is next, if more of them wait than an engine can infer."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from streamfleet_worker.camera.stages.crop_queue import CropQueue
from streamfleet_worker.camera.stages.nested_findings import NestedFindings


def taken(queue: CropQueue[str]) -> list[str]:
    found = []
    while (job := queue.take()) is not None:
        found.append(job)
    return found


def test_frames_of_a_file_go_in_their_order() -> None:
    queue: CropQueue[str] = CropQueue()
    first, second = NestedFindings(until=None), NestedFindings(until=None)
    for frame, job in ((first, "1a"), (second, "2a"), (first, "1b")):
        queue.add(frame, job)

    assert taken(queue) == ["1a", "1b", "2a"]
    assert not queue


def test_the_newest_live_frame_is_next_and_its_most_confident_object_first() -> None:
    queue: CropQueue[str] = CropQueue()
    old, new, file = NestedFindings(until=1), NestedFindings(until=2), NestedFindings(until=None)
    for frame, job in ((file, "f"), (old, "old"), (new, "new a"), (new, "new b")):
        queue.add(frame, job)

    assert taken(queue) == ["new a", "new b", "old", "f"]


def test_what_has_gone_on_is_dropped_and_counted() -> None:
    queue: CropQueue[str] = CropQueue()
    gone, here = NestedFindings(until=1), NestedFindings(until=2)
    for frame, job in ((gone, "a"), (gone, "b"), (here, "c")):
        queue.add(frame, job)
    gone.close()

    assert queue.drop_closed() == 2
    assert queue.drop_closed() == 0
    assert taken(queue) == ["c"]


@given(st.lists(st.integers(0, 5), max_size=30))
def test_each_job_is_taken_once(numbers: list[int]) -> None:
    queue: CropQueue[str] = CropQueue()
    frames = [NestedFindings(until=None if number % 2 else 1.0) for number in range(6)]
    jobs = [f"{number}-{at}" for at, number in enumerate(numbers)]
    for number, job in zip(numbers, jobs, strict=True):
        queue.add(frames[number], job)

    assert sorted(taken(queue)) == sorted(jobs)
