"""All that a fleet says, to be looked through for what it must not say."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from pathlib import Path

from tests.fakes.patience import PATIENCE
from tests.fleet.harness import Fleet


def over_tcp(fleet: Fleet, payload: bytes) -> str:
    """The answer of the Stream Manager."""
    with socket.create_connection(("127.0.0.1", fleet.manager_port), timeout=PATIENCE) as door:
        door.sendall(struct.pack(">I", len(payload)) + payload)
        whole = b""
        while piece := door.recv(65_536):
            whole += piece
    return whole[4:].decode()


def everything_said(fleet: Fleet) -> dict[str, str]:
    """What the fleet answers, prints, logs and stores, and what others see of its processes."""
    paths = ["/list_pipelines", "/inference_pipelines/list", "/v2/pipelines", "/v2/models", "/v2/devices"]
    paths += ["/v2/events/recent", "/metrics", "/healthz", "/openapi.json"]
    for pipeline_id in fleet.pipelines():
        paths += [f"/status/{pipeline_id}", f"/inference_pipelines/{pipeline_id}/status"]
        paths += [f"/v2/pipelines/{pipeline_id}", f"/v2/pipelines/{pipeline_id}/status"]
        paths += [f"/v2/pipelines/{pipeline_id}/predictions/last"]
    said = {path: fleet.http.get(path).text for path in paths}
    said["command line"] = fleet.cli("pipelines").stdout + fleet.cli("pipelines", "--json").stdout
    said |= files_below(fleet.home)
    for pid in fleet.pids():
        for of_process in ("cmdline", "environ"):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it ended meanwhile
                content = Path(f"/proc/{pid}/{of_process}").read_bytes()
                said[f"{of_process} of {pid}"] = content.decode(errors="replace")
    return said


def files_below(folder: Path) -> dict[str, str]:
    """What each file in it says. Programs that run there may remove any of them meanwhile."""
    found = {}
    for root, _, names in os.walk(folder):
        for path in (Path(root, name) for name in names):
            if path.is_file():  # and no socket
                with contextlib.suppress(FileNotFoundError):
                    found[str(path)] = path.read_bytes().decode(errors="replace")
    return found
