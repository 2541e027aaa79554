"""The checks of a machine, on machines that the tests make."""

from __future__ import annotations

import resource
import struct
from pathlib import Path

import pytest

from streamfleet_core.runtime.finding import Finding
from streamfleet_worker.doctor import board, clock, decoders, heat, packages, resources
from streamfleet_worker.host.cgroup import Limits
from streamfleet_worker.host.clock import ClockReading, decode, read_clock
from streamfleet_worker.host.heat import Throttling
from tests.fakes.kernel_files import lay

RELEASE = "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64\n"
COMPLETE = dict.fromkeys(packages.NEEDED, "1.0")


def severity(found: Finding) -> str:
    """Its severity. What is wrong has a remedy, and what is right has none."""
    assert bool(found.remedy) == (found.severity != "ok"), found
    return found.severity


# packages -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("version", "expected"), [((3, 9, 2), "error"), ((3, 10, 0), "ok")])
def test_an_old_python_is_an_error(version: tuple[int, ...], expected: str) -> None:
    assert severity(packages.check_python(version)) == expected


def test_missing_packages_are_named() -> None:
    headless = {name: "1.0" for name in COMPLETE if name != "opencv-python"} | {"opencv-python-headless": "2"}

    missing = packages.check_packages({"numpy": "1.0"})

    assert severity(missing) == "warning"
    assert "av, opencv-python, scipy, supervision not installed" in missing.found
    assert [severity(packages.check_packages(each)) for each in (COMPLETE, headless)] == ["ok", "ok"]


@pytest.mark.parametrize(
    ("names", "gpu", "expected", "remedy"),
    [
        (["onnxruntime"], False, "ok", ""),
        (["onnxruntime-gpu"], True, "ok", ""),
        ([], False, "warning", "if a worker should run here: pip install 'streamfleet[worker,cpu]'"),
        (
            ["onnxruntime"],
            True,
            "warning",
            "pip uninstall -y onnxruntime && pip install 'streamfleet[worker,cuda]'",
        ),
        (
            ["onnxruntime", "onnxruntime-gpu"],
            True,
            "error",
            "pip uninstall -y onnxruntime onnxruntime-gpu && pip install 'streamfleet[worker,cuda]'",
        ),
        (
            ["onnxruntime", "onnxruntime-openvino"],
            False,
            "error",
            "pip uninstall -y onnxruntime onnxruntime-openvino && pip install 'streamfleet[worker,openvino]'",
        ),
    ],
)
def test_there_is_one_onnx_runtime_and_it_fits_the_machine(
    names: list[str], gpu: bool, expected: str, remedy: str
) -> None:
    (found,) = packages.check_runtime(dict.fromkeys(names, "1.20"), gpu=gpu)

    assert (severity(found), found.remedy) == (expected, remedy)


# decoders -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("jetson", "gpu", "programs", "elements", "expected", "part"),
    [
        (False, False, [], [], "ok", "gst-inspect-1.0 and gst-launch-1.0 not installed"),
        (True, False, ["gst-inspect-1.0"], [], "warning", "gst-launch-1.0 not installed"),
        (False, False, "both", [], "ok", "GStreamer has no decoder of hardware"),
        (True, False, "both", ["avdec_h264"], "warning", "GStreamer has no nvv4l2decoder"),
        (False, True, "both", [], "warning", "GStreamer has no nvh264dec"),
        (False, False, "both", ["vah264dec", "vah265dec"], "ok", "hardware decodes: vah264dec, vah265dec"),
        (True, False, "both", ["nvv4l2decoder"], "ok", "hardware decodes: nvv4l2decoder"),
    ],
)
def test_decoders_are_expected_where_their_hardware_is(
    jetson: bool, gpu: bool, programs: list[str] | str, elements: list[str], expected: str, part: str
) -> None:
    found = decoders.check(
        jetson=jetson,
        gpu=gpu,
        which=lambda name: name if programs == "both" or name in programs else None,
        has=lambda name: name in elements,
    )

    assert severity(found) == expected
    assert part in found.found


def test_a_gstreamer_that_hangs_is_asked_once() -> None:
    asked: list[str] = []

    found = decoders.check(
        jetson=False, gpu=False, which=lambda name: name, has=lambda name: asked.append(name)
    )

    assert (severity(found), asked) == ("warning", ["nvv4l2decoder"])


def test_an_element_is_looked_for_with_a_deadline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / decoders.INSPECT
    monkeypatch.setenv("PATH", str(tmp_path))
    without = decoders.has_element("vah264dec")
    program.write_text(
        '#!/bin/sh\n[ "$2" = vah264dec ] && exit 0\n[ "$2" = hangs ] && exec /bin/sleep 600\nexit 1\n'
    )
    program.chmod(0o700)

    found = [decoders.has_element("vah264dec"), decoders.has_element("nvh264dec")]

    assert (without, found) == (False, [True, False])
    assert decoders.has_element("hangs", timeout=0.2) is None


# board ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("release", "expected", "text"),
    [
        (RELEASE, "ok", "L4T 36.4.3 (JetPack 6)"),
        (RELEASE.replace("R36", "R39"), "ok", "L4T 39.4.3 (JetPack 7)"),
        (RELEASE.replace("R36", "R32"), "warning", "L4T 32.4.3 (JetPack 4) is older than current packages"),
        (RELEASE.replace("R36", "R99"), "ok", "L4T 99.4.3"),
        ("", "warning", "/etc/nv_tegra_release does not tell its L4T"),
    ],
)
def test_the_jetpack_is_read_from_its_release(tmp_path: Path, release: str, expected: str, text: str) -> None:
    found = board.check_release(lay(tmp_path, {"etc/nv_tegra_release": release}))

    assert severity(found) == expected
    assert text in found.found


@pytest.mark.parametrize(
    ("printed", "expected", "text"),
    [
        ("NV Power Mode: MAXN\n0\n", "ok", "MAXN"),
        ("NVPM WARN: fan mode is not set!\nNV Power Mode: MODE_15W\n2\n", "warning", "MODE_15W limits"),
        ("NV Power Mode: MAXN_SUPER\n2\n", "ok", "MAXN_SUPER"),
        (None, "warning", "nvpmodel does not tell it"),
    ],
)
def test_a_lower_power_mode_is_a_warning(printed: str | None, expected: str, text: str) -> None:
    found = board.check_power_mode(printed)

    assert severity(found) == expected
    assert text in found.found


def test_a_container_on_a_jetson_needs_kmod(tmp_path: Path) -> None:
    host, container = tmp_path / "host", lay(tmp_path / "container", {".dockerenv": ""})

    without = board.check_kmod(container, which=lambda _: None)

    assert severity(without) == "warning"
    assert severity(board.check_kmod(container, which=lambda name: name)) == "ok"
    assert severity(board.check_kmod(host, which=lambda _: None)) == "ok"


# heat -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("degrees", "expected"), [(60, "ok"), (85, "warning"), (101, "error")])
def test_a_hot_machine_is_told(tmp_path: Path, degrees: int, expected: str) -> None:
    lay(tmp_path, {"sys/class/thermal/thermal_zone0/temp": f"{degrees}000\n"})

    assert severity(heat.check_temperature(tmp_path)) == expected
    assert severity(heat.check_temperature(tmp_path / "no sensor")) == "ok"


@pytest.mark.parametrize(
    ("now", "expected", "text"),
    [
        (Throttling(), "ok", "unknown"),
        (Throttling((), {"weak": 0}), "ok", "none"),
        (Throttling((), {"weak": 3}), "warning", "slowed down since the start: 3 times because weak"),
        (Throttling(("cpufreq-cpu0",), {}), "warning", "slowed down now: too hot"),
    ],
)
def test_throttling_now_and_before_is_told(now: Throttling, expected: str, text: str) -> None:
    found = heat.check_throttling(now)

    assert severity(found) == expected
    assert text in found.found


def test_limited_clocks_are_told(tmp_path: Path) -> None:
    folder = "sys/devices/system/cpu"
    limits = {"cpu0": 2_201_600, "cpu1": 729_600, "cpu2": 729_600}
    for core, limit in limits.items():
        files = {"scaling_max_freq": f"{limit}\n", "cpuinfo_max_freq": "2201600\n"}
        lay(tmp_path, {f"{folder}/{core}/cpufreq/{name}": text for name, text in files.items()})

    found = heat.check_clocks(tmp_path)

    assert severity(found) == "warning"
    assert found.found == "2 cores: limited to 729 of 2201 MHz"
    assert severity(heat.check_clocks(tmp_path / "none")) == "ok"


# clock ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reading", "now", "expected"),
    [
        (ClockReading(True, 0.02), 1_800_000_000.0, "ok"),
        (ClockReading(False, 16.0), 1_800_000_000.0, "warning"),
        (None, 1_800_000_000.0, "warning"),
        (ClockReading(True, 0.02), 1_000_000_000.0, "error"),
    ],
)
def test_a_clock_that_no_server_sets_is_told(reading: ClockReading | None, now: float, expected: str) -> None:
    assert severity(clock.check(reading, now)) == expected


def test_this_kernel_tells_how_good_its_clock_is() -> None:
    reading = read_clock()

    assert reading is not None
    assert 0 <= reading.max_error < 3600


@pytest.mark.parametrize(("status", "synchronised"), [(0x2001, True), (0x2041, False)])
def test_the_fields_of_the_kernel_are_read(status: int, synchronised: bool) -> None:
    timex = struct.pack("=I4xqqqqi", 0, 0, 0, 31_500, 0, status).ljust(512, b"\0")

    assert decode(timex) == ClockReading(synchronised, 0.0315)


# resources ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("available", "limit", "expected"),
    [(4e9, None, "ok"), (1e9, None, "warning"), (1e8, None, "error"), (1e8, 1_000_000_000, "error")],
)
def test_little_memory_is_told(available: float, limit: int | None, expected: str) -> None:
    found = resources.check_memory(int(available), Limits(memory=limit))

    assert severity(found) == expected
    assert ("container's limit of 1.0 GB" in found.found) == (limit is not None)


@pytest.mark.parametrize(
    ("limit", "expected"), [(resource.RLIM_INFINITY, "ok"), (65536, "ok"), (1024, "warning"), (64, "error")]
)
def test_a_low_limit_of_descriptors_is_told(limit: int, expected: str) -> None:
    assert severity(resources.check_descriptors(limit)) == expected


def test_shared_memory_works_here_and_a_limit_of_files_is_told() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    works = resources.check_shared_memory()
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
        without = resources.check_shared_memory()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    assert (severity(works), severity(without)) == ("ok", "error")
    assert without.found == "memfd_create: Too many open files"


def test_the_disk_of_a_folder_that_does_not_exist_yet_is_that_of_its_parent(tmp_path: Path) -> None:
    found = list(resources.check_disk(tmp_path / "not/yet"))

    assert {each.name for each in found} >= {"disk"}
    assert all(str(tmp_path) in each.found for each in found)


def test_a_full_disk_and_a_folder_that_we_may_not_write_are_told() -> None:
    found = list(resources.check_disk(Path("/proc/self")))  # always full, and nothing can be created there

    assert {severity(each) for each in found} == {"error"}
    assert [each.found for each in found][-1].startswith("0.0 GB free in /proc")
