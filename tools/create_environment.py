"""Create a virtual environment with Streamfleet and the packages of locks:

    create_environment.py [--system-site-packages] VENV LOCK...

uv installs in seconds: the uv on the PATH, or one that pip downloads by its hash. Without uv, pip installs
everything. Both check hashes, and Streamfleet itself is built with packages of the lock, so nothing outside
the lock is downloaded. Requires only Python.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import ssl
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
ALL = ROOT / "requirements.lock"  # contains uv


def main(venv: Path, *locks: Path, system: bool = False) -> None:
    """Create and fill the environment. Raises: SystemExit, with what is missing or what failed."""
    python = venv / "bin/python"
    uv = shutil.which("uv")
    if not is_working(python):
        announce(f"a virtual environment in {venv}")
        create(venv, uv, system=system)
    uv = uv or installed_uv(python)
    names = ", ".join(lock.name for lock in locks)
    announce(f"the packages of {names} with {'uv' if uv else 'pip, which takes a minute'}")
    packages = ["--require-hashes", *(part for lock in locks for part in ("--requirement", str(lock)))]
    ours = ["--no-deps", "--no-build-isolation", "--editable", str(ROOT)]
    # pip compiles to byte code by default, uv does not. Without byte code the first processes compile their
    # imports, or all of them do if PYTHONDONTWRITEBYTECODE is set: seconds for each camera.
    if uv and run([uv, "pip", "install", "--compile-bytecode", "--python", str(python), *packages]):
        done = run([uv, "pip", "install", "--quiet", "--python", str(python), *ours])
    else:
        pip = [str(python), "-m", "pip", "install", "--disable-pip-version-check"]
        done = run([*pip, "--no-deps", *packages]) and run([*pip, "--quiet", *ours])
    if not done:
        sys.exit("error: the packages could not be installed: see the output above")


def is_working(python: Path) -> bool:
    """Return whether the environment exists and its Python runs. Its base Python may have been removed."""
    return python.exists() and run([str(python), "-c", ""])


def create(venv: Path, uv: str | None, *, system: bool = False) -> None:
    """Create an environment with the Python that runs this script, and with pip if uv is not available.

    `system`: it sees the packages of the system's Python, as a Jetson's TensorRT.
    """
    seen = ["--system-site-packages"] if system else []
    if uv and run([uv, "venv", "--quiet", "--clear", *seen, "--python", sys.executable, str(venv)]):
        return
    if importlib.util.find_spec("venv") is None or importlib.util.find_spec("ensurepip") is None:
        package = f"python{sys.version_info[0]}.{sys.version_info[1]}-venv"
        sys.exit(
            f"error: expected a Python with the modules venv and ensurepip, got {sys.executable}\n"
            f"       Debian and Ubuntu have them in a separate package: apt-get install {package}"
        )
    if not run([sys.executable, "-m", "venv", "--clear", *seen, str(venv)]):
        sys.exit(f"error: {sys.executable} could not create a virtual environment in {venv}")


def installed_uv(python: Path) -> str | None:
    """Return the uv of the environment, installing it if necessary. None: there is no uv for this machine."""
    uv = python.with_name("uv")
    if not uv.exists():
        announce("uv, which installs the rest in seconds")
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
            file.write(pinned(ALL.read_text("utf-8"), "uv"))
            file.flush()
            options = ["--quiet", "--disable-pip-version-check", "--only-binary=:all:", "--require-hashes"]
            run([str(python), "-m", "pip", "install", *options, "--requirement", file.name])
    return str(uv) if uv.exists() else None


def pinned(lock: str, name: str) -> str:
    """Return the lines of one package in a lock: its version and hashes."""
    lines = lock.splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith(f"{name}=="))
    return "\n".join([lines[first], *(line for line in _indented(lines[first + 1 :]))]) + "\n"


def _indented(lines: list[str]) -> list[str]:
    end = next((number for number, line in enumerate(lines) if not line.startswith(" ")), len(lines))
    return [line for line in lines[:end] if not line.lstrip().startswith("#")]


def run(command: list[str]) -> bool:
    """Run a command and return whether it succeeded."""
    return subprocess.run(command, check=False, env=environment()).returncode == 0


def environment() -> dict[str, str]:
    """Return our environment, in which uv trusts the CAs of the system, such as that of a company proxy."""
    store = ssl.get_default_verify_paths()
    has_store = store.cafile or (store.capath and any(Path(store.capath).iterdir()))
    return {**({"UV_SYSTEM_CERTS": "true"} if has_store else {}), **os.environ}


def announce(text: str) -> None:
    """Print the next step."""
    print(f"installing {text} …", flush=True)


if __name__ == "__main__":
    arguments = [each for each in sys.argv[1:] if each != "--system-site-packages"]
    main(*map(Path, arguments), system=len(arguments) < len(sys.argv) - 1)
