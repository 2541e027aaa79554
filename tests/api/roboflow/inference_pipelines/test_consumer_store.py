"""How pipelines are consumed, kept in files."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from streamfleet_api.roboflow.inference_pipelines.consumer_store import Records
from streamfleet_api.roboflow.inference_pipelines.results import Plan
from streamfleet_core.protocol.workflow import Output

PLAN = Plan(
    model_id="parts/1",
    sources=2,
    outputs=(Output("found", "predictions"),),
    classes=("car",),
    size=3,
    wait=0.5,
    timeout=60,
    kept=False,
)


def test_what_was_saved_is_there_again_until_it_is_forgotten(tmp_path: Path) -> None:
    records = Records(tmp_path / "consumers")

    records.save("a", PLAN)
    records.save("b", Plan(model_id="parts/1", sources=1))
    records.forget("b")
    records.forget("nobody")

    assert Records(tmp_path / "consumers").load() == {"a": PLAN}
    (file,) = (tmp_path / "consumers").iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_without_a_folder_nothing_is_known(tmp_path: Path) -> None:
    assert Records(tmp_path / "consumers").load() == {}


@pytest.mark.parametrize("name", ["b.json", "no id.json", ".a.json.draft"])
def test_a_file_that_cannot_be_read_is_left_out(tmp_path: Path, name: str) -> None:
    records = Records(tmp_path)
    records.save("a", PLAN)

    (tmp_path / name).write_text('{"model_id": 1}')

    assert records.load() == {"a": PLAN}


def test_a_folder_that_cannot_be_written_stops_nobody(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "consumers").write_text("a file")

    Records(tmp_path / "consumers").save("a", PLAN)

    assert "a: its consumer will not survive a restart of the api" in caplog.text
