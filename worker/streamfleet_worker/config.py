"""The options of `streamfleet-worker`, from the command line and the environment."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar, cast, get_args

from streamfleet_core.datasets import spool
from streamfleet_core.protocol.limits import MAX_BATCH_DELAY, MAX_BATCHED, MAX_CAPACITY, MAX_OBJECTS, MAX_PORT
from streamfleet_core.protocol.values import DecoderChoice
from streamfleet_core.runtime.socket_path import problem_with
from streamfleet_worker.host.host_stats import cores
from streamfleet_worker.ipc.child_messages import AcceleratorUse, PostProcessing, ProviderName

ChoiceT = TypeVar("ChoiceT", bound=str)

DEFAULT_DATA_DIR = "~/.streamfleet/worker"
KEEP_MEMORY = 64 * 1024**2  # bytes
KEEP_AGE = 3600.0  # seconds
SAMPLES = "samples"  # in the data directory: frames kept for labelling
_LONGEST_SOCKET = "run/tmp/pymp-01234567/listener-01234567"  # of the fork server


class ConfigError(Exception):
    """An option or a variable has an invalid value. The text names it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerConfig:
    """The configuration of a worker."""

    data_dir: Path  # absolute
    join: str = field(default="", repr=False)  # a join token, or nothing
    join_file: Path | None = None  # a file with a token, which may be missing after the device has joined
    # tcp://HOST:PORT. One is tried before the addresses in the token; several are those of brokers of which
    # one leads.
    brokers: tuple[str, ...] = ()
    capacity: int = 8  # pipelines
    capacity_is_given: bool = True  # otherwise what pipelines cost decides, where it was measured
    publish_host: str = "*"
    publish_port: int | None = None  # of the device's own PUB socket; None: no socket
    engine_threads: int = 0  # 0: one per core
    accelerator: AcceleratorUse = "prefer"
    provider: ProviderName = "auto"
    max_batch: int | None = None  # frames of one run on an accelerator; None: as measured
    max_delay: float | None = None  # seconds that a frame waits for others of its batch; None: as measured
    keep_memory: int = KEEP_MEMORY  # bytes of sent predictions that are kept in memory, if none are on disk
    keep_disk: int = 0  # bytes of those that are kept on disk; 0: none
    keep_age: float = KEEP_AGE  # seconds for which they are kept
    samples_size: int = spool.SIZE  # limit for all samples, in bytes
    samples_age: float = spool.AGE  # seconds after which samples are removed
    samples_upload: bool = True  # to the API, when it is reachable
    decoder: DecoderChoice = "auto"  # of sources that do not choose one
    allow_drills: bool = False  # the broker may have it cause faults on purpose
    defaults: PostProcessing = field(default_factory=PostProcessing)
    check: bool = False  # only check the health of the running worker

    def __post_init__(self) -> None:
        if problem := problem_with(self.data_dir, _LONGEST_SOCKET):
            raise ConfigError(f"--data-dir {self.data_dir}: {problem}")


def parse(arguments: Sequence[str], environment: Mapping[str, str]) -> WorkerConfig:
    """Parse the options. Raises: ConfigError; ends the process for `--help` and unknown options."""
    parser = argparse.ArgumentParser(
        prog="streamfleet-worker",
        description="The agent on a device: runs the pipelines that its broker assigns to it.",
        epilog="Each option can be set in the environment: STREAMFLEET_DATA_DIR for --data-dir, and so on."
        " CONFIDENCE, IOU_THRESHOLD, CLASS_AGNOSTIC_NMS, MAX_CANDIDATES and MAX_DETECTIONS are the device's"
        " defaults for pipelines. 'streamfleet-worker samples export FOLDER' writes the samples, frames kept"
        " for labelling, as a COCO data set.",
    )
    for name, description in _OPTIONS.items():
        parser.add_argument(f"--{name}", help=description, action="append" if name == "broker" else "store")
    parser.add_argument(
        "--check",
        action="store_true",
        help="check the worker that runs on this data directory, and exit with 0 if it is ready",
    )
    parser.add_argument(
        "--unsupervised",
        action="store_true",
        help="do not restart the agent: another supervisor restarts this process, and kills it if it hangs",
    )
    given = vars(parser.parse_args(arguments))
    options = {name: _option(name, given, environment) for name in _OPTIONS}
    port = options["publish-port"]
    return WorkerConfig(
        data_dir=Path(options["data-dir"] or DEFAULT_DATA_DIR).expanduser().absolute(),
        join=options["join"] or "",
        join_file=Path(options["join-file"]).absolute() if options["join-file"] else None,
        brokers=tuple(_endpoint(text) for text in (options["broker"] or "").replace(",", " ").split()),
        capacity=_whole("--capacity", options["capacity"] or str(default_capacity()), 0, MAX_CAPACITY),
        capacity_is_given=options["capacity"] is not None,
        publish_host=options["publish-host"] or "*",
        publish_port=None if port is None else _whole("--publish-port", port, 1, MAX_PORT),
        engine_threads=_whole("--engine-threads", options["engine-threads"] or "0", 0, 1024),
        accelerator=_choice("--accelerator", options["accelerator"] or "prefer", get_args(AcceleratorUse)),
        provider=_choice("--provider", options["provider"] or "auto", get_args(ProviderName)),
        max_batch=_batch_size(options["max-batch"]),
        max_delay=_batch_delay(options["max-delay"]),
        keep_memory=_whole("--keep-memory", options["keep-memory"] or str(KEEP_MEMORY), 0, 2**40),
        keep_disk=_whole("--keep-disk", options["keep-disk"] or "0", 0, 2**50),
        keep_age=_whole("--keep-age", options["keep-age"] or str(int(KEEP_AGE)), 1, 2**31),
        samples_size=_whole("--samples-size", options["samples-size"] or str(spool.SIZE), 1, 2**50),
        samples_age=_whole("--samples-age", options["samples-age"] or str(int(spool.AGE)), 1, 2**31),
        samples_upload=_truth("--samples-upload", options["samples-upload"] or "true"),
        decoder=_decoder(options["decoder"] or "auto"),
        allow_drills=_truth("--allow-drills", options["allow-drills"] or "false"),
        defaults=post_processing(environment),
        check=given["check"],
    )


_OPTIONS = {
    "data-dir": f"directory for this device's key, models and state; created if missing [{DEFAULT_DATA_DIR}]",
    "join": "token of a new device, from 'streamfleet devices add NAME'; ignored once it has joined",
    "join-file": "file with the token, to keep it out of the command line",
    "broker": "tcp://HOST:PORT of the broker, if it is no longer the address in the token; given several"
    " times (in the environment: with commas), those of brokers of which one leads",
    "capacity": "how many pipelines this device may run at most; without it, as many as fit by their"
    " measured cost",
    "publish-port": "TCP port for subscribers that connect to this device directly; without it there is none",
    "publish-host": "address that --publish-port is opened on, * for all",
    "engine-threads": "threads that run one model; 0 for one per core",
    "accelerator": "prefer: run models on an accelerator if one works; require: run no model without;"
    " cpu: never use one [prefer]",
    "provider": "what runs models: tensorrt, cuda or openvino; auto for TensorRT, then CUDA [auto]",
    "max-batch": f"frames that an accelerator runs together, 1 to {MAX_BATCHED} [measured for each model]",
    "max-delay": "seconds that a frame waits for others to run with on an accelerator, 0 to"
    f" {MAX_BATCH_DELAY:g} [measured for each model]",
    "keep-memory": "limit in bytes for sent predictions kept in memory, for subscribers that missed them;"
    " 0 for none [64 MiB]",
    "keep-disk": "the same on disk instead, which outlives this process and has more room; 0 for none [0]",
    "keep-age": "seconds for which they are kept [one hour]",
    "samples-size": "limit in bytes for frames kept for labelling; the oldest are removed first [1 GiB]",
    "samples-age": "seconds after which such a frame is removed [30 days]",
    "decoder": "decoder of sources that choose none: software, nv, va, gst, or auto for hardware if there is"
    " some [auto]",
    "allow-drills": "true: operators may have this device kill its processes or isolate itself, to try what"
    " then happens; see 'streamfleet drill' [false]",
    "samples-upload": "true: send such frames to the API; false: keep them on this device [true]",
}


def default_capacity() -> int:
    """The default capacity of this device."""
    return min(max(8, 4 * cores()), MAX_CAPACITY)


def post_processing(environment: Mapping[str, str]) -> PostProcessing:
    """Read Roboflow's variables. Raises: ConfigError with the name of the variable."""
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


def _option(
    name: str, given: Mapping[str, str | list[str] | None], environment: Mapping[str, str]
) -> str | None:
    variable = "STREAMFLEET_" + name.upper().replace("-", "_")
    value = given[name.replace("-", "_")]
    if isinstance(value, list):
        value = ",".join(value)
    return value if value is not None else environment.get(variable) or None


def _endpoint(text: str) -> str:
    if re.fullmatch(r"tcp://.+:\d+", text) is None:
        raise ConfigError(f"--broker: expected tcp://HOST:PORT, got {text!r}")
    return text


def _decoder(text: str) -> DecoderChoice:
    for choice in get_args(DecoderChoice):
        if text == choice:
            return cast("DecoderChoice", choice)
    raise ConfigError(f"--decoder: expected one of {', '.join(get_args(DecoderChoice))}, got {text!r}")


def _whole(name: str, text: str, lowest: int, highest: int) -> int:
    try:
        value = int(text)
    except ValueError:
        value = lowest - 1
    if not lowest <= value <= highest:
        raise ConfigError(f"{name}: expected a whole number from {lowest} to {highest}, got {text!r}")
    return value


def _choice(name: str, text: str, known: tuple[ChoiceT, ...]) -> ChoiceT:
    for value in known:
        if value == text:
            return value
    raise ConfigError(f"{name}: expected {', '.join(known[:-1])} or {known[-1]}, got {text!r}")


def _fraction(name: str, environment: Mapping[str, str], default: float) -> float:
    text = environment.get(name)
    if text is None:
        return default
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise ConfigError(f"{name}: expected a number from 0 to 1, got {text!r}")
    return value


def _batch_size(text: str | None) -> int | None:
    return None if text is None else _whole("--max-batch", text, 1, MAX_BATCHED)


def _batch_delay(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= MAX_BATCH_DELAY:
        raise ConfigError(f"--max-delay: expected a number from 0 to {MAX_BATCH_DELAY:g}, got {text!r}")
    return value


def _flag(name: str, environment: Mapping[str, str], default: bool) -> bool:
    text = environment.get(name)
    return default if text is None else _truth(name, text)


def _truth(name: str, text: str) -> bool:
    if text.lower() not in ("true", "false", "1", "0"):
        raise ConfigError(f"{name}: expected True or False, got {text!r}")
    return text.lower() in ("true", "1")
