"""Which device builds variants of which model. One task of a device at a time, in memory only."""

from __future__ import annotations

from streamfleet_broker.fleet.devices import Device, Ordered
from streamfleet_broker.fleet.effects import LogEvent
from streamfleet_broker.fleet.state import State
from streamfleet_core.protocol.messages import Error, Reply
from streamfleet_core.protocol.requests import EndOptimisation, FindOptimisation, StartOptimisation
from streamfleet_core.protocol.tasks.optimisation import TIMEOUT

EXPIRY = TIMEOUT + 600.0  # seconds: files are fetched before, and the variant is uploaded afterwards

OptimisationRequest = StartOptimisation | FindOptimisation | EndOptimisation


class Optimisations:
    """Adds the tasks to the desired state of devices, and removes them."""

    def __init__(self, state: State) -> None:
        self._state = state

    def do(self, request: OptimisationRequest, now: float) -> Reply | Error:
        """Execute a request."""
        match request:
            case StartOptimisation():
                return self._start(request, now)
            case FindOptimisation():
                device = self._holder(request.id)
                if device is None or device.ordered is None or request.device not in (None, device.name):
                    return Reply(None)
                return Reply(device.ordered.optimisation)
            case EndOptimisation():
                return self._end(request)

    def tick(self, now: float) -> None:
        """Forget tasks that must have ended."""
        for device in self._state.devices.values():
            if device.ordered is not None and now >= device.ordered.until:
                self._forget(device)

    def _start(self, request: StartOptimisation, now: float) -> Reply | Error:
        name = request.device
        device = self._state.devices.get(name)
        if device is None:
            return self._state.no_device(name, "not_found")
        if device.session is None or device.state != "ready":
            return Error("conflict", f"{name} is {device.state}, expected a device that is ready")
        if not device.optimises:
            return Error(
                "conflict",
                f"{name} runs version {device.agent}, which builds no variants for others: update its "
                "worker, or run the command on the device, without --device",
            )
        if device.ordered is not None:
            model = device.ordered.optimisation.model.id
            return Error("conflict", f"{name} builds variants of {model} already: wait until it has ended")
        device.ordered = Ordered(request.optimisation, device.session.boot, now + EXPIRY)
        self._state.touch({name})
        model = request.optimisation.model.id
        self._state.after_commit.append(LogEvent(name, f"is asked to build variants of {model}"))
        return Reply()

    def _end(self, request: EndOptimisation) -> Reply:
        device = self._holder(request.id)
        if device is not None:
            self._forget(device)
        return Reply(device is not None)

    def _holder(self, task_id: str) -> Device | None:
        """The device that has this task."""
        for device in self._state.devices.values():
            if device.ordered is not None and device.ordered.optimisation.id == task_id:
                return device
        return None

    def _forget(self, device: Device) -> None:
        device.ordered = None
        self._state.touch({device.name})
