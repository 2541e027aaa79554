"""What a camera keeps: pictures and boxes that fit each other, written without ever holding the camera up."""

from __future__ import annotations

import logging
import os
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
import pytest
import supervision as sv

from streamfleet_core.datasets.picked_sample import Sample, SamplePrediction
from streamfleet_core.datasets.spool import Spool
from streamfleet_core.protocol.sampling import Batching, ClassesBased, Limit, Random, Sampling
from streamfleet_worker.agent.sample_retention import SampleRetention
from streamfleet_worker.sampling.quota_file import path_of
from streamfleet_worker.sampling.sampler import Destination, Sampler
from streamfleet_worker.video.array_picture import ArrayPicture
from streamfleet_worker.video.frame import Stamp
from tests.fakes.found import CLASSIFIED, KEYPOINTS, ORIENTED, OUTLINED, RUN_LENGTHS, document
from tests.fakes.patience import PATIENCE
from tests.fakes.process_harness import wait_for

EVERY = Sampling(dataset="parts", strategies=(Random(name="every", traffic_percentage=1),))
NOW = 1_700_000_000.0
PICTURE = np.zeros((48, 64, 3), np.uint8)
PICTURE[12:24, 32:48] = 255


def prediction() -> dict[str, Any]:
    """That there is a nut where the picture is white."""
    box = {"x": 40.0, "y": 18.0, "width": 16.0, "height": 12.0, "confidence": 0.5, "class": "nut"}
    return {"image": {"width": 64, "height": 48}, "predictions": [{**box, "class_id": 1}]}


def look(sampler: Sampler, frame_id: int, now: float = NOW, found: dict[str, Any] | None = None) -> None:
    """Let it see one more frame."""
    stamp = Stamp(
        frame_id=frame_id,
        decoded_at=0.0,
        wall_ns=int((NOW + frame_id) * 1e9),
        boot_ns=0,
        media_time=0.0,
        fps=25.0,
    )
    sampler.offer(ArrayPicture(PICTURE), found or prediction(), stamp, source_id=0, now=now)


Start = Callable[..., Sampler]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """A sampler that has read what was taken before."""
    samplers: list[Sampler] = []

    def begin(sampling: Sampling = EVERY, **destination: Any) -> Sampler:
        sampler = Sampler(
            Destination(
                pipeline_id="door", device="edge-1", labels=("bolt", "nut"), folder=tmp_path, **destination
            )
        )
        samplers.append(sampler)
        sampler.use(sampling)
        wait_for("the tally is read", lambda: sampler.wants(0.0))
        return sampler

    yield begin
    for sampler in samplers:
        sampler.close(PATIENCE)


def until_settled(sampler: Sampler) -> dict[str, Any]:
    """Its counters, when what was picked is written or dropped."""

    def settled() -> bool:
        counted = sampler.stat
        return counted is not None and counted.picked == counted.written + sum(counted.dropped.values())

    wait_for("all is written", settled)
    counted = sampler.stat
    assert counted is not None
    return {"picked": counted.picked, "written": counted.written, **counted.dropped}


def kept(folder: Path) -> list[tuple[Sample, bytes]]:
    """All samples, oldest first."""
    spool = Spool(folder)
    found = [spool.read(entry.dataset, entry.name) for entry in spool.entries()]
    return [one for one in found if one is not None]


# what is written ------------------------------------------------------------------------------------------


def test_a_sample_says_all_that_labelling_needs(start: Start, tmp_path: Path) -> None:
    strategy = Random(name="every", traffic_percentage=1, tags=("rare", "night"))
    sampler = start(
        Sampling(dataset="parts", strategies=(strategy,), batching=Batching("line", "daily"), tags=("night",))
    )

    look(sampler, 7)
    until_settled(sampler)

    ((sample, jpeg),) = kept(tmp_path)
    assert sample == Sample(
        pipeline_id="door",
        device="edge-1",
        source_id=0,
        frame_id=7,
        captured_at=NOW + 7,
        width=64,
        height=48,
        size=len(jpeg),
        labels=("bolt", "nut"),
        prediction=cast(SamplePrediction, prediction()),
        strategy="every",
        tags=("night", "rare"),
        batch="line_2023_11_14",
        dataset="parts",
    )
    image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    assert np.abs(image.astype(int) - PICTURE).mean() < 3


@pytest.mark.parametrize(
    ("most", "size"),
    [((24, 32), (24, 32)), ((24, 640), (24, 32)), ((480, 16), (12, 16)), ((480, 640), (48, 64))],
)
def test_a_picture_keeps_its_aspect_and_its_boxes_fit_it(
    start: Start, tmp_path: Path, most: tuple[int, int], size: tuple[int, int]
) -> None:
    sampler = start(Sampling(dataset="parts", strategies=EVERY.strategies, max_image_size=most))

    look(sampler, 1)
    until_settled(sampler)

    ((sample, jpeg),) = kept(tmp_path)
    image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_GRAYSCALE)
    assert image is not None
    assert (sample.height, sample.width) == image.shape == size
    assert sample.prediction is not None
    assert sample.prediction["image"] == {"width": size[1], "height": size[0]}
    (box,) = sample.boxes
    across, down = size[1] / 64, size[0] / 48
    assert (box.x, box.y, box.width, box.height) == (40 * across, 18 * down, 16 * across, 12 * down)
    assert image[int(box.y), int(box.x)] > 200
    assert image[1, 1] < 60


@pytest.mark.parametrize("given", [OUTLINED, RUN_LENGTHS, ORIENTED, KEYPOINTS])
def test_what_a_task_adds_fits_the_picture_too(start: Start, tmp_path: Path, given: dict[str, Any]) -> None:
    small = Sampling(dataset="parts", strategies=EVERY.strategies, max_image_size=(24, 32))

    for sampling in (EVERY, small):
        sampler = start(sampling)
        look(sampler, len(kept(tmp_path)), found=document(given))
        until_settled(sampler)
        sampler.close(PATIENCE)

    whole, half = (cast(dict[str, Any], sample.prediction)["predictions"][0] for sample, _ in kept(tmp_path))
    assert whole == given
    assert list(half) == list(given)
    for key in ("points", "keypoints"):
        assert [(point["x"], point["y"]) for point in half.get(key, [])] == [
            (point["x"] / 2, point["y"] / 2) for point in given.get(key, [])
        ]
    if "rle" in given:
        assert half["rle"]["size"] == [24, 32]
        mask = sv.rle_to_mask(half["rle"]["counts"], (32, 24))
        assert mask.sum() == mask[4:6, 8:12].sum() == 8
    assert half.get("rotation") == given.get("rotation")


def test_a_classified_picture_is_picked_by_its_best_class(start: Start, tmp_path: Path) -> None:
    sampler = start(
        Sampling(dataset="parts", strategies=(ClassesBased(name="cats", selected_class_names=("cat",)),))
    )
    dog = {**CLASSIFIED, "top": "dog", "predictions": CLASSIFIED["predictions"][::-1]}

    for number, found in enumerate((dog, CLASSIFIED)):
        look(sampler, number, found={"image": {"width": 64, "height": 48}, **found})
    until_settled(sampler)

    ((sample, _),) = kept(tmp_path)
    assert (sample.frame_id, sample.prediction and sample.prediction["top"]) == (1, "cat")
    assert [one.class_name for one in sample.classes] == ["cat", "dog"]


def test_predictions_that_are_not_wanted_are_not_kept(start: Start, tmp_path: Path) -> None:
    sampler = start(Sampling(dataset="parts", strategies=EVERY.strategies, persist_predictions=False))

    look(sampler, 1)
    until_settled(sampler)

    assert [sample.prediction for sample, _ in kept(tmp_path)] == [None]


def test_a_sampling_changes_between_two_frames_and_may_end(start: Start, tmp_path: Path) -> None:
    sampler = start()
    look(sampler, 1)
    sampler.use(Sampling(dataset="other", strategies=EVERY.strategies))
    look(sampler, 2)
    sampler.use(None)
    look(sampler, 3)

    until_settled(sampler)

    assert not sampler.wants(NOW)
    assert [(sample.dataset, sample.frame_id) for sample, _ in kept(tmp_path)] == [("parts", 1), ("other", 2)]


def test_nothing_of_the_others_may_read_what_is_kept(start: Start, tmp_path: Path) -> None:
    sampler = start()
    look(sampler, 1)
    until_settled(sampler)

    modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "parts").iterdir()}

    assert modes == {0o600}


# limits ---------------------------------------------------------------------------------------------------

_DAILY = Sampling(
    dataset="parts", strategies=(Random(name="some", traffic_percentage=1, limits=(Limit("daily", 5),)),)
)


def test_a_daily_limit_is_one_a_day_however_often_a_camera_starts(start: Start, tmp_path: Path) -> None:
    for life in range(4):
        sampler = start(_DAILY)
        for frame in range(3):
            look(sampler, 10 * life + frame)
        sampler.close(PATIENCE)

    assert [sample.frame_id for sample, _ in kept(tmp_path)] == [0, 1, 2, 10, 11]


def test_the_limit_holds_though_the_samples_were_taken_away(start: Start, tmp_path: Path) -> None:
    first = start(_DAILY)
    for frame in range(5):
        look(first, frame)
    first.close(PATIENCE)
    for entry in Spool(tmp_path).entries():
        Spool(tmp_path).remove(entry.dataset, entry.name)

    second = start(_DAILY)
    assert not second.wants(NOW)
    look(second, 5)

    assert until_settled(second) == {"picked": 0, "written": 0}


def test_a_tally_that_cannot_be_read_begins_anew_and_is_told(
    start: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = path_of(tmp_path, "door")
    path.parent.mkdir()
    path.write_bytes(b"{")

    sampler = start(_DAILY)
    look(sampler, 1)

    assert until_settled(sampler)["written"] == 1
    assert [record.levelname for record in caplog.records] == ["WARNING"]


# disks ----------------------------------------------------------------------------------------------------


def test_a_disk_that_hangs_holds_nobody_up_and_what_waits_is_bounded(start: Start, tmp_path: Path) -> None:
    path = path_of(tmp_path, "door")
    path.parent.mkdir()
    hanging = path.with_name(f"{path.name}.new")
    os.mkfifo(hanging)  # the writer hangs in opening it, until somebody reads
    sampler = start()

    began = time.monotonic()
    for frame in range(500):
        look(sampler, frame)
    took = time.monotonic() - began

    counted = sampler.stat
    assert counted is not None
    assert took < PATIENCE, "a disk that hangs would have none of them go on"
    assert counted.picked == 500
    assert counted.written == 0
    assert counted.dropped["queue"] >= 500 - 9  # eight wait, one is being written
    with hanging.open("rb"):
        assert until_settled(sampler)["written"] == 500 - counted.dropped["queue"]
    assert len(kept(tmp_path)) == 500 - counted.dropped["queue"]


def test_a_full_disk_is_one_line_and_a_counter_and_heals(
    start: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    path = path_of(tmp_path, "door")
    path.parent.mkdir()
    full = path.with_name(f"{path.name}.new")
    full.symlink_to("/dev/full")
    sampler = start(_DAILY)

    for frame in range(20):  # one a second
        look(sampler, frame, NOW + frame)
        until_settled(sampler)
    counted = sampler.stat
    assert counted is not None
    full.unlink()
    for frame in range(20, 30):
        look(sampler, frame, NOW + frame)
        until_settled(sampler)

    assert (counted.picked, counted.written, counted.dropped) == (4, 0, {"disk": 4})  # one in five seconds
    assert "No space left" in counted.error
    assert [(record.levelname, record.message.split(":")[1]) for record in caplog.records] == [
        ("WARNING", " samples cannot be stored"),
        ("INFO", " samples are stored again"),
    ]
    # What the disk refused has cost the limit nothing.
    assert [sample.frame_id for sample, _ in kept(tmp_path)] == [20, 21, 22, 23, 24]


def test_a_folder_that_cannot_be_made_is_counted_and_no_crash(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    sampler = Sampler(
        Destination(
            pipeline_id="door", device="edge-1", labels=("bolt", "nut"), folder=tmp_path / "file" / "samples"
        )
    )
    sampler.use(EVERY)
    wait_for("it has given up reading", lambda: sampler.wants(NOW))

    look(sampler, 1)

    assert until_settled(sampler) == {"picked": 1, "written": 0, "disk": 1}
    sampler.close(PATIENCE)


def test_a_sample_larger_than_all_may_be_is_counted(start: Start) -> None:
    sampler = start(size=100)

    look(sampler, 1)

    assert until_settled(sampler) == {"picked": 1, "written": 0, "size": 1}


def test_figures_that_are_no_numbers_are_counted_and_no_crash(start: Start, tmp_path: Path) -> None:
    sampler = start()
    strange = prediction()
    strange["predictions"][0]["x"] = float("nan")

    sampler.offer(
        ArrayPicture(PICTURE),
        strange,
        Stamp(frame_id=1, decoded_at=0.0, wall_ns=int(NOW * 1e9), boot_ns=0, media_time=0.0, fps=25.0),
        source_id=0,
        now=NOW,
    )
    until_settled(sampler)
    look(sampler, 2, NOW + 60)

    assert until_settled(sampler) == {"picked": 2, "written": 1, "invalid": 1}
    assert [sample.frame_id for sample, _ in kept(tmp_path)] == [2]


def test_what_was_picked_is_written_before_the_end(start: Start, tmp_path: Path) -> None:
    sampler = start()
    for frame in range(5):
        look(sampler, frame)

    sampler.close(PATIENCE)
    look(sampler, 6)

    assert len(kept(tmp_path)) == 5


def test_a_camera_that_was_never_asked_has_no_thread_and_no_folder(tmp_path: Path) -> None:
    sampler = Sampler(
        Destination(pipeline_id="door", device="edge-1", labels=("nut",), folder=tmp_path / "samples")
    )
    sampler.use(None)

    look(sampler, 1)
    sampler.close(0.0)

    assert sampler.stat is None
    assert not (tmp_path / "samples").exists()


# the sweeper ----------------------------------------------------------------------------------------------


def test_a_worker_removes_what_is_too_old_and_forgets_pipelines_that_are_gone(
    start: Start, tmp_path: Path
) -> None:
    sampler = start()
    look(sampler, 1)  # of 2023
    sampler.close(PATIENCE)
    gone, present = path_of(tmp_path, "gone"), path_of(tmp_path, "door")
    gone.write_bytes(b"{}")
    os.utime(gone, (NOW, NOW))

    sweeper = SampleRetention(Spool(tmp_path, age=3600))
    sweeper.start()
    wait_for("it has looked", lambda: not Spool(tmp_path).entries() and not gone.exists())
    sweeper.stop()

    assert present.exists()
