"""Every bound and pattern of what arrives from outside, each of them once.

The annotations of msgspec (`values`, `sampling`, `requests`) and those of pydantic (the request bodies of the
api) are derived from these, so the api accepts exactly what the broker and the devices accept.
"""

from __future__ import annotations

# Patterns. Each describes a whole text, without anchors, and has no alternative at its top level.
ID_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"  # of a pipeline, a device, a subscriber; a label's key
MODEL_ID_PATTERN = rf"{ID_PATTERN}(/{ID_PATTERN})?"  # `<project>/<version>` of Roboflow, or a single name
LABEL_VALUE_PATTERN = r"[A-Za-z0-9._-]{0,63}"
PROPERTY_PATTERN = r"[a-z0-9_]{1,64}"  # OpenCV's CAP_PROP_*, lower case, no prefix
SHA256_PATTERN = r"[0-9a-f]{64}"
REFERENCE_PATTERN = r"[^\x00]*"
HOST_PATTERN = r"[A-Za-z0-9._:%-]{1,253}"  # as a resolver takes it; `hosts.host_of` looks closer
TYPED_HOST_PATTERN = rf"\[?{HOST_PATTERN}\]?"  # as people write it
SHORT_TEXT_PATTERN = r"[^\x00-\x1f\x7f]{1,64}"  # of a tag, a strategy, the prefix of a batch
SAMPLE_NAME_PATTERN = rf"[0-9]{{1,15}}-{ID_PATTERN}-[0-9]{{1,5}}-[0-9]{{1,19}}"
REQUEST_KEY_PATTERN = r"[!-~]{1,255}"  # of a request that may be made again

# Texts.
MAX_REFERENCE = 4096  # characters of a source's reference
MAX_HOST = 253  # characters, RFC 1035
MAX_REASON = 300  # bytes of a reason: twice as many pipelines as a device may have fit into one message
MAX_SHOWN = 80  # characters of what was given, in the text of an error
MAX_TEXT = 16_384  # characters of a text that is looked through for addresses; what is beyond is dropped
MAX_SELECTOR = 4096  # characters of a selector in a request
MAX_REQUEST_KEY = 255  # characters
MAX_CLASS_NAME = 256  # characters

# A pipeline.
MAX_SOURCES = 16
MAX_SINKS = 16
MAX_PROPERTIES = 64  # of a source
MAX_DEVICE_INDEX = 2**31 - 1  # of a camera
MAX_FPS = 10_000
MAX_OBJECTS = 1_000_000  # candidates or detections of a frame
MAX_LABELS = 32  # of a pipeline or a device, and of a selector
MAX_PORT = 65_535
MAX_FINITE = 1e15  # of a number with a fraction, and its negative

# A device.
MAX_CAPACITY = 1024  # pipelines that a device may be willing to run
MAX_OBSERVED = 256  # pipelines that a device may tell of; it has 64 at most, and a few that it is leaving

# A model.
MAX_INPUT_SIDE = 8192  # pixels
MAX_CLASSES = 20_000
MAX_GIVEN_CLASSES = 10_000  # whose names are in a request

# Samples.
MAX_STRATEGIES = 16  # of one sampling
MAX_SAMPLE_LIMITS = 3  # of one strategy: one a minute, one an hour, one a day
MAX_SAMPLES = 1_000_000  # that a limit allows
MAX_TAGS = 32
MAX_SELECTED_CLASSES = 1000  # of one strategy
MIN_PIXELS, MAX_PIXELS = 16, 16_384  # of a side of a picture that is kept
MAX_QUALITY = 100  # of a JPEG
MAX_BATCH = 100_000_000  # pictures

# Requests.
MAX_CHANGES = 500  # pipelines that one request may change
MAX_GRANTED = 100  # pipelines that a subscriber may be limited to by name
MAX_WAIT_MS = 60_000  # that a reply may wait for a device
MAX_TOKEN_TTL = 30 * 86_400  # seconds


def whole(pattern: str) -> str:
    r"""The pattern for Python's `re`, where `$` would also match before a line feed at the end."""
    return rf"\A{pattern}\Z"


def schema_pattern(pattern: str) -> str:
    r"""The pattern for pydantic and for JSON Schema, whose `$` is the end and which know no `\Z`."""
    return f"^{pattern}$"
