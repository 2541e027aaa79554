"""The drawing of the architecture, kept: who may import whom, and what stays pure."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = {
    "streamfleet_broker": ROOT / "broker/streamfleet_broker",
    "streamfleet_worker": ROOT / "worker/streamfleet_worker",
    "streamfleet_api": ROOT / "api/streamfleet_api",
}
# A model is read at two doors, the api's and the library's on a device: the same file is the same model.
# And all programs begin alike.
SHARED = ("streamfleet_broker.protocol", "streamfleet_broker.models", "streamfleet_broker.program")
PURE = [
    "streamfleet_broker.effects",
    "streamfleet_broker.events",
    "streamfleet_broker.facts",
    "streamfleet_broker.fleet",
    "streamfleet_broker.ledger",
    "streamfleet_broker.lookout",
    "streamfleet_broker.movement",
    "streamfleet_broker.operators",
    "streamfleet_broker.placement",
    "streamfleet_broker.records",
    "streamfleet_broker.releases",
    "streamfleet_broker.roster",
    "streamfleet_broker.sessions",
    "streamfleet_broker.state",
    "streamfleet_broker.supply",
    "streamfleet_broker.views",
    "streamfleet_broker.waiting",
    "streamfleet_broker.wishes",
    "streamfleet_api.active_learning",
    "streamfleet_api.backlog",
    "streamfleet_api.core.ring",
    "streamfleet_api.core.workflow",
    "streamfleet_api.filters",
    "streamfleet_api.patience",
    "streamfleet_broker.models.graph",
    "streamfleet_worker.audience",
    "streamfleet_worker.session",
    "streamfleet_worker.reconcile",
    "streamfleet_worker.status",
    "streamfleet_worker.engine.batching",
    "streamfleet_worker.library.schedule",
    "streamfleet_worker.samples.picking",
]
# A pure core has no socket, process, file, clock, thread, logger or random source of its own.
IMPURE = {
    "asyncio",
    "datetime",
    "httpx",
    "logging",
    "multiprocessing",
    "os",
    "pathlib",
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
    for folder in PACKAGES.values():
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder.parent).with_suffix("").parts
            yield ".".join(part for part in parts if part != "__init__"), path


def imports(path: Path) -> set[str]:
    """The full names of all modules that a file imports, also inside its functions."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            found.add(str(node.module))
    return found


@pytest.mark.parametrize(("name", "path"), list(modules()), ids=lambda value: str(value)[-60:])
def test_packages_share_nothing_but_the_protocol_and_what_a_model_is(name: str, path: Path) -> None:
    package = name.split(".")[0]
    foreign = {
        imported
        for imported in imports(path)
        if imported.split(".")[0] in PACKAGES and imported.split(".")[0] != package
    }

    assert all(imported.startswith(SHARED) for imported in foreign), foreign


def test_the_protocol_imports_nothing_of_ours_but_itself() -> None:
    for name, path in modules():
        if name.startswith("streamfleet_broker.protocol"):
            ours = {imported for imported in imports(path) if imported.split(".")[0] in PACKAGES}
            assert all(imported.startswith("streamfleet_broker.protocol") for imported in ours), (name, ours)


@pytest.mark.parametrize("name", PURE)
def test_a_decision_is_pure(name: str) -> None:
    path = dict(modules())[name]

    assert not {imported.split(".")[0] for imported in imports(path)} & IMPURE
    for imported in imports(path):
        assert (
            not imported.startswith("streamfleet_")
            or imported in PURE
            or "protocol" in imported
            or (imported.removeprefix("streamfleet_worker.") == "control")
        ), f"{name} imports {imported}, which may do I/O"


def test_nobody_imports_a_main_module() -> None:
    for name, path in modules():
        assert not any(imported.endswith("__main__") for imported in imports(path)), name


def test_the_protocol_loads_neither_zmq_nor_numpy_nor_cv2() -> None:
    names = [name for name, _ in modules() if name.startswith("streamfleet_broker.protocol")]
    program = f"import sys, {', '.join(names)}; print({{'zmq', 'numpy', 'cv2'}} & set(sys.modules))"

    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True
    )

    assert done.stdout.strip() == "set()"


def test_a_device_needs_no_web_server_and_the_api_no_opencv() -> None:
    for name, path in modules():
        roots = {imported.split(".")[0] for imported in imports(path)}
        if name.startswith("streamfleet_worker"):
            assert not roots & {"starlette", "uvicorn", "pydantic", "click", "rich", "onnx"}, name
        if name.startswith("streamfleet_api"):
            assert not roots & {"cv2", "supervision", "trackers", "onnxruntime"}, name
        if name.startswith("streamfleet_broker"):
            assert not roots & {"onnx", "onnxruntime", "numpy", "cv2"}, name
