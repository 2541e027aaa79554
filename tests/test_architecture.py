"""The architecture, kept: who may import whom, what stays pure, how many entries a folder has."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from tests.fakes.patience import PATIENCE
from tests.fakes.ports_and_folders import ROOT

COMPONENTS = {
    "streamfleet_core": ROOT / "broker/streamfleet_core",
    "streamfleet_broker": ROOT / "broker/streamfleet_broker",
    "streamfleet_worker": ROOT / "worker/streamfleet_worker",
    "streamfleet_api": ROOT / "api/streamfleet_api",
    "streamfleet": ROOT / "api/streamfleet",
}
MAX_ENTRIES = 20  # of one folder: more than that nobody looks through

# Which other parts of ours the modules of a part may import; `streamfleet_` is left out. A part is a folder
# with all that is below it, or one module of a component's own folder.
MAY_IMPORT = {
    "core.protocol": [],
    "core.datasets": ["core.protocol", "core.runtime.small_file"],
    "core.documents": ["core.protocol"],
    "core.models": ["core.protocol"],
    "core.peers": ["core.protocol"],
    "core.rollout": ["core.protocol"],
    "core.runtime": ["core.protocol"],
    "broker.fleet": ["core.protocol", "core.rollout"],
    "broker": ["broker", "core"],
    "worker.doctor": ["worker.engine", "worker.host", "worker.ipc.shared_memory", "core"],
    "worker.host": ["core"],
    "worker.ipc": ["core"],
    "worker.decisions": [
        *("worker.ipc.child_messages", "core.protocol", "core.models.onnx_graph", "core.runtime.backoff"),
    ],
    "worker.families": ["core.protocol"],
    "worker.engine": ["worker.families", "worker.host", "worker.ipc", "core"],
    "worker.video": ["worker.families", "worker.ipc", "core"],
    "worker.sampling": ["worker.video", "worker.config", "core"],
    "worker.camera": [
        *("worker.engine", "worker.families", "worker.video", "worker.sampling", "worker.host", "worker.ipc"),
        "core",
    ],
    "worker.library": ["worker.engine", "worker.video", "worker.host", "worker.ipc", "worker.config", "core"],
    "worker.optimise": [
        *("worker.engine", "worker.families", "worker.video", "worker.host", "worker.ipc", "core"),
    ],
    "worker.publisher": ["worker.decisions.topic_subscriptions", "worker.host", "worker.ipc", "core"],
    "worker.agent": [
        *("worker.decisions", "worker.sampling.quota_file", "worker.host", "worker.ipc", "worker.config"),
        "core",
    ],
    "worker": ["worker", "core"],
    "streamfleet": ["worker.library", "core"],  # what it has of a worker is loaded when it is used
    "api.broker_client": ["core"],
    "api.sampling_presets": ["core"],
    "api.client": ["streamfleet", "core"],
    "api.web": ["api.broker_client", "core"],
    "api.storage": ["api.broker_client", "core"],
    "api.feeds": ["api.web", "api.broker_client", "streamfleet.complete", "streamfleet.errors", "core"],
    "api.v2": ["api.feeds", "api.storage", "api.web", "api.broker_client", "api.sampling_presets", "core"],
    "api.roboflow": [
        *("api.v2.requests", "api.feeds", "api.storage", "api.web", "api.broker_client"),
        *("api.sampling_presets", "core"),
    ],
    "api.monitoring": [
        *("api.v2.responses", "api.roboflow.responses", "api.feeds", "api.web", "api.broker_client", "core"),
    ],
    "api.docs": ["api.monitoring", "api.v2.responses", "api.roboflow.responses", "api.web", "core"],
    "api.dashboard": ["api.web", "core"],
    "api.local": ["api.client", "streamfleet", "api.web", "api.broker_client", "core"],
    "api.cli": ["api.client", "api.local", "api.sampling_presets", "api.config", "streamfleet", "core"],
    "api": ["api", "streamfleet", "core"],
}
PURE = [
    "streamfleet.attempts",
    "streamfleet.errors",
    "streamfleet.requests",
    "streamfleet.results",
    "streamfleet.server_sent_events",
    "streamfleet_core.datasets.run_lengths",
    "streamfleet_core.documents",
    "streamfleet_core.models.agreement",
    "streamfleet_core.models.foreign_format",
    "streamfleet_core.models.class_names",
    "streamfleet_core.models.family_recognition",
    "streamfleet_core.models.model_card",
    "streamfleet_core.models.kept_classes",
    "streamfleet_core.models.model_manifest",
    "streamfleet_core.models.onnx_graph",
    "streamfleet_core.models.optimisation",
    "streamfleet_core.peers.replay",
    "streamfleet_core.peers.selection",
    "streamfleet_core.peers.subscriptions",
    "streamfleet_core.rollout",
    "streamfleet_core.runtime.backoff",
    "streamfleet_broker.budget",
    "streamfleet_broker.fleet",
    "streamfleet_broker.leadership",
    "streamfleet_broker.relay.publish_rules",
    "streamfleet_broker.relay.subscribe_rules",
    "streamfleet_api.feeds.filters",
    "streamfleet_api.feeds.send_queue",
    "streamfleet_api.local.hang_detector",
    "streamfleet_api.roboflow.inference_pipelines.result_buffer",
    "streamfleet_api.sampling_presets",
    "streamfleet_api.v2.fleet_file.change_set",
    "streamfleet_api.web.access_policy",
    "streamfleet_api.web.connections",
    "streamfleet_api.web.failed_logins",
    "streamfleet_api.web.handshakes",
    "streamfleet_api.web.network_budgets",
    "streamfleet_api.web.request_budget",
    "streamfleet_worker.camera.slot_scheduler",
    "streamfleet_worker.decisions",
    "streamfleet_worker.engine.accelerators.choice",
    "streamfleet_worker.engine.accelerators.errors",
    "streamfleet_worker.engine.onnxruntime_errors",
    "streamfleet_worker.engine.turns",
    "streamfleet_worker.families",
    "streamfleet_worker.host.machine",
    "streamfleet_worker.library.execution.playback_clock",
    "streamfleet_worker.optimise.candidates",
    "streamfleet_worker.publisher.replay.pacing",
    "streamfleet_worker.sampling.selection",
    "streamfleet_worker.video.detection.classification",
    "streamfleet_worker.video.detection.findings",
    "streamfleet_worker.video.detection.kalman_boxes",
    "streamfleet_worker.video.detection.selection",
    "streamfleet_worker.video.detection.suppression",
    "streamfleet_worker.video.hardware.annexb",
    "streamfleet_worker.video.hardware.data_protocol",
    "streamfleet_worker.video.hardware.faults",
    "streamfleet_worker.video.hardware.obu_stream",
    "streamfleet_worker.video.hardware.pipelines",
    "streamfleet_worker.video.sources.timeouts",
]
# A pure module has no socket, process, file, clock, thread, logger or random source of its own.
IMPURE = {
    "asyncio",
    "datetime",
    "httpx",
    "logging",
    "multiprocessing",
    "os",
    "pathlib",
    "psycopg",
    "secrets",
    "socket",
    "sqlite3",
    "subprocess",
    "threading",
    "time",
    "uuid",
    "zmq",
}


def modules() -> Iterator[tuple[str, Path]]:
    """Every module of ours with its file."""
    for folder in COMPONENTS.values():
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder.parent).with_suffix("").parts
            yield ".".join(part for part in parts if part != "__init__"), path


MODULES = dict(modules())


@cache
def imports(path: Path) -> set[str]:
    """The full names of all modules that a file imports, also inside its functions."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            names = {f"{node.module}.{alias.name}" for alias in node.names} & MODULES.keys()
            found.update(names or {str(node.module)})
    return found


def ours(path: Path) -> set[str]:
    """Those of them that are ours."""
    return {name for name in imports(path) if name.split(".")[0] in COMPONENTS}


def is_below(name: str, part: str) -> bool:
    """Is the module this part, or inside it?"""
    return name == part or name.startswith(f"{part}.")


@pytest.mark.parametrize(("name", "path"), MODULES.items(), ids=lambda value: str(value)[-60:])
def test_a_module_imports_only_what_its_folder_may(name: str, path: Path) -> None:
    short = name.removeprefix("streamfleet_")
    part = max((part for part in MAY_IMPORT if is_below(short, part)), key=len, default=None)
    if part is None:
        assert not ours(path), f"{name} is a package of its own"
        return
    allowed = [part, *MAY_IMPORT[part]]

    for imported in ours(path):
        target = imported.removeprefix("streamfleet_")
        assert any(is_below(target, each) for each in allowed), f"{name} imports {imported}"


def test_the_folders_form_no_circle() -> None:
    """A module counts alone in a folder that has folders in it: `app` may use what `config` may not."""
    packages = {name for name, path in MODULES.items() if path.name == "__init__.py"}
    folders = packages | {name.rpartition(".")[0] for name in MODULES.keys() - packages}
    nested = {folder.rpartition(".")[0] for folder in folders}

    def node(name: str) -> str:
        folder = name if name in folders else name.rpartition(".")[0]
        return name if folder in nested else folder

    graph = {node(name): set[str]() for name in MODULES}
    for name, path in MODULES.items():
        graph[node(name)] |= {node(imported) for imported in ours(path)} - {node(name)}

    TopologicalSorter(graph).prepare()


def test_no_folder_has_more_entries_than_one_looks_through() -> None:
    for component in COMPONENTS.values():
        for folder in (component, *filter(Path.is_dir, component.rglob("*"))):
            if "__pycache__" not in folder.parts and folder.name != "static":
                entries = [each for each in folder.iterdir() if each.is_file() or any(each.rglob("*.py"))]
                assert len(entries) <= MAX_ENTRIES, f"{folder}: {len(entries)}"


@pytest.mark.parametrize("name", [name for name in MODULES if any(is_below(name, part) for part in PURE)])
def test_a_decision_is_pure(name: str) -> None:
    path = MODULES[name]

    assert not {imported.split(".")[0] for imported in imports(path)} & IMPURE
    for imported in ours(path):
        assert (
            any(is_below(imported, part) for part in PURE)
            or imported.startswith("streamfleet_core.protocol")
            or imported == "streamfleet_worker.ipc.child_messages"
        ), f"{name} imports {imported}, which may do I/O"


def test_nobody_imports_a_main_module() -> None:
    for name, path in MODULES.items():
        assert not any(imported.endswith("__main__") for imported in imports(path)), name


def test_the_protocol_loads_neither_zmq_nor_numpy_nor_cv2() -> None:
    names = [name for name in MODULES if name.startswith("streamfleet_core.protocol")]
    program = f"import sys, {', '.join(names)}; print({{'zmq', 'numpy', 'cv2'}} & set(sys.modules))"

    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=PATIENCE, check=True
    )

    assert done.stdout.strip() == "set()"


def test_a_device_needs_no_web_server_and_the_api_no_opencv() -> None:
    for name, path in MODULES.items():
        roots = {imported.split(".")[0] for imported in imports(path)}
        if name.startswith("streamfleet_worker.optimise"):
            roots -= {"onnx"}  # the command line starts it where it runs itself
        if name.startswith("streamfleet_worker"):
            assert not roots & {"starlette", "uvicorn", "pydantic", "click", "rich", "onnx"}, name
        if name.startswith("streamfleet_api"):
            assert not roots & {"cv2", "supervision", "trackers", "onnxruntime"}, name
        if name.startswith(("streamfleet_broker", "streamfleet_core")):
            assert not roots & {"onnx", "onnxruntime", "numpy", "cv2"}, name


def test_what_runs_before_the_installation_needs_nothing_installed() -> None:
    ports = [f"--{name}-port=0" for name in ("manager", "devices", "relay-in", "relay-out")]
    ports += ["--port=0", "--pictures-in-port=0", "--pictures-out-port=0"]

    command = [sys.executable, "-I", "-S", str(ROOT / "tools/ports.py"), *ports]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)

    assert (done.returncode, done.stderr) == (0, "")
