"""The laws of the fleet: messages in, effects out. `Fleet.check` runs after every step of the script."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest

from streamfleet_broker.fleet.device_plane.failure_detector import MAX_GRACE
from streamfleet_broker.fleet.devices import DevicePeer
from streamfleet_broker.fleet.effects import Answer, Effect, LogEvent, RaiseEpoch, Save, Send, SetAllowedKeys
from streamfleet_broker.fleet.event_listeners import MAX_LISTENERS
from streamfleet_broker.fleet.fleet import Fleet
from streamfleet_broker.fleet.pipeline_status import status
from streamfleet_broker.fleet.pipelines import MAX_KEYS
from streamfleet_broker.fleet.records import (
    DeviceRecord,
    FloorRecord,
    HeldRecord,
    KeyRecord,
    PipelineRecord,
    Record,
    SubscriberRecord,
    Tenure,
    TokenRecord,
    Write,
)
from streamfleet_broker.fleet.scheduler import MAX_DESIRED_SIZE
from streamfleet_broker.fleet.state import MAX_HELD, MAX_PIPELINES
from streamfleet_core.protocol.control_plane import NO_SESSION, Envelope, decode, encode
from streamfleet_core.protocol.costs import DeviceLoad
from streamfleet_core.protocol.errors import BadMessage
from streamfleet_core.protocol.join_token import JoinToken
from streamfleet_core.protocol.messages import (
    Bye,
    Desired,
    Enrolled,
    Error,
    Heartbeat,
    HeartbeatAck,
    RefusalCode,
    Refused,
    Reply,
    Request,
    Subscribers,
    Welcome,
)
from streamfleet_core.protocol.requests import (
    AddDevice,
    AddSubscriber,
    Changed,
    ChangePipeline,
    ChangePipelines,
    CheckHolder,
    CheckTicket,
    CreatePipeline,
    DeviceFigures,
    DeviceState,
    DeviceView,
    Events,
    FleetEvent,
    FleetView,
    GetDevice,
    GetEvents,
    GetFigures,
    GetFleet,
    GetPipeline,
    LabelDevice,
    ListDevices,
    ListModels,
    ListPipelines,
    Outcome,
    PipelineFigures,
    PipelineStatus,
    PipelineView,
    Plane,
    Put,
    PutModel,
    PutPipeline,
    RemoveDevice,
    RemoveModel,
    ReportProcess,
    RestartPipeline,
    Subscription,
    Token,
)
from streamfleet_core.protocol.sampling import Random, Sampling
from streamfleet_core.protocol.source_reference import TEST_PATTERN, is_movable
from streamfleet_core.protocol.values import (
    Assignment,
    DesiredStatus,
    ModelRef,
    Observed,
    ObservedState,
    PipelineSpec,
    SourceSpec,
    Stage,
)
from tests.fakes.scripted_fleet import (
    CAMERA,
    CONFIG,
    CREATED,
    EPOCH,
    FILE,
    FINGERPRINT,
    OPERATOR,
    RUNNING,
    CountingRandomSource,
    ScriptedFleet,
    data_of,
    devices,
    key_of,
    scripted_fleet,
    sent,
)

NEW_KEY = "N" * 40


def refusals(effects: Iterable[Effect]) -> list[str]:
    """The codes of all refusals."""
    return [e.message.code for e in effects if isinstance(e, Send) and isinstance(e.message, Refused)]


def token_key(fleet: ScriptedFleet, device: str, ttl: float = 900) -> str:
    """Let a device enrol: the public half of its one-time key."""
    effects = fleet.ask(AddDevice(device, ttl))
    return next(
        write.after.public_key
        for effect in effects
        if isinstance(effect, Save)
        for write in effect.writes
        if isinstance(write.after, TokenRecord)
    )


# enrolment ------------------------------------------------------------------------------------------------


def test_at_the_start_exactly_those_who_are_known_are_let_in() -> None:
    records: list[Record] = [
        *devices("a"),
        SubscriberRecord("wall", "w" * 40),
        TokenRecord("t" * 40, "b", 2e9),
    ]
    fleet = Fleet(CONFIG, EPOCH, records, CountingRandomSource(), now=0, unix_time=1e9)

    assert fleet.start() == [
        SetAllowedKeys("operators", frozenset({"O" * 40})),
        SetAllowedKeys("devices", frozenset({key_of("a"), "t" * 40})),
        SetAllowedKeys("relay-in", frozenset({key_of("a")})),
        SetAllowedKeys("relay-out", frozenset({"w" * 40, "O" * 40})),
    ]


def test_a_token_is_durable_before_it_is_handed_out() -> None:
    fleet = scripted_fleet()

    effects = fleet.ask(AddDevice("cam-7", ttl=60))

    public, secret = f"public {1:033}", f"secret {1:033}"
    record = TokenRecord(public, "cam-7", 1_000_000.0 + fleet.now + 60)
    line = JoinToken(
        device="cam-7",
        endpoints=CONFIG.endpoints,
        broker_key=CONFIG.broker_key,
        secret_key=secret,
        api_fingerprint=FINGERPRINT,
    ).encode()
    assert effects == [
        Save((Write("token", public, None, record),)),
        SetAllowedKeys("devices", frozenset({public})),
        LogEvent("cam-7", "may enrol once"),
        Answer(OPERATOR.routing_id, (1).to_bytes(16, "big"), Reply(Token("cam-7", line))),
    ]
    assert fleet.reply(ListDevices()) == (DeviceView(device="cam-7", state="new"),)


def test_who_waits_for_events_is_told_at_once_what_became_of_a_process() -> None:
    fleet = scripted_fleet("a")
    known = fleet.reply(GetEvents()).events[-1].n if fleet.reply(GetEvents()).events else 0

    assert fleet.reply(ReportProcess("api", "was killed")) is None

    (event,) = fleet.reply(GetEvents(EPOCH, known)).events
    assert (event.subject, event.id, event.state, event.reason) == (
        "process",
        "api",
        "restarting",
        "was killed",
    )


def test_enrolling_burns_the_token_in_the_transaction_that_makes_the_device() -> None:
    fleet = scripted_fleet()
    one_time = token_key(fleet, "cam-7")

    effects = fleet.enrol(one_time, NEW_KEY)

    token = TokenRecord(one_time, "cam-7", 1_000_000.0 + fleet.now + 900)
    device = DeviceRecord(device="cam-7", public_key=NEW_KEY, short_id=1)
    assert effects == [
        Save((Write("device", "cam-7", None, device), Write("token", one_time, token, None))),
        SetAllowedKeys("devices", frozenset({NEW_KEY})),
        SetAllowedKeys("relay-in", frozenset({NEW_KEY})),
        Send(b"new", Enrolled("cam-7"), NO_SESSION),
        LogEvent("cam-7", "enrolled"),
    ]


def test_a_token_is_good_once() -> None:
    fleet = scripted_fleet()
    one_time = token_key(fleet, "cam-7")
    fleet.enrol(one_time, NEW_KEY)

    assert refusals(fleet.enrol(one_time, "M" * 40)) == ["token_used"]
    assert fleet.hello("cam-7", key="M" * 40)[0] == Send(
        b"cam-7", Refused("revoked", "enrol first"), NO_SESSION
    )


def test_a_newer_token_ends_an_older_one() -> None:
    fleet = scripted_fleet()
    older, newer = token_key(fleet, "cam-7"), token_key(fleet, "cam-7")

    assert refusals(fleet.enrol(older, NEW_KEY)) == ["token_used"]
    assert refusals(fleet.enrol(newer, NEW_KEY)) == []


def test_a_token_ends_with_its_time() -> None:
    fleet = scripted_fleet()
    one_time = token_key(fleet, "cam-7", ttl=3)

    effects = fleet.pass_time(4)

    token = TokenRecord(one_time, "cam-7", 1_000_013.0 + 3)
    assert effects == [Save((Write("token", one_time, token, None),)), SetAllowedKeys("devices", frozenset())]
    assert refusals(fleet.enrol(one_time, NEW_KEY)) == ["token_used"]


def test_a_one_time_key_may_do_nothing_but_enrol() -> None:
    fleet = scripted_fleet()
    one_time = token_key(fleet, "cam-7")

    assert refusals(fleet.hello("cam-7", key=one_time)) == ["unknown_key"]


def test_a_key_is_of_one_peer_only() -> None:
    subscriber = "S" * 40
    fleet = scripted_fleet("a", records=(SubscriberRecord("wall", subscriber),))
    one_time = token_key(fleet, "b")

    for key in (key_of("a"), one_time, subscriber, CONFIG.broker_key, CONFIG.operator_key):
        assert fleet.enrol(one_time, key) == [
            Send(b"new", Refused("bad_message", "this key is in use: make one of your own"), NO_SESSION)
        ]
    assert sent(fleet.enrol(one_time, NEW_KEY), "new") == [Enrolled("b")]


@pytest.mark.parametrize("text", ["0" * 40, "N" * 39 + " ", "#" * 40, "N" * 35 + "~NNNN"])
def test_what_is_no_key_enrols_nobody(text: str) -> None:
    fleet = scripted_fleet()
    one_time = token_key(fleet, "b")

    refused = fleet.enrol(one_time, text)

    assert refused == [
        Send(b"new", Refused("bad_message", "expected a public key of CURVE, got none"), NO_SESSION)
    ]
    assert sent(fleet.enrol(one_time, NEW_KEY), "new") == [Enrolled("b")]


def test_a_store_that_is_down_leaves_the_token_good() -> None:
    fleet = scripted_fleet()
    one_time = token_key(fleet, "cam-7")
    fleet.store_down = True
    assert fleet.enrol(one_time, NEW_KEY) == []

    fleet.store_down = False
    assert sent(fleet.enrol(one_time, NEW_KEY), "new") == [Enrolled("cam-7")]


def test_enrolling_anew_cuts_the_old_key_and_fences_what_it_may_still_emit() -> None:
    fleet = scripted_fleet("a")
    fleet.create("door", FILE, "a")
    fleet.obey()
    one_time = token_key(fleet, "a")

    fleet.enrol(one_time, NEW_KEY)

    assert refusals(fleet.heartbeat("a")) == ["revoked"]
    assert refusals(fleet.hello("a")) == ["revoked"]
    effects = fleet.hello("a", key=NEW_KEY)
    assert [each.generation for each in sent(effects, "a")[1].assignments] == [2]
    assert [each.run_generation for each in sent(effects, "a")[1].assignments] == [2]


# sessions -------------------------------------------------------------------------------------------------


def test_hello_is_answered_with_a_session_and_the_desired_state() -> None:
    fleet = scripted_fleet("a")
    fleet.create("door", FILE, "a")

    effects = fleet.hello("a")

    session = fleet.devices["a"].session
    welcome = Welcome(
        session=session,
        self_stop_ms=8_000,
        heartbeat_ms=1_000,
        short_id=1,
        api="http://*:8080",
        ticket="ticket 4",
        relay=("tcp://*:7773",),
        pictures=("tcp://*:7775",),
        api_fingerprint=FINGERPRINT,
        replays=True,
    )
    assignment = Assignment(
        pipeline_id="door",
        generation=1,
        run_generation=1,
        desired_status="run",
        on_disconnect="continue",
        spec=FILE,
    )
    assert effects == [
        Send(b"a", welcome, session),
        Send(b"a", Desired(2, (assignment,)), session),
        Send(b"a", Subscribers(1, ()), session),
        LogEvent("a", "joined, agent 0.1.0"),
    ]


def test_a_session_counts_its_messages_from_one_and_refusals_stand_outside() -> None:
    fleet = scripted_fleet("a")
    fleet.hello("a")
    session = fleet.devices["a"].session

    ack = Send(b"a", HeartbeatAck(1), session)
    refused = Send(b"a", Refused("stale_session"), session)

    assert fleet.fleet.envelope(refused) == Envelope(refused.message, epoch=EPOCH, session=session, seq=0)
    fleet.fleet.sent(refused)
    assert fleet.fleet.envelope(ack) == Envelope(ack.message, epoch=EPOCH, session=session, seq=4)


def test_a_key_that_speaks_for_another_device_changes_nothing_for_it() -> None:
    fleet = scripted_fleet("a", "b")

    effects = fleet.hello("b", key=key_of("a"), routing_id=b"impostor")

    assert effects == [
        LogEvent("a", "its key was used in the name of b", severity="error"),
        Send(b"impostor", Refused("key_device_mismatch", "this is the key of a"), NO_SESSION),
    ]
    fleet = scripted_fleet("a", "b")
    fleet.perform(
        fleet.fleet.receive(
            DevicePeer(b"x", key_of("a")),
            Envelope(Heartbeat(1, 1, 0), epoch=EPOCH, session=fleet.devices["b"].session, seq=14),
            14,
        )
    )
    assert sent(fleet.heartbeat("b"), "b") == [HeartbeatAck(15)]


@pytest.mark.parametrize(
    ("epoch", "session", "step", "routing_id"),
    [
        (EPOCH - 1, None, 1, b"a"),
        (EPOCH + 1, None, 1, b"a"),
        (EPOCH, b"s" * 16, 1, b"a"),
        (EPOCH, NO_SESSION, 1, b"a"),
        (EPOCH, None, 0, b"a"),
        (EPOCH, None, 2, b"a"),
        (EPOCH, None, 1, b"elsewhere"),
    ],
)
def test_what_is_not_the_next_message_of_the_session_has_no_effect(
    epoch: int, session: bytes | None, step: int, routing_id: bytes
) -> None:
    fleet = scripted_fleet("a")
    device = fleet.devices["a"]
    quoted = device.session if session is None else session
    envelope = Envelope(Bye("stop"), epoch=epoch, session=quoted, seq=device.seq + step)

    effects = fleet.perform(fleet.fleet.receive(DevicePeer(routing_id, key_of("a")), envelope, fleet.now))

    assert effects == [Send(routing_id, Refused("stale_session", "hello first"), quoted)]
    assert fleet.reply(ListDevices())[0].state == "ready"
    assert sent(fleet.heartbeat("a"), "a") == [HeartbeatAck(device.heartbeat_number)]


def test_the_same_boot_takes_its_session_over() -> None:
    fleet = scripted_fleet("a")
    old = replace(fleet.devices["a"])

    for i in range(10):
        fleet.hello("a", routing_id=f"again {i}".encode())
        fleet.heartbeat("a")

    stale = Envelope(Bye("stop"), epoch=EPOCH, session=old.session, seq=old.seq + 1)
    assert refusals(fleet.perform(fleet.fleet.receive(old.peer, stale, fleet.now))) == ["stale_session"]
    assert fleet.reply(ListDevices())[0].state == "ready"


def test_an_agent_that_restarts_again_and_again_is_no_clone() -> None:
    fleet = scripted_fleet("a")

    for i in range(20):
        fleet.hello("a", boot=bytes([i]) * 16)
        fleet.heartbeat("a")

    assert fleet.reply(ListDevices())[0].state == "ready"


def test_two_boots_that_alternate_are_quarantined() -> None:
    fleet = scripted_fleet("a", "b")
    fleet.create("door", CAMERA)
    assert fleet.view("door").device == "a"
    for i in range(4):
        assert refusals(fleet.hello("a", boot=bytes([2 + i % 2]) * 16)) == []

    effects = fleet.hello("a", boot=b"\2" * 16)

    refused = Refused("quarantined", "two machines use this key: enroll the device again")
    assert effects == [
        SetAllowedKeys("relay-in", frozenset({key_of("b")})),
        LogEvent("a", "quarantined: two machines use its key; enroll the device again", severity="error"),
        Send(b"a", refused, NO_SESSION),
    ]
    assert sent(fleet.hello("a", boot=b"\3" * 16), "a") == [refused]
    assert fleet.view("door").status == "moving"
    fleet.pass_time(11, alive=["b"])
    assert (fleet.view("door").device, fleet.view("door").status) == ("b", "starting")


def test_enrolling_anew_ends_a_quarantine() -> None:
    fleet = scripted_fleet("a")
    for i in range(6):
        fleet.hello("a", boot=bytes([2 + i % 2]) * 16)

    fleet.enrol(token_key(fleet, "a"), NEW_KEY)

    assert refusals(fleet.hello("a", key=NEW_KEY)) == []


FLOODS = "it sends more than any device needs"
PLANES: tuple[Plane, ...] = ("control", "data")
PUBLISHES = "it publishes more than --device-messages and --device-bytes of the broker allow"


def test_a_flood_is_told_once_a_minute_with_the_number_of_messages_that_were_dropped() -> None:
    fleet = scripted_fleet("a")

    told = [
        fleet.perform(fleet.fleet.overspent(key_of("a"), "control", 10, fleet.now + at))
        for at in (0, 1, 2, 62)
    ]

    assert told[0] == [LogEvent("a", f"{FLOODS}: 10 messages were dropped", severity="error")]
    assert told[1:3] == [[], []]
    assert told[3] == [LogEvent("a", f"{FLOODS}: 30 messages were dropped", severity="error")]


def test_floods_on_both_planes_are_told_and_counted_apart() -> None:
    fleet = scripted_fleet("a", "b")

    floods: list[tuple[Plane, int]] = [("control", 10), ("data", 20), ("data", 30)]
    for plane, count in floods:
        fleet.perform(fleet.fleet.overspent(key_of("a"), plane, count, fleet.now))
    told = [fleet.perform(fleet.fleet.overspent(key_of("a"), plane, 1, fleet.now + 60)) for plane in PLANES]

    assert told == [
        [LogEvent("a", f"{FLOODS}: 1 messages were dropped", severity="error")],
        [LogEvent("a", f"{PUBLISHES}: 31 messages were dropped", severity="error")],
    ]
    assert [view.dropped for view in fleet.reply(ListDevices())] == [{"control": 11, "data": 51}, {}]


def test_floods_that_take_turns_on_both_planes_are_floods_of_each() -> None:
    fleet = scripted_fleet("a")

    for at in range(0, 120, 3):
        plane = PLANES[at // 3 % 2]
        fleet.perform(fleet.fleet.overspent(key_of("a"), plane, 1, fleet.now + at))

    assert fleet.reply(ListDevices())[0].state == "ready"


@pytest.mark.parametrize(("plane", "why"), [("control", FLOODS), ("data", PUBLISHES)])
def test_who_floods_for_half_a_minute_is_quarantined_until_it_enrols_anew(plane: Plane, why: str) -> None:
    fleet = scripted_fleet("a", "b")
    fleet.create("door", CAMERA)

    for at in range(31):
        fleet.perform(fleet.fleet.overspent(key_of("a"), plane, 1000, fleet.now + at))

    assert {view.device: view.state for view in fleet.reply(ListDevices())} == {
        "a": "quarantined",
        "b": "ready",
    }
    assert sent(fleet.hello("a"), "a") == [Refused("quarantined", f"{why}: enroll the device again")]
    assert why in fleet.view("door").reason
    fleet.enrol(token_key(fleet, "a"), NEW_KEY)
    assert refusals(fleet.hello("a", key=NEW_KEY)) == []


def test_floods_with_pauses_between_them_quarantine_nobody() -> None:
    fleet = scripted_fleet("a")

    for at in range(0, 120, 6):
        fleet.perform(fleet.fleet.overspent(key_of("a"), "data", 1, fleet.now + at))

    assert fleet.reply(ListDevices())[0].state == "ready"


def test_a_flood_with_a_one_time_key_quarantines_nobody() -> None:
    fleet = scripted_fleet("a")
    key = token_key(fleet, "new")

    for at in range(31):
        fleet.perform(fleet.fleet.overspent(key, "control", 1, fleet.now + at))

    assert {view.state for view in fleet.reply(ListDevices())} == {"ready", "new"}


def test_a_device_whose_pipelines_never_rest_pushes_no_event_of_others_out() -> None:
    fleet = scripted_fleet("a", "b")
    for number in range(4):
        fleet.create(f"p{number}", FILE, "a")
    fleet.create("door", FILE, "b")
    fleet.obey()
    known = fleet.reply(GetEvents()).events

    for number in range(1000):
        fleet.obey("a", state=(RUNNING, ObservedState.PAUSED)[number % 2])

    events = fleet.reply(GetEvents(EPOCH, known[-1].n)).events
    assert len(events) <= 256
    fleet.pass_time(1, alive=["a", "b"])
    last = fleet.reply(GetEvents()).events[-4:]
    assert {event.id: event.state for event in last} == {f"p{number}": "paused" for number in range(4)}


def test_trouble_of_a_device_is_an_event_and_its_end_too() -> None:
    fleet = scripted_fleet("a")
    known = fleet.reply(GetEvents()).events

    for trouble in ("no kernels", "no kernels", ""):
        fleet.heartbeat("a", trouble=trouble)

    told = fleet.reply(GetEvents(EPOCH, known[-1].n)).events
    assert [(event.id, event.previous, event.state, event.reason) for event in told] == [
        ("a", "ready", "ready", "no kernels"),
        ("a", "ready", "ready", "ended: no kernels"),
    ]


def test_a_device_whose_trouble_never_rests_pushes_no_event_of_others_out() -> None:
    fleet = scripted_fleet("a", "b")
    known = fleet.reply(GetEvents()).events

    for number in range(1000):
        fleet.heartbeat("a", trouble=str(number))

    assert len(fleet.reply(GetEvents(EPOCH, known[-1].n)).events) <= 256


def test_a_heartbeat_is_acknowledged_and_the_desired_state_is_sent_again_until_it_is_applied() -> None:
    fleet = scripted_fleet("a")
    fleet.create("door", FILE, "a")
    session = fleet.devices["a"].session

    effects = fleet.heartbeat("a", applied_revision=1)

    assignment = Assignment(
        pipeline_id="door",
        generation=1,
        run_generation=1,
        desired_status="run",
        on_disconnect="continue",
        spec=FILE,
    )
    assert effects == [
        Send(b"a", Desired(2, (assignment,)), session),
        Send(b"a", Subscribers(1, ()), session),
        Send(b"a", HeartbeatAck(15), session),
    ]
    assert fleet.heartbeat("a", applied_revision=2) == [Send(b"a", HeartbeatAck(16), session)]


def test_a_heartbeat_whose_digest_is_another_is_asked_for_the_whole() -> None:
    fleet = scripted_fleet("a")
    fleet.devices["a"].observed = (Observed(pipeline_id="door", generation=1, incarnation=1, state=RUNNING),)

    assert sent(fleet.heartbeat("a", full=False), "a") == [HeartbeatAck(15, want_full=True)]
    assert sent(fleet.heartbeat("a", full=True), "a") == [HeartbeatAck(16)]
    assert sent(fleet.heartbeat("a", full=False), "a") == [HeartbeatAck(17)]


def test_a_desired_state_that_could_not_be_queued_goes_out_before_the_next_ack() -> None:
    fleet = scripted_fleet("a")
    fleet.create("door", FILE, "a")
    send = Send(b"a", Desired(2, ()), fleet.devices["a"].session)

    fleet.fleet.unsent(send, gone=False)

    messages = sent(fleet.heartbeat("a"), "a")
    assert [type(message) for message in messages] == [Desired, Subscribers, HeartbeatAck]
    assert [type(message) for message in sent(fleet.heartbeat("a"), "a")] == [HeartbeatAck]


def test_a_peer_that_is_gone_is_suspect_at_once() -> None:
    fleet = scripted_fleet("a", "b")
    session = fleet.devices["a"].session

    fleet.fleet.unsent(Send(b"b", Refused("stale_session"), session), gone=True)
    assert [view.state for view in fleet.reply(ListDevices())] == ["ready", "ready"]
    fleet.fleet.unsent(Send(b"a", HeartbeatAck(1), session), gone=True)

    assert [view.state for view in fleet.reply(ListDevices())] == ["suspect", "ready"]
    assert fleet.pass_time(1) == [LogEvent("a", "suspect: cut off, silent for 0.5 s")]
    fleet.heartbeat("a")
    assert [view.state for view in fleet.reply(ListDevices())] == ["ready", "ready"]


def test_a_silent_device_is_suspect_after_three_seconds_and_lost_after_its_lease() -> None:
    fleet = scripted_fleet("a", "b")

    assert fleet.pass_time(3, alive=["b"])[-1] != LogEvent("a", "suspect: silent for 3.0 s")
    assert LogEvent("a", "suspect: silent for 3.5 s") in fleet.pass_time(0.5)
    assert fleet.reply(ListDevices())[0] == DeviceView(
        device="a",
        state="suspect",
        capacity=4,
        pipelines=0,
        agent="0.1.0",
        silent=3.5,
        load=DeviceLoad(),
    )
    fleet.pass_time(6.5, alive=["b"])
    assert fleet.reply(ListDevices())[0].state == "suspect"

    effects = fleet.pass_time(0.5)

    assert effects == [LogEvent("a", "lost: silent for 10.5 s", severity="error")]
    assert refusals(fleet.heartbeat("a")) == ["stale_session"]


def test_the_heartbeats_of_a_device_that_does_not_hear_us_renew_no_lease() -> None:
    fleet = scripted_fleet("a", "b")

    effects = []
    for _ in range(11):
        effects += fleet.pass_time(1, alive=["b"]) + fleet.heartbeat("a", deaf=True)

    assert LogEvent("a", "suspect: silent for 3.5 s") in effects
    assert LogEvent("a", "ready") not in effects
    assert LogEvent("a", "lost: silent for 10.5 s", severity="error") in effects


def test_a_device_that_hears_us_again_is_ready_again() -> None:
    fleet = scripted_fleet("a")
    fleet.pass_time(5, alive=[])
    fleet.heartbeat("a", deaf=True)

    assert fleet.reply(ListDevices())[0].state == "suspect"
    assert LogEvent("a", "ready") in fleet.heartbeat("a")


def test_a_short_lease_shortens_all_that_follows_from_it() -> None:
    config = replace(CONFIG, heartbeat=0.3, lease=3.0)
    fleet = scripted_fleet("a", config=config)
    heard = fleet.now

    effects = []
    while fleet.now < heard + 3.2:
        fleet.now += config.tick
        effects += fleet.perform(fleet.fleet.tick(fleet.now))

    assert effects[-1] == LogEvent("a", "lost: silent for 3.1 s", severity="error")
    (welcome, *_) = sent(fleet.hello("a"), "a")
    assert (welcome.heartbeat_ms, welcome.self_stop_ms) == (300, 2400)


def test_the_lease_runs_from_the_receipt_of_a_heartbeat() -> None:
    fleet = scripted_fleet("a")
    fleet.pass_time(9)

    fleet.heartbeat("a")
    fleet.pass_time(10)

    assert fleet.reply(ListDevices())[0].state == "suspect"
    fleet.heartbeat("a")
    assert fleet.reply(ListDevices())[0].state == "ready"


def test_after_a_start_nobody_is_lost_for_a_while() -> None:
    record = PipelineRecord(
        pipeline_id="door",
        generation=3,
        run_generation=2,
        desired_status="run",
        spec=CAMERA,
        requested=None,
        device="a",
        created=1,
    )
    fleet = ScriptedFleet(
        Fleet(CONFIG, EPOCH, [*devices("a", "b"), record], CountingRandomSource(), now=0, unix_time=1e6)
    )
    fleet.join("b")

    fleet.pass_time(11.5, alive=["b"])
    assert (fleet.view("door").device, fleet.view("door").status) == ("a", "unknown")

    fleet.pass_time(1, alive=["b"])
    assert (fleet.view("door").device, fleet.view("door").generation) == ("b", 4)


def test_a_former_holder_is_remembered_until_its_device_is_removed() -> None:
    fleet = scripted_fleet("a", "b", "c")
    fleet.create("door", CAMERA)
    for name in ("a", "b"):
        fleet.leave(name)

    record = fleet.fleet._state.records.pipelines["door"]
    assert (record.device, record.past) == ("c", (Tenure("a", 1), Tenure("b", 2)))
    fleet.reply(RemoveDevice("a"))

    assert fleet.fleet._state.records.pipelines["door"].past == (Tenure("b", 2),)


def test_whoever_slept_does_not_call_others_silent() -> None:
    fleet = scripted_fleet("a", "b")
    fleet.create("door", CAMERA)

    fleet.now += 60
    fleet.perform(fleet.fleet.tick(fleet.now))
    assert [view.state for view in fleet.reply(ListDevices())] == ["suspect", "suspect"]
    fleet.pass_time(5, alive=["a", "b"])

    assert [view.state for view in fleet.reply(ListDevices())] == ["ready", "ready"]
    assert fleet.view("door").generation == 1


def test_a_device_that_leaves_hands_over_at_once() -> None:
    fleet = scripted_fleet("a", "b")
    fleet.create("door", CAMERA)
    fleet.create("disk", FILE, "a")

    effects = fleet.leave("a")

    device, _ = devices("a", "b")
    before = PipelineRecord(
        pipeline_id="door",
        generation=1,
        run_generation=1,
        desired_status="run",
        spec=CAMERA,
        requested=None,
        device="a",
        created=1,
        version=1,
        created_at=CREATED,
    )
    after = replace(before, generation=2, run_generation=2, device="b", past=(Tenure("a", 1),))
    assert effects == [
        LogEvent("a", "left: stop"),
        Save(
            (
                Write("device", "a", device, replace(device, left=True)),
                Write("pipeline", "door", before, after),
            )
        ),
        Send(
            b"b",
            Desired(
                4,
                (
                    Assignment(
                        pipeline_id="door",
                        generation=2,
                        run_generation=2,
                        desired_status="run",
                        on_disconnect="stop",
                        spec=CAMERA,
                    ),
                ),
            ),
            fleet.devices["b"].session,
        ),
        LogEvent("door", "from a to b"),
    ]
    assert (fleet.view("disk").device, fleet.view("disk").status) == ("a", "pending")


def test_a_ticket_opens_as_long_as_its_session_lives() -> None:
    fleet = scripted_fleet()
    fleet.enrol(token_key(fleet, "a"), NEW_KEY)
    ticket = sent(fleet.hello("a", key=NEW_KEY), "a")[0].ticket

    assert fleet.reply(CheckTicket(ticket)) == "a"
    assert fleet.reply(CheckTicket("guess")) is None
    fleet.pass_time(20)
    assert fleet.reply(CheckTicket(ticket)) is None


SAMPLED = replace(
    CAMERA, sampling=Sampling(dataset="parts", strategies=(Random(name="some", traffic_percentage=1.0),))
)


def held(fleet: ScriptedFleet) -> dict[tuple[str, str], bool]:
    """Who may put samples of what."""
    pairs = [(name, pipeline) for name in ("a", "b") for pipeline in ("door", "gate")]
    return {pair: fleet.reply(CheckHolder(*pair)) for pair in pairs}


def test_a_device_may_put_samples_of_what_it_has_and_of_what_it_had() -> None:
    fleet = scripted_fleet("a", "b")
    fleet.create("door", SAMPLED)
    fleet.create("gate", CAMERA)
    places = {name: fleet.view(name).device for name in ("door", "gate")}
    assert held(fleet) == {(name, each): places[each] == name for name, each in held(fleet)}

    fleet.leave("a")
    fleet.obey("b")

    assert fleet.view("door").device == fleet.view("gate").device == "b"
    assert held(fleet) == {
        ("a", "door"): places["door"] == "a",  # it may have kept some
        ("a", "gate"): False,
        ("b", "door"): True,
        ("b", "gate"): True,
    }
    fleet.change("door", "stop")
    fleet.obey("b")
    assert held(fleet)["b", "door"]
    rows = [row for (kind, _), row in fleet.saved.items() if kind == "held" and row is not None]
    again = ScriptedFleet(
        Fleet(CONFIG, EPOCH + 1, (*devices("a", "b"), *rows), CountingRandomSource(), now=0, unix_time=1e6)
    )
    assert again.reply(CheckHolder("b", "door"))


def test_what_devices_had_is_bounded_and_the_oldest_goes() -> None:
    rows = [HeldRecord("a", f"p{n}", n) for n in range(1, MAX_HELD + 1)]
    fleet = scripted_fleet("a", records=rows)

    fleet.create("door", SAMPLED)

    assert fleet.reply(CheckHolder("a", "door"))
    assert not fleet.reply(CheckHolder("a", "p1"))
    assert fleet.reply(CheckHolder("a", "p2"))


def test_a_device_that_was_removed_leaves_nothing_to_the_next_of_its_name() -> None:
    fleet = scripted_fleet("a", "b", records=[HeldRecord("a", "door", 1), HeldRecord("b", "door", 2)])
    fleet.leave("a")

    fleet.reply(RemoveDevice("a"))

    assert not fleet.reply(CheckHolder("a", "door"))
    assert fleet.reply(CheckHolder("b", "door"))


def test_bytes_that_are_no_message_are_answered_with_what_was_expected() -> None:
    fleet = scripted_fleet("a")
    header, request_id, body = encode(Envelope(Bye("stop")))

    wrong: tuple[tuple[list[bytes], RefusalCode], ...] = (
        ([b"x", b"", b""], "bad_message"),
        ([b"SF\x07" + header[3:], request_id, body], "version"),
    )
    for frames, code in wrong:
        with pytest.raises(BadMessage) as caught:
            decode(frames)
        effects = fleet.perform(
            fleet.fleet.receive_malformed(DevicePeer(b"a", key_of("a")), b"", caught.value)
        )
        assert effects == [Send(b"a", Refused(code, str(caught.value)), NO_SESSION)]

    effects = fleet.perform(fleet.fleet.receive_malformed(OPERATOR, b"r" * 16, caught.value))
    assert effects == [Answer(b"operator", b"r" * 16, Error("bad_message", str(caught.value)))]


def test_a_device_may_not_say_what_the_broker_says() -> None:
    fleet = scripted_fleet("a")

    assert refusals(fleet.say("a", HeartbeatAck(1))) == ["bad_message"]


# placement ------------------------------------------------------------------------------------------------


def test_a_pipeline_goes_where_most_room_is_and_is_durable_before_anybody_hears_of_it() -> None:
    fleet = scripted_fleet("a", "b")
    fleet.create("first")

    effects = fleet.ask(CreatePipeline(pipeline_id="second", spec=CAMERA))

    record = PipelineRecord(
        pipeline_id="second",
        generation=1,
        run_generation=1,
        desired_status="run",
        spec=CAMERA,
        requested=None,
        device="b",
        created=2,
        version=1,
        created_at=CREATED,
    )
    view = PipelineView(
        pipeline_id="second",
        generation=1,
        desired_status="run",
        status="starting",
        device="b",
        pinned=False,
        spec=CAMERA,
        version=1,
        created_at=CREATED,
    )
    assignment = Assignment(
        pipeline_id="second",
        generation=1,
        run_generation=1,
        desired_status="run",
        on_disconnect="stop",
        spec=CAMERA,
    )
    assert effects == [
        Save((Write("pipeline", "second", None, record),)),
        Send(b"b", Desired(3, (assignment,)), fleet.devices["b"].session),
        LogEvent("second", "created on b"),
        Answer(b"operator", (2).to_bytes(16, "big"), Reply(view)),
    ]


def test_asking_twice_for_the_same_gets_the_same_answer() -> None:
    fleet = scripted_fleet("a")
    view = fleet.create("door")

    assert fleet.create("door") == view
    assert fleet.error(CreatePipeline(pipeline_id="door", spec=FILE)).code == "conflict"
    assert fleet.error(CreatePipeline(pipeline_id="door", spec=CAMERA, device="a")).code == "conflict"


def test_an_unknown_device_is_an_error_that_names_the_known_ones() -> None:
    fleet = scripted_fleet("a", "b")

    assert fleet.error(CreatePipeline(pipeline_id="door", spec=CAMERA, device="c")) == Error(
        "invalid", "no device c, the known ones are: a, b"
    )


def test_a_device_that_is_away_gets_its_pipeline_when_it_returns() -> None:
    fleet = scripted_fleet("a", "b")
    fleet.leave("a")

    view = fleet.create("door", CAMERA, "a")

    assert (view.device, view.status, view.pinned) == ("a", "pending", True)
    assert [each.pipeline_id for each in sent(fleet.hello("a"), "a")[1].assignments] == ["door"]
    assert fleet.view("door").status == "starting"


def test_a_full_device_takes_only_what_names_it() -> None:
    fleet = scripted_fleet("a")
    for i in range(4):
        fleet.create(f"p{i}")

    assert (fleet.create("p4").device, fleet.view("p4").status) == (None, "pending")
    assert fleet.create("p5", CAMERA, "a").device == "a"


def test_pending_pipelines_are_placed_oldest_first_when_a_device_becomes_ready() -> None:
    fleet = scripted_fleet("a", "b")
    fleet.leave("a")
    fleet.leave("b")
    for name in ("z", "y", "x"):
        assert fleet.create(name).status == "pending"

    fleet.hello("b", capacity=2)
    assert [fleet.view(name).device for name in "zyx"] == [None, None, None]
    fleet.heartbeat("b")

    assert [fleet.view(name).device for name in "zyx"] == ["b", "b", None]
    assert [view.pipeline_id for view in fleet.reply(ListPipelines())] == ["z", "y", "x"]


def test_no_device_has_more_than_the_limit() -> None:
    fleet = scripted_fleet("a")
    for i in range(MAX_PIPELINES):
        fleet.create(f"p{i}", CAMERA, "a")

    assert fleet.error(CreatePipeline(pipeline_id="one-more", spec=CAMERA, device="a")) == Error(
        "too_many", "device a has 64 pipelines already"
    )


def test_what_would_not_fit_into_one_message_is_refused() -> None:
    fleet = scripted_fleet("a")
    long = replace(CAMERA, sources=(SourceSpec("rtsp://" + "x" * 3_900),) * 5)
    for i in range(3):
        fleet.create(f"p{i}", long, "a")

    assert fleet.error(CreatePipeline(pipeline_id="one-more", spec=long, device="a")).code == "too_many"
    assert fleet.create("elsewhere", long).status == "pending"
    endless = replace(CAMERA, sources=(SourceSpec("rtsp://" + "x" * (MAX_DESIRED_SIZE // 16)),) * 16)
    assert fleet.error(CreatePipeline(pipeline_id="endless", spec=endless)).code == "invalid"


def test_pipelines_of_a_lost_device_move_and_begin_anew_and_pinned_ones_stay() -> None:
    fleet = scripted_fleet("a", "b")
    fleet.create("door", CAMERA)
    fleet.create("disk", FILE, "a")
    fleet.change("door", "pause")
    assert fleet.view("door").device == "a"
    fleet.obey("a")

    fleet.pass_time(11, alive=["b"])

    door, disk = fleet.view("door"), fleet.view("disk")
    assert (door.device, door.generation, door.desired_status, door.status) == ("b", 3, "pause", "starting")
    assert fleet.devices["b"].assignments == (
        Assignment(
            pipeline_id="door",
            generation=3,
            run_generation=3,
            desired_status="pause",
            on_disconnect="stop",
            spec=CAMERA,
        ),
    )
    assert (disk.device, disk.generation, disk.status) == ("a", 1, "unknown")
    assert [each.pipeline_id for each in sent(fleet.hello("a"), "a")[1].assignments] == ["disk"]


def test_what_nobody_can_take_stays_where_it_is_and_goes_on_there() -> None:
    fleet = scripted_fleet("a")
    fleet.create("door", CAMERA)
    fleet.obey()
    fleet.pass_time(60)
    assert fleet.view("door").status == "moving"

    fleet.hello("a", observed=fleet.devices["a"].observed)

    assert (fleet.view("door").generation, fleet.view("door").status) == (1, "running")


def test_what_continues_without_the_broker_waits_for_its_device() -> None:
    fleet = scripted_fleet("a", "b")
    assert put(fleet, on_disconnect="continue").pipeline.device == "a"
    fleet.obey("a")

    fleet.pass_time(21, alive=["b"])

    door = fleet.view("door")
    assert (door.device, door.generation, door.status, door.pinned) == ("a", 1, "unknown", True)
    assert door.reason == (
        "device a is lost, silent for 21 s;"
        " a pipeline that continues without the broker stays with its device"
    )
    assert fleet.devices["a"].assignments[0].on_disconnect == "continue"


def test_what_stops_without_the_broker_is_certainly_gone_with_its_lease() -> None:
    fleet = scripted_fleet("a")
    put(fleet, FILE, on_disconnect="stop")
    fleet.obey("a")
    assert fleet.devices["a"].assignments[0].on_disconnect == "stop"

    fleet.pass_time(21)
    done = fleet.reply(ChangePipeline("door", "stop"))

    assert isinstance(done, Changed)
    assert done.confirmed


def test_another_behavior_without_the_broker_restarts_and_the_same_one_does_not() -> None:
    fleet = scripted_fleet("a")
    first = put(fleet).pipeline

    named = put(fleet, on_disconnect="stop").pipeline  # as by default
    other = put(fleet, on_disconnect="continue").pipeline

    assert (first.version, first.generation) == (1, 1)
    assert (named.version, named.generation, named.on_disconnect) == (2, 1, "stop")
    assert (other.version, other.generation, other.on_disconnect) == (3, 2, "continue")
    assert fleet.devices["a"].assignments[0].run_generation == 2


def test_a_stream_that_ended_is_not_played_again_elsewhere() -> None:
    fleet = scripted_fleet("a", "b")
    fleet.create("door", CAMERA)
    fleet.obey("a", state=ObservedState.ENDED)

    fleet.leave("a")

    assert (fleet.view("door").device, fleet.view("door").generation) == ("a", 1)


def test_when_most_of_the_fleet_falls_silent_nothing_is_moved() -> None:
    fleet = scripted_fleet("a", "b", "c", "d", "e")
    for i in range(5):
        fleet.create(f"p{i}")
    before = [fleet.view(f"p{i}").device for i in range(5)]

    effects = fleet.pass_time(60, alive=["d", "e"])

    event = "3 of 5 devices are silent: nothing is moved until most are back"
    assert [effect for effect in effects if isinstance(effect, LogEvent) and effect.subject == "fleet"] == [
        LogEvent("fleet", event, severity="error")
    ]
    assert [fleet.view(f"p{i}").device for i in range(5)] == before

    fleet.join("a", "b")
    effects = fleet.pass_time(1, alive=["a", "b", "d", "e"])
    assert LogEvent("fleet", "pipelines of lost devices are moved again") in effects
    assert fleet.view("p2").device != "c"
    assert [fleet.view(f"p{i}").generation for i in range(5)] == [1, 1, 2, 1, 1]


def test_a_loss_in_mass_that_lasts_is_moved_in_the_end() -> None:
    fleet = scripted_fleet("a", "b", "c", "d")
    for i in range(4):
        fleet.create(f"p{i}")

    fleet.pass_time(300, alive=["d"])
    assert fleet.view("p0").device == "a"
    fleet.pass_time(20, alive=["d"])

    assert [fleet.view(f"p{i}").device for i in range(4)] == ["d"] * 4


def test_while_the_store_is_down_nothing_moves_and_heartbeats_are_acknowledged() -> None:
    fleet = scripted_fleet("a", "b")
    fleet.create("door", CAMERA)
    fleet.store_down = True

    fleet.leave("a")
    fleet.pass_time(20, alive=["b"])

    assert (fleet.view("door").device, fleet.view("door").generation) == ("a", 1)
    assert fleet.reply(ListDevices())[1].state == "ready"
    assert HeartbeatAck in map(type, sent(fleet.heartbeat("b"), "b"))
    fleet.store_down = False
    fleet.pass_time(1, alive=["b"])
    assert (fleet.view("door").device, fleet.view("door").generation) == ("b", 2)


# changes --------------------------------------------------------------------------------------------------


def test_a_change_is_durable_then_sent_and_answered_when_the_device_has_done_it() -> None:
    fleet = scripted_fleet("a")
    fleet.create("door")
    fleet.obey()

    effects = fleet.change("door", "pause", wait_ms=2000)

    before = PipelineRecord(
        pipeline_id="door",
        generation=1,
        run_generation=1,
        desired_status="run",
        spec=CAMERA,
        requested=None,
        device="a",
        created=1,
        version=1,
        created_at=CREATED,
    )
    request_id = (2).to_bytes(16, "big")
    after = replace(before, generation=2, desired_status="pause", version=2, changed_by=request_id)
    session = fleet.devices["a"].session
    assert effects == [
        Save((Write("pipeline", "door", before, after),)),
        Send(
            b"a",
            Desired(
                3,
                (
                    Assignment(
                        pipeline_id="door",
                        generation=2,
                        run_generation=1,
                        desired_status="pause",
                        on_disconnect="stop",
                        spec=CAMERA,
                    ),
                ),
            ),
            session,
        ),
        LogEvent("door", "desired status: pause"),
    ]
    fleet.devices["a"].observed = (
        Observed(pipeline_id="door", generation=1, incarnation=1, state=ObservedState.PAUSED),
    )
    assert fleet.answer(fleet.heartbeat("a")) is None
    view = PipelineView(
        pipeline_id="door",
        generation=2,
        desired_status="pause",
        status="paused",
        device="a",
        pinned=False,
        spec=CAMERA,
        observed=ObservedState.PAUSED,
    )
    view = replace(view, version=2, created_at=CREATED)
    assert fleet.obey()[1:] == [Answer(b"operator", request_id, Reply(Changed(view, True)))]


def test_whoever_waits_is_answered_when_the_time_is_over() -> None:
    fleet = scripted_fleet("a")
    fleet.create("door")
    fleet.obey()
    fleet.change("door", "pause", wait_ms=2000)

    assert fleet.answer(fleet.pass_time(1.5, alive=["a"])) is None
    answer = fleet.answer(fleet.pass_time(0.5))

    assert isinstance(answer, Reply)
    assert (answer.data.confirmed, answer.data.pipeline.status) == (False, "running")


def test_whoever_does_not_wait_is_answered_at_once() -> None:
    fleet = scripted_fleet("a")
    fleet.create("door")

    answer = fleet.answer(fleet.change("door", "pause"))

    assert isinstance(answer, Reply)
    assert answer.data.confirmed is False


def test_a_newer_change_answers_who_waits_for_an_older_one() -> None:
    fleet = scripted_fleet("a")
    fleet.create("door")
    fleet.obey()
    fleet.change("door", "pause", wait_ms=60_000)

    answers = [effect for effect in fleet.change("door", "run", 60_000) if isinstance(effect, Answer)]

    assert [(answer.request_id[-1], data_of(answer.message).confirmed) for answer in answers] == [(2, False)]
    assert data_of(fleet.answer(fleet.obey())).confirmed is True


def test_a_change_that_can_never_be_confirmed_is_answered() -> None:
    fleet = scripted_fleet("a")
    fleet.create("door", FILE, "a")
    fleet.obey()
    fleet.change("door", "pause", wait_ms=60_000)

    answer = fleet.answer(fleet.obey(state=ObservedState.ENDED))

    change = data_of(answer)
    assert (change.confirmed, change.pipeline.status) == (False, "ended")


def test_a_request_that_is_asked_again_waits_for_the_first() -> None:
    fleet = scripted_fleet("a")
    fleet.create("door")
    fleet.obey()
    request_id = b"q" * 16

    for _ in range(2):
        request = ChangePipeline("door", "pause", 5000)
        assert fleet.answer(fleet.ask(request, request_id=request_id)) is None

    assert fleet.view("door").generation == 2
    answers = [effect for effect in fleet.obey() if isinstance(effect, Answer)]
    assert [answer.request_id for answer in answers] == [request_id, request_id]


@pytest.mark.parametrize(
    ("before", "state", "desired_status", "status_"),
    [
        ("run", RUNNING, "run", "running"),
        ("run", ObservedState.RECONNECTING, "run", "reconnecting"),
        ("pause", ObservedState.PAUSED, "pause", "paused"),
        ("run", ObservedState.ENDED, "pause", "ended"),
        ("run", ObservedState.ENDED, "run", "ended"),
        ("run", ObservedState.FAILED, "pause", "failed"),
        ("pause", ObservedState.FAILED, "run", "failed"),
    ],
)
def test_an_illegal_change_is_refused_with_the_state(
    before: DesiredStatus, state: ObservedState, desired_status: DesiredStatus, status_: str
) -> None:
    fleet = scripted_fleet("a")
    fleet.create("door", FILE, "a")
    if before == "pause":
        fleet.change("door", "pause")
    fleet.obey(state=state)

    assert fleet.answer(fleet.change("door", desired_status)) == Error(
        "conflict", f"pipeline door is {status_}"
    )
    assert data_of(fleet.answer(fleet.change("door", "stop"))).pipeline.status == "stopping"


def test_many_pipelines_change_in_one_write_and_one_message_a_device() -> None:
    fleet = scripted_fleet("a", "b")
    for number in range(10):
        fleet.create(f"door-{number}", device="ab"[number % 2])
    fleet.obey("a"), fleet.obey("b")
    names = tuple(f"door-{number}" for number in range(10))

    effects = fleet.ask(ChangePipelines(names, "pause", 5000))
    first = fleet.answer(fleet.obey("a"))
    last = fleet.answer(fleet.obey("b"))

    assert [len(effect.writes) for effect in effects if isinstance(effect, Save)] == [10]
    assert [len(sent(effects, to)) for to in "ab"] == [1, 1]
    assert first is None  # the other device has not confirmed yet
    assert last == Reply(tuple(Outcome(name, confirmed=True) for name in names))


def test_of_many_changes_each_has_its_outcome() -> None:
    fleet = scripted_fleet("a")
    fleet.create("door")
    fleet.create("film", FILE, "a")
    fleet.obey(state=ObservedState.ENDED)
    fleet.create("gate")

    effects = fleet.ask(ChangePipelines(("gate", "film", "nobody", "gate"), "pause", 1000))
    assert fleet.answer(effects) is None
    late = fleet.answer(fleet.pass_time(1.1, alive=("a",)))

    assert late == Reply(
        (
            Outcome("gate"),
            Outcome("film", refusal="conflict", message="pipeline film is ended"),
            Outcome("nobody", refusal="not_found", message="no pipeline nobody"),
        )
    )
    assert fleet.reply(ChangePipelines(("film",), "restart")) == (Outcome("film", confirmed=True),)
    assert fleet.view("film").desired_status == "run"
    assert fleet.reply(ChangePipelines(("gate", "film"), "stop")) == (Outcome("gate"), Outcome("film"))
    assert [view.pipeline_id for view in fleet.reply(ListPipelines())] == ["door"]


def test_many_changes_that_the_store_did_not_take_are_answered_once() -> None:
    fleet = scripted_fleet("a")
    fleet.create("door")
    fleet.create("gate")
    fleet.obey()

    fleet.store_down = True

    assert fleet.error(ChangePipelines(("door", "gate"), "pause", 5000)).code == "store_down"
    assert [fleet.view(name).desired_status for name in ("door", "gate")] == ["run", "run"]


def test_a_stopped_pipeline_is_gone_for_operators_at_once() -> None:
    fleet = scripted_fleet("a")
    fleet.create("door")
    fleet.obey()

    fleet.change("door", "stop")

    gone = Error("not_found", "no pipeline door")
    assert fleet.error(GetPipeline("door")) == gone
    assert fleet.reply(ListPipelines()) == ()
    assert fleet.answer(fleet.change("door", "stop")) == gone
    assert fleet.error(CreatePipeline(pipeline_id="door", spec=CAMERA)) == Error(
        "conflict", "pipeline door is being stopped"
    )
    assert fleet.devices["a"].assignments == (
        Assignment(
            pipeline_id="door",
            generation=2,
            run_generation=1,
            desired_status="stop",
            on_disconnect="stop",
            spec=CAMERA,
        ),
    )


def test_a_stop_is_confirmed_by_absence_after_the_desired_state_was_applied() -> None:
    fleet = scripted_fleet("a")
    fleet.create("door")
    fleet.change("door", "stop", wait_ms=60_000)

    # The device has not even begun with it: that it does not run it proves nothing.
    assert fleet.answer(fleet.heartbeat("a", applied_revision=1)) is None
    assert fleet.answer(fleet.heartbeat("a", applied_revision=2)) is None
    effects = fleet.heartbeat("a", applied_revision=3)

    before = PipelineRecord(
        pipeline_id="door",
        generation=2,
        run_generation=1,
        desired_status="stop",
        spec=CAMERA,
        requested=None,
        device="a",
        created=1,
        changed_by=(2).to_bytes(16, "big"),
    )
    before = replace(before, version=2, created_at=CREATED)
    view = PipelineView(
        pipeline_id="door",
        generation=2,
        desired_status="stop",
        status="stopping",
        device="a",
        pinned=False,
        spec=CAMERA,
        version=2,
        created_at=CREATED,
    )
    assert effects[1:] == [
        Save((Write("pipeline", "door", before, None), Write("floor", "generation", None, FloorRecord(2)))),
        Send(b"a", Desired(4, ()), fleet.devices["a"].session),
        Answer(b"operator", (2).to_bytes(16, "big"), Reply(Changed(view, True))),
    ]


def test_a_stop_that_a_new_broker_finds_needs_its_own_confirmation() -> None:
    record = PipelineRecord(
        pipeline_id="door",
        generation=5,
        run_generation=1,
        desired_status="stop",
        spec=FILE,
        requested=None,
        device="a",
        created=1,
    )
    fleet = ScriptedFleet(
        Fleet(CONFIG, EPOCH, [*devices("a"), record], CountingRandomSource(), now=0, unix_time=1e6)
    )
    fleet.hello("a")

    assert Save not in map(type, fleet.heartbeat("a", applied_revision=0))
    assert Save in map(type, fleet.heartbeat("a", applied_revision=1))


def test_stopping_what_runs_nowhere_is_done_at_once() -> None:
    fleet = scripted_fleet()
    fleet.create("door")

    effects = fleet.change("door", "stop", wait_ms=5000)

    before = PipelineRecord(
        pipeline_id="door",
        generation=1,
        run_generation=1,
        desired_status="run",
        spec=CAMERA,
        requested=None,
        device=None,
        created=1,
        version=1,
        created_at=CREATED,
    )
    writes = (Write("pipeline", "door", before, None), Write("floor", "generation", None, FloorRecord(2)))
    assert effects[0] == Save(writes)
    assert data_of(fleet.answer(effects)).confirmed is True


@pytest.mark.parametrize(("spec", "certain"), [(CAMERA, True), (FILE, False)])
def test_a_stop_on_a_lost_device_is_certain_only_where_the_lease_has_stopped_it(
    spec: PipelineSpec, certain: bool
) -> None:
    fleet = scripted_fleet("a")
    fleet.create("door", spec)
    fleet.obey()
    fleet.pass_time(20)

    assert data_of(fleet.answer(fleet.change("door", "stop", wait_ms=5000))).confirmed is certain
    assert sent(fleet.hello("a"), "a")[1].assignments == ()


def test_a_stop_under_way_ends_with_the_device() -> None:
    fleet = scripted_fleet("a")
    fleet.create("door")
    fleet.obey()
    assert fleet.answer(fleet.change("door", "stop", wait_ms=60_000)) is None

    assert data_of(fleet.answer(fleet.leave("a"))).confirmed is True


def test_an_id_that_comes_again_has_a_higher_gen_than_ever() -> None:
    fleet = scripted_fleet("a")
    for name in ("other", "door"):
        fleet.create(name)
        fleet.obey()
    for desired_status in ("pause", "run", "stop"):
        fleet.change("door", desired_status)
        fleet.obey()

    assert fleet.create("door").generation == 5
    assert fleet.view("other").generation == 1


def test_nothing_changes_when_the_store_is_down() -> None:
    fleet = scripted_fleet("a")
    view = fleet.create("door")
    fleet.store_down = True

    down = Error("store_down", "the broker's store does not take writes; nothing was changed")
    assert fleet.error(CreatePipeline(pipeline_id="gate", spec=CAMERA)) == down
    assert fleet.error(PutModel(ModelRef("parts/1", "cd" * 32))) == down
    assert fleet.error(AddDevice("b")) == down
    assert fleet.error(AddSubscriber("wall")) == down
    assert fleet.answer(fleet.change("door", "pause")) == down
    assert fleet.answer(fleet.change("door", "stop", wait_ms=60_000)) == down

    assert fleet.reply(ListPipelines()) == (view,)
    assert fleet.reply(ListModels()) == ()
    assert fleet.answer(fleet.pass_time(61, alive=["a"])) is None


def test_a_confirmation_that_could_not_be_saved_is_saved_later() -> None:
    fleet = scripted_fleet("a")
    fleet.create("door")
    fleet.obey()
    fleet.change("door", "stop")
    fleet.store_down = True
    assert HeartbeatAck in map(type, sent(fleet.obey(), "a"))
    fleet.store_down = False
    fleet.obey()
    fleet.obey()

    assert fleet.create("door").generation == 3


def test_who_has_left_has_left_after_a_restart_of_the_broker_too() -> None:
    fleet = scripted_fleet("a", "b")
    fleet.leave("a")
    fleet.leave("b")
    fleet.hello("b")
    rows = [row for row in fleet.saved.values() if row is not None]

    again = ScriptedFleet(Fleet(CONFIG, EPOCH + 1, rows, CountingRandomSource(), now=0, unix_time=1e6))

    states = {view.device: view.state for view in again.reply(ListDevices())}
    assert states == {"a": "left", "b": "lost"}


def test_who_has_pipelines_is_expected_back_though_it_left() -> None:
    """That it came back may not have been saved yet: what it runs must not go to another."""
    fleet = scripted_fleet("a")
    fleet.create("wall", FILE, "a")
    fleet.leave("a")
    rows = [row for row in fleet.saved.values() if row is not None]

    again = ScriptedFleet(Fleet(CONFIG, EPOCH + 1, rows, CountingRandomSource(), now=0, unix_time=1e6))

    (view,) = again.reply(ListDevices())
    assert view.state == "suspect"


def test_the_figures_for_metrics_are_those_of_the_views() -> None:
    fleet = scripted_fleet("a", "b")
    for name in ("door", "gate", "old"):
        fleet.create(name)
    fleet.obey(state=ObservedState.FAILED)
    fleet.create("wall", FILE, "b")
    fleet.change("old", "stop")
    fleet.reply(AddDevice("c"))
    fleet.leave("b")

    figures = fleet.reply(GetFigures())

    assert figures.fleet == fleet.reply(GetFleet())
    assert figures.pipelines == tuple(map(PipelineFigures.of, fleet.reply(ListPipelines())))
    assert figures.devices == tuple(map(DeviceFigures.of, fleet.reply(ListDevices())))


def restarted(number: int) -> ScriptedFleet:
    """A broker that has just restarted, whose devices, a and so on, have a pipeline each."""
    names = [chr(ord("a") + each) for each in range(number)]
    fleet = scripted_fleet(*names)
    for name in names:
        fleet.create(f"door-{name}", FILE, name)
    rows = [*devices(*names)] + [row for row in fleet.saved.values() if row is not None]
    return ScriptedFleet(Fleet(CONFIG, EPOCH + 1, rows, CountingRandomSource(), now=0, unix_time=1e6))


def lost(fleet: ScriptedFleet) -> set[str]:
    """The devices that are lost."""
    return {view.device for view in fleet.reply(ListDevices()) if view.state == "lost"}


def test_nobody_is_lost_while_a_large_fleet_still_comes_back() -> None:
    fleet = restarted(6)
    for name in "abcde":
        fleet.pass_time(2.5, alive=[each for each in "abcde" if each < name])
        fleet.join(name)

    assert fleet.now > CONFIG.grace
    assert not lost(fleet)
    fleet.pass_time(CONFIG.suspect + 1.0, alive=["a", "b", "c", "d", "e"])
    assert lost(fleet) == {"f"}


def test_devices_that_come_back_one_by_one_put_no_loss_off_for_ever() -> None:
    fleet = restarted(26)
    names = [chr(ord("a") + each) for each in range(26)]
    for number, name in enumerate(names):
        if lost(fleet):
            break
        fleet.pass_time(2.5, alive=names[:number])
        fleet.join(name)

    assert MAX_GRACE * CONFIG.grace <= fleet.now <= MAX_GRACE * CONFIG.grace + 5.0


# epochs ---------------------------------------------------------------------------------------------------


def raises(effects: Iterable[Effect]) -> list[int]:
    """The epochs that are raised to."""
    return [effect.epoch for effect in effects if isinstance(effect, RaiseEpoch)]


def test_a_restored_broker_raises_its_epoch_above_that_of_a_device_before_it_answers() -> None:
    fleet = scripted_fleet("a", "b")

    effects = fleet.hello("a", seen_epoch=EPOCH + 2)

    event = "in epoch 7, and a saw 9 before: is the store a restored backup?"
    refused = Refused("stale_session", "you saw this epoch before: hello again")
    assert effects == [
        LogEvent("fleet", event, severity="error"),
        RaiseEpoch(EPOCH + 3),
        Send(b"a", refused, NO_SESSION),
    ]
    assert fleet.fleet.epoch == EPOCH + 3
    effects = fleet.hello("a", seen_epoch=EPOCH + 3)
    assert [type(message) for message in sent(effects, "a")] == [Welcome, Desired, Subscribers]
    assert fleet.devices["a"].epoch == EPOCH + 3


def test_an_epoch_is_raised_once_for_all_devices_that_saw_it() -> None:
    fleet = scripted_fleet("a", "b")
    fleet.hello("a", seen_epoch=EPOCH + 2)

    effects = fleet.hello("b", seen_epoch=EPOCH + 2)

    assert raises(effects) == []
    assert Welcome in map(type, sent(effects, "b"))


def test_a_session_of_the_epoch_before_begins_anew() -> None:
    fleet = scripted_fleet("a", "b")
    fleet.hello("a", seen_epoch=EPOCH + 2)

    assert refusals(fleet.heartbeat("b")) == ["stale_session"]
    fleet.join("a", "b")
    assert {view.state for view in fleet.reply(ListDevices())} == {"ready"}


def test_an_epoch_that_is_ours_by_chance_is_raised_too() -> None:
    """Another broker had it: its revisions are not ours, and the device would take ours for old ones."""
    fleet = ScriptedFleet(
        Fleet(CONFIG, EPOCH, devices("a", "b"), CountingRandomSource(), now=0, unix_time=1e6)
    )

    assert raises(fleet.hello("a", seen_epoch=EPOCH)) == [EPOCH + 1]
    assert refusals(fleet.hello("b", seen_epoch=EPOCH + 1)) == ["stale_session"]
    fleet.pass_time(CONFIG.lease)
    assert raises(fleet.hello("b", seen_epoch=EPOCH + 1)) == [EPOCH + 2]


def test_a_refusal_of_ours_does_not_hide_that_a_device_saw_our_epoch_elsewhere() -> None:
    fleet = ScriptedFleet(Fleet(CONFIG, EPOCH, devices("a"), CountingRandomSource(), now=0, unix_time=1e6))
    heartbeat = Envelope(
        Heartbeat(1, 0, 0, None), epoch=EPOCH, session=b"s" * 16, seq=1
    )  # in the session of another broker
    peer = DevicePeer(b"a", key_of("a"))

    assert refusals(fleet.perform(fleet.fleet.receive(peer, heartbeat, 0))) == ["stale_session"]
    assert raises(fleet.hello("a", seen_epoch=EPOCH)) == [EPOCH + 1]


def test_one_device_raises_two_epochs_and_then_no_more_for_ten_minutes() -> None:
    fleet = scripted_fleet("a", "b")
    raised = []

    for _ in range(60):
        raised += raises(fleet.hello("a", seen_epoch=fleet.fleet.epoch + 100))
        fleet.pass_time(CONFIG.lease)

    assert len(raised) == 2
    assert raises(fleet.hello("b", seen_epoch=fleet.fleet.epoch + 100))


@pytest.mark.parametrize("seen", [EPOCH, EPOCH + 2])
def test_an_epoch_that_could_not_be_saved_is_raised_later(seen: int) -> None:
    fleet = ScriptedFleet(Fleet(CONFIG, EPOCH, devices("a"), CountingRandomSource(), now=0, unix_time=1e6))
    fleet.store_down = True
    assert refusals(fleet.hello("a", seen_epoch=seen)) == ["stale_session"]
    assert fleet.fleet.epoch == EPOCH
    fleet.store_down = False
    assert refusals(fleet.hello("a", seen_epoch=seen)) == ["stale_session"]
    fleet.pass_time(CONFIG.lease)

    assert raises(fleet.hello("a", seen_epoch=seen)) == [seen + 1]


def test_one_device_cannot_make_all_sessions_begin_anew_all_the_time() -> None:
    fleet = scripted_fleet("a", "b")
    fleet.hello("a", seen_epoch=EPOCH + 2)

    assert raises(fleet.hello("a", seen_epoch=EPOCH + 9)) == []
    fleet.pass_time(CONFIG.lease)
    assert raises(fleet.hello("a", seen_epoch=EPOCH + 9)) == [EPOCH + 10]


def test_one_device_cannot_use_up_the_epochs() -> None:
    fleet = scripted_fleet("a")

    effects = fleet.hello("a", seen_epoch=2**63 - 1)

    assert raises(effects) == []
    assert LogEvent in map(type, effects)


# capacity -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("finished", [ObservedState.ENDED, ObservedState.FAILED])
def test_what_has_finished_makes_room(finished: ObservedState) -> None:
    fleet = scripted_fleet("a")
    fleet.join("a", capacity=1)
    fleet.create("clip", FILE, "a")
    fleet.create("door")
    assert fleet.view("door").device is None

    fleet.obey(state=finished)
    fleet.pass_time(0.5)

    assert fleet.view("door").device == "a"
    (device,) = fleet.reply(ListDevices())
    assert (device.capacity, device.pipelines) == (1, 1)


def test_what_has_finished_is_still_assigned_to_a_device() -> None:
    fleet = scripted_fleet("a")
    fleet.join("a", capacity=1000)
    for number in range(MAX_PIPELINES):
        fleet.create(f"clip-{number}", FILE, "a")
    fleet.obey(state=ObservedState.ENDED)

    assert fleet.create("door").device is None
    assert fleet.error(CreatePipeline(pipeline_id="gate", spec=FILE, device="a")).code == "too_many"


# why a pipeline does not run ------------------------------------------------------------------------------


def test_without_a_ready_device_a_pipeline_says_so() -> None:
    fleet = scripted_fleet()

    assert fleet.create("door").reason == "no device is ready"


def test_a_pipeline_without_a_device_says_who_is_full() -> None:
    fleet = scripted_fleet("a", "b", "c", "d", "e")
    fleet.join("a", "b", "c", "d", "e", capacity=1)
    for number in range(5):
        fleet.create(f"p{number}")

    view = fleet.create("door")

    assert view.status == "pending"
    assert view.reason == "no device has room: a runs 1 of 1, b runs 1 of 1, c runs 1 of 1, and 2 more"


def test_a_pipeline_that_has_just_got_room_says_where_it_goes() -> None:
    fleet = scripted_fleet("a")
    fleet.join("a", capacity=1)
    fleet.create("gate")
    fleet.create("door")
    fleet.change("gate", "stop")
    fleet.obey()

    assert fleet.view("door").reason == "it is about to go to a"
    fleet.pass_time(0.5)
    assert (fleet.view("door").device, fleet.view("door").reason) == ("a", "")


@pytest.mark.parametrize(
    ("spec", "device", "why"),
    [
        (FILE, None, "a file waits for its device"),
        (replace(FILE, sources=(SourceSpec(0),)), None, "a local camera waits for its device"),
        (CAMERA, "a", "a pipeline that names its device waits for it"),
    ],
)
def test_a_pinned_pipeline_says_how_long_its_device_is_silent(
    spec: PipelineSpec, device: str | None, why: str
) -> None:
    fleet = scripted_fleet("a")
    fleet.create("door", spec, device)
    fleet.obey()

    fleet.pass_time(5)
    assert (fleet.view("door").status, fleet.view("door").reason) == ("unknown", "device a is silent for 5 s")
    fleet.pass_time(16)
    assert fleet.view("door").reason == f"device a is lost, silent for 21 s; {why}"
    fleet.hello("a")
    fleet.leave("a")
    assert fleet.view("door").reason == f"device a has left; {why}"


def test_a_movable_pipeline_says_why_it_does_not_move() -> None:
    fleet = scripted_fleet("a")
    fleet.create("door")
    fleet.obey()
    fleet.pass_time(21)

    assert fleet.view("door").status == "moving"
    assert fleet.view("door").reason == "device a is lost, silent for 21 s, and no other device is ready"


def test_a_movable_pipeline_says_that_the_others_are_full() -> None:
    fleet = scripted_fleet("a", "b")
    fleet.join("b", capacity=1)
    fleet.create("wall", FILE, "b")
    fleet.create("door")
    fleet.obey()

    fleet.leave("a")

    assert fleet.view("door").reason == "device a has left, and no other device has room: b runs 1 of 1"


def test_a_pipeline_of_a_device_that_never_joined_says_so() -> None:
    fleet = scripted_fleet()
    fleet.enrol(token_key(fleet, "edge-1"), NEW_KEY)

    view = fleet.create("door", CAMERA, "edge-1")

    assert (view.status, view.reason) == ("pending", "its device edge-1 has not joined yet")


def test_a_new_broker_says_that_it_has_not_heard_a_device() -> None:
    record = PipelineRecord(
        pipeline_id="door",
        generation=5,
        run_generation=1,
        desired_status="run",
        spec=FILE,
        requested=None,
        device="a",
        created=1,
    )
    fleet = ScriptedFleet(
        Fleet(CONFIG, EPOCH, [*devices("a"), record], CountingRandomSource(), now=0, unix_time=1e6)
    )

    assert fleet.view("door").reason == "device a is not heard since the broker began"


def test_while_the_fleet_is_silent_a_pipeline_says_that_nothing_is_moved() -> None:
    fleet = scripted_fleet("a", "b", "c")
    fleet.create("door")
    fleet.obey()
    fleet.pass_time(21)

    assert fleet.view("door").reason == (
        "device a is lost, silent for 21 s, and nothing is moved while most of the fleet is silent"
    )


def test_a_pipeline_of_a_device_that_is_there_says_what_the_device_said() -> None:
    fleet = scripted_fleet("a")
    fleet.create("door")
    fleet.devices["a"].observed = (
        Observed(
            pipeline_id="door",
            generation=1,
            incarnation=1,
            state=ObservedState.BACKOFF,
            reason="no such host",
        ),
    )
    fleet.heartbeat("a")

    assert (fleet.view("door").status, fleet.view("door").reason) == ("backoff", "no such host")


def test_what_has_ended_has_ended_wherever_its_device_is() -> None:
    fleet = scripted_fleet("a")
    fleet.create("door")
    fleet.obey(state=ObservedState.ENDED)

    fleet.pass_time(21)

    assert (fleet.view("door").status, fleet.view("door").reason) == ("ended", "")


# everything else ------------------------------------------------------------------------------------------


def test_a_new_subscriber_is_let_in_and_told_to_every_device() -> None:
    fleet = scripted_fleet("a")

    effects = fleet.ask(AddSubscriber("wall"))

    public, secret = f"public {3:033}", f"secret {3:033}"
    subscription = Subscription(
        name="wall",
        endpoint="tcp://10.0.0.1:7774",
        server_key=CONFIG.broker_key,
        public_key=public,
        secret_key=secret,
        endpoints=CONFIG.subscribe_endpoints,
    )
    assert effects == [
        Save((Write("subscriber", "wall", None, SubscriberRecord("wall", public)),)),
        SetAllowedKeys("relay-out", frozenset({public, "O" * 40})),
        LogEvent("wall", "may subscribe"),
        Send(b"a", Subscribers(2, (public,)), fleet.devices["a"].session),
        Answer(b"operator", (1).to_bytes(16, "big"), Reply(subscription)),
    ]


def test_a_subscriber_is_told_where_a_device_itself_publishes_and_with_which_key() -> None:
    fleet = scripted_fleet("a", "b")
    fleet.hello("b", publish="tcp://10.0.0.7:7780", publish_also=("tcp://10.1.0.7:7780",))

    direct = fleet.reply(AddSubscriber("wall", "b"))
    without, nobody = fleet.error(AddSubscriber("wall", "a")), fleet.error(AddSubscriber("wall", "z"))

    assert (direct.endpoint, direct.server_key) == ("tcp://10.0.0.7:7780", key_of("b"))
    assert direct.endpoints == ("tcp://10.0.0.7:7780", "tcp://10.1.0.7:7780")
    assert without == Error(
        "invalid", "device a has no PUB socket of its own; start its worker with --publish-port"
    )
    assert nobody == Error("invalid", "no device z, the known ones are: a, b")


def test_a_model_is_named_and_named_otherwise() -> None:
    fleet = scripted_fleet()
    first, second = ModelRef("b/1", "ab" * 32), ModelRef("b/1", "cd" * 32)

    assert fleet.reply(PutModel(first)) == first
    assert fleet.answer(fleet.ask(PutModel(first))) == Reply(first)
    assert Save not in map(type, fleet.effects)
    fleet.reply(PutModel(second))
    fleet.reply(PutModel(ModelRef("a/1", "ef" * 32)))

    assert fleet.reply(ListModels()) == (ModelRef("a/1", "ef" * 32), second)


def test_the_fleet_counts_itself() -> None:
    fleet = scripted_fleet("a", "b")
    fleet.create("door")
    fleet.leave("b")

    assert fleet.reply(GetFleet()) == FleetView(
        epoch=EPOCH, uptime=13.0, devices_ready=1, devices=2, pipelines=1
    )


@pytest.mark.parametrize(
    ("message", "code", "text"),
    [
        (Request("exec"), "bad_message", "expected one of device.add, "),
        (Request("pipeline.get", {"pipeline_id": "../x"}), "invalid", "pipeline.get: "),
        (Request("pipeline.get"), "invalid", "pipeline_id"),
        (Reply(), "bad_message", "expected a Request, got Reply"),
    ],
)
def test_a_wrong_request_is_answered_with_what_was_expected(
    message: Request | Reply, code: str, text: str
) -> None:
    fleet = scripted_fleet()

    answer = fleet.answer(fleet.perform(fleet.fleet.receive(OPERATOR, Envelope(message), fleet.now)))

    assert isinstance(answer, Error)
    assert answer.code == code
    assert text in answer.message


@pytest.mark.parametrize(
    ("reference", "movable"),
    [
        ("rtsp://10.0.0.9/door", True),
        ("HTTP://10.0.0.9/door.mjpg", True),
        (TEST_PATTERN, True),
        (0, False),
        ("0", False),
        ("/dev/video0", False),
        ("/videos/street.mp4", False),
        ("street.mp4", False),
        ("file:///videos/street.mp4", False),
    ],
)
def test_what_another_device_could_open_may_move(reference: str | int, movable: bool) -> None:
    assert is_movable(reference) is movable


@pytest.mark.parametrize(
    ("desired_status", "device", "observed", "expected"),
    [
        ("run", None, None, "pending"),
        ("run", "new", None, "pending"),
        ("run", "left", RUNNING, "pending"),
        ("run", "syncing", None, "starting"),
        ("run", "ready", None, "starting"),
        ("run", "ready", RUNNING, "running"),
        ("pause", "ready", RUNNING, "running"),
        ("pause", "ready", ObservedState.PAUSED, "paused"),
        ("run", "ready", ObservedState.RECONNECTING, "reconnecting"),
        ("run", "ready", ObservedState.CRASHED, "backoff"),
        ("run", "ready", ObservedState.BACKOFF, "backoff"),
        ("run", "ready", ObservedState.FAILED, "failed"),
        ("run", "ready", ObservedState.ENDED, "ended"),
        ("run", "suspect", RUNNING, "unknown"),
        ("run", "lost", RUNNING, "moving"),
        ("run", "quarantined", RUNNING, "moving"),
        ("stop", "ready", RUNNING, "stopping"),
        ("stop", "lost", RUNNING, "stopping"),
    ],
)
def test_one_word_for_what_is_desired_and_observed(
    desired_status: DesiredStatus,
    device: DeviceState | None,
    observed: ObservedState | None,
    expected: PipelineStatus,
) -> None:
    record = PipelineRecord(
        pipeline_id="door",
        generation=2,
        run_generation=1,
        desired_status=desired_status,
        spec=CAMERA,
        requested=None,
        device="a",
        created=1,
    )
    seen = (
        None
        if observed is None
        else Observed(pipeline_id="door", generation=2, incarnation=1, state=observed)
    )

    assert status(record, device, seen) == expected
    if expected == "moving":
        assert status(replace(record, requested="a"), device, seen) == "unknown"


def test_a_playing_that_is_over_says_nothing_of_the_next() -> None:
    fleet = scripted_fleet("a")
    fleet.create("door")
    fleet.obey(state=ObservedState.ENDED)
    fleet.enrol(token_key(fleet, "a"), NEW_KEY)

    fleet.hello("a", key=NEW_KEY, observed=fleet.devices["a"].observed)

    assert fleet.view("door").status == "starting"


# putting, restarting --------------------------------------------------------------------------------------


QUICKER = replace(CAMERA, max_fps=30.0, confidence=0.7)
GATE = replace(CAMERA, sources=(SourceSpec("rtsp://10.0.0.9/gate"),))


def put(fleet: ScriptedFleet, spec: PipelineSpec = CAMERA, **changes: Any) -> Put:
    """Make the pipeline `door` exactly so."""
    done = fleet.reply(PutPipeline(pipeline_id="door", spec=spec, **changes))
    assert isinstance(done, Put)
    return done


def test_putting_makes_what_is_not_there_and_putting_it_again_changes_nothing() -> None:
    fleet = scripted_fleet("a")

    first = put(fleet, labels={"line": "2"}, desired_status="pause")
    again = put(fleet, labels={"line": "2"}, desired_status="pause")

    assert (first.created, first.changed, first.pipeline.version, first.pipeline.generation) == (
        True,
        True,
        1,
        1,
    )
    assert fleet.devices["a"].assignments == (
        Assignment(
            pipeline_id="door",
            generation=1,
            run_generation=1,
            desired_status="pause",
            on_disconnect="stop",
            spec=CAMERA,
        ),
    )
    assert again == replace(first, created=False, changed=False)
    assert Save not in map(type, fleet.effects)


def test_what_no_device_is_told_of_changes_the_version_alone() -> None:
    fleet = scripted_fleet("a")
    fleet.reply(LabelDevice("a", {"site": "hall-1"}))
    put(fleet)

    done = put(fleet, labels={"line": "2"}, selector={"site": "hall-1"})

    assert (done.changed, done.pipeline.version, done.pipeline.generation) == (True, 2, 1)
    assert (done.pipeline.labels, done.pipeline.selector) == ({"line": "2"}, {"site": "hall-1"})
    assert sent(fleet.effects, "a") == []


def test_what_plays_alike_changes_as_it_plays() -> None:
    fleet = scripted_fleet("a")
    put(fleet)
    fleet.obey()

    done = put(fleet, QUICKER, desired_status="pause")

    assert (done.pipeline.version, done.pipeline.status) == (2, "running")
    assert fleet.devices["a"].assignments == (
        Assignment(
            pipeline_id="door",
            generation=2,
            run_generation=1,
            desired_status="pause",
            on_disconnect="stop",
            spec=QUICKER,
        ),
    )


@pytest.mark.parametrize(
    "spec",
    [GATE, FILE],
)
def test_another_source_begins_anew_on_the_same_device(spec: PipelineSpec) -> None:
    fleet = scripted_fleet("a", "b")
    put(fleet)
    fleet.obey()

    done = put(fleet, spec)

    assert (done.pipeline.device, done.pipeline.generation, done.pipeline.status) == ("a", 2, "starting")
    assert [each.run_generation for each in fleet.devices["a"].assignments] == [2]


@pytest.mark.parametrize(
    ("state", "run_generation"),
    [(ObservedState.RUNNING, 1), (ObservedState.FAILED, 2), (ObservedState.ENDED, 2)],
)
def test_another_model_goes_on_with_the_run_unless_it_is_over(
    state: ObservedState, run_generation: int
) -> None:
    fleet = scripted_fleet("a", "b")
    put(fleet)
    fleet.obey(state=state)

    done = put(fleet, replace(CAMERA, model=ModelRef("parts/2", "cd" * 32)))

    assert (done.pipeline.device, done.pipeline.generation) == ("a", 2)
    assert [each.run_generation for each in fleet.devices["a"].assignments] == [run_generation]


@pytest.mark.parametrize(
    ("state", "run_generation"),
    [(ObservedState.RUNNING, 1), (ObservedState.FAILED, 2), (ObservedState.ENDED, 2)],
)
def test_another_model_of_a_stage_goes_on_with_the_run_unless_it_is_over(
    state: ObservedState, run_generation: int
) -> None:
    stage = Stage(name="text", model=CAMERA.model)
    fleet = scripted_fleet("a", "b")
    put(fleet, replace(CAMERA, stages=(stage,)))
    fleet.obey(state=state)

    put(fleet, replace(CAMERA, stages=(replace(stage, model=ModelRef("parts/2", "cd" * 32)),)))

    assert [each.run_generation for each in fleet.devices["a"].assignments] == [run_generation]


def test_another_rule_of_a_stage_begins_anew() -> None:
    stage = Stage(name="text", model=CAMERA.model)
    fleet = scripted_fleet("a", "b")
    put(fleet, replace(CAMERA, stages=(stage,)))
    fleet.obey()

    put(fleet, replace(CAMERA, stages=(replace(stage, max_objects=3),)))

    assert [each.run_generation for each in fleet.devices["a"].assignments] == [2]


def test_naming_the_device_where_it_runs_makes_it_stay_there() -> None:
    """Whether it goes on when its device is cut off is a matter of its start."""
    fleet = scripted_fleet("a", "b")
    put(fleet)
    fleet.obey()

    put(fleet, device="a")

    assert fleet.devices["a"].assignments == (
        Assignment(
            pipeline_id="door",
            generation=2,
            run_generation=2,
            desired_status="run",
            on_disconnect="continue",
            spec=CAMERA,
        ),
    )
    put(fleet, FILE, device="a")
    generation = fleet.view("door").generation
    put(fleet, FILE)
    assert (fleet.view("door").generation, fleet.view("door").requested) == (generation, None)


@pytest.mark.parametrize("state", [ObservedState.ENDED, ObservedState.FAILED])
def test_a_file_is_not_played_again_because_a_threshold_changed(state: ObservedState) -> None:
    fleet = scripted_fleet("a")
    put(fleet, FILE)
    fleet.obey(state=state)

    done = put(fleet, replace(FILE, confidence=0.7), wait_ms=5000)

    assert (done.pipeline.status, done.confirmed, done.pipeline.generation) == (state.value, False, 2)
    assert put(fleet, replace(GATE, confidence=0.7)).pipeline.status == "starting"


def test_putting_waits_until_the_device_has_done_it() -> None:
    fleet = scripted_fleet("a")
    assert fleet.answer(fleet.ask(PutPipeline(pipeline_id="door", spec=CAMERA, wait_ms=5000))) is None
    assert data_of(fleet.answer(fleet.obey())).confirmed is True

    assert fleet.answer(fleet.ask(PutPipeline(pipeline_id="door", spec=QUICKER, wait_ms=5000))) is None
    answer = fleet.answer(fleet.obey())

    assert isinstance(answer, Reply)
    assert (answer.data.created, answer.data.changed, answer.data.confirmed) == (False, True, True)
    assert put(fleet, QUICKER, wait_ms=5000).confirmed is True


def test_putting_under_a_version_that_is_not_the_present_one_is_refused() -> None:
    fleet = scripted_fleet("a")
    assert fleet.error(PutPipeline(pipeline_id="door", spec=CAMERA, expected=1)) == Error(
        "conflict", "pipeline door is not there, expected version 1"
    )
    put(fleet)
    fleet.change("door", "pause")

    error = fleet.error(PutPipeline(pipeline_id="door", spec=GATE, expected=1))

    assert error == Error("conflict", "pipeline door has version 2, expected version 1")
    assert put(fleet, GATE, expected=2).pipeline.version == 3


def test_a_put_whose_answer_got_lost_is_answered_as_before() -> None:
    fleet = scripted_fleet("a")
    request = PutPipeline(pipeline_id="door", spec=CAMERA)
    put(fleet)
    changed = PutPipeline(pipeline_id="door", spec=GATE, expected=1)

    first = fleet.answer(fleet.ask(changed, request_id=b"q" * 16))
    again = fleet.answer(fleet.ask(changed, request_id=b"q" * 16))

    assert isinstance(again, Reply)
    assert again == first
    assert data_of(fleet.answer(fleet.ask(request, request_id=b"r" * 16))).pipeline.version == 3


def test_what_is_being_stopped_is_not_put() -> None:
    fleet = scripted_fleet("a")
    put(fleet)
    fleet.change("door", "stop")

    assert fleet.error(PutPipeline(pipeline_id="door", spec=CAMERA)) == Error(
        "conflict", "pipeline door is being stopped"
    )


def test_a_put_that_the_store_did_not_take_is_no_change() -> None:
    fleet = scripted_fleet("a")
    before = put(fleet).pipeline
    fleet.store_down = True

    for wait_ms in (0, 5000):
        answer = fleet.answer(
            fleet.ask(PutPipeline(pipeline_id="door", spec=CAMERA, labels={"x": "y"}, wait_ms=wait_ms))
        )
        assert isinstance(answer, Error)
        assert answer.code == "store_down"

    assert fleet.view("door") == before
    assert fleet.answer(fleet.obey()) is None


def test_restarting_begins_anew_whatever_it_did() -> None:
    fleet = scripted_fleet("a")
    fleet.create("door", FILE)
    for state in (RUNNING, ObservedState.PAUSED, ObservedState.ENDED, ObservedState.FAILED):
        fleet.obey(state=state)
        assert fleet.reply(RestartPipeline("door")).status == "starting"

    assert [
        (each.generation, each.run_generation, each.desired_status) for each in fleet.devices["a"].assignments
    ] == [(5, 5, "run")]
    for _ in range(2):
        fleet.ask(RestartPipeline("door"), request_id=b"q" * 16)
    assert fleet.view("door").generation == 6
    assert fleet.error(RestartPipeline("gate")).code == "not_found"


# creating under a key -------------------------------------------------------------------------------------


def test_a_request_under_a_key_makes_one_pipeline_however_often_it_is_made() -> None:
    fleet = scripted_fleet("a")

    first = fleet.reply(CreatePipeline(pipeline_id="one", spec=CAMERA, key="k", digest="d"))
    row = KeyRecord("k", "d", "one", CREATED)
    assert fleet.saved["key", "k"] == row
    again = fleet.reply(CreatePipeline(pipeline_id="two", spec=CAMERA, key="k", digest="d"))

    assert again == first
    assert [view.pipeline_id for view in fleet.reply(ListPipelines())] == ["one"]


def test_another_request_under_the_same_key_is_refused() -> None:
    fleet = scripted_fleet("a")
    fleet.reply(CreatePipeline(pipeline_id="one", spec=CAMERA, key="k", digest="d"))

    assert fleet.error(CreatePipeline(pipeline_id="two", spec=GATE, key="k", digest="e")).code == "mismatch"
    fleet.change("one", "stop")
    assert fleet.error(CreatePipeline(pipeline_id="two", spec=CAMERA, key="k", digest="d")) == Error(
        "conflict", "pipeline one was created with this key and has been deleted"
    )


def test_a_key_is_kept_for_a_day_and_after_a_restart_of_the_broker() -> None:
    record = PipelineRecord(
        pipeline_id="one",
        generation=1,
        run_generation=1,
        desired_status="run",
        spec=CAMERA,
        requested=None,
        device="a",
        created=1,
    )
    rows: list[Record] = [*devices("a"), record, KeyRecord("k", "d", "one", 1e6 - 86_390)]
    fleet = ScriptedFleet(Fleet(CONFIG, EPOCH, rows, CountingRandomSource(), now=0, unix_time=1e6))

    assert (
        fleet.reply(CreatePipeline(pipeline_id="two", spec=CAMERA, key="k", digest="d")).pipeline_id == "one"
    )
    fleet.now = 11
    assert (
        fleet.reply(CreatePipeline(pipeline_id="two", spec=CAMERA, key="k", digest="d")).pipeline_id == "two"
    )


def test_of_too_many_keys_the_oldest_go() -> None:
    rows = [KeyRecord(f"k{n}", "d", "one", 1e6 - n) for n in range(MAX_KEYS)]
    fleet = ScriptedFleet(Fleet(CONFIG, EPOCH, rows, CountingRandomSource(), now=0, unix_time=1e6))

    fleet.reply(CreatePipeline(pipeline_id="two", spec=CAMERA, key="new", digest="d"))

    gone = [key for (kind, key), row in fleet.saved.items() if kind == "key" and row is None]
    assert gone == [f"k{MAX_KEYS - 1}"]


# labels and moving ----------------------------------------------------------------------------------------


def labelled(**labels: str) -> ScriptedFleet:
    """Devices that are ready, each with this site."""
    fleet = scripted_fleet(*labels)
    for name, site in labels.items():
        fleet.reply(LabelDevice(name, {"site": site}))
    return fleet


def create_at(
    fleet: ScriptedFleet, site: str, pipeline_id: str = "door", spec: PipelineSpec = CAMERA
) -> PipelineView:
    view = fleet.reply(CreatePipeline(pipeline_id=pipeline_id, spec=spec, selector={"site": site}))
    assert isinstance(view, PipelineView)
    return view


def test_a_pipeline_goes_only_where_its_selector_is_met() -> None:
    fleet = labelled(a="yard", b="hall-1", c="hall-1")

    assert [create_at(fleet, "hall-1", f"p{n}").device for n in range(4)] == ["b", "c", "b", "c"]
    assert create_at(fleet, "roof").reason == "no device has the labels site=roof"
    fleet.leave("a")
    assert create_at(fleet, "yard", "q").reason == "no device with the labels site=yard is ready"
    fleet.join("b", "c", capacity=1)
    reason = "no device with the labels site=hall-1 has room: b runs 2 of 1, c runs 2 of 1"
    assert create_at(fleet, "hall-1", "r").reason == reason


def test_a_named_device_must_meet_the_selector() -> None:
    fleet = labelled(a="yard")
    text = "device a does not have the labels site=hall-1"

    create = CreatePipeline(pipeline_id="door", spec=CAMERA, device="a", selector={"site": "hall-1"})
    assert fleet.error(create) == Error("invalid", text)
    put(fleet, device="a")
    assert (
        fleet.error(
            PutPipeline(pipeline_id="door", spec=CAMERA, device="a", selector={"site": "hall-1"})
        ).message
        == text
    )


def test_labels_are_durable_and_outlive_a_new_enrolment() -> None:
    fleet = labelled(a="yard")
    fleet.enrol(token_key(fleet, "a"), NEW_KEY)

    assert fleet.reply(GetDevice("a")).labels == {"site": "yard"}
    assert fleet.saved["device", "a"] == DeviceRecord(
        device="a", public_key=NEW_KEY, short_id=1, labels={"site": "yard"}
    )
    assert fleet.error(LabelDevice("z", {})) == Error("not_found", "no device z, the known ones are: a")


def test_a_pipeline_waits_for_the_device_that_it_is_taken_from() -> None:
    fleet = labelled(a="hall-1", b="yard")
    create_at(fleet, "hall-1")
    fleet.obey()
    fleet.reply(LabelDevice("b", {"site": "hall-1"}))

    fleet.reply(LabelDevice("a", {}))

    view = fleet.view("door")
    assert (view.device, view.status, view.generation, view.version) == ("b", "moving", 3, 1)
    assert view.reason == "it goes to b when device a has stopped it"
    assert (fleet.assignments("a"), fleet.assignments("b")) == ((), ())
    fleet.obey("b")
    assert fleet.assignments("b") == ()
    fleet.obey("a")
    assert fleet.assignments("b") == (
        Assignment(
            pipeline_id="door",
            generation=3,
            run_generation=3,
            desired_status="run",
            on_disconnect="stop",
            spec=CAMERA,
        ),
    )
    fleet.obey("b")
    assert fleet.view("door").status == "running"


def test_absence_proves_nothing_before_the_device_has_heard_of_it() -> None:
    fleet = scripted_fleet("a", "b")
    put(fleet, device="a")
    put(fleet, device="b")

    fleet.heartbeat("a", applied_revision=1)
    fleet.heartbeat("a", applied_revision=2)
    assert fleet.assignments("b") == ()
    fleet.heartbeat("a", applied_revision=3)

    assert [each.pipeline_id for each in fleet.assignments("b")] == ["door"]


def test_a_pipeline_is_not_waited_for_longer_than_the_lease_of_the_device_it_leaves() -> None:
    fleet = scripted_fleet("a", "b")
    put(fleet)
    fleet.obey()
    fleet.pass_time(4, alive=["b"])

    put(fleet, device="b")

    reason = "it goes to b when device a has stopped it, which is silent for 4 s"
    assert (fleet.view("door").status, fleet.view("door").reason) == ("moving", reason)
    fleet.pass_time(6, alive=["b"])
    assert fleet.assignments("b") == ()
    fleet.pass_time(0.5, alive=["b"])
    assert [each.generation for each in fleet.assignments("b")] == [2]


def test_a_device_that_leaves_gives_up_what_was_taken_from_it() -> None:
    fleet = scripted_fleet("a", "b")
    put(fleet)
    fleet.obey()
    put(fleet, device="b")

    fleet.leave("a")

    assert [each.generation for each in fleet.devices["b"].assignments] == [2]


def test_a_new_broker_waits_for_the_device_that_a_pipeline_is_taken_from() -> None:
    record = PipelineRecord(
        pipeline_id="door",
        generation=4,
        run_generation=4,
        desired_status="run",
        spec=CAMERA,
        requested="b",
        device="b",
        created=1,
        leaving="a",
    )
    fleet = ScriptedFleet(
        Fleet(CONFIG, EPOCH, [*devices("a", "b"), record], CountingRandomSource(), now=0, unix_time=1e6)
    )
    fleet.join("b")
    assert fleet.view("door").status == "moving"
    assert fleet.assignments("b") == ()

    fleet.hello("a", observed=[Observed(pipeline_id="door", generation=3, incarnation=1, state=RUNNING)])
    fleet.heartbeat("a")
    assert fleet.assignments("b") == ()
    fleet.obey("a")

    assert [each.generation for each in fleet.assignments("b")] == [4]


def test_who_changes_his_mind_gets_it_back_where_it_was() -> None:
    fleet = scripted_fleet("a", "b")
    put(fleet)
    fleet.obey()
    put(fleet, device="b")

    put(fleet, device="a")

    assert fleet.devices["a"].assignments == (
        Assignment(
            pipeline_id="door",
            generation=3,
            run_generation=3,
            desired_status="run",
            on_disconnect="continue",
            spec=CAMERA,
        ),
    )
    fleet.obey()
    assert (fleet.view("door").status, fleet.devices["b"].assignments) == ("running", ())


def test_what_is_stopped_while_it_moves_is_stopped_where_it_was() -> None:
    fleet = scripted_fleet("a", "b")
    put(fleet)
    fleet.obey()
    put(fleet, device="b")

    assert fleet.answer(fleet.change("door", "stop", wait_ms=5000)) is None
    assert fleet.answer(fleet.obey("b")) is None
    answer = fleet.answer(fleet.obey("a"))

    assert isinstance(answer, Reply)
    assert answer.data.confirmed is True
    assert fleet.assignments("b") == ()
    assert fleet.create("door").generation == 4


def test_several_that_leave_a_device_are_given_free_together() -> None:
    fleet = labelled(a="hall-1", b="yard")
    for name in ("p", "q", "r"):
        create_at(fleet, "hall-1", name)
    fleet.obey()
    fleet.reply(LabelDevice("a", {}))
    assert [fleet.view(name).device for name in "pqr"] == [None] * 3

    fleet.obey("a")
    reason = "no device has the labels site=hall-1"
    assert [fleet.view(name).reason for name in "pqr"] == [reason] * 3
    fleet.reply(LabelDevice("b", {"site": "hall-1"}))

    assert [each.generation for each in fleet.devices["b"].assignments] == [3, 3, 3]


def test_what_may_not_move_stays_where_the_labels_are_gone() -> None:
    fleet = labelled(a="hall-1", b="yard")
    create_at(fleet, "hall-1", "disk", FILE)
    create_at(fleet, "hall-1", "seen", CAMERA)
    fleet.obey(state=ObservedState.ENDED)

    fleet.reply(LabelDevice("a", {}))

    assert [fleet.view(name).device for name in ("disk", "seen")] == ["a", "a"]
    fleet.reply(PutPipeline(pipeline_id="disk", spec=FILE, selector={"site": "yard"}))
    assert fleet.view("disk").device == "b"


def test_a_pipeline_with_one_source_that_is_bound_to_a_device_is_bound_to_it() -> None:
    fleet = scripted_fleet("a", "b")
    both = replace(CAMERA, sources=(SourceSpec("rtsp://10.0.0.9/door"), SourceSpec(0)))
    fleet.create("door", both)
    fleet.obey()

    fleet.pass_time(20, alive=["b"])

    assert (fleet.view("door").device, fleet.view("door").pinned) == ("a", True)
    assert fleet.view("door").reason.endswith("; source 1, a local camera, waits for its device")


# removing -------------------------------------------------------------------------------------------------


def test_a_device_that_is_needed_is_not_removed() -> None:
    fleet = scripted_fleet("a")
    fleet.create("disk", FILE)
    needed = "device a has pipelines: end disk, or put them on another device"
    assert fleet.error(RemoveDevice("a")) == Error("conflict", needed)

    fleet.leave("a")

    assert fleet.error(RemoveDevice("a")) == Error("conflict", needed)
    assert fleet.error(RemoveDevice("b")).code == "not_found"


def test_a_removed_device_is_refused_and_may_enrol_anew() -> None:
    fleet = scripted_fleet("a", "b")
    one_time = token_key(fleet, "a")
    fleet.leave("a")

    effects = fleet.ask(RemoveDevice("a"))

    assert SetAllowedKeys("devices", frozenset({key_of("b")})) in effects
    assert SetAllowedKeys("relay-in", frozenset({key_of("b")})) in effects
    assert fleet.answer(effects) == Reply(None)
    assert [view.device for view in fleet.reply(ListDevices())] == ["b"]
    assert refusals(fleet.hello("a")) == ["revoked"]
    assert refusals(fleet.enrol(one_time, NEW_KEY)) == ["token_used"]
    assert refusals(fleet.enrol(token_key(fleet, "a"), NEW_KEY)) == []


def test_a_device_that_is_here_is_told_that_it_is_removed_and_its_pipelines_go_on_elsewhere() -> None:
    fleet = scripted_fleet("a", "b")
    fleet.create("door", CAMERA)
    fleet.create("disk", FILE, "a")
    fleet.obey()
    assert fleet.view("door").device == "a"
    welcome = sent(fleet.hello("a"), "a")[0]
    assert isinstance(welcome, Welcome)
    fleet.obey("a")
    fleet.change("disk", "stop")

    effects = fleet.ask(RemoveDevice("a"))

    assert refusals(effects) == ["revoked"]
    assert fleet.answer(effects) == Reply(None)
    assert fleet.reply(CheckTicket(welcome.ticket)) is None
    assert [view.device for view in fleet.reply(ListDevices())] == ["b"]
    assert [each.pipeline_id for each in fleet.devices["b"].assignments] == ["door"]
    assert fleet.error(GetPipeline("disk")).code == "not_found"
    assert refusals(fleet.heartbeat("a")) == ["revoked"]


def test_a_device_is_removed_while_a_pipeline_is_taken_from_it_or_is_about_to_come() -> None:
    fleet = scripted_fleet("a", "b", "c")
    fleet.create("door", CAMERA, "a")
    fleet.create("gate", CAMERA, "b")
    fleet.obey()
    fleet.reply(PutPipeline(pipeline_id="door", spec=CAMERA, device="b"))
    fleet.reply(PutPipeline(pipeline_id="gate", spec=CAMERA, device="a"))

    fleet.reply(PutPipeline(pipeline_id="gate", spec=CAMERA))  # may move again
    fleet.reply(RemoveDevice("a"))

    assert "door" in [each.pipeline_id for each in fleet.devices["b"].assignments]
    fleet.obey("b", "c")
    assert fleet.view("gate").device in ("b", "c")


def test_a_device_that_is_here_and_could_not_be_removed_goes_on() -> None:
    fleet = scripted_fleet("a")
    fleet.create("door", CAMERA)
    fleet.store_down = True

    assert fleet.error(RemoveDevice("a")).code == "store_down"

    assert refusals(fleet.effects) == []
    fleet.store_down = False
    fleet.join("a")
    assert [each.pipeline_id for each in fleet.devices["a"].assignments] == ["door"]


def test_a_device_that_could_not_be_removed_is_there() -> None:
    fleet = scripted_fleet("a")
    fleet.leave("a")
    fleet.store_down = True

    assert fleet.error(RemoveDevice("a")).code == "store_down"

    assert fleet.reply(GetDevice("a")).state == "left"
    fleet.store_down = False
    fleet.join("a")
    assert fleet.reply(GetDevice("a")).state == "ready"


def test_a_token_alone_is_removed_too() -> None:
    fleet = scripted_fleet()
    token_key(fleet, "new")
    assert fleet.reply(GetDevice("new")) == DeviceView(device="new", state="new")

    fleet.reply(RemoveDevice("new"))

    assert fleet.error(GetDevice("new")) == Error("not_found", "no device new, the known ones are: none")


def test_a_model_is_named_no_longer() -> None:
    fleet = scripted_fleet()
    model = ModelRef("parts/1", "ab" * 32)
    fleet.reply(PutModel(model))

    assert fleet.reply(RemoveModel("parts/1")) == model
    assert fleet.reply(ListModels()) == ()
    assert fleet.error(RemoveModel("parts/1")) == Error("not_found", "no model parts/1")


# silence and events ---------------------------------------------------------------------------------------


def test_a_device_that_is_late_is_spoken_to() -> None:
    """Who was killed has no connection any more, and libzmq says so when something is sent."""
    fleet = scripted_fleet("a", "b")

    effects = fleet.pass_time(3, alive=["b"])

    assert sent(effects, "a") == [Desired(1, ())] * 4
    assert [m for m in sent(effects, "b") if isinstance(m, Desired)] == []
    session = fleet.devices["a"].session
    fleet.fleet.unsent(Send(b"a", Desired(1, ()), session), gone=True)
    fleet.pass_time(0.5, alive=["b"])
    (event,) = fleet.reply(GetEvents(EPOCH, 4)).events
    assert (event.id, event.state, event.reason) == ("a", "suspect", "it is silent for 4 s")


def events(fleet: ScriptedFleet, after: int = 0) -> list[tuple[str, str, str]]:
    """Whom it happened to, and from what to what."""
    told = fleet.reply(GetEvents(EPOCH, after)).events
    return [(event.id, event.previous, event.state) for event in told]


def test_what_happens_to_pipelines_and_devices_is_told_in_order() -> None:
    fleet = scripted_fleet("a", "b")
    fleet.create("door")
    fleet.obey()
    fleet.pass_time(11, alive=["b"])
    fleet.obey("b")
    fleet.change("door", "stop")
    fleet.obey("b")

    assert events(fleet, after=4) == [
        ("door", "", "starting"),
        ("door", "starting", "running"),
        ("a", "ready", "suspect"),
        ("door", "running", "unknown"),
        ("a", "suspect", "lost"),
        ("door", "unknown", "starting"),
        ("door", "starting", "running"),
        ("door", "running", "stopping"),
        ("door", "stopping", "gone"),
    ]
    told = fleet.reply(GetEvents(EPOCH)).events
    assert [event.n for event in told] == list(range(1, 14))
    assert told[4] == FleetEvent(
        n=5, at=CREATED, subject="pipeline", id="door", state="starting", previous="", device="a"
    )
    unknown = FleetEvent(
        n=8,
        at=CREATED + 3.5,
        subject="pipeline",
        id="door",
        state="unknown",
        previous="running",
        device="a",
        reason="device a is silent for 4 s",
    )
    assert told[7] == unknown


def test_a_process_that_begins_again_is_told_though_it_runs_as_before() -> None:
    fleet = scripted_fleet("a")
    fleet.create("door")
    fleet.obey()

    fleet.devices["a"].observed = (
        Observed(pipeline_id="door", generation=1, incarnation=2, state=RUNNING, restarts=1),
    )
    fleet.heartbeat("a")

    event = fleet.reply(GetEvents(EPOCH)).events[-1]
    assert (event.previous, event.state, event.restarts) == ("running", "running", 1)


def test_who_waits_for_events_is_answered_when_one_comes() -> None:
    fleet = scripted_fleet("a")
    assert fleet.answer(fleet.ask(GetEvents(EPOCH, 2, wait_ms=5000))) is None
    assert fleet.answer(fleet.pass_time(4.5, alive=["a"])) is None

    effects = fleet.ask(CreatePipeline(pipeline_id="door", spec=CAMERA))

    created, came = (data_of(effect.message) for effect in effects if isinstance(effect, Answer))
    assert isinstance(created, PipelineView)
    assert isinstance(came, Events)
    assert [event.n for event in came.events] == [3]
    assert fleet.answer(fleet.ask(GetEvents(EPOCH, 3, wait_ms=1000))) is None
    assert fleet.answer(fleet.pass_time(1, alive=["a"])) == Reply(Events(EPOCH, ()))


def test_who_knows_another_epoch_gets_all_and_hears_that_something_is_lost() -> None:
    fleet = scripted_fleet("a")

    first, other = fleet.reply(GetEvents()), fleet.reply(GetEvents(EPOCH - 1, 7))
    beyond = fleet.reply(GetEvents(EPOCH, 99))

    assert (len(first.events), first.lost, first.epoch) == (2, False, EPOCH)
    assert other == beyond == replace(first, lost=True)


def test_nothing_happened_when_the_store_did_not_take_it() -> None:
    fleet = scripted_fleet("a")
    fleet.create("door")
    before = events(fleet)
    fleet.store_down = True
    assert fleet.answer(fleet.ask(GetEvents(EPOCH, len(before), wait_ms=5000))) is None

    fleet.ask(CreatePipeline(pipeline_id="gate", spec=CAMERA))

    answers = [effect.message for effect in fleet.effects if isinstance(effect, Answer)]
    assert [isinstance(answer, Error) and answer.code for answer in answers] == ["store_down", "store_down"]
    assert events(fleet) == before
    fleet.store_down = False
    fleet.create("gate")
    assert events(fleet)[len(before) :] == [("gate", "", "starting")]


def test_only_so_many_wait_for_events() -> None:
    fleet = scripted_fleet()
    for _ in range(MAX_LISTENERS):
        assert fleet.answer(fleet.ask(GetEvents(wait_ms=1000))) is None

    assert fleet.error(GetEvents(wait_ms=1000)).code == "too_many"
    answers = [effect for effect in fleet.pass_time(1) if isinstance(effect, Answer)]
    assert len(answers) == MAX_LISTENERS


def test_what_a_new_broker_finds_is_no_event() -> None:
    record = PipelineRecord(
        pipeline_id="door",
        generation=5,
        run_generation=1,
        desired_status="run",
        spec=CAMERA,
        requested=None,
        device="a",
        created=1,
    )
    fleet = ScriptedFleet(
        Fleet(CONFIG, EPOCH, [*devices("a"), record], CountingRandomSource(), now=0, unix_time=1e6)
    )
    fleet.pass_time(1)
    assert events(fleet) == []

    fleet.hello("a")
    fleet.obey("a")

    assert [event for event in events(fleet) if event[0] == "door"] == [
        ("door", "unknown", "starting"),
        ("door", "starting", "running"),
    ]


def test_what_could_not_be_stored_is_confirmed_by_a_later_heartbeat() -> None:
    fleet = scripted_fleet("a", "b")
    fleet.create("door", device="a")
    fleet.obey("a")
    fleet.leave("b")
    put = PutPipeline(
        pipeline_id="door", spec=CAMERA, device="b", selector={}, labels={}, desired_status="run"
    )
    fleet.ask(put)
    fleet.change("door", "stop")
    fleet.store_down = True
    fleet.obey("a")
    assert fleet.saved["pipeline", "door"] is not None

    fleet.store_down = False
    for _ in range(3):
        fleet.heartbeat("a", full=False)

    assert fleet.saved["pipeline", "door"] is None
