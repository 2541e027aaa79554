"""What `import streamfleet` gives, and what it costs."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version

import pytest

import streamfleet
from tests.fakes.patience import PATIENCE


@pytest.mark.parametrize("name", streamfleet.__all__)
def test_each_name_of_the_package_is_there(name: str) -> None:
    assert getattr(streamfleet, name) is not None
    assert name in dir(streamfleet)


def test_the_version_is_that_of_the_distribution() -> None:
    assert streamfleet.__version__ == version("streamfleet")


def test_a_name_that_it_does_not_have() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = streamfleet.Nothing


def test_the_import_loads_nothing_that_it_may_not_need() -> None:
    heavy = "{'httpx', 'zmq', 'msgspec', 'numpy', 'cv2', 'supervision', 'pydantic'}"
    program = f"import sys, streamfleet; print({heavy} & set(sys.modules))"

    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=PATIENCE, check=True
    )

    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("missing", "name", "target"),
    [
        ("httpx", "Client", "'streamfleet[client]'"),
        ("av", "InferencePipeline", "'streamfleet[worker,cpu]'"),
        ("zmq", "subscribe", "streamfleet"),
    ],
)
def test_what_is_missing_is_told_with_what_to_install(missing: str, name: str, target: str) -> None:
    program = (
        f"import sys; sys.modules[{missing!r}] = None\n"
        f"import streamfleet\n"
        f"try: streamfleet.{name}\n"
        f"except ImportError as exc: print(exc)"
    )

    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=PATIENCE, check=True
    )

    needs = f"streamfleet.{name} needs {missing}, which is not installed"
    assert done.stdout.strip() == f"{needs}: pip install {target}"
