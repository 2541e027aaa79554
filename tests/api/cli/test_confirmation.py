"""Before what cannot be undone a person is asked, and a program is not."""

from __future__ import annotations

import os
import pty
import subprocess
from collections.abc import Callable

import pytest

from tests.api.conftest import Command
from tests.fakes.broker import Peer, device, pipeline
from tests.fakes.patience import PATIENCE


@pytest.fixture
def typed(run: Command) -> Callable[..., tuple[int, str, str]]:
    """Runs a command at a terminal on which a person types this: its exit code, stdout and stderr."""

    def at_terminal(keys: bytes, *arguments: str) -> tuple[int, str, str]:
        ours, its = pty.openpty()
        process = run.start(*arguments, stdin=its)
        os.close(its)
        os.write(ours, keys)  # the terminal keeps it until somebody reads
        out, err = process.communicate(timeout=PATIENCE)
        os.close(ours)
        return process.returncode, out, err

    return at_terminal


@pytest.mark.parametrize(
    ("keys", "options", "code", "left"),
    [
        (b"y\n", [], 0, []),
        (b"n\n", [], 1, ["edge-1"]),
        (b"\n", [], 1, ["edge-1"]),
        (b"\x04", [], 130, ["edge-1"]),  # Ctrl-D
        (b"", ["--yes"], 0, []),
    ],
)
def test_a_person_is_asked(
    typed: Callable[..., tuple[int, str, str]],
    peer: Peer,
    keys: bytes,
    options: list[str],
    code: int,
    left: list[str],
) -> None:
    peer.devices["edge-1"] = device("edge-1", state="lost")

    done, out, err = typed(keys, "devices", "remove", "edge-1", *options)

    assert (done, list(peer.devices)) == (code, left)
    assert out == ("" if left else "edge-1 removed\n")
    assert ("[y/N]" in err) == (not options)
    assert ("nothing was done" in err) == (code == 1)


def test_only_the_end_of_several_pipelines_is_asked_about(
    typed: Callable[..., tuple[int, str, str]], peer: Peer
) -> None:
    peer.pipelines |= {f"door-{number}": pipeline(f"door-{number}") for number in range(7)}

    paused = typed(b"", "pause", "door-*")
    one = typed(b"", "terminate", "door-6")
    refused = typed(b"n\n", "terminate", "door-*")
    left = len(peer.pipelines)
    ended = typed(b"y\n", "terminate", "door-*")

    assert [code for code, _out, _err in (paused, one, refused, ended)] == [0, 0, 1, 0]
    question = "Terminate 6 pipelines: door-0, door-1, door-2, door-3, door-4 and 1 more? [y/N]"
    assert question in refused[2]
    assert (left, peer.pipelines) == (6, {})


def test_a_program_goes_on_as_it_did(run: Command, peer: Peer) -> None:
    peer.devices["edge-1"] = device("edge-1", state="lost")

    process = run.start("devices", "remove", "edge-1", stdin=subprocess.DEVNULL)
    out, err = process.communicate(timeout=PATIENCE)

    assert (process.returncode, out, err) == (0, "edge-1 removed\n", "")
