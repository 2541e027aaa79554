"""What the library takes from the environment."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from streamfleet_worker.config import ConfigError
from streamfleet_worker.ipc.child_messages import PostProcessing
from streamfleet_worker.library.settings import Settings, settings_in
from tests.fakes.patience import PATIENCE


def test_without_variables_the_originals_defaults_hold() -> None:
    settings = settings_in({})

    assert settings == Settings()
    assert settings.rules == PostProcessing(
        confidence=0.4, iou_threshold=0.3, class_agnostic_nms=False, max_candidates=3000, max_detections=300
    )
    assert (settings.broadcast_host, settings.broadcast_port) == ("127.0.0.1", 37020)


def test_every_variable_that_means_something_is_read() -> None:
    environment = {
        "CONFIDENCE": "0.5",
        "IOU_THRESHOLD": "0.6",
        "CLASS_AGNOSTIC_NMS": "True",
        "MAX_CANDIDATES": "100",
        "MAX_DETECTIONS": "10",
        "ROBOFLOW_API_KEY": "first",
        "API_KEY": "second",
        "MODEL_CACHE_DIR": "/models",
        "VIDEO_SOURCE_BUFFER_SIZE": "64",
        "ENABLE_FRAME_DROP_ON_VIDEO_FILE_RATE_LIMITING": "True",
        "MODEL_ID": "project/1",
        "STREAM_ID": "0",
        "ENFORCE_FPS": "1",
        "ENABLE_BYTE_TRACK": "true",
        "IP_BROADCAST_ADDR": "10.0.0.255",
        "IP_BROADCAST_PORT": "12345",
        "CV2_CAP_PROP_FRAME_WIDTH": "640",
    }

    settings = settings_in(environment)

    assert settings == Settings(
        rules=PostProcessing(
            confidence=0.5, iou_threshold=0.6, class_agnostic_nms=True, max_candidates=100, max_detections=10
        ),
        api_key="first",
        cache_dir=Path("/models"),
        buffer_size=64,
        strides=True,
        model_id="project/1",
        stream_id=0,
        enforce_fps=True,
        bytetrack=True,
        broadcast_host="10.0.0.255",
        broadcast_port=12345,
        properties={"frame_width": 640.0},
    )


def test_a_stream_that_is_no_number_is_a_reference() -> None:
    assert settings_in({"STREAM_ID": "rtsp://camera/1"}).stream_id == "rtsp://camera/1"


def test_a_key_stands_in_no_text() -> None:
    assert "secret" not in repr(settings_in({"API_KEY": "secret"}))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("VIDEO_SOURCE_BUFFER_SIZE", "0"),
        ("ENFORCE_FPS", "perhaps"),
        ("IP_BROADCAST_PORT", "65536"),
        ("CV2_CAP_PROP_FPS", "fast"),
        ("CONFIDENCE", "2"),
    ],
)
def test_a_variable_that_cannot_be_read_is_named(name: str, text: str) -> None:
    with pytest.raises(ConfigError, match=name):
        settings_in({name: text})


def test_importing_the_worker_loads_no_library() -> None:
    program = "import sys, streamfleet_worker; print({'cv2', 'onnxruntime', 'numpy'} & set(sys.modules))"

    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=2 * PATIENCE, check=True
    )

    assert done.stdout == "set()\n"


def test_the_library_gives_all_that_it_exports() -> None:
    import streamfleet_worker
    from streamfleet_worker import library

    for module in (streamfleet_worker, library):
        assert all(getattr(module, name) for name in module.__all__)
        with pytest.raises(AttributeError, match="no attribute 'FrameLoop'"):
            _ = module.FrameLoop
