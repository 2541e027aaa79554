"""The files and sockets of a worker's data directory."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from streamfleet_worker.config import SAMPLES


@dataclass(frozen=True, slots=True)
class WorkerPaths:
    """The path of each file and socket of a data directory."""

    root: Path

    @property
    def identity(self) -> Path:
        return self.root / "identity.json"

    @property
    def database(self) -> Path:
        return self.root / "worker.db"

    @property
    def models(self) -> Path:
        return self.root / "models"

    @property
    def files(self) -> Path:
        return self.root / "files"

    @property
    def optimise(self) -> Path:
        """Exists while variants of a model are built."""
        return self.root / "optimise"

    @property
    def plans(self) -> Path:
        return self.root / "plans"

    @property
    def batches(self) -> Path:
        return self.root / "batches"

    @property
    def samples(self) -> Path:
        return self.root / SAMPLES

    @property
    def sent(self) -> Path:
        return self.root / "predictions"

    @property
    def run(self) -> Path:
        return self.root / "run"

    @property
    def progress(self) -> Path:
        return self.run / "progress"

    @property
    def temporary(self) -> Path:
        return self.run / "tmp"

    @property
    def intake(self) -> str:
        return str(self.run / "publisher.sock")

    @property
    def picture_intake(self) -> str:
        return str(self.run / "pictures.sock")

    @property
    def predictions(self) -> str:
        return f"ipc://{self.run}/predictions.ipc"

    @property
    def pictures(self) -> str:
        return f"ipc://{self.run}/pictures.ipc"

    def engine(self, digest: str) -> str:
        """The socket of a model's engine.

        A restarted engine uses the same one, so that cameras find it again.
        """
        return str(self.run / f"engine-{digest[:16]}.sock")

    def playback_position(self, pipeline_id: str, run_generation: int) -> Path:
        """The playback position of one run of a pipeline. Hashed: an id is never part of a path."""
        name = hashlib.blake2b(f"{run_generation} {pipeline_id}".encode(), digest_size=16).hexdigest()
        return self.progress / name

    def make(self) -> None:
        """Create the directories that do not exist. Raises: OSError."""
        for directory in (self.root, self.models, self.files, self.run, self.progress):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
