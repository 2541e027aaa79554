"""A folder of samples as COCO: it opens in `supervision` with the boxes where the model saw them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import supervision as sv

from streamfleet_core.datasets.spool import Spool
from streamfleet_core.protocol.sampling import Random, Sampling
from streamfleet_worker.sampling import command
from streamfleet_worker.sampling.sampler import Destination, Sampler
from streamfleet_worker.video.array_picture import ArrayPicture
from streamfleet_worker.video.frame import Stamp
from streamfleet_worker.video.synthetic.test_pattern import HEIGHT, LABELS, WIDTH, draw, truth
from tests.fakes.patience import PATIENCE
from tests.fakes.process_harness import wait_for

FRAMES = 6


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    """The samples of a device that has seen the test pattern, made half as large; every frame was kept."""
    sampler = Sampler(
        Destination(pipeline_id="door", device="edge-1", labels=LABELS, folder=tmp_path / "samples")
    )
    sampler.use(
        Sampling(
            dataset="squares",
            strategies=(Random(name="every", traffic_percentage=1),),
            max_image_size=(540, 960),
        )
    )
    wait_for("it keeps frames", lambda: sampler.wants(0.0))
    for frame_id in range(1, FRAMES + 1):
        boxes = [
            {
                "x": float(left + right) / 2,
                "y": float(top + bottom) / 2,
                "width": float(right - left),
                "height": float(bottom - top),
                "confidence": 0.9,
                "class": LABELS[number],
                "class_id": number,
            }
            for number, (left, top, right, bottom) in enumerate(truth(frame_id))
        ]
        document = {"image": {"width": WIDTH, "height": HEIGHT}, "predictions": boxes}
        stamp = Stamp(
            frame_id=frame_id,
            decoded_at=0.0,
            wall_ns=(1_700_000_000 + frame_id) * 10**9,
            boot_ns=0,
            media_time=0.0,
            fps=10.0,
        )
        sampler.offer(ArrayPicture(draw(frame_id)), document, stamp, source_id=0, now=1_700_000_000.0)
    sampler.close(PATIENCE)
    return tmp_path / "samples"


def test_an_export_opens_in_supervision_with_the_boxes_where_they_were(samples: Path, tmp_path: Path) -> None:
    target = tmp_path / "out"

    assert command.run(["export", str(target), "--data-dir", str(tmp_path)], {}) == 0

    opened = sv.DetectionDataset.from_coco(str(target / "images"), str(target / "annotations.json"))
    assert opened.classes == list(LABELS)
    assert len(opened) == FRAMES
    for path, image, seen in opened:
        frame_id = int(Path(path).stem.rsplit("-", 1)[1])
        assert image.shape == (540, 960, 3)
        assert seen.class_id is not None
        order = np.argsort(seen.class_id)
        assert seen.class_id[order].tolist() == [0, 1, 2]
        np.testing.assert_allclose(seen.xyxy[order], truth(frame_id) / 2, atol=0.02)
        for number, (left, top, right, bottom) in enumerate(seen.xyxy[order].astype(int)):
            middle = image[(top + bottom) // 2, (left + right) // 2]
            assert middle[2 - number] > 200  # the box of a colour lies on it


def test_an_export_of_the_same_samples_is_the_same(samples: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        command.run(["export", str(tmp_path / name), "--data-dir", str(tmp_path)], {})

    one, two = ((tmp_path / name / "annotations.json").read_text() for name in ("one", "two"))
    assert one == two
    document = json.loads(one)
    assert [image["id"] for image in document["images"]] == list(range(1, FRAMES + 1))
    assert [annotation["id"] for annotation in document["annotations"]] == list(range(1, 3 * FRAMES + 1))


def test_an_export_may_be_of_one_data_set_and_leaves_out_what_was_cut_short(
    samples: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cut = Spool(samples).entries()[0]
    Spool(samples).image_path(cut.dataset, cut.name).write_bytes(b"\xff\xd8")
    target = tmp_path / "out"

    assert command.run(["export", str(target), "--data-dir", str(tmp_path), "--dataset", "squares"], {}) == 0
    said = capsys.readouterr()
    nothing = command.run(
        ["export", str(tmp_path / "none"), "--data-dir", str(tmp_path), "--dataset", "x"], {}
    )

    assert len(list((target / "images").iterdir())) == FRAMES - 1
    assert "5 pictures with 15 boxes" in said.out
    assert "left out 1 incomplete samples" in said.err
    assert nothing == 1


def test_an_export_touches_no_folder_that_holds_something(
    samples: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.run(["export", str(samples), "--data-dir", str(tmp_path)], {}) == 1

    assert "expected an empty or new folder" in capsys.readouterr().err


def test_the_worker_exports_its_samples_without_being_one(samples: Path, tmp_path: Path) -> None:
    program = [sys.executable, "-m", "streamfleet_worker", "samples", "export", str(tmp_path / "out")]

    done = subprocess.run(
        [*program, "--data-dir", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{FRAMES} pictures with {3 * FRAMES} boxes: ")
