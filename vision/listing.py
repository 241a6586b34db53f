"""What lies in the repository's folder, and could it be loaded?

Folders, versions and files may be symbolic links, and lead anywhere: Kubernetes mounts volumes so,
and who writes to the repository decides what runs. Names that clients send are never made into
paths; they are looked up among those that were listed. Labels and samples lie below the folder of
their `config.yaml`, for they are named inside it.

Only `model.plan`, `model.onnx` and `model.pt2` are loaded. What Python's pickle wrote (`.pt`,
`.pth`, `.pkl`) can run any code when it is read: it is never opened. Blocks: for threads.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from stat import S_ISREG

from vision.config import Classification, Detection, ModelConfig, Versions
from vision.configs import FILE_NAME, config_file, read_file
from vision.errors import ConfigError, OperatorError
from vision.versions import FileStamp, Found

_LOG = logging.getLogger("sluice.vision.repository")

MODEL_FILES: Mapping[str, str] = {
    "tensorrt": "model.plan",
    "onnx": "model.onnx",
    "torch": "model.pt2",
}
"""By the names of runtimes in `config.yaml`."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
"""Of a model's folder; others are overlooked, with a warning."""
_VERSION = re.compile(r"[1-9][0-9]{0,17}")
_PICKLED = (".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".bin")


@dataclass(frozen=True, slots=True)
class Listed:
    """One model's folder."""

    name: str
    policy: Versions | None
    """None if the model's own `config.yaml` does not say it."""
    problem: str | None
    """What is wrong with that file."""
    versions: Mapping[int, Found]


class Folder:
    """The repository's folder, to be looked at again and again, by one thread at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._configs: dict[Path, tuple[FileStamp, ModelConfig | str]] = {}
        self._before = self._configs  # Those of the last look.
        self._strange: set[str] = set()
        self._last: Mapping[str, Listed] = {}
        self._empty: set[str] | None = None  # Models without versions at the last look, if any.

    def look(self) -> dict[str, Listed]:
        """Return the models by name. Costs about 0.2 ms for each.

        A model that cannot be read is as it was at the last look: it has not gone. Raises
        `OperatorError` if the folder itself cannot be read.
        """
        found = {}
        self._before, self._configs = self._configs, {}
        try:
            paths = sorted(self.path.iterdir())
        except OSError as error:
            said = error.strerror or error
            raise OperatorError(f"the model repository {self.path}: {said}") from error
        for path in paths:
            if path.name.startswith(".") or not path.is_dir():
                continue
            if NAME.fullmatch(path.name) is None:
                self._warn_of(path.name, f"is not a model's name: {NAME.pattern}")
                continue
            try:
                found[path.name] = self._model(path)
            except OSError as error:
                said = f"cannot be read: {error.strerror or error}"
                self._warn_of(path.name, said)
                unread = Listed(path.name, None, f"{path}: {said}", {})
                found[path.name] = self._last.get(path.name, unread)
        self._last = found
        self._warn_of_empty({name for name, one in found.items() if not one.versions})
        return found

    def _warn_of_empty(self, empty: set[str]) -> None:
        """Say which models have no versions, once, and not while they are being copied."""
        before, self._empty = self._empty, empty
        for name in sorted(empty if before is None else empty & before):
            self._warn_of(name, "has no version folder (1, 2, …)")

    def _warn_of(self, name: str, why: str) -> None:
        if name not in self._strange:
            self._strange.add(name)
            _LOG.warning("%r in %s %s", name, self.path, why)

    def _model(self, folder: Path) -> Listed:
        own = self._config(config_file(folder, None))
        policy, problem = (None, own) if isinstance(own, str) else (own.versions, None)
        versions = {}
        for path in _children(folder):
            if _VERSION.fullmatch(path.name) and path.is_dir():
                versions[int(path.name)] = self._version(folder, int(path.name))
        return Listed(folder.name, policy, problem, versions)

    def _version(self, model: Path, version: int) -> Found:
        folder = model / str(version)
        file = config_file(model, version)
        config = self._config(file)
        base = model if file is None else file.parent
        stamps = list(_stamps(folder))
        if isinstance(config, str):
            return Found(version, folder, base, ModelConfig(), tuple(stamps), problem=config)
        config = _of_version(config, version)
        names = {stamp.name for stamp in stamps}
        named = list(_named_files(config))
        stamps.extend(_stamp(base / name, name) for key, name in named)
        wanted = [MODEL_FILES[runtime] for runtime in dict.fromkeys(config.runtimes)]
        problem = _outside(named, file) or _no_model(folder, names, wanted, config)
        model_files = tuple(name for name in wanted if name in names)
        return Found(version, folder, base, config, tuple(stamps), model_files, problem)

    def _config(self, file: Path | None) -> ModelConfig | str:
        """Return a file's configuration, or what is wrong with it."""
        if file is None:
            return ModelConfig()
        stamp = _stamp(file, file.name)  # Before it is read: a change in between is then seen.
        known = self._configs.get(file) or self._before.get(file)
        if known is None or known[0] != stamp:
            known = (stamp, _read(file))
        self._configs[file] = known
        return known[1]


def _read(file: Path) -> ModelConfig | str:
    try:
        return read_file(file)
    except ConfigError as error:
        return str(error)


def restamp(found: Found) -> tuple[FileStamp, ...]:
    """Return the stamps of a version's files as they are now."""
    named = [_stamp(found.base / name, name) for _, name in _named_files(found.config)]
    return (*_stamps(found.folder), *named)


def _children(folder: Path) -> list[Path]:
    """Return what lies in a folder; nothing if it has just gone. Raises `OSError` otherwise."""
    try:
        return sorted(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def _stamps(folder: Path) -> Iterator[FileStamp]:
    """Yield what lies in a version's folder: the model, and weights or hashes beside it.

    The configuration counts by what it says, and editors' leftovers not at all.
    """
    for path in _children(folder):
        if path.name.startswith(".") or path.name.endswith("~") or path.name == FILE_NAME:
            continue
        stamp = _stamp(path, path.name)
        if stamp.size >= 0:
            yield stamp


def _stamp(path: Path, name: str) -> FileStamp:
    """Look at a file; anything else is as good as not there."""
    try:
        stat = path.stat()
    except (OSError, ValueError):  # ValueError: a NUL in a name.
        return FileStamp(name, -1, 0, 0)
    if not S_ISREG(stat.st_mode):
        return FileStamp(name, -1, 0, 0)
    return FileStamp(name, stat.st_size, stat.st_mtime_ns, stat.st_ino)


def _of_version(config: ModelConfig, version: int) -> ModelConfig:
    """Leave out what a change of which is no change of this version."""
    pins = {key: pin for key, pin in config.sha256.items() if key.startswith(f"{version}/")}
    return config.model_copy(update={"sha256": pins, "versions": Versions()})


def _named_files(config: ModelConfig) -> Iterator[tuple[str, str]]:
    post = config.postprocessing
    if isinstance(post, (Classification, Detection)) and post.labels is not None:
        yield "postprocessing.labels", post.labels
    for index, sample in enumerate(config.warmup.samples):
        yield f"warmup.samples[{index}]", sample


def _outside(named: Iterable[tuple[str, str]], file: Path | None) -> str | None:
    for key, name in named:
        path = PurePath(name)
        if path.is_absolute() or ".." in path.parts or "\0" in name:
            return f"{file}: {key}: has to lie in the same folder or below"
    return None


def _no_model(folder: Path, names: set[str], wanted: list[str], config: ModelConfig) -> str | None:
    """Say why there is nothing to load; None if there is."""
    if names.intersection(wanted):
        return None
    if others := sorted(names.intersection(MODEL_FILES.values())):
        said = ", ".join(config.runtimes)
        return f"{folder} holds {', '.join(others)}, but `runtimes` names {said} only"
    if pickled := sorted(name for name in names if PurePath(name).suffix in _PICKLED):
        return (
            f"{folder / pickled[0]} is not opened: pickled files can run any code. Export "
            "the model with torch.export.save as model.pt2, or as model.onnx"
        )
    return f"{folder} holds none of {', '.join(wanted)}"
