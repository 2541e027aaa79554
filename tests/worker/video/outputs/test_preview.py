"""Pictures with boxes: of the frames whose predictions left, only while somebody looks, and not too many."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
import pytest
import supervision as sv

from streamfleet_core.protocol.data_plane import DataHeader, Kind
from streamfleet_core.protocol.values import Manifest, SourceSpec
from streamfleet_core.runtime.boot_time import boot_time
from streamfleet_worker.ipc.child_messages import Show
from streamfleet_worker.video.outputs.preview import PreviewThrottle, draw
from streamfleet_worker.video.synthetic.test_pattern import LABELS, truth
from tests.fakes.fake_publisher import FakePublisher, fake_publisher
from tests.fakes.findings import oriented, posed, segmented
from tests.fakes.process_harness import ProcessHarness, is_camera, until_ended, wait_for, write_video

PATTERN = "TestPatternStreamProducer"


def boxes(*xyxy: tuple[float, float, float, float], tracked: bool = False) -> sv.Detections:
    count = len(xyxy)
    return sv.Detections(
        xyxy=np.array(xyxy, np.float32).reshape(-1, 4),
        confidence=np.full(count, 0.876, np.float32),
        class_id=np.arange(count) % 3,
        tracker_id=np.arange(count) + 7 if tracked else None,
    )


def decode(jpeg: bytes) -> np.ndarray:
    image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    return image


# of which frames


def shown(throttle: PreviewThrottle, *fps: float, seconds: int = 10) -> list[int]:
    """How many pictures each of several sources with these frame rates gets."""
    frames = sorted(
        (number / rate + source / 1000, source)
        for source, rate in enumerate(fps)
        for number in range(int(rate * seconds))
    )
    counts = [0] * len(fps)
    for now, source in frames:
        counts[source] += throttle.wants(source, now)
    return counts


@pytest.mark.parametrize(
    ("fps", "counts"),
    [((25,), [50]), ((2,), [20]), ((25, 25), [25, 25]), ((25, 25, 100), [17, 17, 17]), ((25, 1), [40, 10])],
)
def test_at_most_five_a_second_and_the_sources_take_turns(fps: tuple[float, ...], counts: list[int]) -> None:
    assert shown(PreviewThrottle(), *fps) == pytest.approx(counts, abs=3)


def test_nobody_waits_for_the_turn_of_a_source_that_is_gone() -> None:
    throttle = PreviewThrottle()
    shown(throttle, 25, 25)

    pictures = [throttle.wants(0, 20 + number / 25) for number in range(250)]

    assert sum(pictures) == pytest.approx(50, abs=2)


# what is drawn


@pytest.mark.parametrize(
    ("size", "made"),
    [((1080, 1920), (360, 640)), ((48, 64), (48, 64)), ((4000, 1000), (1280, 320)), ((1, 3000), (1, 640))],
)
def test_a_picture_is_made_smaller_and_never_larger(size: tuple[int, int], made: tuple[int, int]) -> None:
    image = np.full((*size, 3), 90, np.uint8)

    picture = decode(draw(image, boxes(), LABELS, frame_size=image.shape[1::-1]))

    assert picture.shape == (*made, 3)
    assert (image == 90).all()


def test_boxes_are_drawn_where_the_detections_are_and_the_frame_is_left_alone() -> None:
    image = np.zeros((1080, 1920, 3), np.uint8)

    picture = decode(draw(image, boxes((600, 300, 1200, 900)), LABELS, frame_size=(1920, 1080)))

    bright = picture.max(axis=2) > 100
    assert bright[100:300, 199:202].any(axis=1).all()  # the left edge, at a third of the size
    assert bright[299:302, 200:400].any(axis=0).all()  # the lower edge
    assert not bright[130:280, 230:370].any()
    assert not image.any()


@pytest.mark.parametrize(
    "findings", [segmented(20, size=300), oriented(20, size=300), posed(20), posed(2, points=512)]
)
def test_what_a_task_adds_is_drawn_in_the_size_of_the_preview(findings: sv.Detections) -> None:
    image = np.zeros((1080, 1920, 3), np.uint8)
    plain = sv.Detections(xyxy=findings.xyxy, confidence=findings.confidence, class_id=findings.class_id)

    drawn, boxed = (decode(draw(image, of, LABELS, frame_size=(1920, 1080))) for of in (findings, plain))

    assert drawn.shape == (360, 640, 3)
    assert (np.abs(drawn.astype(int) - boxed) > 60).any(axis=2).sum() > 100
    assert findings.xyxy.max() > 640  # what is sent stays as it is


def test_the_region_of_a_source_is_outlined() -> None:
    black = np.zeros((270, 480, 3), np.uint8)
    region = ((0.25, 0.0), (0.75, 0.0), (0.75, 1.0), (0.25, 1.0))

    jpeg = draw(black, sv.Detections.empty(), LABELS, frame_size=(480, 270), region=region)

    seen = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert seen is not None
    lit = np.flatnonzero(seen[135].max(axis=1) > 100)
    assert {round(x / 10) * 10 for x in lit.tolist()} == {120, 360}


def test_what_stages_have_found_is_drawn_in_its_object() -> None:
    image = np.zeros((1080, 1920, 3), np.uint8)
    outer = boxes((600, 300, 1200, 900))
    inner = {0: {"text": boxes((750, 450, 1050, 750))}}
    labels = {"text": LABELS}

    plain = decode(draw(image, outer, LABELS, frame_size=(1920, 1080)))
    nested = draw(image, outer, LABELS, frame_size=(1920, 1080), nested=inner, stage_labels=labels)

    added = np.abs(decode(nested).astype(int) - plain).max(axis=2) > 60
    assert added[170:230, 249:252].any(axis=1).all()  # its left edge, at a third of the size
    assert not added[110:120, 380:395].any()


def test_the_class_of_an_object_by_a_stage_is_in_its_caption() -> None:
    image = np.zeros((1080, 1920, 3), np.uint8)
    outer = boxes((600, 300, 1200, 900))
    kind = {0: {"kind": sv.Classifications(np.array([1]), np.array([0.75]))}}

    plain = decode(draw(image, outer, LABELS, frame_size=(1920, 1080)))
    noted = draw(image, outer, LABELS, frame_size=(1920, 1080), nested=kind, stage_labels={"kind": LABELS})

    added = np.abs(decode(noted).astype(int) - plain).max(axis=2) > 60
    columns = np.flatnonzero(added.any(axis=0))
    assert columns.min() > 230  # the caption goes on to the right
    assert added[80:100].any()
    assert not added[105:].any()


# a whole camera


@pytest.fixture
def pictures(stand: ProcessHarness) -> Iterator[FakePublisher]:
    """Where the publisher gets pictures."""
    with fake_publisher(stand.picture_intake_path) as pictures:
        yield pictures


def receive(pictures: FakePublisher) -> tuple[DataHeader, np.ndarray]:
    fenced, topic, header, jpeg = pictures.receive()
    assert (fenced, topic) == (False, b"v1/img/pipeline-1/")
    return DataHeader.unpack(header), decode(jpeg)


def test_a_picture_has_the_key_of_its_predictions_and_shows_their_frame(
    stand: ProcessHarness, squares: Manifest, pictures: FakePublisher
) -> None:
    camera = stand.camera(squares, PATTERN, generation=4, incarnation=9)
    wait_for("some frames", lambda: len(stand.receiver.datagrams) >= 3)
    assert not pictures.poll(0)

    camera.tell(Show(True))
    came = [receive(pictures) for _ in range(5)]

    metadata = {(one["gen"], one["inc"], one["seq"]): one for one in stand.receiver.metadata}
    for header, picture in came:
        assert header.kind is Kind.IMG
        assert header.source == 0
        assert picture.shape == (360, 640, 3)
        for (left, top, right, bottom), channel in zip(
            truth(metadata[header.key]["frame_id"]) / 3, (2, 1, 0), strict=True
        ):
            middle = picture[int(top + bottom) // 2, int(left + right) // 2]
            assert middle[channel] > 180
            assert middle.sum() - middle[channel] < 120


def test_pictures_end_when_nobody_looks_any_more_and_come_again(
    stand: ProcessHarness, squares: Manifest, pictures: FakePublisher
) -> None:
    camera = stand.camera(squares, PATTERN)
    camera.tell(Show(True))
    receive(pictures)

    camera.tell(Show(False))
    camera.change(2)
    camera.until("it obeys", lambda report: report.generation == 2)
    before = len(stand.receiver.datagrams)
    wait_for("some frames", lambda: len(stand.receiver.datagrams) >= before + 3)
    pictures.forget(1500)  # also what the camera has kept, which it hands over each second
    before = len(stand.receiver.datagrams)
    wait_for("more frames", lambda: len(stand.receiver.datagrams) >= before + 5)

    assert not pictures.poll(0)
    camera.tell(Show(True))
    receive(pictures)


def test_every_source_is_shown_in_turn(
    stand: ProcessHarness, squares: Manifest, pictures: FakePublisher
) -> None:
    camera = stand.camera(squares, [SourceSpec(PATTERN), SourceSpec(PATTERN)])
    camera.tell(Show(True))

    sources = [receive(pictures)[0].source for _ in range(12)]

    assert sources.count(0) == pytest.approx(6, abs=3)


def test_a_file_that_is_looked_at_is_emitted_whole(
    stand: ProcessHarness, quick: Manifest, pictures: FakePublisher
) -> None:
    camera = stand.camera(quick, str(write_video(stand.folder / "film.avi", 300)), max_fps=200)
    camera.tell(Show(True))

    until_ended(camera)

    assert stand.receiver.frame_ids == list(range(1, 301))
    header, picture = receive(pictures)
    assert picture.shape == (48, 64, 3)
    assert header.key < (1, 1, 300)


def test_pictures_nobody_takes_hold_up_nothing(stand: ProcessHarness, squares: Manifest) -> None:
    camera = stand.camera(squares, PATTERN)

    camera.tell(Show(True))

    camera.until("the time of ten pictures", lambda report: report.emitted >= 25)


def test_no_picture_passes_a_closed_fence(
    stand: ProcessHarness, squares: Manifest, pictures: FakePublisher
) -> None:
    fence = stand.fence
    camera = stand.camera(squares, PATTERN, fenced=True)
    camera.tell(Show(True))
    camera.until("frames are fenced off", lambda report: report.sources[0].dropped.get("fenced", 0) >= 5)

    assert not pictures.poll(0)
    fence.extend(boot_time() + 60)
    assert pictures.receive().fenced  # the publisher asks the fence too


def test_a_paused_source_gives_no_pictures(
    stand: ProcessHarness, squares: Manifest, pictures: FakePublisher
) -> None:
    camera = stand.camera(squares, PATTERN)
    camera.tell(Show(True))
    receive(pictures)

    camera.change(2, "pause")
    camera.until("it is paused", lambda report: is_camera(report, "paused"))
    pictures.forget(1500)  # also what the camera has kept, which it hands over each second
    camera.until("frames are muted", lambda report: report.sources[0].dropped.get("muted", 0) >= 5)

    assert not pictures.poll(0)
