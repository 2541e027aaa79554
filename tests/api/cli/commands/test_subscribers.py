"""`streamfleet keys subscriber`, `streamfleet subscribers`: programs elsewhere, and what they may hear."""

from __future__ import annotations

import json
from pathlib import Path

from streamfleet.subscription import read_keys
from streamfleet_core.protocol.requests import SubscriberView
from tests.api.conftest import Command
from tests.fakes.broker import Peer


def test_a_key_is_limited_to_pipelines_and_labels(run: Command, peer: Peer) -> None:
    limits = ("--pipeline", "door", "--pipeline", "gate", "--select", "site=hall")

    run("keys", "subscriber", "wall", *limits)

    assert peer.subscribers["wall"] == SubscriberView("wall", ("door", "gate"), {"site": "hall"})


def test_a_key_file_holds_what_the_package_subscribes_with(run: Command, tmp_path: Path) -> None:
    file = tmp_path / "wall.json"

    done = run("keys", "subscriber", "wall", "--to", str(file))

    keys = read_keys(file)
    assert done.stdout == f"wall: the keys are in {file}\n"
    assert (keys.name, keys.endpoints) == ("wall", ("tcp://127.0.0.1:7774",))
    assert keys.secret_key not in done.output


def test_a_key_file_that_cannot_be_written_is_one_line(run: Command) -> None:
    done = run("keys", "subscriber", "wall", "--to", "/proc/wall.json", code=1)

    assert done.stderr.startswith("error: /proc/wall.json: ")


def test_subscribers_are_shown_with_what_they_may_hear(run: Command, peer: Peer) -> None:
    peer.subscribers["all"] = SubscriberView("all")
    peer.subscribers["wall"] = SubscriberView("wall", ("door", "gate"), {"site": "hall"})

    lines = run("subscribers").stdout.splitlines()

    assert [line.split() for line in lines[1:]] == [["all", "all"], ["wall", "door,", "gate", "site=hall"]]
    assert run("subscribers", "list").stdout.splitlines() == lines
    assert json.loads(run("subscribers", "--json").stdout)[0]["name"] == "all"


def test_a_subscriber_is_removed_and_one_that_is_not_there_named(run: Command, peer: Peer) -> None:
    peer.subscribers["wall"] = SubscriberView("wall")

    done = run("subscribers", "remove", "wall", "wal", code=1)

    assert done.stdout == "wall removed\n"
    assert "no subscriber wal" in done.stderr
    assert not peer.subscribers
