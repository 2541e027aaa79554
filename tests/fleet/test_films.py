"""Films through a whole fleet: at addresses, damaged, paused in the middle, and files that are none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.films import FRAMES, copied, noise, write_film
from tests.fakes.http_camera import HttpCamera
from tests.fakes.process_harness import write_video
from tests.fleet.harness import Fleet, UdpReceiver, wait_for


@pytest.fixture
def camera(tmp_path: Path) -> Iterator[HttpCamera]:
    """Serves a film of 200 frames."""
    camera = HttpCamera(film=write_video(tmp_path / "served.avi", 200))
    yield camera
    camera.close()


def begun(fleet: Fleet, udp: UdpReceiver, source: str, **more: Any) -> str:
    """A pipeline's id."""
    sink = {"type": "udp_sink", "host": "127.0.0.1", "port": udp.port}
    body = {"video_reference": source, "model_id": "shapes/1", "sink_configuration": sink, **more}
    answer = fleet.http.post("/initialise", json=body)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["context"]["pipeline_id"])


def until(fleet: Fleet, pipeline_id: str, state: str) -> dict[str, Any]:
    """Its report, when it is in this state."""
    wait_for(
        lambda: fleet.report(pipeline_id)["state"] == state,
        lambda: str(fleet.report(pipeline_id)),
    )
    return fleet.report(pipeline_id)


def ids(udp: UdpReceiver) -> list[int]:
    return [message["inference_metadata"]["frame_id"] for message in udp.messages]


def test_a_film_at_an_address_ends_and_is_fetched_once(
    clean: Fleet, udp: UdpReceiver, camera: HttpCamera
) -> None:
    pipeline_id = begun(clean, udp, camera.url("/film"))

    report = until(clean, pipeline_id, "ended")
    udp.wait_for(200)

    assert ids(udp) == list(range(1, 201))
    assert (report["sources"][0]["dropped"], report["reason"]) == ({}, "")
    assert report["sources_metadata"][0]["source_properties"]["is_file"]
    assert len(camera.requests) <= 3  # its index lies at its end


def test_a_film_at_an_address_that_is_paused_gives_every_frame_once(
    clean: Fleet, udp: UdpReceiver, camera: HttpCamera
) -> None:
    pipeline_id = begun(clean, udp, camera.url("/film"), max_fps=20)  # so slowly that it does not end before
    udp.wait_for(10)

    assert clean.command_pipeline("pause", pipeline_id).status_code == 200
    assert clean.command_pipeline("resume", pipeline_id).status_code == 200
    clean.hasten(pipeline_id)
    until(clean, pipeline_id, "ended")

    assert ids(udp) == list(range(1, 201))


def test_damage_is_counted_and_told_when_a_film_has_ended(
    clean: Fleet, udp: UdpReceiver, tmp_path: Path
) -> None:
    whole = write_film(tmp_path / "whole.avi", "mjpeg", pix_fmt="yuvj420p")

    def change(number: int, content: bytes) -> bytes | None:
        return None if number >= 20 else noise(99) if number == 9 else content

    film = copied(whole, tmp_path / "film.avi", change=change)
    film.write_bytes(film.read_bytes().replace((20).to_bytes(4, "little"), FRAMES.to_bytes(4, "little")))
    pipeline_id = begun(clean, udp, str(film))

    report = until(clean, pipeline_id, "ended")

    assert ids(udp) == [number for number in range(1, 21) if number != 10]
    assert report["sources"][0]["dropped"] == {"damaged": 1}
    assert "it ends after 20 of 30 frames: it is cut off or damaged" in report["reason"]


def test_a_file_that_is_none_fails_with_its_reason(clean: Fleet, udp: UdpReceiver, tmp_path: Path) -> None:
    whole = write_film(tmp_path / "whole.mp4", "libx264").read_bytes()
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(whole[: whole.index(b"moov") - 4])
    pipeline_id = begun(clean, udp, str(cut))

    report = until(clean, pipeline_id, "failed")

    assert report["reason"] == f"{cut} is cut off: the index of an MP4 (its moov atom) is missing"
