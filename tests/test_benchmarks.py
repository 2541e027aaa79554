"""The benchmarks run to their end. What they measure is no test's business: it depends on the machine."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import av
import httpx
import numpy as np
import onnx
import pytest
import supervision as sv

from benchmarks import charts, compare, live_age, throughput
from benchmarks.__main__ import parse
from benchmarks.bare import ARRANGEMENTS, RULES, rate, session_of
from benchmarks.bare_live import LIVE_ARRANGEMENTS, LiveTask, Watched, watching
from benchmarks.capacity import largest
from benchmarks.commands import constant, serving
from benchmarks.compare import Figures, Task, checked_out, measured, print_figures
from benchmarks.cpu import cpu_times, growth
from benchmarks.films import write_h264
from benchmarks.gate import Outcome, Seen, gated, missing
from benchmarks.heavy_model import CLASSES, DETECTIONS, GFLOPS, SIDE, heavy_model
from benchmarks.live_age import FLEET, SIDES, Measured, Window, ages_of, unevenness
from benchmarks.live_cameras import Captured, live_cameras
from benchmarks.own_work import LIMITS, STEPS, TRACK, WHOLE, Result, ratio_of
from benchmarks.paced import Paced, cost_of_decoding, decoding_table, ratios
from benchmarks.precision import VARIANTS, agreement
from benchmarks.report import Bars, Check, Column, Report, Row, Series, Table, as_json, draw, text
from benchmarks.scene import Scene
from benchmarks.setting import Setting
from benchmarks.throughput import best_arrangement, key, ratio
from streamfleet_api.local.demo import conveyor_model, demo_model
from streamfleet_core.protocol.values import Manifest, Motion, Weights
from streamfleet_worker.optimise.quantization import head_of
from streamfleet_worker.video.detection.letterbox import fit
from streamfleet_worker.video.detection.postprocess import decode
from tests.fakes.models import manifest_of, write_squares_model
from tests.fakes.patience import PATIENCE
from tests.fakes.ports_and_folders import ROOT
from tests.fakes.process_harness import write_video
from tests.fleet.harness import LIMIT, marked_processes, process_name, wait_for


@dataclass(frozen=True, slots=True)
class Run:
    """What benchmarks said and wrote."""

    said: str
    folder: Path

    def written(self, name: str) -> Any:
        """The content of a benchmark's file."""
        return json.loads((self.folder / f"{name}.json").read_text())


@pytest.fixture(scope="module")
def quick_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """One run of several benchmarks: each loads what takes seconds to load."""
    folder = tmp_path_factory.mktemp("results")
    command = [sys.executable, "-m", "benchmarks", "--quick", "--output", str(folder)]
    command += ["start", "own-work", "live-age", "paced", "--model", "demo", "--scenes", "2x10"]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=12 * PATIENCE, check=False
    )
    assert done.returncode == 0, done.stderr
    return Run(done.stdout, folder)


@pytest.mark.timeout(13 * PATIENCE)
def test_a_quick_benchmark_gives_a_table_a_chart_and_a_file(quick_run: Run) -> None:
    found = quick_run.written("start")

    assert "warm, UDP" in quick_run.said
    assert (quick_run.folder / "start.png").read_bytes().startswith(b"\x89PNG")
    assert found["machine"]["cores"] >= 1
    assert found["versions"]["commit"]
    assert all(len(figures) == found["sizes"]["rounds"] for figures in found["rounds"].values())


def test_the_bare_app_that_commands_are_compared_with_answers() -> None:
    with serving(constant) as port:
        answer = httpx.get(f"http://127.0.0.1:{port}/list_pipelines", timeout=PATIENCE)

    assert answer.json() == {"status": "success"}


def test_a_limit_that_is_not_kept_is_said(tmp_path: Path) -> None:
    kept = Check("ratio", 0.97, 0.95, "", at_least=True)
    broken = Check("start", 2.0, 1.5, "s")
    report = Report(
        name="example",
        title="An example",
        sizes={},
        tables=(Table("what", (Column("a", "s", 2), Column("b")), (Row("one", (1.234, None)),)),),
        charts=(Bars("a chart", "s", ("g", "h"), (Series("x", (1.0, None)),), limit=2.0),),
        checks=(kept, broken),
        rounds={"x": [1.0, 3.0, 2.0]},
    )

    shown = text(report, judged=True)
    draw(report, tmp_path / "example.png", caption="somewhere")

    assert "1.23  -" in shown
    assert "at least 0.95, kept" in shown
    assert "at most 1.5, NOT KEPT" in shown
    assert json.loads(as_json(report, {}))["medians"] == {"x": 2.0}


def test_a_rate_counts_only_what_came_while_all_videos_played() -> None:
    early = [0.0, 1.0, 2.0, 3.0, 4.0]
    late = [2.0, 3.0, 4.0, 5.0, 6.0]

    assert rate([early, late], seconds=10) == 2.0
    assert rate([early, late], seconds=1) == 2.0


def test_the_ratio_is_taken_within_each_round_to_the_best_arrangement() -> None:
    rounds = {
        key("all threads", 1): [50.0, 50.0, 50.0],
        key("side by side", 1): [100.0, 200.0, 100.0],
        key("a process each", 1): [90.0, 90.0, 300.0],
        key("fleet", 1): [90.0, 100.0, 95.0],
    }

    best = best_arrangement(rounds, 1)

    assert best == "side by side"
    assert ratio(rounds, 1, best) == 0.9


def test_numbers_of_cameras_are_listed() -> None:
    assert parse(["throughput", "--cameras", "1,16"]).cameras == (1, 16)


@pytest.mark.parametrize("text", ["0", "1,", "1,x", "-4", "10000"])
def test_other_numbers_of_cameras_are_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["throughput", f"--cameras={text}"])

    assert "expected numbers from 1 to 9999" in capsys.readouterr().err


# own work -------------------------------------------------------------------------------------------------


@pytest.mark.timeout(13 * PATIENCE)
def test_a_quick_benchmark_of_a_cameras_own_work_has_every_step_beside_its_baseline(quick_run: Run) -> None:
    found = quick_run.written("own-work")

    cells = {row["name"]: row["cells"] for row in found["tables"][0]["rows"]}
    assert list(cells) == [*STEPS, WHOLE]
    assert all(own > 0 for own, _, _ in cells.values())
    assert {step for step, (_, baseline, _) in cells.items() if baseline} == set(LIMITS)


def test_own_work_is_compared_with_the_baseline_of_the_same_round() -> None:
    found = Result(
        own=[{TRACK: 1.0}, {TRACK: 3.0}, {TRACK: 2.0}], baseline=[{TRACK: 2.0}, {TRACK: 4.0}, {TRACK: 1.0}]
    )

    assert ratio_of(found, TRACK) == 0.75


# precision ------------------------------------------------------------------------------------------------


@pytest.mark.timeout(6 * PATIENCE)
def test_a_quick_benchmark_of_precisions_has_each_variant_or_says_how_to_get_it(tmp_path: Path) -> None:
    (tmp_path / "conveyor.onnx").write_bytes(conveyor_model())
    command = [sys.executable, "-m", "benchmarks", "--quick", "--output", str(tmp_path), "precision"]
    command += ["--model", str(tmp_path / "conveyor.onnx")]

    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=5 * PATIENCE, check=False
    )

    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "precision.json").read_text())
    cells = [row["cells"] for row in found["tables"][0]["rows"]]
    assert [row["name"] for row in found["tables"][0]["rows"]] == [
        f"conveyor.onnx, {each}" for each in VARIANTS
    ]
    assert cells[0][1:4] == [1.0, 100.0, 0.0]
    assert cells[1][-1] < cells[0][-1]  # megabytes of the file
    if cells[2][0] == "not installed":
        assert "pip install onnxruntime-openvino" in found["notes"][0]


# devices --------------------------------------------------------------------------------------------------


@pytest.mark.timeout(6 * PATIENCE)
def test_a_quick_benchmark_of_devices_measures_them_and_a_crash_loses_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks", "--quick", "--output", str(tmp_path), "devices"]

    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=5 * PATIENCE, check=False
    )

    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "devices.json").read_text())
    cost, answers, crash = found["tables"]
    assert [row["name"] for row in cost["rows"]] == ["4 x 4"]
    assert all(value > 0 for row in answers["rows"] for value in row["cells"])
    assert crash["rows"][0]["cells"][1:] == [0, 0], "neither moved pipelines nor lost changes"


# gate -----------------------------------------------------------------------------------------------------


@pytest.mark.timeout(6 * PATIENCE)
def test_a_quick_benchmark_of_the_gate_has_each_sensitivity_and_filter(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks", "--quick", "--output", str(tmp_path), "gate"]

    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=5 * PATIENCE, check=False
    )

    assert done.returncode == 0, done.stderr
    gates, filters = json.loads((tmp_path / "gate.json").read_text())["tables"]
    names = [row["name"] for row in gates["rows"]]
    assert names[:2] == ["conveyor, as it is, whole picture, 0", "conveyor, as it is, of nine parts, 0"]
    assert len(names) == 12
    kept = {row["name"]: row["cells"] for row in filters["rows"]}
    everything = kept["conveyor, as it is, everything"]
    assert all(cells[0] <= everything[0] for name, cells in kept.items() if "as it is" in name)


def test_an_object_is_missed_if_none_of_its_class_was_told_at_its_place() -> None:
    boxes = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [50, 50, 60, 60]], np.float32)
    there = sv.Detections(boxes, confidence=np.array([0.9, 0.8, 0.7]), class_id=np.array([0, 0, 1]))
    told = sv.Detections(boxes[::2], confidence=np.array([0.9, 0.9]), class_id=np.array([0, 2]))

    assert missing(there, there) == 0
    assert missing(there, told) == 2, "one object stands for one other, and a class for itself"
    assert missing(there, sv.Detections.empty()) == 3
    assert missing(sv.Detections.empty(), told) == 0


def test_a_gate_of_a_film_skips_what_stands_still_and_counts_what_is_lost() -> None:
    dark, light = np.full((72, 128), 60, np.uint8), np.full((72, 128), 60, np.uint8)
    light[20:30, 20:30] = 200
    one = sv.Detections(
        np.array([[20, 20, 30, 30]], np.float32), confidence=np.array([0.9]), class_id=np.array([0])
    )
    none = sv.Detections.empty()
    none.confidence, none.class_id = np.empty(0), np.empty(0, np.int64)
    seen = Seen(
        overviews=[dark, dark, light, light],
        times=[0.0, 0.1, 0.2, 0.3],
        found=[none, one, one, one],
        size=(128, 72),
    )

    outcome = gated(seen, Motion(), None)

    assert outcome == Outcome(frames=4, skipped=2, objects=3, missed=1, missing_frames=1)
    assert gated(seen, Motion(), ((0.5, 0), (1, 0), (1, 1), (0.5, 1))).skipped == 3


def test_the_head_of_a_model_is_its_last_convolutions_and_what_follows() -> None:
    model = onnx.load_from_string(heavy_model())
    for number, node in enumerate(model.graph.node):
        node.name = f"{node.op_type} {number}"

    head = head_of(model)

    assert sum(name.startswith("Conv ") for name in head) == 3  # one for each grid
    assert {name.split()[0] for name in head} == {"Conv", "Reshape", "Concat", "Split", "Add", "Sigmoid"}


def test_detections_agree_if_class_and_place_are_the_same() -> None:
    boxes = np.array([[0, 0, 10, 10], [50, 50, 60, 60]], np.float32)
    ours = sv.Detections(boxes, confidence=np.array([0.9, 0.8]), class_id=np.array([0, 1]))
    theirs = sv.Detections(boxes + 1, confidence=np.array([0.7, 0.8]), class_id=np.array([0, 2]))

    assert agreement([ours], [ours]) == (100.0, 0.0)
    assert agreement([ours], [theirs]) == pytest.approx((50.0, 0.2))
    assert agreement([ours], [sv.Detections.empty()]) == (0.0, 0.0)


# live cameras --------------------------------------------------------------------------------------------


@pytest.mark.timeout(13 * PATIENCE)
def test_quick_benchmarks_of_live_cameras_account_for_frames_and_cpu_time(quick_run: Run) -> None:
    live_age, paced = quick_run.written("live-age"), quick_run.written("paced")

    frames = live_age["tables"][1]["rows"]
    assert [row["name"] for row in frames] == [
        "2 x 10/s, bare: a thread each",
        "2 x 10/s, bare: two threads",
        "2 x 10/s, fleet",
    ]
    assert all(row["cells"][0] > 0 for row in frames)
    assert [row["cells"][-1] for row in frames] == [0, 0, 0]
    (cpu,) = paced["tables"][0]["rows"]
    *parts, worker, _, _, _ = cpu["cells"]
    assert sum(parts) == pytest.approx(worker)
    assert worker > 0
    assert paced["rounds"]["2 x 10/s, one inference alone, CPU s"][0] > 0


@pytest.mark.parametrize("arrangement", LIVE_ARRANGEMENTS)
def test_the_bare_loop_predicts_or_replaces_each_frame_that_live_cameras_captured(
    arrangement: str, tmp_path: Path
) -> None:
    manifest = write_squares_model(tmp_path / "model.onnx")
    names = ["door", "gate"]
    with live_cameras(None) as cameras:
        task = LiveTask(tmp_path / "model.onnx", manifest, tuple(cameras.urls(names, 20)))
        with watching(arrangement, task) as loop:
            loop.await_predictions()
            halted = cameras.halt(names)
            captured = [len(halted[name].times_ns) for name in names]
            watched = loop.finish(captured)

    assert [each.received for each in watched] == captured
    assert [each.replaced + len(each.predictions) for each in watched] == captured
    for name, each in zip(names, watched, strict=True):
        assert all(at_ns > halted[name].times_ns[number - 1] for number, at_ns in each.predictions)


def test_an_age_is_of_a_frame_that_was_captured_in_the_window() -> None:
    camera = Captured(times_ns=[1_000_000, 2_000_000, 3_000_000])
    seen = Watched(received=3, predictions=[(1, 5_000_000), (2, 5_500_000), (3, 6_000_000)])

    assert ages_of(camera, seen, Window(2_000_000, 3_000_000)) == [3.5]


def test_a_frame_that_is_neither_predicted_nor_dropped_is_unaccounted() -> None:
    measured = Measured(captured=10, predicted=6, dropped=Counter(eager=2, buffer=1))

    assert measured.unaccounted == 1


def test_a_measurement_without_predictions_is_refused() -> None:
    camera = Captured(times_ns=[1_000_000])

    with pytest.raises(ValueError, match="expected predictions of frames of 3 s, got none"):
        Measured().add([camera], [Watched(received=1)], Window(0, 3 * 10**9))


def test_equal_cameras_may_differ_by_one_frame() -> None:
    assert unevenness([15, 16, 15, 14]) == 0
    assert unevenness([100, 100, 106]) == 0.05


def test_a_scene_is_cameras_and_their_rate() -> None:
    assert parse(["live-age", "--scenes", "4x10,64x0.5"]).scenes == (Scene(4, 10), Scene(64, 0.5))


@pytest.mark.parametrize("text", ["4", "0x10", "4x0", "4x-1", "4x10,", "x"])
def test_other_scenes_are_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["live-age", "--scenes", text])

    assert "expected cameras x frames/s, as 4x10 or 64x0.5, got" in capsys.readouterr().err


def test_the_heavy_model_costs_as_much_as_yolov8n() -> None:
    model = onnx.shape_inference.infer_shapes(onnx.load_from_string(heavy_model()))

    sizes = {each.name: np.prod(each.dims) for each in model.graph.initializer}
    shapes = {each.name: each.type.tensor_type.shape.dim for each in model.graph.value_info}
    products = sum(
        sizes[node.input[1]] * shapes[node.output[0]][2].dim_value * shapes[node.output[0]][3].dim_value
        for node in model.graph.node
        if node.op_type == "Conv"
    )

    assert 2 * products / 1e9 == pytest.approx(GFLOPS, abs=0.01)


def test_the_heavy_model_finds_the_same_objects_in_each_picture(tmp_path: Path) -> None:
    path = tmp_path / "heavy.onnx"
    path.write_bytes(heavy_model())
    labels = tuple(f"class {number}" for number in range(CLASSES))
    manifest = manifest_of(path, labels=labels, width=SIDE, height=SIDE)
    pictures = np.random.default_rng(1).random((2, 1, 3, SIDE, SIDE), np.float32) * [[[[[1]]]], [[[[0.1]]]]]

    session = session_of(path, 1)
    outputs = [session.run(None, {"images": each.astype(np.float32)})[0] for each in pictures]
    found = [decode([each], fit(1280, 720, manifest), manifest=manifest, rules=RULES) for each in outputs]

    assert [sorted(np.asarray(each.class_id)) for each in found] == [list(range(DETECTIONS))] * 2


# ending ---------------------------------------------------------------------------------------------------


@pytest.mark.timeout(3 * LIMIT)
def test_a_benchmark_that_is_terminated_leaves_no_process_behind(tmp_path: Path) -> None:
    mark = uuid.uuid4().hex

    def running(name: str) -> list[int]:
        pids = marked_processes(mark, variable="BENCHMARK")
        return [pid for pid in pids if process_name(pid).startswith(name)]

    command = [sys.executable, "-m", "benchmarks", "faults", "--quick", "--output", str(tmp_path)]
    environment = {**os.environ, "BENCHMARK": mark}
    with (tmp_path / "said").open("wb") as said:
        benchmark = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=said, stderr=said, start_new_session=True
        )
    try:
        wait_for(lambda: running("sf-agent"), "an agent", timeout=LIMIT)
        benchmark.terminate()
        os.killpg(benchmark.pid, signal.SIGTERM)  # as `timeout` does
        code = benchmark.wait(LIMIT)
    finally:
        benchmark.kill()
        left = running("")
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    assert code == 128 + signal.SIGTERM, (tmp_path / "said").read_text()
    assert not left


# CPU time ------------------------------------------------------------------------------------------------


def test_the_cpu_time_of_a_process_grows_while_it_computes() -> None:
    before = cpu_times([os.getpid()])

    until = time.process_time() + 0.1
    while time.process_time() < until:
        pass

    (spent,) = growth(before, cpu_times([os.getpid()])).values()
    assert 0.05 <= spent < PATIENCE


def test_cpu_time_grows_from_nothing_in_a_new_process_and_an_ended_one_is_left_out() -> None:
    assert growth({1: 5.0, 2: 1.0}, {1: 5.5, 3: 0.25}) == {1: 0.5, 3: 0.25}


def test_the_cpu_time_of_a_worker_is_compared_with_its_own_inferences_in_each_round() -> None:
    rounds = [Paced({"engine": 0.5, "cameras": 0.1}, 5.0), Paced({"engine": 1.0, "cameras": 0.2}, 10.0)]

    assert ratios(rounds, [0.1, 0.06]) == pytest.approx([1.2, 2.0])


# comparing revisions ---------------------------------------------------------------------------------------


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="no revisions: not a clone")
@pytest.mark.timeout(6 * PATIENCE)
def test_a_revision_is_measured_with_its_own_packages(tmp_path: Path) -> None:
    (tmp_path / "demo.onnx").write_bytes(demo_model())
    film = write_video(tmp_path / "film.avi", 3000)  # longer than this process stands still before it looks

    with checked_out("HEAD") as tree:
        task = Task(str(tree), str(tmp_path / "demo.onnx"), str(film), cameras=1, seconds=0.5, frames=3000)
        found = measured(task)

    assert found.rate > 0
    assert found.cost > 0
    assert not tree.exists()
    assert tree != ROOT


def test_packages_of_another_checkout_are_not_measured(tmp_path: Path) -> None:
    task = Task(str(tmp_path), model="", video="", cameras=1, seconds=1.0, frames=1)

    with pytest.raises(RuntimeError, match="expected the packages of"):
        print_figures(json.dumps(asdict(task)))


def test_revisions_are_compared_within_each_pair() -> None:
    pairs = [
        (Figures(100.0, 2.0), Figures(110.0, 1.0)),
        (Figures(50.0, 4.0), Figures(60.0, 2.0)),
        (Figures(200.0, 1.0), Figures(200.0, 0.5)),
    ]

    (table,) = compare.report(compare.parse(["HEAD", "."]), "a model", pairs).tables

    assert [row.cells for row in table.rows] == [
        (100.0, 110.0, pytest.approx(1.1), pytest.approx(1.05), pytest.approx(1.15)),
        (2.0, 1.0, 0.5, 0.5, 0.5),
    ]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["no-such-revision", "."], "expected a revision of git, or . for the working tree"),
        ([".", ""], "expected a revision of git, or . for the working tree"),
        ([".", ".", "--pairs", "0"], "expected --pairs above 0, got 0"),
        ([".", ".", "--seconds", "nan"], "expected --seconds above 0, got nan"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    arguments: list[str], expected: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        compare.parse(arguments)

    assert expected in capfd.readouterr().err


# charts for pages -----------------------------------------------------------------------------------------

ABOUT = {
    "date": "2026-11-30T02:33:53+00:00",
    "machine": {"cpu": "A <CPU>", "cores": 2},
    "versions": {"onnxruntime": "1.31.1", "commit": "b3e091db8d66"},
}


def result_of_live_age(scene: Scene, **about: Any) -> dict[str, Any]:
    """A result file of a benchmark, with ages that are made up."""
    ages = {SIDES[0]: [100.0, 300.0], SIDES[1]: [80.0, 400.0], FLEET: [90.0, 200.0]}
    found = {(scene, side): Measured(ages=values, rates=[1.0]) for side, values in ages.items()}
    report = live_age.report(setting_of("a model"), [scene], found, seconds=1)
    return dict(json.loads(as_json(report, {**ABOUT, **about})))


def setting_of(model_name: str) -> Setting:
    """The setting of a report: nothing is run."""
    manifest = Manifest(
        family="ultralytics", labels=("a",), input_width=64, input_height=64, weights=Weights("0" * 64, 1)
    )
    here = Path("model.onnx")
    return Setting(True, 1, here, (), manifest, here, True, model_name, "a video")


def test_a_chart_has_the_fleet_beside_the_baseline_of_each_scene() -> None:
    results = [result_of_live_age(Scene(1, 5)), result_of_live_age(Scene(4, 10))]

    drawn = charts.chart(results, charts.ages)

    alone, four = drawn.groups
    assert (alone.name, four.name) == ("1 x 5/s", "4 x 10/s")
    assert alone.figures["Streamfleet"].value == pytest.approx(145)
    assert alone.figures["bare loop"].value == pytest.approx(200)  # the better median with one camera
    assert drawn.caption == "A <CPU>, 2 cores · ONNX Runtime 1.31.1 · 2026-11-30 · b3e091d"


def test_a_chart_of_throughput_has_the_best_arrangement() -> None:
    rounds = {
        key(name, 4): [rate]
        for name, rate in zip((*ARRANGEMENTS, "fleet"), (5.0, 9.0, 7.0, 8.0), strict=True)
    }
    report = throughput.report(setting_of("a model"), [4], rounds, [0.0], seconds=1)

    (group,) = charts.rates(json.loads(as_json(report, ABOUT)))

    assert group == charts.Group(
        "4 cameras", {"Streamfleet": charts.Figure(8.0), "bare loop": charts.Figure(9.0)}
    )


def test_results_of_different_machines_make_no_chart() -> None:
    others = result_of_live_age(Scene(1, 5), machine={"cpu": "another", "cores": 4})

    with pytest.raises(
        charts.DifferentResults, match="expected results of one machine, got A <CPU>, 2 cores, another"
    ):
        charts.chart([result_of_live_age(Scene(1, 5)), others], charts.ages)


def test_a_chart_is_written_as_a_small_picture_with_all_its_figures(tmp_path: Path) -> None:
    file = tmp_path / "live-age.json"
    file.write_text(json.dumps(result_of_live_age(Scene(1, 5))))

    assert charts.main([str(tmp_path / "charts"), str(file)]) == 0

    picture = (tmp_path / "charts/live-age.svg").read_text()
    texts = [each.text for each in ElementTree.fromstring(picture).iter("{http://www.w3.org/2000/svg}text")]
    assert len(picture) < 100_000
    assert {"1 x 5/s", "145, 199", "200, 298"} <= set(texts)


@pytest.mark.parametrize("path", sorted((ROOT / "docs/charts").glob("*.svg")), ids=lambda path: path.name)
def test_the_charts_of_the_pages_are_small_and_say_where_they_come_from(path: Path) -> None:
    picture = path.read_text()

    assert len(picture) < 100_000
    assert re.search(r"cores · ONNX Runtime [\d.]+ · 20\d\d-\d\d-\d\d", picture)


def test_cameras_are_compared_with_the_decoding_of_all_their_frames(tmp_path: Path) -> None:
    film = write_h264(tmp_path / "film.mp4", None, fps=10, frames=25, size=(64, 48), group=10)
    with av.open(str(film)) as container:
        keyframes = [number for number, packet in enumerate(container.demux(video=0)) if packet.is_keyframe]

    table = decoding_table({"10/s": (0.5, 2.0)})

    assert keyframes == [0, 10, 20]
    assert 0 < cost_of_decoding(film) < 1
    assert table.rows[0].cells == (0.5, 2.0, 0.25)


# capacity -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("most", [0, 1, 3, 7, 20, 60])
@pytest.mark.parametrize("first", [1, 10, 60])
def test_the_largest_number_of_cameras_is_found_from_any_first_one(first: int, most: int) -> None:
    assert largest(first, lambda count: count <= most, limit=60) == most
