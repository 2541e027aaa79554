"""Can hardware decode video here? Looks for GStreamer's programs and plug-ins."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable

from streamfleet_core.runtime.finding import Finding, ok, warning

NAME = "decoders"
INSPECT, LAUNCH = "gst-inspect-1.0", "gst-launch-1.0"
JETSON = ("nvv4l2decoder",)
NVIDIA = ("nvh264dec", "nvh265dec")
VAAPI = ("vah264dec", "vah265dec", "vaapih264dec", "vaapih265dec")
TIMEOUT = 20.0  # seconds for one element; the first call on a machine loads all plug-ins

_INSTALL = "apt install gstreamer1.0-tools gstreamer1.0-plugins-base gstreamer1.0-plugins-bad"


def has_element(name: str, timeout: float = TIMEOUT) -> bool | None:
    """Whether GStreamer has this element; None if it did not answer in time."""
    try:
        done = subprocess.run(
            [INSPECT, "--exists", name],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return None
    except OSError:
        return False
    return done.returncode == 0


def check(
    *,
    jetson: bool,
    gpu: bool,
    which: Callable[[str], str | None] = shutil.which,
    has: Callable[[str], bool | None] = has_element,
) -> Finding:
    """Without hardware the CPU decodes, which costs about as much as a small model."""
    expected = jetson or gpu
    if missing := [program for program in (INSPECT, LAUNCH) if which(program) is None]:
        found = f"the CPU decodes: {' and '.join(missing)} not installed"
        return warning(NAME, found, _INSTALL) if expected else ok(NAME, found)
    answers: dict[str, bool | None] = {}
    for name in (*JETSON, *NVIDIA, *VAAPI):
        answers[name] = has(name)
        if answers[name] is None:
            return warning(
                NAME,
                f"{INSPECT} did not answer within {TIMEOUT:.0f} s, so the CPU decodes",
                f"see where it hangs: {INSPECT} {name}; rm -r ~/.cache/gstreamer-1.0 clears its list",
            )
    if found_here := [name for name, is_there in answers.items() if is_there]:
        return ok(NAME, f"hardware decodes: {', '.join(found_here)}")
    if jetson:
        remedy = "apt install nvidia-l4t-gstreamer; in a container: --runtime nvidia"
        return warning(NAME, f"the CPU decodes: GStreamer has no {JETSON[0]}", remedy)
    if gpu:
        remedy = f"{_INSTALL}; in a container also: -e NVIDIA_DRIVER_CAPABILITIES=all"
        return warning(NAME, f"the CPU decodes: GStreamer has no {NVIDIA[0]}", remedy)
    return ok(NAME, "the CPU decodes: GStreamer has no decoder of hardware")
