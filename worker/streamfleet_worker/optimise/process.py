"""A process that builds and measures variants of a model, with low priority and limited memory.

    python -m streamfleet_worker.optimise.process < JOB      writes a `Said` as JSON on each line

Its parent limits its time. If a signal ends it, the model is the cause, or it needs more memory.
"""

from __future__ import annotations

import logging
import os
import sys

import msgspec

from streamfleet_core.models.optimisation import Job, Said
from streamfleet_core.protocol.source_reference import shown_reason
from streamfleet_core.runtime.process import (
    forbid_core_dumps,
    forbid_new_privileges,
    name_process,
    tie_to_parent,
)
from streamfleet_worker.engine.accelerators.choice import CPU, Wanted
from streamfleet_worker.engine.accelerators.errors import AcceleratorUnusable
from streamfleet_worker.engine.confinement import OF_DRIVER, limit_memory
from streamfleet_worker.engine.loading import offered
from streamfleet_worker.engine.onnx_runtime import onnx_runtime, run_errors
from streamfleet_worker.engine.onnx_session import BadModel
from streamfleet_worker.engine.variant_loading import first_provider
from streamfleet_worker.families.adapter import BadOutput
from streamfleet_worker.host.board import board_name, read_cpu
from streamfleet_worker.host.cpu_priority import use_batch_scheduling
from streamfleet_worker.host.machine_probe import MachineProbe
from streamfleet_worker.optimise.building import Board, CannotCompare, optimise
from streamfleet_worker.optimise.candidates import NothingToBuild
from streamfleet_worker.optimise.pictures import TooFewPictures
from streamfleet_worker.video.sources.errors import SourceLost
from streamfleet_worker.video.sources.open_source import quiet_libraries

_MEMORY = 3 * 1024**3  # bytes, beside what follows the size of the model
_OF_WEIGHTS = 24  # times the weights: a graph is held in several forms while it is changed


def main() -> None:
    """Do what the job says."""
    tie_to_parent()
    name_process("sf-optimise")
    os.nice(19)  # cameras and engines have priority
    use_batch_scheduling()
    forbid_core_dumps()
    forbid_new_privileges()
    quiet_libraries()
    logging.disable()  # the tools of ONNX Runtime give advice
    job = msgspec.json.decode(sys.stdin.buffer.read(), type=Job)
    onnx_runtime()  # before the limit: its memory does not count for the model
    board = _this_board(job)
    of_driver = 0 if board.provider == CPU else OF_DRIVER
    limit_memory(_MEMORY + _OF_WEIGHTS * job.manifest.weights.size + of_driver)
    output = os.dup(1)
    os.dup2(2, 1)  # what libraries print is not ours

    def say(said: Said) -> None:
        os.write(output, msgspec.json.encode(said) + b"\n")

    try:
        say(Said(outcome=optimise(job, board, lambda text: say(Said(progress=text)))))
    except _expected() as exc:
        say(Said(failure=shown_reason(str(exc)) or type(exc).__name__))


def _expected() -> tuple[type[Exception], ...]:
    """What is wrong with the model, the pictures or the machine, and no bug of ours."""
    ours = (
        AcceleratorUnusable,
        BadModel,
        BadOutput,
        CannotCompare,
        NothingToBuild,
        SourceLost,
        TooFewPictures,
    )
    return (*ours, OSError, *run_errors())


def _this_board(job: Job) -> Board:
    machine, cpu = MachineProbe().read(), read_cpu()
    wanted = Wanted(job.accelerator, job.provider)
    return Board(name=board_name(machine, cpu), provider=first_provider(wanted, offered(machine)), cpu=cpu)


if __name__ == "__main__":
    main()
