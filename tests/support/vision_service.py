"""A real vision service process, and images that its shipped model knows."""

from __future__ import annotations

import base64
import io
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from tests.support.process import ROOT, Served, ready_line, server

MODELS = ROOT / "vision/models"


@dataclass(frozen=True)
class Service:
    """Where it answers."""

    served: Served

    @property
    def url(self) -> str:
        return self.served.url

    @property
    def grpc(self) -> str:
        said = json.loads(next(line for line in self.served.lines if line.startswith("{")))
        return f"127.0.0.1:{said['grpc_port']}"


@contextmanager
def service(*arguments: str | Path, repository: Path = MODELS) -> Iterator[Service]:
    """Run one on free ports; leaving the block sends SIGINT and asserts that it ends with 0."""
    argv = [sys.executable, "-m", "vision", "serve", "--repository", str(repository)]
    more = ["--port", "0", "--grpc-port", "0", "--ready-line", *map(str, arguments)]
    with server([*argv, *more], ready_line, stream="stdout") as served:
        yield Service(served)


def digit(index: int) -> tuple[bytes, str]:
    """Return a held-out image of a digit as a PNG, and which one it shows."""
    with np.load(ROOT / "tests/data/digits-held-out.npz") as held_out:
        pixels, label = held_out["images"][index], str(held_out["labels"][index])
    return png(pixels), label


def png(pixels: np.ndarray) -> bytes:
    """Return an image file of 8-bit pixels."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def text(data: bytes) -> str:
    """Return base64, as JSON bodies hold it."""
    return base64.b64encode(data).decode()
