"""What may the APIs ask and tell about models, and about the process itself?"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Final, Protocol

from vision.errors import BadInput, LoadError, ModelNotFound
from vision.model import Model
from vision.repository import Entry
from vision.tensors import TensorSpec
from vision.versions import Rest, State

NAME: Final = "sluice-vision"
_AT_REST: Final = frozenset(Rest)
EXTENSIONS: Final = ("binary_tensor_data", "model_repository")

_PLATFORMS: Final = {
    "onnx": "onnxruntime_onnx",
    "tensorrt": "tensorrt_plan",
    "torch": "pytorch_pt2",
}
"""The protocol asks for `<project>_<format>`."""


class Life:
    """How far the process is: since when it runs, and whether it is about to end."""

    __slots__ = ("_began", "_monotonic", "draining")

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._began = monotonic()
        self.draining = False

    def uptime_s(self) -> float:
        """Seconds since the start."""
        return self._monotonic() - self._began


class Models(Protocol):
    """What the APIs need of the repository."""

    def index(self) -> list[Entry]:
        """Every version that is known, and how it stands."""

    def ready(self) -> bool:
        """Whether start-up loading is over."""

    def lease(self, name: str, version: int | None = None) -> AbstractAsyncContextManager[Model]:
        """Keep a version loaded as long as the context lasts."""

    async def load(self, name: str) -> None:
        """Load a model, or look for its new versions."""

    async def unload(self, name: str) -> None:
        """Stop serving a model."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """An input or output in the protocol's words: the batch axis first, -1 for any size."""

    name: str
    datatype: str
    shape: list[int]


@dataclass(frozen=True, slots=True)
class Metadata:
    """What a client must know to ask a model by tensors."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[Tensor]
    outputs: list[Tensor]


class View:
    """The repository and the process as the APIs see them."""

    def __init__(self, models: Models, life: Life, version: str) -> None:
        """`version` is the program's."""
        self._models = models
        self._life = life
        self.version = version

    @property
    def draining(self) -> bool:
        """Whether the process is about to end."""
        return self._life.draining

    @property
    def loading(self) -> bool:
        """Whether the models of the start are still being loaded."""
        return not self._models.ready()

    @property
    def ready(self) -> bool:
        """Whether new requests should come here."""
        return self._models.ready() and not self._life.draining

    def uptime_s(self) -> float:
        """Seconds since the start."""
        return self._life.uptime_s()

    def entries(self) -> Sequence[Entry]:
        """Every version that is known."""
        return self._models.index()

    def index(self, *, only_ready: bool) -> list[dict[str, str]]:
        """Return the repository's index in the protocol's words."""
        return [
            {
                "name": entry.name,
                "version": "" if entry.version is None else str(entry.version),
                "state": entry.state.upper(),
                "reason": entry.reason,
            }
            for entry in self._models.index()
            if not only_ready or askable(entry)
        ]

    def is_ready(self, name: str, version: int | None) -> bool:
        """Say whether a version can be asked now; raises `ModelNotFound` if there is none."""
        known = [
            entry
            for entry in self._models.index()
            if entry.name == name and version in (None, entry.version)
        ]
        if not known:
            raise ModelNotFound(f"The repository has no model {shown(name, version)}.")
        return any(askable(entry) for entry in known)

    async def metadata(self, name: str, version: int | None) -> Metadata:
        """Describe a version; one that was evicted is loaded for it."""
        async with self._models.lease(name, version) as model:
            serving = {
                entry.version
                for entry in self.entries()
                if entry.name == name and entry.version is not None and askable(entry)
            }
            return Metadata(
                name,
                [str(one) for one in sorted(serving | {model.version})],
                _PLATFORMS.get(model.runtime, model.runtime),
                [_tensor(spec) for spec in model.inputs],
                [_tensor(spec) for spec in model.outputs],
            )

    async def load(self, name: str) -> None:
        """Load a model; `BadInput` if clients may not, or with the reasons why it failed."""
        try:
            await self._models.load(name)
        except LoadError as error:  # Who may load is an operator, and may read the reasons.
            raise BadInput(str(error), code="load_failed", param="model") from None

    async def unload(self, name: str) -> None:
        """Unload a model; `BadInput` if clients may not."""
        await self._models.unload(name)

    def names(self) -> list[str]:
        """Return the models that can be asked, sorted; also those that rest until somebody asks."""
        return sorted({entry.name for entry in self._models.index() if askable(entry)})


def askable(entry: Entry) -> bool:
    """Say whether a request for this version is answered, if only after it is loaded again."""
    return entry.state is State.READY or entry.reason in _AT_REST


def _tensor(spec: TensorSpec) -> Tensor:
    sizes = [-1 if size is None else size for size in spec.shape]
    return Tensor(spec.name, str(spec.dtype), [-1, *sizes])


def shown(name: str, version: int | None) -> str:
    """Return a model's name for a message; what a client made up is cut."""
    name = name if len(name) <= 100 else name[:100] + "…"
    return repr(name) if version is None else f"{name!r} with a version {version}"
