"""All bounds and patterns of external input, each defined once.

The annotations of msgspec (`values`, `sampling`, `requests`) and of pydantic (the request bodies of the API)
are derived from these, so that the API accepts exactly what the broker and the devices accept.
"""

from __future__ import annotations

# Patterns. Each describes a whole text, has no anchors, and no alternative at its top level.
ID_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"  # of a pipeline, a device, a subscriber; a label's key
MODEL_ID_PATTERN = rf"{ID_PATTERN}(/{ID_PATTERN})?"  # `<project>/<version>` of Roboflow, or a single name
LABEL_VALUE_PATTERN = r"[A-Za-z0-9._-]{0,63}"
MANAGER_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}"  # of the owner of a file's pipelines; a label's value
PROPERTY_PATTERN = r"[a-z0-9_]{1,64}"  # OpenCV's CAP_PROP_*, lower case, no prefix
SHA256_PATTERN = r"[0-9a-f]{64}"
BOARD_PATTERN = r"[ -~]{1,160}"  # the name of a kind of device, as `host.board` makes it
PROVIDER_PATTERN = r"[A-Za-z0-9]{1,64}"  # of ONNX Runtime
PICTURES_PATTERN = rf"(blob:{SHA256_PATTERN}|scene://conveyor/[1-9][0-9]{{0,5}})"  # for variants of models
PRECISION_PATTERN = r"[a-z0-9][a-z0-9-]{0,31}"  # of a variant: int8, fp16, …
REFERENCE_PATTERN = r"[^\x00]*"
HOST_PATTERN = r"[A-Za-z0-9._:%-]{1,253}"  # as resolvers accept it; `hosts.host_of` checks more
TYPED_HOST_PATTERN = rf"\[?{HOST_PATTERN}\]?"  # as users write it
SHORT_TEXT_PATTERN = r"[^\x00-\x1f\x7f]{1,64}"  # of a tag, a strategy, the prefix of a batch
SAMPLE_NAME_PATTERN = rf"[0-9]{{1,15}}-{ID_PATTERN}-[0-9]{{1,5}}-[0-9]{{1,19}}"
REQUEST_KEY_PATTERN = r"[!-~]{1,255}"  # idempotency key of a request

# Texts.
MAX_REFERENCE = 4096  # characters of a source's reference
MAX_HOST = 253  # characters, RFC 1035
# Bytes of a reason: so that twice as many pipelines as a device may have fit into one message.
MAX_REASON = 300
MAX_SHOWN = 80  # characters of a given value in an error
MAX_TEXT = 16_384  # characters of a text that is searched for addresses; the rest is dropped
MAX_SELECTOR = 4096  # characters of a selector in a request
MAX_REQUEST_KEY = 255  # characters
MAX_CLASS_NAME = 256  # characters

# A pipeline.
MAX_SOURCES = 16
MAX_SINKS = 16
MAX_PROPERTIES = 64  # of a source
MAX_STAGES = 4  # further models, which run on what the first one has found
MAX_STAGE_OBJECTS = 64  # of a frame, for a stage
MAX_STAGE_DELAY = 10.0  # seconds that a frame waits for its stages
MIN_CORNERS, MAX_CORNERS = 3, 32  # of the region of a source
MAX_STILL = 3600.0  # seconds for which a source without motion gets no inference
MAX_KEEP_AGE = 30 * 24 * 3600.0  # seconds for which a device keeps predictions of a pipeline
MAX_KEEP_SIZE = 2**40  # bytes of them
MAX_DEVICE_INDEX = 2**31 - 1  # of a camera
MAX_FPS = 10_000
MAX_OBJECTS = 1_000_000  # candidates or detections of a frame
MAX_LABELS = 32  # of a pipeline or a device, and of a selector
MAX_PORT = 65_535
MAX_FINITE = 1e15  # of a decimal number; also the lower bound, negated

# A device.
MAX_CAPACITY = 1024  # pipelines
MAX_OBSERVED = 256  # pipelines that a device may report, including those that are stopping
MAX_CORES = 4096
MAX_MEMORY = 2**50  # bytes
MAX_COSTS = 64  # costs that a device may report at once
MAX_COST_SECONDS = 1000.0  # of a core or an accelerator, for one frame
MAX_DECODER_NAME = 64  # characters
MAX_MEASURED_MODELS = 8  # of whose pipelines a device tells what they do
MAX_FIGURES = 64  # such pipelines of a device
MAX_SHADOWS = 2  # pipelines of a device in which another model infers frames, too
MAX_OBSERVATION = 86_400.0  # seconds for which a roll-out watches a pipeline
MAX_ROLLOUTS = 16  # that are known, the last ones
MAX_ACTIVE_ROLLOUTS = 4  # at the same time: two models each are measured
MAX_ROLLED_OUT = 2000  # pipelines of one roll-out

# A model.
MAX_INPUT_SIDE = 8192  # pixels
MAX_CLASSES = 20_000
MAX_OUTPUTS = 4  # that are read
MAX_TENSOR_NAME = 256  # characters
MAX_KEYPOINTS = 512  # of an object
MAX_BOARD = 160  # characters
MAX_VARIANTS = 64  # kinds of boards for which there is another file
MAX_SPEEDUP = 1000
MAX_GIVEN_CLASSES = 10_000  # class names in a request
MAX_BATCHED = 8  # frames of one inference on an accelerator
MAX_BATCH_DELAY = 1.0  # seconds that a frame waits for others of its batch

# A prediction.
MAX_SIDE = 65_535  # pixels of a frame
MAX_POINTS = 10_000  # of the outline of an object
MAX_RLE_COUNTS = 262_144  # characters of the run lengths of a mask

# Samples.
MAX_STRATEGIES = 16  # of one sampling
MAX_SAMPLE_LIMITS = 3  # of one strategy: per minute, hour and day
MAX_SAMPLES = 1_000_000  # in a limit
MAX_TAGS = 32
MAX_SELECTED_CLASSES = 1000  # of one strategy
MIN_PIXELS, MAX_PIXELS = 16, 16_384  # of a side of a stored picture
MAX_QUALITY = 100  # of a JPEG
MAX_BATCH = 100_000_000  # pictures

# Messages.
MAX_CONTROL_BODY = 65_536  # bytes of the body of a message of the control plane
MAX_REQUEST_BODY = 4 * 1_048_576  # bytes of the body of a Request, which may have a fleet's pipelines in it
MAX_REPLY_BODY = 16 * 1_048_576  # bytes of the body of a Reply, which may list the whole fleet
MAX_TOPIC = 128  # bytes of the topic of a message of the data plane
MAX_DATA_BODY = 1_048_576  # bytes of its body
MAX_SELECTED = 1000  # pipelines that a subscriber follows by labels
MAX_ADDRESSES = 8  # of a device, besides the one towards the broker
MAX_REPLAY_SPANS = 1024  # of an answer to a request for a replay
MIN_STATUS_INTERVAL, MAX_STATUS_INTERVAL = 100, 60_000  # ms between two statuses of a device
MAX_STAT_BODY = 262_144  # bytes of the body of a `stat`, which contains many small objects
# CURVE adds 33 bytes to each frame, and libzmq disconnects a peer whose frame is longer than MAXMSGSIZE: the
# longest body must still pass. A body that passes but is too long is refused when it is decoded.
CURVE_MARGIN = 64  # bytes
MAX_DATA_FRAME = MAX_DATA_BODY + CURVE_MARGIN  # bytes; MAXMSGSIZE of every socket of the data plane

# Requests.
MAX_CHANGES = 500  # pipelines in one request
MAX_APPLIED = 1000  # pipelines that are applied together
MAX_SEEN = 2 * MAX_APPLIED  # pipelines whose versions are compared for it: as many may be removed
MAX_GRANTED = 100  # pipelines to which a subscriber may be limited by name
MAX_FORCE_AFTER = 7 * 86_400.0  # seconds
MAX_ISOLATION = 120.0  # seconds for which a drill keeps a device from the broker
MAX_WAIT_MS = 60_000  # for which a reply may wait for a device
MAX_TOKEN_TTL = 30 * 86_400  # seconds


def whole(pattern: str) -> str:
    r"""Anchor a pattern for Python's `re`, in which `$` would also match before a final line feed."""
    return rf"\A{pattern}\Z"


def schema_pattern(pattern: str) -> str:
    r"""Anchor a pattern for pydantic and JSON Schema, in which `$` is the end, and which lack `\Z`."""
    return f"^{pattern}$"
