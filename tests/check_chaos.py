"""`make chaos`: random faults against real processes. Not among the tests: it takes minutes.

python -m tests.check_chaos [SEED|FROM:TO] [--seconds N]

Two devices reach the broker, its relays and the API through proxies that delay, throttle, reset, cut and stop
their connections, each on its own. Where this process may, packets to a device are lost (nftables), and the
store is on a disk of 2 MB that is full now and then. The broker dies at random steps of its writes. Processes
are killed and stopped at random, while pipelines are made, paused and deleted. Afterwards all is healed, and
what must hold is asked: keys of a pipeline only rise (I1, I2), what runs is what was wanted (I3),
what was deleted sends nothing (I4), and every change that was answered with success is there (I5). Seeds that
passed are remembered in `.simulated/` for the same code. Exit code: 0; 1 if something did not hold.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from streamfleet_api.local.demo import demo_model
from tests.fakes.chaos_proxy import ChaosProxy, Weather
from tests.fakes.disks import FILLER, fill_up, mounted
from tests.fakes.packet_loss import PacketLoss, is_possible
from tests.fakes.ports_and_folders import ROOT, short_folder
from tests.fleet.edge import Edge
from tests.fleet.harness import (
    Fleet,
    Subscriber,
    marked_processes,
    process_name,
    rises,
    unwind_on_sigterm,
    wait_for,
)
from tests.simulate import Memory, Outcome, _seeds, code_digest

LABEL = {"kind": "edge"}
HEALED = 120.0  # seconds
SKIES = (
    Weather(),
    Weather(delay=0.3),
    Weather(rate=4000),
    Weather(up=False),
    Weather(down=False),
    Weather(up=False, down=False),
)
LOSSES = (1, 5, 20)  # of a hundred packets
JOINING = "127.0.0.2"  # where devices join, and what they then know beside their proxies
FAILPOINTS = ROOT / "tests/fakes/failpoints"
STEPS = 40  # of writes, of which the broker survives all but one
VICTIMS = ("sf-broker", "sf-api", "sf-agent", "camera", "engine", "publisher")


@dataclass
class Chaos:
    """The fleet, who harms it, and what was answered."""

    rng: random.Random
    fleet: Fleet
    edges: list[Edge]
    proxies: list[ChaosProxy]
    losses: list[PacketLoss]  # none: this process may not
    failpoints: Path
    disk: Path | None  # of the store; None: this process may not mount one
    subscriber: Subscriber
    wanted: dict[str, str | None] = field(default_factory=dict)  # pipeline → run, pause; None: deleted
    unsure: set[str] = field(default_factory=set)  # its last change was not answered with success
    answers: Counter[str] = field(default_factory=Counter)  # answers, by status or error
    stopped: list[tuple[float, int]] = field(default_factory=list)  # until when, and which process

    def run(self, seconds: float) -> None:
        """Faults and changes for a while."""
        end = time.monotonic() + seconds
        next_fault = next_change = 0.0
        while time.monotonic() < end:
            now = time.monotonic()
            self._continue(now)
            if now >= next_fault:
                next_fault = now + self.rng.uniform(2, 8)
                faults = [self._weather, self._weather, self._kill, self._stop, self._fail]
                faults += [self._lose] if self.losses else []
                faults += [self._fill] if self.disk is not None else []
                self.rng.choice(faults)()
            if now >= next_change:
                next_change = now + self.rng.uniform(0.5, 3)
                self._change()
            time.sleep(0.1)

    def heal(self) -> None:
        """No fault from now on."""
        self._continue(float("inf"))
        for proxy in self.proxies:
            proxy.heal()
        for loss in self.losses:
            loss.set(0)
        self.failpoints.unlink(missing_ok=True)
        self._make_room()
        for pipeline_id in sorted(self.unsure):  # what nobody knows is asked for once more
            state = self.wanted[pipeline_id]
            with contextlib.suppress(AssertionError):  # it stays unsure
                wait_for(lambda each=pipeline_id, to=state: self._put(each, to), pipeline_id)  # type: ignore[misc]

    def problems(self) -> list[str]:
        """What does not hold, a while after all was healed."""
        found = []
        try:
            wait_for(lambda: not self._differences(), lambda: f"{self._differences()}", timeout=HEALED)
        except AssertionError as exc:
            found.append(f"I3, I5: {exc}")
        if not self.subscriber.received or not self.wanted.keys() - self.unsure:
            found.append("nothing to judge: no prediction was received, or no change answered with success")
        subjects = {subject for subject, _, _ in list(self.subscriber.received)}
        found += [
            f"I1, I2: keys of {each} fell" for each in subjects if not rises(self.subscriber.keys(each))
        ]
        gone = [each for each, state in self.wanted.items() if state is None and each not in self.unsure]
        counts = {each: len(self.subscriber.of(each)) for each in gone}
        time.sleep(3.0)  # for what must not come
        found += [f"I4: {each} still sends" for each in gone if len(self.subscriber.of(each)) > counts[each]]
        return found

    def _differences(self) -> list[str]:
        try:
            there = {each["pipeline_id"]: each for each in self._pipelines()}
        except (httpx.HTTPError, KeyError, ValueError) as exc:
            return [f"no answer: {exc}"]
        found = []
        for pipeline_id, state in self.wanted.items():
            status = there[pipeline_id]["status"] if pipeline_id in there else None
            expected = {"run": "running", "pause": "paused", None: None}[state]
            if pipeline_id in self.unsure:
                continue
            if status != expected:
                found.append(f"{pipeline_id} is {status}, expected {expected}")
        return found

    def _pipelines(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.fleet.http.get("/v2/pipelines").json()["pipelines"]
        return found

    def _change(self) -> None:
        dice = self.rng.random()
        state = None if dice < 0.2 else "pause" if dice < 0.4 else "run"
        self._put(f"cam-{self.rng.randrange(4)}", state)

    def _put(self, pipeline_id: str, state: str | None) -> bool:
        """Ask for a state. Was it answered with success?"""
        path = f"/v2/pipelines/{pipeline_id}"
        body = {
            "model": "shapes/1",
            "sources": [{"reference": "TestPatternStreamProducer"}],
            "max_fps": 5,
            "selector": LABEL,
            "paused": state == "pause",
        }
        try:
            answer = (
                self.fleet.http.delete(path, timeout=20)
                if state is None
                else self.fleet.http.put(path, json=body, timeout=20)
            )
            done = answer.is_success or (state is None and answer.status_code == 404)
        except httpx.HTTPError as exc:
            done = False
            self.answers[type(exc).__name__] += 1
        else:
            self.answers[str(answer.status_code)] += 1
        self.wanted[pipeline_id] = state
        (self.unsure.discard if done else self.unsure.add)(pipeline_id)
        return done

    def _weather(self) -> None:
        proxy = self.rng.choice(self.proxies)
        skies = (*SKIES, None, None)
        sky = self.rng.choice(skies)
        if sky is not None:
            proxy.weather = sky
        elif self.rng.random() < 0.5:
            proxy.reset()
        else:
            proxy.cut_inside_a_frame()

    def _lose(self) -> None:
        self.rng.choice(self.losses).set(self.rng.choice((0, *LOSSES)))

    def _fail(self) -> None:
        """The broker dies at a step of a later write, or no longer."""
        if self.failpoints.exists():
            self.failpoints.unlink()
        else:
            self.failpoints.write_text(str(STEPS))

    def _fill(self) -> None:
        assert self.disk is not None
        if not self._make_room():
            fill_up(self.disk)

    def _make_room(self) -> bool:
        """Remove what fills the disk. False: there is nothing."""
        filler = None if self.disk is None else self.disk / FILLER
        if filler is None or not filler.exists():
            return False
        filler.unlink()
        return True

    def _victim(self) -> int | None:
        name = self.rng.choice(VICTIMS)
        marks = [self.fleet.mark, *(edge.mark for edge in self.edges)]
        pids = [pid for mark in marks for pid in marked_processes(mark) if process_name(pid).startswith(name)]
        return self.rng.choice(pids) if pids else None

    def _kill(self) -> None:
        if (pid := self._victim()) is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _stop(self) -> None:
        if (pid := self._victim()) is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
            self.stopped.append((time.monotonic() + self.rng.uniform(1, 14), pid))

    def _continue(self, now: float) -> None:
        for until, pid in self.stopped[:]:
            if now >= until:
                self.stopped.remove((until, pid))
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)


def run(seed: int, seconds: float) -> list[str]:
    """One seed: what did not hold."""
    rng, can_lose = random.Random(seed), is_possible()
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(short_folder())
        model = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "demo.onnx"
        model.write_bytes(demo_model())
        fleet = Fleet(folder, "--advertise", JOINING)
        failpoints, disk = folder / "failpoints", folder / ".streamfleet/broker"
        fleet.environment.update(PYTHONPATH=str(FAILPOINTS), STREAMFLEET_TEST_FAILPOINTS=str(failpoints))
        disk.mkdir(mode=0o700, parents=True)
        has_disk = stack.enter_context(mounted(disk))
        stack.callback(fleet.stop)
        broker = "127.0.0.1", fleet.broker_ports[0]
        joining = stack.enter_context(ChaosProxy(broker, seed, listen=(JOINING, broker[1])))
        fleet.start()
        fleet.add_model("shapes/1", model)
        edges, proxies, losses = [], list[ChaosProxy](), []
        for number in (1, 2):
            home = stack.enter_context(short_folder())
            edge = Edge(fleet, f"edge-{number}", home / "w")
            host = f"127.0.0.{10 + number}"
            devices, relay, _, pictures, _ = fleet.broker_ports
            for port in (devices, relay, pictures, fleet.port):
                proxy = ChaosProxy(("127.0.0.1", port), seed + number, listen=(host, port))
                proxies.append(stack.enter_context(proxy))
            if can_lose:
                losses.append(stack.enter_context(PacketLoss(host)))
            stack.callback(edge.kill)
            token = fleet.cli("devices", "add", edge.name, "--token-only").stdout.strip()
            edge.start("--join", token, "--broker", f"tcp://{host}:{devices}")
            path = f"/v2/devices/{edge.name}"
            wait_for(
                lambda path=path: fleet.http.get(path).json().get("state") == "ready",  # type: ignore[misc]
                edge.name,
            )
            assert fleet.http.patch(path, json={"labels": LABEL}).is_success
            edges.append(edge)
        joining.close()  # from now on no way leads around the proxies
        subscriber = Subscriber(f"ipc://{fleet.data}/broker/predictions.ipc")
        stack.callback(subscriber.close)
        chaos = Chaos(rng, fleet, edges, proxies, losses, failpoints, disk if has_disk else None, subscriber)
        chaos.run(seconds)
        chaos.heal()
        found = chaos.problems()
        print(
            f"seed {seed}: {len(subscriber.received)} predictions, {found or 'all held'},"
            f" not judged: {sorted(chaos.unsure) or 'none'}, answers: {dict(chaos.answers)}",
            flush=True,
        )
        return found


def main() -> int:
    """Run the seeds that have not passed yet."""
    parser = argparse.ArgumentParser(prog="python -m tests.check_chaos", description=__doc__)
    parser.add_argument("seeds", nargs="?", type=_seeds, default=range(3), help="N or FROM:TO [3]")
    parser.add_argument("--seconds", type=float, default=60.0, help="of faults, for each seed [60]")
    options = parser.parse_args()
    unwind_on_sigterm()
    memory = Memory(ROOT / ".simulated", f"chaos-{code_digest()}")
    broken = 0
    for seed in sorted(set(options.seeds) - memory.ran()):
        found = run(seed, options.seconds)
        memory.note(Outcome((seed,), tuple((seed, each) for each in found)))
        broken += bool(found)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
