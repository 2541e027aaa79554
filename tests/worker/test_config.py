"""The worker's options."""

from __future__ import annotations

from pathlib import Path

import pytest

from streamfleet_worker.config import ConfigError, WorkerConfig, parse
from streamfleet_worker.ipc.child_messages import PostProcessing


def test_options_come_from_the_command_line_before_the_environment() -> None:
    environment = {"STREAMFLEET_DATA_DIR": "/var/lib/w", "STREAMFLEET_CAPACITY": "3", "CONFIDENCE": "0.6"}

    config = parse(["--capacity=5", "--publish-port", "7780", "--decoder=nv"], environment)

    assert config == WorkerConfig(
        data_dir=Path("/var/lib/w"),
        capacity=5,
        publish_port=7780,
        decoder="nv",
        defaults=PostProcessing(confidence=0.6),
    )


def test_an_accelerator_is_preferred_unless_it_is_required_or_ruled_out() -> None:
    chosen = parse(["--accelerator=require"], {"STREAMFLEET_PROVIDER": "openvino"})

    assert (parse([], {}).accelerator, parse([], {}).provider) == ("prefer", "auto")
    assert (chosen.accelerator, chosen.provider) == ("require", "openvino")


def test_batches_are_measured_unless_they_are_given() -> None:
    given = parse(["--max-batch=4"], {"STREAMFLEET_MAX_DELAY": "0.002"})

    assert (parse([], {}).max_batch, parse([], {}).max_delay) == (None, None)
    assert (given.max_batch, given.max_delay) == (4, 0.002)


def test_the_originals_variables_are_the_defaults_of_the_device() -> None:
    environment = {
        "CONFIDENCE": "0.1",
        "IOU_THRESHOLD": "0.2",
        "CLASS_AGNOSTIC_NMS": "True",
        "MAX_CANDIDATES": "30",
        "MAX_DETECTIONS": "20",
    }

    config = parse(["--data-dir=/d"], environment)

    assert config.defaults == PostProcessing(
        confidence=0.1, iou_threshold=0.2, class_agnostic_nms=True, max_candidates=30, max_detections=20
    )


@pytest.mark.parametrize(
    ("options", "environment", "expected"),
    [
        (["--broker=cam"], {}, "--broker: expected tcp://HOST:PORT, got 'cam'"),
        (["--data-dir=/d", "--publish-port=99999"], {}, "--publish-port: expected a whole number from 1 to"),
        (["--data-dir=/d", "--capacity=many"], {}, "--capacity: expected a whole number .* got 'many'"),
        (
            ["--data-dir=/d", "--decoder=cuda"],
            {},
            "--decoder: expected one of auto, software, nv, va, gst, got",
        ),
        (["--max-batch=9"], {}, "--max-batch: expected a whole number .* got '9'"),
        (["--max-delay=2"], {}, "--max-delay: expected a number from 0 to 1, got '2'"),
        ([], {"STREAMFLEET_MAX_DELAY": "nan"}, "--max-delay: expected a number from 0 to 1, got 'nan'"),
        (["--accelerator=gpu"], {}, "--accelerator: expected require, prefer or cpu, got 'gpu'"),
        ([], {"STREAMFLEET_PROVIDER": "rocm"}, "--provider: expected auto, tensorrt, cuda or openvino, got"),
        (["--data-dir=/d"], {"CONFIDENCE": "4"}, "CONFIDENCE: expected a number from 0 to 1, got '4'"),
        (["--data-dir=/d"], {"IOU_THRESHOLD": "nan"}, "IOU_THRESHOLD: expected a number from 0 to 1"),
        (["--data-dir=/d"], {"CLASS_AGNOSTIC_NMS": "ja"}, "CLASS_AGNOSTIC_NMS: expected True or False"),
        (["--data-dir=/d"], {"MAX_DETECTIONS": "0"}, "MAX_DETECTIONS: expected a whole number from 1"),
        (["--data-dir=/" + "d" * 100], {}, "--data-dir .* too long for the sockets in it"),
    ],
)
def test_an_error_names_the_option_or_the_variable(
    options: list[str], environment: dict[str, str], expected: str
) -> None:
    with pytest.raises(ConfigError, match=expected):
        parse(options, environment)


def test_a_token_is_not_shown() -> None:
    assert "sf1." not in repr(parse(["--data-dir=/d", "--join=sf1.abc"], {}))
