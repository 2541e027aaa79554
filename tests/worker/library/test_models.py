"""What a program of its own may call a model, and that it is read there as at the api's door."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from streamfleet_api.local.demo import conveyor_model, demo_model
from streamfleet_core.models.download import DownloadFailed
from streamfleet_core.models.model_validation import validate_model
from streamfleet_core.models.onnx_graph import BadModel
from streamfleet_core.protocol.values import Family
from streamfleet_worker.library.models import UnknownModel, load
from tests.fakes.models import write_constant_model
from tests.fakes.process_harness import DATA
from tests.fakes.web import Web

MODEL = demo_model()
DIGEST = hashlib.sha256(MODEL).hexdigest()
COLOURS = ("red", "green", "blue")
KEY = "canary"


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A model cache with the model `shapes/1`."""
    folder = tmp_path / "cache/shapes/1"
    folder.mkdir(parents=True)
    (folder / "weights.onnx").write_bytes(MODEL)
    return tmp_path / "cache"


def with_metadata(path: Path, **metadata: str) -> Path:
    """The same file, which says this of itself."""
    model = onnx.load(path)
    helper.set_model_props(model, metadata)
    path.write_bytes(model.SerializeToString())
    return path


def yolox(path: Path) -> Path:
    """A file laid out as YOLOX, of two classes, that says nothing of itself."""
    write_constant_model(path, np.zeros((1, 64 + 16 + 4, 7), np.float32))
    return path


# names ----------------------------------------------------------------------------------------------------


def test_an_id_is_looked_up_in_the_model_cache(cache: Path) -> None:
    weights, manifest = load("shapes/1", cache_dir=cache, api_key=KEY)

    assert weights == cache / "shapes/1/weights.onnx"
    assert manifest == validate_model(weights, DIGEST)
    assert manifest.labels == COLOURS


def test_the_cache_goes_before_the_folder_one_stands_in(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "shapes/1").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)

    assert load("shapes/1", cache_dir=cache)[0] == cache / "shapes/1/weights.onnx"


def test_a_folder_is_read_as_one_of_the_cache(cache: Path) -> None:
    folder = cache / "shapes/1"
    (folder / "class_names.txt").write_text("a\nb\nc\n")

    _, manifest = load(str(folder))

    assert manifest.labels == ("a", "b", "c")


def test_a_file_is_read_with_what_lies_beside_it_under_its_name(tmp_path: Path) -> None:
    file, other = yolox(tmp_path / "door.onnx"), yolox(tmp_path / "street.onnx")
    (tmp_path / "door.txt").write_text("open\nclosed\n")
    (tmp_path / "door.json").write_text('{"family": "yolox"}')
    (tmp_path / "labels.txt").write_text("nobody\nknows whose\n")

    _, manifest = load(file)

    assert (manifest.family, manifest.labels) == ("yolox", ("open", "closed"))
    with pytest.raises(BadModel, match=rf"{other}: .*--family yolox --labels FILE, or files beside it"):
        load(other)


def test_the_only_file_of_a_folder_takes_the_folders_labels(tmp_path: Path) -> None:
    file = yolox(tmp_path / "door.onnx")
    (tmp_path / "labels.txt").write_text("open\nclosed\n")
    (tmp_path / "manifest.json").write_text('{"family": "yolox"}')

    assert load(file)[1].labels == ("open", "closed")


@pytest.mark.parametrize("model", ["nobody/1", "./nobody.onnx", "/nowhere", "a b"])
def test_a_model_that_is_nowhere_says_where_it_was_looked_for(
    model: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(cache / "shapes")

    with pytest.raises(UnknownModel) as failure:
        load(model, cache_dir=cache, api_key=KEY)

    assert f"no model {model!r}: the model cache {cache} (MODEL_CACHE_DIR)" in str(failure.value)
    assert KEY not in str(failure.value)


def test_without_a_cache_it_is_looked_for_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = tmp_path / ".streamfleet/models/shapes/1"
    folder.mkdir(parents=True)
    (folder / "weights.onnx").write_bytes(MODEL)

    assert load("shapes/1")[0] == folder / "weights.onnx"


# content --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["demo", "conveyor", "open", "yolox"])
def test_a_file_is_the_same_model_here_and_at_the_door_of_the_api(name: str, tmp_path: Path) -> None:
    file, family, labels = tmp_path / "weights.onnx", None, None
    if name == "demo":
        file.write_bytes(MODEL)
    elif name == "conveyor":
        file.write_bytes(conveyor_model())
    elif name == "open":
        write_constant_model(file, np.zeros((1, 6, 9), np.float32), batch="batch")
        with_metadata(file, names="{0: 'cat', 1: \"dog's\"}", stride="32", imgsz="[64, 64]", task="detect")
    else:
        yolox(file)
        family, labels = "yolox", ("open", "closed")
        (tmp_path / "labels.txt").write_text("\n".join(labels))
        (tmp_path / "manifest.json").write_text('{"family": "yolox"}')

    here = load(file)[1]

    assert here == validate_model(file, here.weights.sha256, family=_family(family), labels=labels)


def _family(name: str | None) -> Family | None:
    return "yolox" if name == "yolox" else None


@pytest.mark.skipif(not DATA.exists(), reason="the real data is not here")
def test_a_real_export_is_read_alike(tmp_path: Path) -> None:
    (tmp_path / "nano.onnx").symlink_to(DATA / "yolox_nano.onnx")
    (tmp_path / "nano.txt").symlink_to(DATA / "coco-labels.txt")
    (tmp_path / "nano.json").write_text('{"family": "yolox"}')

    weights, here = load(tmp_path / "nano.onnx")

    assert here == validate_model(weights, here.weights.sha256, family="yolox", labels=here.labels)
    assert (len(here.labels), here.labels[0], here.input_width) == (80, "person", 416)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "expected an ONNX file, got an empty file"),
        (b"this is no model\n" * 100, "expected an ONNX file, got something else or an incomplete file"),
        (MODEL[:-200], "expected an ONNX file, got something else or an incomplete file"),
    ],
)
def test_what_is_no_model_is_refused_with_its_path(content: bytes, expected: str, tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(content)

    with pytest.raises(BadModel, match=rf"{file}: {expected}"):
        load(file)


def test_weights_in_other_files_are_refused(tmp_path: Path) -> None:
    model = onnx.load_from_string(MODEL)
    model.graph.initializer[0].raw_data = np.zeros(2000, np.float32).tobytes()
    model.graph.initializer[0].ClearField("float_data")
    file = tmp_path / "model.onnx"
    onnx.save(model, file, save_as_external_data=True, location="weights.bin", size_threshold=0)

    with pytest.raises(BadModel, match="external data"):
        load(file)


# the web --------------------------------------------------------------------------------------------------


@pytest.fixture
def site(web: Web) -> Web:
    """A web server that has a model."""
    web.files["/model.onnx"] = MODEL
    return web


def address(site: Web, path: str = "/model.onnx", digest: str = DIGEST) -> str:
    """Of a model, with what it must be."""
    return f"{site.url(path)}#sha256={digest}"


def files_in(folder: Path) -> list[str]:
    """All files below it."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_model_of_the_web_is_fetched_once_and_is_there_without_network(site: Web, tmp_path: Path) -> None:
    first = load(address(site), cache_dir=tmp_path)
    site.close()
    again = load(address(site), cache_dir=tmp_path)

    assert first == again == load(f"sha256/{DIGEST}", cache_dir=tmp_path)
    assert [path for path, _ in site.requests] == ["/model.onnx"]
    assert files_in(tmp_path) == [f"sha256/{DIGEST}/weights.onnx"]


def test_labels_for_a_model_of_the_web_are_put_into_its_folder(site: Web, tmp_path: Path) -> None:
    site.files["/yolox.onnx"] = yolox(tmp_path / "yolox.onnx").read_bytes()
    digest = hashlib.sha256(site.files["/yolox.onnx"]).hexdigest()
    cache = tmp_path / "cache"

    with pytest.raises(BadModel, match=rf"{cache}/sha256/{digest}/weights.onnx: .* files beside it"):
        load(address(site, "/yolox.onnx", digest), cache_dir=cache)
    (cache / f"sha256/{digest}/labels.txt").write_text("open\nclosed\n")
    (cache / f"sha256/{digest}/manifest.json").write_text('{"family": "yolox"}')

    assert load(address(site, "/yolox.onnx", digest), cache_dir=cache)[1].labels == ("open", "closed")


@pytest.mark.parametrize("path", ["/model.onnx", "/cut/model.onnx", "/absent"])
def test_what_is_not_what_was_said_is_not_kept(path: str, site: Web, tmp_path: Path) -> None:
    other = "ab" * 32

    with pytest.raises(DownloadFailed) as failure:
        load(address(site, path, other), cache_dir=tmp_path)

    assert site.url(path) in str(failure.value)
    if path == "/model.onnx":
        assert f"expected content of sha256 {other}, got {DIGEST}" in str(failure.value)
    assert not files_in(tmp_path)


def test_a_file_of_the_cache_that_was_damaged_is_fetched_anew(site: Web, tmp_path: Path) -> None:
    weights, _ = load(address(site), cache_dir=tmp_path)
    weights.write_bytes(b"damaged")

    load(address(site), cache_dir=tmp_path)

    assert weights.read_bytes() == MODEL


def test_what_a_killed_program_left_is_removed_the_next_day(site: Web, tmp_path: Path) -> None:
    place = tmp_path / "sha256" / DIGEST
    place.mkdir(parents=True)
    for name, age in (("part-old", 2 * 86_400), ("part-young", 60)):
        (place / name).write_bytes(b"half")
        os.utime(place / name, (time.time() - age,) * 2)

    load(address(site), cache_dir=tmp_path)

    assert sorted(path.name for path in place.iterdir()) == ["part-young", "weights.onnx"]


@pytest.mark.parametrize(
    "model",
    ["https://127.0.0.1:9/model.onnx", f"http://127.0.0.1:9/m.onnx#sha256={DIGEST}", "rtsp://camera/"],
)
def test_an_address_without_a_digest_or_tls_is_not_asked(model: str, tmp_path: Path) -> None:
    with pytest.raises(DownloadFailed, match=r"expected an address as https|expected the sha256 of the file"):
        load(model, cache_dir=tmp_path)

    assert not files_in(tmp_path)
