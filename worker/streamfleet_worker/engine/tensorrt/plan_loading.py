"""Loads the plan of a model, or says what to build."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from streamfleet_core.models import onnx_file
from streamfleet_core.models.onnx_graph import BadModel, Graph
from streamfleet_core.protocol.source_reference import shown_reason
from streamfleet_core.protocol.status import MissingAccelerator
from streamfleet_core.protocol.values import Manifest
from streamfleet_worker.engine import onnx_session
from streamfleet_worker.engine.accelerators.errors import AcceleratorUnusable, unusable
from streamfleet_worker.engine.onnx_runtime import run_errors
from streamfleet_worker.engine.tensorrt.build import BuildRequest
from streamfleet_worker.engine.tensorrt.cuda import Cuda
from streamfleet_worker.engine.tensorrt.library import TensorRT, precision
from streamfleet_worker.engine.tensorrt.plan_model import PlanModel
from streamfleet_worker.engine.tensorrt.plan_store import PlanKey, PlanStore


class PlanMissing(Exception):
    """TensorRT could run a model, and its plan must be built first."""

    def __init__(self, request: BuildRequest) -> None:
        super().__init__("a TensorRT plan must be built first")
        self.request = request


def load_plan(weights_path: str, manifest: Manifest, folder: Path, version: str) -> PlanModel:
    """Load the plan of a model. Raises: PlanMissing, AcceleratorUnusable, BadModel."""
    store, graph = PlanStore(folder), _read_graph(weights_path)
    _check_numbers(graph, manifest)
    try:
        cuda = Cuda()
        key = _key(graph, manifest, version, cuda.compute_capability())
    except run_errors() as exc:
        raise AcceleratorUnusable(_missing(str(exc))) from exc
    plan = store.read(key)
    if plan is None:
        raise PlanMissing(_request(weights_path, manifest, folder, key))
    if not store.begin_load(key):
        raise AcceleratorUnusable(
            MissingAccelerator(
                "TensorRT ended the engine while it loaded the plan of this model",
                f"remove {store.path(key)} to build it again, or use --provider cuda",
            )
        )
    try:
        return PlanModel(
            plan,
            manifest,
            library=TensorRT(),
            cuda=cuda,
            check=partial(onnx_session.check_outputs, manifest=manifest),
            max_batch=key.batch,
        )
    except onnx_session.BadModel as exc:  # the model itself was checked when its plan was built
        raise AcceleratorUnusable(_missing(f"its plan gives wrong numbers: {exc}")) from exc
    except run_errors() as exc:
        cause = unusable(str(exc))
        if cause is None:  # it is the plan: the next engine builds another
            store.remove(key)
        raise AcceleratorUnusable(cause or _missing(str(exc))) from exc
    finally:
        store.end_load(key)


def build_failed(reason: str) -> MissingAccelerator:
    """What is missing after a build has failed."""
    return unusable(reason) or _missing(f"it built no plan: {reason}")


def _missing(text: str) -> MissingAccelerator:
    return unusable(text) or MissingAccelerator(
        shown_reason(f"TensorRT cannot run the model: {text}"),
        "the log of the engine has more; --provider cuda does without TensorRT",
    )


def _key(graph: Graph, manifest: Manifest, version: str, capability: str) -> PlanKey:
    return PlanKey(
        sha256=manifest.weights.sha256,
        tensorrt=version,
        capability=capability,
        precision=precision(),
        batch=onnx_session.ACCELERATED_BATCH if _is_open(graph) else 1,
    )


def _request(weights_path: str, manifest: Manifest, folder: Path, key: PlanKey) -> BuildRequest:
    return BuildRequest(
        weights_path=weights_path,
        sha256=manifest.weights.sha256,
        folder=str(folder),
        name=key.name,
        max_batch=key.batch,
    )


def _read_graph(weights_path: str) -> Graph:
    """Read the model file. Raises: onnx_session.BadModel."""
    try:
        return onnx_file.read_graph(Path(weights_path).read_bytes())
    except OSError as exc:
        raise onnx_session.BadModel(f"the model file cannot be read: {exc.strerror}") from exc
    except BadModel as exc:  # also if its weights are in other files, which TensorRT would read (S21)
        raise onnx_session.BadModel(str(exc)) from exc


def _check_numbers(graph: Graph, manifest: Manifest) -> None:
    """Check that plans take these inputs and outputs, before one is built. Raises: AcceleratorUnusable."""
    names = manifest.outputs or tuple(port.name for port in graph.outputs[:1])
    ports = [*graph.inputs, *(port for port in graph.outputs if port.name in names)]
    others = [port for port in ports if port.dtype != "FLOAT"]
    if len(graph.inputs) == 1 and not others:
        return
    got = f"{len(graph.inputs)} inputs" if len(graph.inputs) != 1 else f"{others[0]}"
    raise AcceleratorUnusable(
        MissingAccelerator(
            shown_reason(f"TensorRT runs models of one input, with numbers of float32, here; got {got}"),
            "export the model without half, and without another input; --provider cuda runs it as it is",
        )
    )


def _is_open(graph: Graph) -> bool:
    """Whether the first dimension of the input is chosen with each run."""
    return len(graph.inputs[0].shape) == 4 and graph.inputs[0].shape[0] is None
