"""Where `streamfleet models add` gets a model from: a file, a folder, the web."""

from __future__ import annotations

import hashlib
import os
import pty
from pathlib import Path

import pytest

from streamfleet_api.local.demo import demo_model
from streamfleet_core.models import download
from streamfleet_core.models.download import DownloadFailed, Remote, fetch
from tests.api.conftest import Api, Command, terminal_text, until
from tests.core.models.test_model_validation import save
from tests.fakes.broker import Peer
from tests.fakes.patience import PATIENCE
from tests.fakes.web import Web

DEMO = demo_model()
DIGEST = hashlib.sha256(DEMO).hexdigest()
OTHER = "ab" * 32
ADDED = "shapes/1: ultralytics, detect, 320x320, 3 classes\n"


@pytest.fixture
def site(web: Web) -> Web:
    """A web server that has a model."""
    web.files["/model.onnx"] = DEMO
    return web


def blobs_of(api: Api) -> list[str]:
    """All that lies in the api's store, also what is on its way in."""
    folder = api.folder / "api/blobs"
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


# the command ----------------------------------------------------------------------------------------------


def test_a_model_of_the_web_is_added_by_its_address_and_digest(
    run: Command, peer: Peer, api: Api, site: Web
) -> None:
    added = run("models", "add", "shapes/1", site.url("/model.onnx"), "--sha256", DIGEST)

    assert added.stdout == ADDED
    assert "shapes/1" in peer.models
    assert api.http.get(f"/v2/blobs/{DIGEST}").content == DEMO


def test_the_digest_may_stand_behind_the_address(run: Command, peer: Peer, site: Web) -> None:
    added = run("models", "add", "shapes/1", f"{site.url('/model.onnx')}#sha256={DIGEST.upper()}")

    assert added.stdout == ADDED


def test_who_looks_on_sees_how_far_it_is(run: Command, peer: Peer, site: Web) -> None:
    site.files["/large.onnx"] = bytes(2_000_000)  # no model, which is seen only once it is here
    digest = hashlib.sha256(site.files["/large.onnx"]).hexdigest()

    ours, its = pty.openpty()
    command = ("models", "add", "shapes/1", site.url("/large.onnx"), "--sha256", digest)
    process = run.start(*command, stderr=its)
    os.close(its)
    process.communicate(timeout=PATIENCE)
    shown = terminal_text(ours)

    assert "fetching" in shown
    assert "2.0/2.0 MB" in shown


def test_content_that_the_fleet_has_already_is_not_fetched(
    run: Command, peer: Peer, site: Web, tmp_path: Path
) -> None:
    (tmp_path / "demo.onnx").write_bytes(DEMO)
    run("models", "add", "shapes/1", str(tmp_path / "demo.onnx"))

    run("models", "add", "shapes/2", site.url("/model.onnx"), "--sha256", DIGEST)

    assert not site.requests
    assert sorted(peer.models) == ["shapes/1", "shapes/2"]


def test_what_is_not_what_was_said_is_refused_with_both_digests_and_nothing_is_left(
    run: Command, peer: Peer, api: Api, site: Web
) -> None:
    before = blobs_of(api)

    refused = run("models", "add", "shapes/1", site.url("/model.onnx"), "--sha256", OTHER, code=1)

    assert f"expected content of sha256 {OTHER}, got {DIGEST}" in refused.stderr.replace("\n", " ")
    assert not peer.models
    until(lambda: blobs_of(api) == before)


def test_a_transfer_that_breaks_off_leaves_nothing(run: Command, peer: Peer, api: Api, site: Web) -> None:
    site.files["/large.onnx"] = bytes(3_000_000)
    digest = hashlib.sha256(bytes(3_000_000)).hexdigest()
    before = blobs_of(api)

    broken = run("models", "add", "shapes/1", site.url("/cut/large.onnx"), "--sha256", digest, code=1)

    assert site.place in broken.stderr
    assert not peer.models
    until(lambda: blobs_of(api) == before)


def test_an_address_without_a_digest_is_not_asked(run: Command, peer: Peer, site: Web) -> None:
    refused = run("models", "add", "shapes/1", site.url("/model.onnx"), code=1)

    assert "--sha256" in refused.stderr
    assert not site.requests


def test_a_file_may_be_held_against_a_digest_too(run: Command, peer: Peer, tmp_path: Path) -> None:
    file = tmp_path / "demo.onnx"
    file.write_bytes(DEMO)

    refused = run("models", "add", "shapes/1", str(file), "--sha256", OTHER, code=1)
    added = run("models", "add", "shapes/1", str(file), "--sha256", DIGEST)

    assert f"expected content of sha256 {OTHER}, got {DIGEST}" in refused.stderr.replace("\n", " ")
    assert added.stdout == ADDED


def test_a_folder_brings_its_labels_and_family(run: Command, peer: Peer, tmp_path: Path) -> None:
    save(tmp_path / "weights.onnx", (1, 126, 7), metadata={})
    (tmp_path / "class_names.txt").write_text("cat\ndog\n")
    (tmp_path / "manifest.json").write_text('{"family": "yolox"}')

    added = run("models", "add", "pets/1", str(tmp_path))

    assert added.stdout == "pets/1: yolox, detect, 96x64, 2 classes\n"


def test_options_go_before_what_lies_in_a_folder(run: Command, peer: Peer, tmp_path: Path) -> None:
    save(tmp_path / "weights.onnx")
    (tmp_path / "labels.txt").write_text("cat\ndog\n")
    (tmp_path / "mine.txt").write_text("lion\nwolf\n")

    run("models", "add", "pets/1", str(tmp_path), "--labels", str(tmp_path / "mine.txt"))

    assert "lion, wolf" in run("models", "show", "pets/1").stdout


@pytest.mark.parametrize(
    ("source", "code", "expected"),
    [
        (
            "nowhere.onnx",
            2,
            "expected a file, a folder or https://…, nowhere.onnx cannot be read: No such",
        ),
        (
            "http://127.0.0.1:9/model.onnx",
            1,
            "expected an address as https://host/model.onnx, got http://127",
        ),
        ("ftp://user:canary@host/model.onnx", 1, "got ftp://host/model.onnx"),
        ("https://user:canary/@host/model.onnx", 1, "expected an address as https://host/model.onnx"),
        ("https://user:canary@host/m?signature=canary", 1, "https://host/m: expected the sha256"),
    ],
)
def test_a_source_that_is_none_is_refused_and_its_secrets_are_not_shown(
    run: Command, peer: Peer, source: str, code: int, expected: str
) -> None:
    refused = run("models", "add", "shapes/1", source, code=code)

    assert expected in " ".join(refused.stderr.split())
    assert "canary" not in refused.output


def test_a_folder_without_a_model_says_what_it_lacks(run: Command, peer: Peer, tmp_path: Path) -> None:
    refused = run("models", "add", "shapes/1", str(tmp_path), code=1)

    assert "expected one .onnx file" in refused.stderr


# the transfer ---------------------------------------------------------------------------------------------


def fetched(site: Web, path: str, digest: str = DIGEST, login: str = "") -> bytes:
    """All of what comes."""
    return b"".join(fetch(Remote.of(site.url(path, login), digest)))


def test_it_follows_to_other_addresses_over_https_alone(site: Web) -> None:
    assert fetched(site, "/moved/model.onnx") == DEMO

    with pytest.raises(
        DownloadFailed, match=rf"expected redirects to https, got http://{site.place}/model.onnx"
    ):
        fetched(site, "/down/model.onnx")
    with pytest.raises(DownloadFailed, match="expected at most 5 redirects, got more"):
        fetched(site, "/round")


def test_a_user_and_a_password_are_sent_and_never_shown(site: Web) -> None:
    assert fetched(site, "/model.onnx?key=canary", login="user:canary@") == DEMO
    assert site.requests[-1] == ("/model.onnx?key=canary", "Basic dXNlcjpjYW5hcnk=")

    with pytest.raises(DownloadFailed) as failure:
        fetched(site, "/absent?key=canary", login="user:canary@")

    assert str(failure.value) == f"https://{site.place}/absent: expected HTTP 200, got HTTP 404"


def test_a_certificate_that_nobody_vouches_for_is_refused(site: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")

    with pytest.raises(DownloadFailed, match="CERTIFICATE_VERIFY_FAILED"):
        fetched(site, "/model.onnx")

    assert not site.requests


def test_more_than_a_model_may_have_is_not_taken(site: Web) -> None:
    with pytest.raises(DownloadFailed, match="expected at most 1000 bytes"):
        list(fetch(Remote.of(site.url("/model.onnx"), DIGEST), limit=1000))
    with pytest.raises(DownloadFailed, match="expected at most 1000000 bytes"):
        list(fetch(Remote.of(site.url("/endless"), DIGEST), limit=1_000_000))


def test_a_silent_server_is_not_waited_for(site: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "_READ_TIMEOUT", 0.2)

    with pytest.raises(DownloadFailed, match="no answer in time"):
        fetched(site, "/silent")


def test_an_endless_trickle_ends_at_the_deadline(site: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "_TOTAL_TIMEOUT", 0.1)

    with pytest.raises(DownloadFailed, match=r"expected it within 0.1 s, got \d+ bytes"):
        fetched(site, "/endless")


def test_who_asks_is_told_how_far_it_is(site: Web) -> None:
    told: list[tuple[int, int | None]] = []

    list(
        fetch(Remote.of(site.url("/model.onnx"), DIGEST), lambda passed, total: told.append((passed, total)))
    )

    assert told[-1] == (len(DEMO), len(DEMO))
    assert told == sorted(told)
