"""A process in which a model is tried: loaded and run once, confined, exactly as an engine will.

    python -m streamfleet_worker.engine.trial FILE < MANIFEST      writes why it is refused, or nothing

The api starts it for a model that is added, if ONNX Runtime is there. What ends it by a signal is the model.
"""

from __future__ import annotations

import os
import sys

from streamfleet_core.protocol.values import Manifest
from streamfleet_core.runtime.process import forbid_core_dumps, name_process, tie_to_parent
from streamfleet_worker.engine.confinement import confine, limited_time
from streamfleet_worker.engine.onnx_runtime import onnx_runtime
from streamfleet_worker.engine.onnx_session import BadModel, Session


def main(path: str) -> None:
    """Try it."""
    tie_to_parent()
    onnx_runtime()  # before `confine`: it is not the model's to pay for
    name_process("sf-trial")
    os.nice(10)  # what runs already goes first
    forbid_core_dumps()
    manifest = Manifest.decode(sys.stdin.buffer.read())
    confine(manifest, runs=1, accelerated=False)
    try:
        Session(path, manifest, within=limited_time, on_trial=True)
    except BadModel as exc:
        sys.stdout.write(str(exc))


if __name__ == "__main__":
    main(sys.argv[1])
