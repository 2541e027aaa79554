"""Detects silent devices, and the silence of so many that our own network is suspected. Pure.

ready ──silence──▶ suspect ──lease ends──▶ lost; most suspect or lost at once ──▶ network partition suspected
"""

from __future__ import annotations

from streamfleet_broker.fleet.devices import Device
from streamfleet_broker.fleet.effects import LogEvent
from streamfleet_broker.fleet.state import State

PARTITION_MINIMUM = 3  # silent devices: fewer are never taken for a failure of our network
MAX_GRACE = 5  # times the grace period of a start, at most, while devices come back


class FailureDetector:
    """Marks devices as suspect and lost."""

    def __init__(self, state: State, now: float) -> None:
        self._state = state
        self._ticked = now
        self._grace_until = now + state.config.grace
        self._grace_ends = now + MAX_GRACE * state.config.grace
        self._awaited = sum(map(_is_awaited, state.devices.values()))

    def tick(self, now: float) -> None:
        """Look at the silence of all devices."""
        if now - self._ticked > self._state.config.suspect:
            # The broker was suspended; heartbeats may still be queued, so extend the grace period.
            self._grace_until = max(self._grace_until, now + self._state.config.grace)
        self._ticked = now
        self._await_returns(now)
        self._check_silence(now)
        self._detect_partition(now)

    def _await_returns(self, now: float) -> None:
        """Extend the grace period while devices come back: of a large fleet, the last ones take longer."""
        if now >= self._grace_until or not self._awaited:
            return
        awaited = sum(map(_is_awaited, self._state.devices.values()))
        if awaited < self._awaited:
            longer = min(now + self._state.config.suspect, self._grace_ends)
            self._grace_until = max(self._grace_until, longer)
        self._awaited = awaited

    def _check_silence(self, now: float) -> None:
        for name, device in self._state.devices.items():
            if device.state not in ("syncing", "ready", "suspect"):
                continue
            assert device.heard is not None
            silent = now - device.heard
            if device.session is not None and device.session.cut:
                device.session.cut = False
                self._state.immediate_effects.append(
                    LogEvent(name, f"suspect: cut off, silent for {silent:.1f} s")
                )
            if silent > self._state.config.lease and now >= self._grace_until:
                if device.session is not None:
                    self._state.end_session(device)
                device.state, device.lost_at = "lost", now
                self._state.mark_device_dirty(name)
                self._state.immediate_effects.append(
                    LogEvent(name, f"lost: silent for {silent:.1f} s", severity="error")
                )
            elif silent > self._state.config.suspect and device.state != "suspect":
                device.state = "suspect"
                self._state.mark_device_dirty(name)
                self._state.immediate_effects.append(LogEvent(name, f"suspect: silent for {silent:.1f} s"))
            elif silent > self._state.config.probe and device.state != "suspect":
                # If its agent was killed, libzmq tells it to who sends something.
                assert device.session is not None
                self._state.send(device.session, self._state.desired(device))

    def _detect_partition(self, now: float) -> None:
        """Move nothing while most of the fleet is silent at once: that is probably our own network."""
        config, suspected_before = self._state.config, self._state.network_partition_suspected
        since = now - (config.partition_hold if suspected_before else config.partition_window)
        devices = self._state.devices.values()
        silent = sum(d.state == "suspect" or (d.state == "lost" and d.lost_at > since) for d in devices)
        present = sum(device.state in ("syncing", "ready") for device in devices)
        suspected = silent >= PARTITION_MINIMUM and silent > present
        if suspected and not suspected_before:
            event = f"{silent} of {silent + present} devices are silent: nothing is moved until most are back"
            self._state.immediate_effects.append(LogEvent("fleet", event, severity="error"))
        elif suspected_before and not suspected:
            self._state.immediate_effects.append(
                LogEvent("fleet", "pipelines of lost devices are moved again")
            )
        self._state.network_partition_suspected = suspected


def _is_awaited(device: Device) -> bool:
    """Whether a device is expected back that has said nothing to this broker yet."""
    return device.state == "suspect" and not device.agent
