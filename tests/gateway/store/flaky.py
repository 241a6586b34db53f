"""A store that tests switch off."""

from __future__ import annotations

from typing import Any

from gateway.store.base import StoreError
from gateway.store.memory import MemoryStore
from tests.support.control import ManualClock


class FlakyStore:
    """A memory store that can be down, lose answers and lose its state; it notes the calls."""

    label = "flaky"

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.inner = MemoryStore(clock)
        self.down = False
        self.mute = False
        """Whether calls take effect and their answers get lost."""
        self.calls: list[str] = []

    def lose(self) -> None:
        self.inner = MemoryStore(self.clock)

    def __getattr__(self, name: str) -> Any:
        async def call(*arguments: Any, **named: Any) -> Any:
            self.calls.append(name)
            if self.down:
                raise StoreError("switched off")
            result = await getattr(self.inner, name)(*arguments, **named)
            if self.mute:
                raise StoreError("no answer")
            return result

        return call
