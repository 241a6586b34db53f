"""Which of the workers is this process, and what does that change in its configuration?

The parent says so in one variable of the environment; a process without it is on its own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from gateway.config.spec import Config
from gateway.workers.shares import divided

VARIABLE = "SLUICE_WORKER"
"""Internal: set by the parent, never by a person."""


@dataclass(frozen=True, slots=True)
class Seat:
    """The place of one worker."""

    number: int
    """From 0."""
    count: int
    folder: str
    """Private to these processes: sockets, and the store if no other is configured."""
    port: int
    """The clients' port; a configured 0 was settled by the parent."""
    generation: int = 1
    """The number of the configuration that the others have."""

    @classmethod
    def given(cls, environment: Mapping[str, str]) -> Self | None:
        """Return the seat that the parent gave; None for a process on its own."""
        text = environment.get(VARIABLE)
        return None if text is None else cls(**json.loads(text))

    def variable(self) -> dict[str, str]:
        """Return what `given` reads."""
        return {VARIABLE: json.dumps({name: getattr(self, name) for name in self.__slots__})}

    @property
    def socket(self) -> str:
        """Where this worker answers its parent."""
        return worker_socket(self.folder, self.number)

    @property
    def parent_socket(self) -> str:
        """Where the parent answers its workers."""
        return parent_socket(self.folder)

    @property
    def output_lock(self) -> str:
        """The file that is locked while one of them writes to standard output."""
        return str(Path(self.folder) / "output.lock")

    def settle(self, config: Config) -> Config:
        """Return this worker's configuration: its part of the limits, and the shared store."""
        own = divided(config, self.number, self.count)
        server = own.server.model_copy(update={"port": self.port})
        store = own.store
        if store.startswith("memory:"):
            store = f"sqlite:{Path(self.folder) / 'state'}"
        return own.model_copy(update={"server": server, "store": store})


def worker_socket(folder: str, number: int) -> str:
    """Return the path of a worker's socket; short, for a socket's path has 107 bytes at most."""
    return str(Path(folder) / f"{number}.sock")


def parent_socket(folder: str) -> str:
    """Return the path of the parent's socket."""
    return str(Path(folder) / "p.sock")
