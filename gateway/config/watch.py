"""Has the configuration file or a policy file changed, and is what they say now whole?

The files are looked at twice a second, by their contents: a rename over it, Kubernetes' swap of the
`..data` link and an editor that writes in place all come to the same. What two looks in a row
agree on is taken for whole, so that a half-written file is not read. A change takes effect after
1 s on average, 2 s at the most.

    as loaded --other contents--> unsettled --the same once more--> reload
                                      └──other contents again, or none──> unsettled
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from gateway.config.load import interpret, read
from gateway.config.policies import PolicyFile, find_files, load_policies
from gateway.config.policy_conflicts import Known
from gateway.config.problems import ConfigError
from gateway.config.reloads import ReloadResult, Result
from gateway.config.spec import Config

_LOG = logging.getLogger("sluice.config")

INTERVAL_S = 0.5
"""Seconds between two looks. One costs about 0.1 ms, in a thread."""

Digest = bytes
"""Stands for a file's contents."""


class FileSource:
    """The configuration file, to be read again and again, with what the command line adds.

    Its policies are read with it: what they may name depends on it.
    """

    def __init__(self, file: Path, over: Callable[[Config], Config] | None = None) -> None:
        """`over` lays the command line's own settings over what the file says."""
        self.file = file
        self._over = over
        self.digest: Digest | None = None
        """What `load` last read, be it valid or not; None if it could not."""
        self.policies: Sequence[PolicyFile] = ()
        """Those that the last `load` that raised nothing has read, in their order."""
        self._patterns: Sequence[str] = ()

    def load(self) -> Config:
        """Read the file, and the policy files that it names. Raises `ConfigError`."""
        # Looked at before it is read: a change in between is then seen as one.
        self.digest = self.look()
        config = interpret(read(self.file), str(self.file))
        if config.policies != self._patterns:
            self._patterns = config.policies
            self.digest = self.look()
        self.policies = load_policies(find_files(config.policies), Known.of(config))
        return config if self._over is None else self._over(config)

    def look(self) -> Digest | None:
        """Return what the files hold now; None if the configuration cannot be read."""
        try:
            data = [read(self.file)]
        except ConfigError:
            return None
        for path in find_files(self._patterns):
            data.append(os.fsencode(path))
            try:
                data.append(read(path))
            except ConfigError as error:
                data.append(str(error).encode())
        return _digest(b"\0".join(b"%d:%b" % (len(each), each) for each in data))


class Looks:
    """What one look after the other says. Pure."""

    __slots__ = ("_last",)

    def __init__(self) -> None:
        self._last: Digest | None = None

    def settled(self, seen: Digest | None, loaded: Digest | None) -> bool:
        """Say whether `seen` should be loaded: it is news, and the look before saw the same.

        A file that is missing is in the middle of being replaced; nothing is done about it.
        """
        again = seen is not None and seen == self._last
        self._last = seen
        return again and seen != loaded


async def watch_forever(source: FileSource, reload: Callable[[], Awaitable[object]]) -> None:
    """Call `reload` after each change of the file, valid or not, and once for each."""
    looks = Looks()
    missing = False
    while True:
        await asyncio.sleep(INTERVAL_S)
        seen = await asyncio.to_thread(source.look)
        if looks.settled(seen, source.digest):
            await reload()
        if (seen is None) is not missing:
            missing = seen is None
            said = "cannot be read; the gateway goes on as it is" if missing else "is there again"
            _LOG.warning("%s %s", source.file, said)


def log_reload(result: ReloadResult) -> None:
    """Say in the log what came of a reload."""
    match result.result:
        case Result.FAILED:
            _LOG.error("configuration %d stays; the new one cannot be used:", result.generation)
        case Result.UNCHANGED:
            _LOG.info("configuration %d stays", result.generation)
        case Result.APPLIED:
            _LOG.info("configuration %d is in effect", result.generation)
    for problem in result.problems:
        _LOG.error("%s", problem)
    for change in result.changes:
        _LOG.log(logging.WARNING if change.restart else logging.INFO, "%s", change)


def _digest(data: bytes) -> Digest:
    return hashlib.blake2b(data, digest_size=16).digest()
