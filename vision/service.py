"""How does a request become predictions: decode, run in a lane, read the outputs?

One bad item fails alone: a request of several answers each with its predictions or its error.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from vision.decoding import Decoded, Decoder, Source
from vision.errors import DeadlineExceeded, VisionError
from vision.model import Model
from vision.telemetry import Series, Telemetry
from vision.tensors import Array
from vision.values import InferTensor, read_tensors

Predictions = list[dict[str, Any]]
Result = Predictions | VisionError

OK = "ok"
CANCELLED = "cancelled"
BROKEN = "internal_error"


class Models(Protocol):
    """What the service needs of the repository."""

    def lease(
        self, name: str, version: int | None = None, deadline: float | None = None
    ) -> AbstractAsyncContextManager[Model]:
        """Keep a version loaded as long as the context lasts; `deadline` bounds its loading."""


@dataclass(frozen=True, slots=True)
class Query:
    """What a client asks for, its inputs not yet looked at."""

    model: str
    version: int | None
    sources: Sequence[Source]
    top_k: int | None
    deadline: float | None
    """On the monotonic clock."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A result for each source, in their order."""

    model: str
    version: int
    results: list[Result]


@dataclass(frozen=True, slots=True)
class Inferred:
    """A model's outputs, rows first."""

    model: str
    version: int
    outputs: dict[str, Array]


class Service:
    """Everything between the APIs and the models; lives on one event loop."""

    def __init__(self, models: Models, decoder: Decoder, telemetry: Telemetry) -> None:
        self._models = models
        self._decoder = decoder
        self._telemetry = telemetry
        self._threads = ThreadPoolExecutor(1, "postprocess")

    async def predict(self, query: Query) -> Answer:
        """Answer every item. Raises `VisionError` where none could be looked at: unknown model."""
        try:
            async with self._models.lease(query.model, query.version, query.deadline) as model:
                series = self._telemetry.series(model.name, model.version)
                try:
                    results = await self._items(model, series, query)
                except BaseException as error:
                    series.finished(_outcome_of(error))
                    raise
                series.finished(_outcome(results))
                return Answer(model.name, model.version, results)
        except VisionError as error:  # Those of items are among the results.
            self._telemetry.refused(error.code)
            raise

    async def infer(
        self,
        name: str,
        version: int | None,
        tensors: Sequence[InferTensor],
        deadline: float | None,
    ) -> Inferred:
        """Run a model on tensors as they are, without pre- and postprocessing."""
        series: Series | None = None
        try:
            async with self._models.lease(name, version, deadline) as model:
                series = self._telemetry.series(model.name, model.version)
                try:
                    arrays = read_tensors(tensors, model.inputs, model.loaded.max_batch)
                    outputs = await model.lane.infer(arrays, deadline)
                except BaseException as error:
                    series.finished(_outcome_of(error))
                    raise
                series.finished(OK)
                return Inferred(model.name, model.version, outputs)
        except VisionError as error:
            if series is None:
                self._telemetry.refused(error.code)
            raise

    def close(self) -> None:
        """End the thread; nothing is under way any more."""
        self._threads.shutdown()

    async def _items(self, model: Model, series: Series, query: Query) -> list[Result]:
        sources = query.sources
        if len(sources) == 1:
            return [await self._item(model, series, sources[0], query)]
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._item(model, series, source, query)) for source in sources
            ]
        return [task.result() for task in tasks]

    async def _item(self, model: Model, series: Series, source: Source, query: Query) -> Result:
        try:
            decoded = await self._decoded(model, source, query.deadline)
            series.decode.observe(decoded.decode_s)
            series.preprocess.observe(decoded.preprocess_s)
            outputs = await model.lane.infer(decoded.arrays, query.deadline)
            began = time.monotonic()
            row = {name: array[0] for name, array in outputs.items()}
            read = model.postprocessor.read
            if model.postprocessor.heavy:
                predictions = await asyncio.get_running_loop().run_in_executor(
                    self._threads, read, row, decoded.geometry, query.top_k
                )
            else:
                predictions = read(row, decoded.geometry, query.top_k)
        except VisionError as error:
            # Its traceback's frames hold the image, and some of them the error: a cycle that would
            # keep both until the next collection.
            return error.with_traceback(None)
        series.postprocess.observe(time.monotonic() - began)
        return predictions

    async def _decoded(self, model: Model, source: Source, deadline: float | None) -> Decoded:
        if source.url is None:
            return await self._decoder.rows(source, model.inputs, model.preprocessor)
        try:
            async with asyncio.timeout(
                None if deadline is None else max(0.0, deadline - time.monotonic())
            ):
                decoded = await self._decoder.rows(source, model.inputs, model.preprocessor)
        except TimeoutError:
            self._telemetry.fetched(DeadlineExceeded.default_code)
            raise DeadlineExceeded(
                "The time was up before the image had been fetched.", param=source.param
            ) from None
        except VisionError as error:
            self._telemetry.fetched(error.code)
            raise
        self._telemetry.fetched(OK)
        return decoded


def _outcome(results: Sequence[Result]) -> str:
    """Return `ok` if any item succeeded, else the first one's code."""
    for result in results:
        if not isinstance(result, VisionError):
            return OK
    return _outcome_of(results[0])


def _outcome_of(error: object) -> str:
    if isinstance(error, VisionError):
        return error.code
    return CANCELLED if isinstance(error, asyncio.CancelledError) else BROKEN
