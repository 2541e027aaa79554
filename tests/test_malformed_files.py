"""A small file of ours with any content is used, or refused by one line that names it: never a traceback."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import pytest

from streamfleet.connection import Connection
from streamfleet.errors import BadSetting
from streamfleet.subscription import read_keys
from streamfleet_api.cli.parameters import sampling
from streamfleet_api.config import BadConfig
from streamfleet_api.config import parse as parse_api
from streamfleet_api.roboflow.inference_pipelines.consumer_store import Records
from streamfleet_api.web.auth import UnusableToken, load_token
from streamfleet_api.web.tls import BadCertificate, CertificateFiles
from streamfleet_broker.errors import BadKey
from streamfleet_broker.keys import load as load_key
from streamfleet_broker.server import _told_by
from streamfleet_broker.storage.version_marker import VersionMarker
from streamfleet_core.models.model_folder import read_file
from streamfleet_core.models.onnx_graph import BadModel
from streamfleet_core.protocol.errors import ProtocolError
from streamfleet_core.runtime.pinned_tls import FilePinnedContext
from streamfleet_core.runtime.private_file import write_private
from streamfleet_worker.agent.identity import IdentityError
from streamfleet_worker.agent.identity import load as load_identity
from streamfleet_worker.config import parse as parse_worker
from streamfleet_worker.main import _token
from streamfleet_worker.sampling import quota_file
from streamfleet_worker.sampling.selection import Tally

CONTENTS = {
    "deep": b"[" * 100_000,
    "deep within the limit": b"[" * 60_000,
    "deep in a field": b'{"x": ' + b"[" * 60_000,
    "no UTF-8": b"\xff\xfe\x00",
    "half": b'{"public": "',
    "nothing": b"",
    "null": b"null",
    "numbers": b'{"public": 1, "secret": 2, "broker_key": 3}',
    "large": b"x" * 5_000_000,
}


def _operator_key(path: Path) -> object:
    return parse_api(["--broker", "tcp://h:1", "--operator-key", str(path), "--broker-key", "k" * 40], {})


def _join_file(path: Path) -> object:
    config = parse_worker(["--data-dir", "/tmp/d"], {})
    return _token(replace(config, join="", join_file=path))


def _sampling_file(path: Path) -> object:
    settings = path.with_suffix(".json")
    path.rename(settings)
    return sampling(None, None, str(settings))  # type: ignore[arg-type]


REFUSED: dict[str, tuple[Callable[[Path], Any], type[Exception] | tuple[type[Exception], ...]]] = {
    "key of the broker": (load_key, BadKey),
    "identity of a device": (load_identity, IdentityError),
    "keys of a subscriber": (read_keys, BadSetting),
    "key of the operator": (_operator_key, BadConfig),
    "token": (load_token, (UnusableToken, OSError)),
    "certificate": (lambda path: CertificateFiles(path, path).read(), BadCertificate),
    "fingerprint": (lambda path: FilePinnedContext(path).expected(), ssl.SSLCertVerificationError),
    "version of the store": (lambda path: VersionMarker(path).read(), (ValueError, OSError)),
    "sampling rules": (_sampling_file, click.BadParameter),
    "join token": (_join_file, (IdentityError, OSError)),
}


@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)
@pytest.mark.parametrize(("read", "error"), REFUSED.values(), ids=REFUSED)
def test_a_malformed_file_is_refused_by_one_line_that_names_it(
    tmp_path: Path,
    read: Callable[[Path], Any],
    error: type[Exception] | tuple[type[Exception], ...],
    content: bytes,
) -> None:
    path = tmp_path / "file"
    write_private(path, content)
    if read is _join_file and not content:
        assert read(path) is None  # the device has joined, and its token was wiped
        return

    with pytest.raises(error) as refused:
        read(path)

    text = str(refused.value)
    assert str(path) in text
    assert "\n" not in text
    assert any(words in text for words in ("expected", "damaged", "no fingerprint", "not a join token"))
    assert len(text) < 600


@pytest.mark.parametrize("content", [CONTENTS[name] for name in CONTENTS if name != "numbers"])
def test_a_malformed_description_of_a_model_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "weights.onnx").touch()
    (tmp_path / "weights.json").write_bytes(content)

    with pytest.raises(BadModel, match=r"weights\.json"):
        read_file(tmp_path / "weights.onnx")


@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)
def test_a_malformed_file_that_can_be_done_without_is_passed_over(tmp_path: Path, content: bytes) -> None:
    for name in ("door.json", "api/token", "fingerprint"):
        write_private(tmp_path / name, content)

    assert quota_file.load(tmp_path / "door.json") == Tally()
    assert Records(tmp_path).load() == {}
    assert Connection(data_dir=tmp_path).known_token() in (None, content.decode("ascii", "replace").strip())
    assert _told_by(tmp_path / "fingerprint") == ""


def test_a_file_that_others_may_read_is_refused_as_the_key_of_the_operator(tmp_path: Path) -> None:
    path = tmp_path / "operator.key"
    path.write_bytes(b"{}")
    path.chmod(0o644)

    with pytest.raises(ProtocolError, match="0600"):
        _operator_key(path)
