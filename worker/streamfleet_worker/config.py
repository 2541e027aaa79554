"""The options of `streamfleet-worker`, from the command line and the environment, as one value."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from streamfleet_core.datasets import spool
from streamfleet_core.protocol.limits import MAX_CAPACITY, MAX_OBJECTS, MAX_PORT
from streamfleet_core.runtime.socket_path import problem_with
from streamfleet_worker.host.host_stats import cores
from streamfleet_worker.ipc.child_messages import PostProcessing

DEFAULT_DATA_DIR = "~/.streamfleet/worker"
SAMPLES = "samples"  # in the data directory: frames that are kept for labelling
_LONGEST_SOCKET = "run/tmp/pymp-01234567/listener-01234567"  # the fork server's


class ConfigError(Exception):
    """An option or a variable has a value that cannot be used. Names it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerConfig:
    """All that a worker is told at its start."""

    data_dir: Path  # absolute
    join: str = field(default="", repr=False)  # a join token, or nothing
    join_file: Path | None = None  # a file of one, which need not be there once the device has joined
    broker: str = ""  # tcp://HOST:PORT, tried before the addresses that the token named
    capacity: int = 8  # pipelines
    publish_host: str = "*"
    publish_port: int | None = None  # of the device's own PUB; None: it has none
    engine_threads: int = 0  # 0: as many as there are cores
    samples_size: int = spool.SIZE  # bytes of all frames that are kept for labelling
    samples_age: float = spool.AGE  # seconds that they are kept
    samples_upload: bool = True  # to the api, as soon as it can be reached
    defaults: PostProcessing = field(default_factory=PostProcessing)
    check: bool = False  # only look whether it is well

    def __post_init__(self) -> None:
        if problem := problem_with(self.data_dir, _LONGEST_SOCKET):
            raise ConfigError(f"--data-dir {self.data_dir}: {problem}")


def parse(arguments: Sequence[str], environment: Mapping[str, str]) -> WorkerConfig:
    """The options. Raises: ConfigError; ends the process for `--help` and for unknown options."""
    parser = argparse.ArgumentParser(
        prog="streamfleet-worker",
        description="The agent on a device: runs the pipelines that its broker assigns to it.",
        epilog="Each option may be given in the environment: STREAMFLEET_DATA_DIR for --data-dir, and so on."
        " CONFIDENCE, IOU_THRESHOLD, CLASS_AGNOSTIC_NMS, MAX_CANDIDATES and MAX_DETECTIONS are the device's"
        " defaults where a pipeline says nothing. 'streamfleet-worker samples export FOLDER' writes the"
        " frames that are kept for labelling as a COCO data set.",
    )
    for name, description in _OPTIONS.items():
        parser.add_argument(f"--{name}", help=description)
    parser.add_argument(
        "--check",
        action="store_true",
        help="ask the worker that runs on this data directory, and exit with 0 if it is ready",
    )
    parser.add_argument(
        "--unsupervised",
        action="store_true",
        help="start nothing again: somebody else looks after this process, and kills it when it hangs",
    )
    given = vars(parser.parse_args(arguments))
    options = {name: _option(name, given, environment) for name in _OPTIONS}
    port = options["publish-port"]
    return WorkerConfig(
        data_dir=Path(options["data-dir"] or DEFAULT_DATA_DIR).expanduser().absolute(),
        join=options["join"] or "",
        join_file=Path(options["join-file"]).absolute() if options["join-file"] else None,
        broker=_endpoint(options["broker"] or ""),
        capacity=_whole("--capacity", options["capacity"] or str(default_capacity()), 0, MAX_CAPACITY),
        publish_host=options["publish-host"] or "*",
        publish_port=None if port is None else _whole("--publish-port", port, 1, MAX_PORT),
        engine_threads=_whole("--engine-threads", options["engine-threads"] or "0", 0, 1024),
        samples_size=_whole("--samples-size", options["samples-size"] or str(spool.SIZE), 1, 2**50),
        samples_age=_whole("--samples-age", options["samples-age"] or str(int(spool.AGE)), 1, 2**31),
        samples_upload=_truth("--samples-upload", options["samples-upload"] or "true"),
        defaults=post_processing(environment),
        check=given["check"],
    )


_OPTIONS = {
    "data-dir": f"directory for this device's key, models and state; made if missing [{DEFAULT_DATA_DIR}]",
    "join": "token of a new device, from 'streamfleet devices add NAME'; harmless afterwards",
    "join-file": "file that holds the token, where it shall stand in no command",
    "broker": "tcp://HOST:PORT of the broker, where it is no longer what the token named",
    "capacity": "how many pipelines this device is willing to run",
    "publish-port": "TCP port for subscribers that connect to this device itself; without it there is none",
    "publish-host": "address that --publish-port is opened on, * for all",
    "engine-threads": "threads that run one model; 0 for as many as there are cores",
    "samples-size": "bytes of the frames that are kept for labelling; the oldest go first [1 GiB]",
    "samples-age": "seconds that such a frame is kept [30 days]",
    "samples-upload": "true: such frames go to the api; false: they stay on this device [true]",
}


def default_capacity() -> int:
    """As many pipelines as a device is offered when nobody says otherwise."""
    return min(max(8, 4 * cores()), MAX_CAPACITY)


def post_processing(environment: Mapping[str, str]) -> PostProcessing:
    """The original's variables. Raises: ConfigError with the name of the variable."""
    known = PostProcessing()
    return PostProcessing(
        confidence=_fraction("CONFIDENCE", environment, known.confidence),
        iou_threshold=_fraction("IOU_THRESHOLD", environment, known.iou_threshold),
        class_agnostic_nms=_flag("CLASS_AGNOSTIC_NMS", environment, known.class_agnostic_nms),
        max_candidates=_whole(
            "MAX_CANDIDATES", environment.get("MAX_CANDIDATES", str(known.max_candidates)), 1, MAX_OBJECTS
        ),
        max_detections=_whole(
            "MAX_DETECTIONS", environment.get("MAX_DETECTIONS", str(known.max_detections)), 1, MAX_OBJECTS
        ),
    )


def _option(name: str, given: Mapping[str, str | None], environment: Mapping[str, str]) -> str | None:
    variable = "STREAMFLEET_" + name.upper().replace("-", "_")
    value = given[name.replace("-", "_")]
    return value if value is not None else environment.get(variable) or None


def _endpoint(text: str) -> str:
    if text and re.fullmatch(r"tcp://.+:\d+", text) is None:
        raise ConfigError(f"--broker: expected tcp://HOST:PORT, came {text!r}")
    return text


def _whole(name: str, text: str, lowest: int, highest: int) -> int:
    try:
        value = int(text)
    except ValueError:
        value = lowest - 1
    if not lowest <= value <= highest:
        raise ConfigError(f"{name}: expected a whole number from {lowest} to {highest}, came {text!r}")
    return value


def _fraction(name: str, environment: Mapping[str, str], default: float) -> float:
    text = environment.get(name)
    if text is None:
        return default
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise ConfigError(f"{name}: expected a number from 0 to 1, came {text!r}")
    return value


def _flag(name: str, environment: Mapping[str, str], default: bool) -> bool:
    text = environment.get(name)
    return default if text is None else _truth(name, text)


def _truth(name: str, text: str) -> bool:
    if text.lower() not in ("true", "false", "1", "0"):
        raise ConfigError(f"{name}: expected True or False, came {text!r}")
    return text.lower() in ("true", "1")
