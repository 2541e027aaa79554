"""The faults: what happens, where, how often, and what must hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial

from benchmarks.faults import of_broker, of_devices, of_networks, of_sources
from benchmarks.faults.of_devices import Figures
from benchmarks.faults.stage import Stage, staged
from benchmarks.setting import Setting
from tests.fakes.chaos_proxy import Weather
from tests.fakes.disks import mounted
from tests.fakes.ports_and_folders import short_folder

OFTEN, USUAL = 20, 5  # rounds
QUICK = ("F1", "F8")  # the faults of `--quick`
Place = Callable[[Setting], AbstractContextManager[Stage]]

# Delays are of each way: together 300 ms. 256 kbit/s are 32 kB/s.
SLOW, NARROW = Weather(delay=0.15), Weather(rate=32_000)


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault. What it measures is in seconds, except for what is counted."""

    name: str
    what: str
    place: Place
    cause: Callable[[Stage], Figures]  # one round
    limits: dict[str, float]  # by what is measured; what has none is only told
    rounds: int = USUAL


def two_devices(setting: Setting) -> AbstractContextManager[Stage]:
    """Two devices beside the fleet."""
    return staged(setting)


def short_lease(setting: Setting) -> AbstractContextManager[Stage]:
    """The same, with a short lease."""
    return staged(setting, heartbeat="0.3", lease="3")


def behind_proxies(setting: Setting) -> AbstractContextManager[Stage]:
    """Two devices, each behind a proxy."""
    return staged(setting, proxied=True)


def four_behind_proxies(setting: Setting) -> AbstractContextManager[Stage]:
    """Four devices, each behind a proxy. With the device of the fleet, three are most of them."""
    return staged(setting, devices=4, proxied=True)


@contextmanager
def on_a_small_disk(setting: Setting) -> Iterator[Stage]:
    """Two devices, and a broker whose data directory is a disk of 2 MB. Only for root."""
    with short_folder() as home:
        folder = home / ".streamfleet/broker"
        folder.mkdir(mode=0o700, parents=True)
        with mounted(folder) as is_mounted, staged(setting, data=home) as stage:
            assert is_mounted, "only root may mount a small disk"
            yield stage


CUT, UNHEARD, DEAF = Weather(up=False, down=False), Weather(up=False), Weather(down=False)
PARTITION = {
    "predicts elsewhere": 15.0,
    "old one stops": 8.5,
    "ready again": 5.0,
    "moved back": 0.0,
}

FAULTS = (
    Fault(
        "F1",
        "agent killed",
        two_devices,
        of_devices.agent_killed,
        {"known": 1.0, "ready": 5.0, "predicts": 10.0, "moved": 0.0},
        OFTEN,
    ),
    Fault(
        "F2",
        "device dead",
        two_devices,
        of_devices.device_dead,
        {"lost": 10.5, "predicts elsewhere": 15.0},
        OFTEN,
    ),
    Fault(
        "F2-short",
        "device dead, lease of 3 s",
        short_lease,
        of_devices.device_dead,
        {"lost": 3.2, "predicts elsewhere": 7.0},
        OFTEN,
    ),
    Fault(
        "F3",
        "agent stopped for 5 s",
        two_devices,
        of_devices.stopped_shortly,
        {"suspect": 3.5, "moved": 0.0},
    ),
    Fault(
        "F3-long",
        "agent and supervisor stopped for 60 s",
        two_devices,
        of_devices.stopped_long,
        {"predicts elsewhere": 15.0, "old camera ends": 1.0},
    ),
    Fault(
        "F4",
        "agent hangs",
        two_devices,
        of_devices.agent_hangs,
        {"suspect": 3.5, "lost": 10.5, "restarted": 15.5},
    ),
    Fault(
        "F5",
        "camera process stopped",
        two_devices,
        of_devices.camera_stopped,
        {"predicts": 15.0, "change of the other rate": 0.05},
    ),
    Fault(
        "F6",
        "broker killed, idle",
        two_devices,
        of_broker.broker_killed,
        {"answers": 2.0, "ready": 5.0, "predicts": 10.0, "moved": 0.0},
        OFTEN,
    ),
    Fault(
        "F6-writes",
        "broker killed among writes",
        two_devices,
        of_broker.broker_killed_among_writes,
        {"answers among writes": 2.0, "writes lost": 0.0},
        OFTEN,
    ),
    Fault(
        "F7",
        "broker away for 30 s",
        two_devices,
        of_broker.broker_away,
        {"movable stops": 8.5, "pinned stopped": 0.0, "predicts after return": 15.0, "moved": 0.0},
    ),
    Fault(
        "F8",
        "API killed",
        two_devices,
        of_broker.api_killed,
        {"API answers": 2.0, "other answers": 0.0, "doubles": 0.0},
    ),
    *(
        Fault(
            f"F9{suffix}",
            f"device cut off, {how}",
            behind_proxies,
            partial(of_networks.partitioned, weather=weather),
            {**PARTITION, "lost": lost},
        )
        for suffix, how, weather, lost in (
            ("", "both ways", CUT, 10.5),
            ("-up", "the broker does not hear it", UNHEARD, 10.5),
            # It notices after three heartbeats that it is not answered, and says no more.
            ("-down", "it does not hear the broker", DEAF, 14.0),
        )
    ),
    Fault(
        "F10",
        "three of five devices cut off",
        four_behind_proxies,
        of_networks.most_partitioned,
        {"moved": 0.0, "ready again": 10.0},
    ),
    Fault(
        "F11",
        "link flaps, 2 s on, 2 s off",
        behind_proxies,
        of_networks.flapping,
        {"moves in 60 s": 1.0, "lost devices": 0.0},
    ),
    Fault(
        "F12-slow",
        "link with 300 ms",
        behind_proxies,
        partial(of_networks.bad_link, weather=SLOW),
        {"lost devices": 0.0, "moved": 0.0},
    ),
    Fault(
        "F12-narrow",
        "link with 256 kbit/s",
        behind_proxies,
        partial(of_networks.bad_link, weather=NARROW),
        {"lost devices": 0.0, "moved": 0.0},
    ),
    Fault(
        "F14",
        "disk of the store full",
        on_a_small_disk,
        of_broker.disk_full,
        {"writes again": 1.0, "moved": 0.0},
    ),
    Fault(
        "F15",
        "store damaged",
        two_devices,
        of_broker.store_corrupt,
        {"restored and ready": 60.0, "start not refused": 0.0},
    ),
    Fault(
        "F19-1",
        "camera away for 1 s",
        two_devices,
        partial(of_sources.camera_dies, away=1.0),
        {"told": 10.0, "predicts after 1 s": 5.0, "new runs": 1.0},
    ),
    Fault(
        "F19-10",
        "camera away for 10 s",
        two_devices,
        partial(of_sources.camera_dies, away=10.0),
        {"told": 10.0, "predicts after 10 s": 5.0, "new runs": 1.0},
    ),
    Fault(
        "F19-silent",
        "camera silent for 20 s",
        two_devices,
        of_sources.camera_hangs,
        {"told of silence": 10.0, "predicts after silence": 5.0},
    ),
    Fault(
        "F19-login",
        "camera refuses the login",
        two_devices,
        of_sources.wrong_password,
        {"wrong logins in 30 s": 1.0},
    ),
    Fault(
        "F21-engine",
        "segfault of the engine",
        two_devices,
        partial(of_devices.segfault, process="engine"),
        {"predicts after engine": 10.0, "moved": 0.0},
    ),
    Fault(
        "F21-camera",
        "segfault of a camera",
        two_devices,
        partial(of_devices.segfault, process="camera"),
        {"predicts after camera": 10.0, "moved": 0.0},
    ),
    Fault("F26", "two machines, one key", two_devices, of_devices.cloned, {"quarantined": 60.0}),
    Fault(
        "F27",
        "device with 8 pipelines drained",
        two_devices,
        of_devices.drained,
        {"longest gap": 1.0},
    ),
    Fault("F28", "room appears", two_devices, of_devices.room, {"placed": 2.0}),
)

ELSEWHERE = (
    "F13 (clocks that jump): the tests, with clocks of their own; a jump of this machine's clock would reach"
    " everything on it.",
    "F16 and F17 (subscribers, size): `relay` and `devices`. F18 (all devices return at once): `devices`,"
    " 'broker killed'.",
    "F20 (malformed messages): tests/test_fuzz.py and tests/test_malformed_files.py, which need no time.",
)
