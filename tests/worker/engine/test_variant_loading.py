"""An engine runs the variant for its board, and the model itself if it cannot."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from streamfleet_core.protocol.values import Manifest, Variant, Weights
from streamfleet_worker.engine.accelerators.choice import CPU, CUDA, OPENVINO, TENSORRT, Offer, Wanted
from streamfleet_worker.engine.variant_loading import first_provider
from streamfleet_worker.ipc.child_messages import EngineReport
from tests.fakes.models import manifest_of, write_constant_model, write_squares_model
from tests.fakes.process_harness import ProcessHarness, is_engine


@pytest.fixture
def model(stand: ProcessHarness) -> tuple[Path, Manifest]:
    path = stand.folder / "model.onnx"
    return path, write_squares_model(path)


@pytest.fixture
def variant(stand: ProcessHarness, model: tuple[Path, Manifest]) -> tuple[Path, Variant]:
    """Another file with the same inputs and outputs."""
    path = stand.folder / "variant.onnx"
    path.write_bytes(model[0].read_bytes() + b"\x32\x00")  # an empty field that says nothing
    return path, variant_of(path)


def variant_of(path: Path, provider: str = CPU) -> Variant:
    weights = manifest_of(path).weights
    return Variant(
        board="a board", provider=provider, precision="int8", weights=weights, speedup=2, agreement=0.99
    )


def report_of(
    stand: ProcessHarness, model: tuple[Path, Manifest], path: Path, variant: Variant
) -> EngineReport:
    child = stand.engine(*model, variant=variant, variant_path=str(path))
    report = child.until("it is ready", lambda report: is_engine(report, "ready"))
    assert isinstance(report, EngineReport)
    child.stop()
    return report


def test_the_variant_runs_in_place_of_the_model(
    stand: ProcessHarness, model: tuple[Path, Manifest], variant: tuple[Path, Variant]
) -> None:
    report = report_of(stand, model, *variant)

    assert (report.variant, report.variant_trouble, report.provider) == ("int8", "", CPU)


def test_a_variant_for_another_provider_does_not_run(
    stand: ProcessHarness, model: tuple[Path, Manifest], variant: tuple[Path, Variant]
) -> None:
    path, built = variant

    report = report_of(stand, model, path, replace(built, provider=CUDA))

    assert report.variant == ""
    assert report.variant_trouble == f"it was built for {CUDA}, and models run on {CPU} here"


def test_without_the_file_of_its_variant_the_model_itself_runs(
    stand: ProcessHarness, model: tuple[Path, Manifest], variant: tuple[Path, Variant]
) -> None:
    path, built = variant
    path.unlink()

    report = report_of(stand, model, path, built)

    assert (report.variant, report.variant_trouble) == (
        "",
        "the model file cannot be read: No such file or directory",
    )


def test_a_variant_with_other_outputs_is_no_variant(
    stand: ProcessHarness, model: tuple[Path, Manifest]
) -> None:
    import numpy as np

    path = stand.folder / "other.onnx"
    write_constant_model(path, np.zeros((1, 9, 5)), side=320)

    report = report_of(stand, model, path, variant_of(path))

    assert report.variant == ""
    assert "expected an output of (1, 7, N)" in report.variant_trouble


def test_a_damaged_variant_is_removed_so_that_it_is_fetched_again(
    stand: ProcessHarness, model: tuple[Path, Manifest], variant: tuple[Path, Variant]
) -> None:
    path, built = variant

    report = report_of(stand, model, path, replace(built, weights=Weights("0" * 64, built.weights.size)))

    assert report.variant == ""
    assert report.variant_trouble.startswith("expected a model file of sha256 0000")
    assert not path.exists()
    assert model[0].exists()


@pytest.mark.parametrize(
    ("wanted", "provider"),
    [
        (Wanted(), TENSORRT),
        (Wanted("cpu"), CPU),
        (Wanted("prefer", "cuda"), CUDA),
        (Wanted("prefer", "openvino"), CPU),
    ],
)
def test_the_first_provider_is_the_one_that_an_engine_tries_first(wanted: Wanted, provider: str) -> None:
    offer = Offer(providers=(CUDA, CPU), tensorrt="10.3.0")

    assert first_provider(wanted, offer) == provider
    assert first_provider(Wanted("prefer", "openvino"), Offer(providers=(OPENVINO, CPU))) == OPENVINO
