"""An apt repository of packages that are made here, signed and served on this machine: real apt reads it.

It has the layout of NVIDIA's for a Jetson: `common`, a part for the board, and the key beside them.
"""

from __future__ import annotations

import contextlib
import functools
import gzip
import hashlib
import os
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

KEY = "jetson-ota-public.asc"
TOOLS = ("dpkg-deb", "gpg")


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """A package to make."""

    name: str
    version: str
    files: Mapping[str, str] = field(default_factory=dict)  # path below / → content
    preinst: str = ""  # the script that dpkg runs before it installs


@contextlib.contextmanager
def served(folder: Path, release: str, parts: Mapping[str, Sequence[Package]]) -> Iterator[str]:
    """Make a repository below a folder, and yield its address while it is served."""
    keys = folder / "keys"
    keys.mkdir(mode=0o700, parents=True)
    root = folder / "repository"
    root.mkdir()
    _gpg(keys, "--quick-generate-key", "jetson", "rsa2048", "sign", "never")
    (root / KEY).write_bytes(_gpg(keys, "--armor", "--export", "jetson"))
    for part, packages in parts.items():
        _write_part(root / part, release, [_made(root / part, each) for each in packages], keys)
    handler = functools.partial(_Handler, directory=str(root))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            subprocess.run(
                ["gpgconf", "--homedir", str(keys), "--kill", "gpg-agent"], timeout=30, check=False
            )


class _Handler(SimpleHTTPRequestHandler):
    def log_message(self, *args: Any) -> None:
        """Nothing."""


def _made(part: Path, package: Package) -> str:
    """Make a package, and return its entry in the list of its part."""
    tree = part / "trees" / package.name
    (tree / "DEBIAN").mkdir(parents=True)
    control = (
        f"Package: {package.name}\nVersion: {package.version}\nArchitecture: all\n"
        f"Maintainer: nobody <nobody@example.com>\nDescription: a stand-in\n"
    )
    (tree / "DEBIAN/control").write_text(control)
    if package.preinst:
        (tree / "DEBIAN/preinst").write_text(package.preinst)
        (tree / "DEBIAN/preinst").chmod(0o755)
    for name, text in package.files.items():
        path = tree / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    subprocess.run(["chmod", "-R", "a+rX,g-ws", str(tree)], check=True, timeout=30)
    name = f"{package.name}_all.deb"
    command = ["dpkg-deb", "--root-owner-group", "--build", str(tree), str(part / name)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    content = (part / name).read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    return f"{control}Filename: {name}\nSize: {len(content)}\nSHA256: {digest}\n"


def _write_part(part: Path, release: str, entries: Sequence[str], keys: Path) -> None:
    """Write the lists of a part as apt looks for them, and sign them."""
    place = part / "dists" / release
    listed = "\n".join(entries).encode()
    hashes = []
    for architecture in ("amd64", "arm64"):
        folder = f"main/binary-{architecture}"
        (place / folder).mkdir(parents=True)
        for name, content in (("Packages", listed), ("Packages.gz", gzip.compress(listed))):
            (place / folder / name).write_bytes(content)
            hashes.append(f" {hashlib.sha256(content).hexdigest()} {len(content)} {folder}/{name}\n")
    head = f"Suite: {release}\nCodename: {release}\nArchitectures: amd64 arm64\nComponents: main\n"
    date = "Date: Thu, 01 Jan 2026 00:00:00 UTC\n"
    (place / "Release").write_text(f"{head}{date}SHA256:\n{''.join(hashes)}")
    _gpg(keys, "--clearsign", "--output", str(place / "InRelease"), str(place / "Release"))


def _gpg(keys: Path, *arguments: str) -> bytes:
    command = ["gpg", "--homedir", str(keys), "--batch", "--quiet", "--passphrase", "", *arguments]
    done = subprocess.run(command, env={**os.environ}, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout
