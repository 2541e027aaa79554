"""Make a virtual environment, and install into it what a lock holds, and Streamfleet: install.py VENV LOCK.

uv does it in seconds: the one on the PATH, or one that pip fetches by its hash. Without it pip does it all.
Hashes are checked either way, and our own package is built with what the lock holds: nothing is fetched that
no lock names. Needs nothing but Python.
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
ALL = ROOT / "requirements.lock"  # which holds uv


def main(venv: Path, lock: Path) -> None:
    """Raises: SystemExit, with what is missing or what failed."""
    python = venv / "bin/python"
    uv = shutil.which("uv")
    if not works(python):
        say(f"a virtual environment in {venv}")
        make(venv, uv)
    uv = uv or fetched_uv(python)
    say(f"what {lock.name} names, with {'uv' if uv else 'pip, which takes a minute'}")
    packages = ["--require-hashes", "--requirement", str(lock)]
    ours = ["--no-deps", "--no-build-isolation", "--editable", str(ROOT)]
    # pip compiles to byte code by itself. Without it the first processes, or all of them where
    # PYTHONDONTWRITEBYTECODE is set, compile what they import: seconds for each camera.
    if uv and run([uv, "pip", "install", "--compile-bytecode", "--python", str(python), *packages]):
        done = run([uv, "pip", "install", "--quiet", "--python", str(python), *ours])
    else:
        pip = [str(python), "-m", "pip", "install", "--disable-pip-version-check"]
        done = run([*pip, "--no-deps", *packages]) and run([*pip, "--quiet", *ours])
    if not done:
        sys.exit("error: the packages could not be installed: what is above says why")


def works(python: Path) -> bool:
    """Is there an environment whose Python still runs? The one that it was made of may be gone."""
    return python.exists() and run([str(python), "-c", ""])


def make(venv: Path, uv: str | None) -> None:
    """A new environment of the Python that runs this, with pip where uv is not there."""
    if uv and run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(venv)]):
        return
    if importlib.util.find_spec("venv") is None or importlib.util.find_spec("ensurepip") is None:
        package = f"python{sys.version_info[0]}.{sys.version_info[1]}-venv"
        sys.exit(
            f"error: expected a Python with its modules venv and ensurepip, {sys.executable} lacks one\n"
            f"       Debian and Ubuntu have them in a package of their own: apt-get install {package}"
        )
    if not run([sys.executable, "-m", "venv", "--clear", str(venv)]):
        sys.exit(f"error: {sys.executable} could not make a virtual environment in {venv}")


def fetched_uv(python: Path) -> str | None:
    """The environment's own uv; None where there is none for this machine."""
    uv = python.with_name("uv")
    if not uv.exists():
        say("uv, which installs the rest in seconds")
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
            file.write(pinned(ALL.read_text("utf-8"), "uv"))
            file.flush()
            options = ["--quiet", "--disable-pip-version-check", "--only-binary=:all:", "--require-hashes"]
            run([str(python), "-m", "pip", "install", *options, "--requirement", file.name])
    return str(uv) if uv.exists() else None


def pinned(lock: str, name: str) -> str:
    """What a lock says of one package: its version and hashes."""
    lines = lock.splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith(f"{name}=="))
    return "\n".join([lines[first], *(line for line in _indented(lines[first + 1 :]))]) + "\n"


def _indented(lines: list[str]) -> list[str]:
    end = next((number for number, line in enumerate(lines) if not line.startswith(" ")), len(lines))
    return [line for line in lines[:end] if not line.lstrip().startswith("#")]


def run(command: list[str]) -> bool:
    """Whether it went well."""
    return subprocess.run(command, check=False, env=environment()).returncode == 0


def environment() -> dict[str, str]:
    """Ours, in which uv trusts whom this machine trusts, as pip does: a company's proxy among them."""
    store = ssl.get_default_verify_paths()
    has_store = store.cafile or (store.capath and any(Path(store.capath).iterdir()))
    return {**({"UV_SYSTEM_CERTS": "true"} if has_store else {}), **os.environ}


def say(text: str) -> None:
    """What comes now."""
    print(f"installing {text} …", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
