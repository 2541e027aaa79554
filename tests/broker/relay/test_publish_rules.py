"""Who may publish what, and who may hear what."""

from __future__ import annotations

from dataclasses import replace

from streamfleet_broker.fleet.records import PipelineRecord, Record, SubscriberRecord, Tenure, Write
from streamfleet_broker.relay.publish_rules import LINGER, Admission
from streamfleet_broker.relay.subscribe_rules import Grants, beginning_with
from streamfleet_core.protocol.data_plane import MAX_GEN, Kind
from tests.fakes.scripted_fleet import CAMERA, devices, key_of

A, B = key_of("a"), key_of("b")
KEYS = frozenset({A, B})
DOOR = PipelineRecord(
    pipeline_id="door",
    generation=5,
    run_generation=5,
    desired_status="run",
    spec=CAMERA,
    requested=None,
    device="a",
    created=1,
    labels={"site": "hall"},
)
KINDS = (Kind.PRED, Kind.STAT)


def after(admission: Admission, before: PipelineRecord | None, now: PipelineRecord | None) -> Admission:
    """A pipeline is another, at second 10."""
    return admission.after([Write("pipeline", "door", before, now)], 10.0)


def admission(*records: Record) -> Admission:
    return Admission.of((*devices("a", "b"), *records)).allowing(KEYS)


def test_it_is_known_which_pipelines_a_change_concerns() -> None:
    before = admission(DOOR)

    changed = after(before, DOOR, replace(DOOR, generation=6))
    moved = after(changed, DOOR, replace(DOOR, generation=7, device="b"))

    assert moved.changed_since(moved.version) == frozenset[str]()
    assert moved.changed_since(before.version) == frozenset({"door"})
    assert moved.allowing(frozenset({A})).changed_since(moved.version) is None
    many = moved
    for generation in range(8, 80):
        many = after(many, DOOR, replace(DOOR, generation=generation))
    assert many.changed_since(moved.version) is None, "too long ago"


def test_what_does_not_concern_publishing_leaves_the_rules_as_they_are() -> None:
    before = admission(DOOR)
    (device, _) = devices("a", "b")

    assert (
        before.after([Write("device", "a", device, replace(device, labels={"site": "hall"}))], 10.0) is before
    )
    rekeyed = before.after([Write("device", "a", device, replace(device, public_key="k" * 40))], 10.0)
    assert rekeyed.changed_since(before.version) is None


def test_a_pipeline_is_its_holders_up_to_its_gen() -> None:
    found = admission(DOOR)

    assert found.highest(A, "door") == 5
    assert found.highest(B, "door") is None
    assert found.highest(A, "gate") is None
    assert found.highest("stranger", "door") is None


def test_a_pipeline_that_is_nowhere_is_nobodys() -> None:
    found = admission(replace(DOOR, device=None))

    assert found.highest(A, "door") is None


def test_a_devices_own_state_is_its_own() -> None:
    found = admission()

    assert found.highest(A, "@a") == MAX_GEN
    assert found.highest(B, "@a") is None
    assert found.highest(A, "@") is None
    assert found.highest("stranger", "@") is None


def test_a_key_that_is_not_allowed_may_publish_nothing() -> None:
    found = admission(DOOR).allowing(frozenset({B}))

    assert found.highest(A, "door") is None
    assert found.highest(A, "@a") is None


def test_while_a_pipeline_is_taken_from_a_device_that_one_may_publish_below_the_new_gen() -> None:
    found = admission(replace(DOOR, generation=6, device="b", leaving="a"))

    assert found.highest(A, "door") == 5
    assert found.highest(B, "door") is None


def test_what_is_under_way_when_a_pipeline_moves_is_heard_for_a_moment() -> None:
    moved = after(admission(DOOR), DOOR, replace(DOOR, generation=6, device="b"))

    assert moved.highest(B, "door") == 6
    assert moved.highest(A, "door") is None
    assert moved.highest_until(A, "door", 10.0 + LINGER - 0.1) == 5
    assert moved.highest_until(A, "door", 10.0 + LINGER) is None
    assert moved.highest_until(B, "door", 10.1) is None


def test_what_is_under_way_of_a_device_that_was_removed_is_not_heard() -> None:
    removed = after(admission(DOOR), DOOR, None).allowing(frozenset({B}))

    assert removed.highest_until(A, "door", 10.1) is None


def test_a_changed_key_takes_the_place_of_the_old_one() -> None:
    old = devices("a")[0]
    new = replace(old, public_key="n" * 40)

    found = admission(DOOR).after([Write("device", "a", old, new)], 10.0).allowing(frozenset({"n" * 40, A}))

    assert found.highest("n" * 40, "door") == 5
    assert found.highest(A, "door") is None


def grants(*records: Record) -> Grants:
    return Grants.of(records).allowing(frozenset({"wall", "operator"}))


def prefixes(found: Grants, key: str, asked: str) -> list[str]:
    return [each.decode() for each in found.prefixes(key, asked.encode(), KINDS)]


def test_a_key_without_limits_hears_what_it_asks_for() -> None:
    found = grants(SubscriberRecord("w", "wall"))

    assert prefixes(found, "wall", "v1/") == ["v1/"]
    assert prefixes(found, "operator", "") == [""]


def test_a_key_that_is_not_allowed_hears_nothing() -> None:
    assert prefixes(grants(), "stranger", "v1/") == []


def test_a_limited_key_hears_its_pipelines_whatever_it_asks_for() -> None:
    found = grants(DOOR, SubscriberRecord("w", "wall", ("gate",), {"site": "hall"}))

    for asked in ("", "v1/"):
        assert sorted(prefixes(found, "wall", asked)) == [
            "v1/pred/door/",
            "v1/pred/gate/",
            "v1/stat/door/",
            "v1/stat/gate/",
        ]
    assert prefixes(found, "wall", "v1/pred/gate/") == ["v1/pred/gate/"]
    assert prefixes(found, "wall", "v1/pred/g") == ["v1/pred/gate/"]
    for asked in ("v1/pred/garden/", "v1/stat/@a/", "v1/stat/@", "v1/img/", "v1/pred/door/x"):
        assert prefixes(found, "wall", asked) == []


def test_a_selector_follows_the_labels_of_pipelines() -> None:
    found = grants(DOOR, SubscriberRecord("w", "wall", (), {"site": "hall"}))
    elsewhere = replace(DOOR, labels={"site": "yard"})

    changed = found.after([Write("pipeline", "door", DOOR, elsewhere)])

    assert prefixes(found, "wall", "v1/pred/") == ["v1/pred/door/"]
    assert prefixes(changed, "wall", "v1/pred/") == []
    assert prefixes(changed.after([Write("pipeline", "door", elsewhere, None)]), "wall", "") == []


def test_a_selector_that_selects_nothing_is_a_limit_all_the_same() -> None:
    found = grants(SubscriberRecord("w", "wall", (), {"site": "nowhere"}))

    assert prefixes(found, "wall", "") == []


def test_what_changes_neither_labels_nor_subscribers_changes_no_grants() -> None:
    """Each write of the store asks, also a heartbeat of a device that is remembered."""
    (device,) = devices("a")
    found = grants(DOOR)

    moved = found.after([Write("pipeline", "door", DOOR, replace(DOOR, device="b"))])
    other = found.after([Write("device", "a", device, replace(device, left=True))])
    labelled = found.after([Write("pipeline", "door", DOOR, replace(DOOR, labels={"site": "yard"}))])

    assert moved is found
    assert other is found
    assert labelled != found


def test_topics_are_found_by_how_they_begin() -> None:
    topics = (b"a", b"ab", b"abc", b"b")

    assert beginning_with(b"", topics) == topics
    assert beginning_with(b"ab", topics) == (b"ab", b"abc")
    assert beginning_with(b"c", topics) == ()


def test_a_device_may_replay_what_it_sent_while_it_had_the_pipeline() -> None:
    found = admission(replace(DOOR, generation=9, device="a", past=(Tenure("a", 2), Tenure("b", 6))))

    assert [each for each in range(12) if found.may_replay(A, "door", each)] == [0, 1, 2, 7, 8, 9]
    assert [each for each in range(12) if found.may_replay(B, "door", each)] == [3, 4, 5, 6]
    assert not found.may_replay(A, "gate", 1)
    assert not found.may_replay("stranger", "door", 1)


def test_the_former_holders_of_a_pipeline_follow_its_row() -> None:
    found = admission(DOOR)
    moved = replace(DOOR, device="b", generation=6, past=(Tenure("a", 5),))

    changed = after(found, DOOR, moved)

    assert [key for key in (A, B) if changed.may_replay(key, "door", 5)] == [A]
    assert [key for key in (A, B) if changed.may_replay(key, "door", 6)] == [B]
    assert not any(after(changed, moved, None).may_replay(key, "door", 5) for key in (A, B))


def test_a_key_may_ask_for_replays_of_what_it_may_hear() -> None:
    found = grants(
        DOOR,
        SubscriberRecord("w", "wall", ("gate",), {"site": "hall"}),
        SubscriberRecord("v", "named", ("gate",)),
        SubscriberRecord("u", "free"),
    ).allowing(frozenset({"wall", "named", "free"}))

    for key, pipelines in (("wall", {"door", "gate"}), ("named", {"gate"}), ("free", {"door", "gate", "x"})):
        assert {each for each in ("door", "gate", "x") if found.may_ask(key, each)} == pipelines
    assert not found.may_ask("stranger", "door")
