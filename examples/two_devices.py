"""Run one video on each of two devices, over the HTTP API of Roboflow's Stream Management.

python examples/two_devices.py VIDEO MODEL_ID DEVICE DEVICE

For a fleet on another machine, set STREAMFLEET_URL to its API and STREAMFLEET_TOKEN to its operator's token.
"""

import os
import signal
import sys
import time
from typing import Any

import requests

URL = os.environ.get("STREAMFLEET_URL", "http://127.0.0.1:8080")
TOKEN = os.environ.get("STREAMFLEET_TOKEN")
HEADERS = {"Authorization": f"Bearer {TOKEN}"} if TOKEN else {}


def call(method: str, path: str, **body: object) -> dict[str, Any]:
    """Return the JSON of the response. An error ends the program with the reason from the fleet."""
    try:
        response = requests.request(method, URL + path, json=body or None, headers=HEADERS, timeout=60)
    except requests.RequestException as exc:
        sys.exit(f"cannot reach {URL}: {exc}")
    answer = response.json()
    if not response.ok:
        sys.exit(f"{method} {path}: {answer.get('message') or answer.get('detail')}")
    return answer


def start(video: str, model_id: str, device: str, port: int) -> str:
    """Start a pipeline and return its id. `device` is our extension; without it the fleet selects one."""
    answer = call(
        "POST",
        "/initialise",
        video_reference=video,
        model_id=model_id,
        device=device,
        sink_configuration={"type": "udp_sink", "host": "127.0.0.1", "port": port},
    )
    return answer["context"]["pipeline_id"]


def report(pipeline_id: str) -> tuple[list[str], float]:
    """Return the states of its sources, and frames per second."""
    status = call("GET", f"/status/{pipeline_id}")["report"]
    return [source["state"] for source in status["sources_metadata"]], status["inference_throughput"]


if len(sys.argv) < 4:
    sys.exit(__doc__)
signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends the program, not the pipelines
video, model_id, *devices = sys.argv[1:]
pipelines = {start(video, model_id, device, 12000 + i): device for i, device in enumerate(devices)}

for pipeline_id in pipelines:
    while {"NOT_STARTED", "INITIALISING"}.intersection(report(pipeline_id)[0]):
        time.sleep(0.2)
for _ in range(5):
    time.sleep(1)
    for pipeline_id, device in pipelines.items():
        states, rate = report(pipeline_id)
        print(f"{device}: {states} {rate:.1f} frames/s", flush=True)

for pipeline_id in pipelines:
    call("POST", f"/terminate/{pipeline_id}")
print("left:", call("GET", "/list_pipelines")["pipelines"])
