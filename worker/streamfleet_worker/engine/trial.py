"""A process that tests a model: loads it and runs it once, confined exactly as in an engine.

    python -m streamfleet_worker.engine.trial FILE < MANIFEST      writes why it is refused, or nothing

The API starts it for each added model, if ONNX Runtime is installed. If a signal ends it, the model is the
cause.
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
    """Test the model."""
    tie_to_parent()
    onnx_runtime()  # before `confine`: its memory does not count for the model
    name_process("sf-trial")
    os.nice(10)  # other processes have priority
    forbid_core_dumps()
    manifest = Manifest.decode(sys.stdin.buffer.read())
    confine(manifest, runs=1, accelerated=False)
    try:
        Session(path, manifest, within=limited_time, on_trial=True)
    except BadModel as exc:
        sys.stdout.write(str(exc))


if __name__ == "__main__":
    main(sys.argv[1])
