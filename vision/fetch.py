"""How does the service get the image behind a client's URL without becoming the client's proxy?

    parse ──► resolve ──► all addresses permitted? ──► connect to one of them ──► 200: read, capped
      ▲                                                                      └──► 3xx ─┐
      └───────────────────────────── at most `max_redirects` times ────────────────────┘

The connection goes to the address that was judged: the request carries it as its host, the name
only in `Host`, SNI and the certificate's check. There is no second resolution that could answer
differently. No cookies, no credentials, no proxies of the environment, no compression, and
no connection is used twice. What the other side says never reaches the client; why a
connection failed is in the log.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import httpx

from vision.addresses import Address, AddressRules, Target
from vision.errors import BadInput

_LOG = logging.getLogger("sluice.vision.fetch")

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""Host and port to addresses as text; raises `OSError` if there are none."""

_REDIRECTS: Final = (301, 302, 303, 307, 308)
# An address that does not answer costs `connect_s`; of many, a few are tried.
_MAX_ADDRESSES: Final = 3
_CHUNK_BYTES: Final = 64 * 1024
_SIGNATURES: Final = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"BM", b"RIFF")
_SNIFFED: Final = ("", "application/octet-stream", "binary/octet-stream")


@dataclass(frozen=True, slots=True)
class FetchSettings:
    """Whether URLs are fetched, which ones, and how much of them.

    On by default, for public addresses only. `max_bytes` is the cap of an image elsewhere, too.
    """

    enabled: bool = True
    rules: AddressRules = field(default_factory=AddressRules)
    max_bytes: int = 20 * 2**20
    max_redirects: int = 3
    connect_s: float = 2.0
    total_s: float = 10.0
    max_concurrent: int = 16


class Fetcher:
    """The way to the outside; one for the process, used from one event loop."""

    def __init__(
        self,
        settings: FetchSettings,
        *,
        resolve: Resolve | None = None,
        trust: ssl.SSLContext | None = None,
    ) -> None:
        self._settings = settings
        self._resolve = resolve or _resolve
        self._trust = trust or httpx.create_ssl_context(trust_env=False)
        self._slots = asyncio.Semaphore(settings.max_concurrent)

    async def get(self, url: str) -> bytes:
        """Return what is behind the URL, an image by its content type or first bytes.

        Raises `BadInput`: `url_refused` if nothing was asked there, `url_failed` with a short
        reason if no image came. `total_s` counts from here, with the wait for one of
        `max_concurrent` places.
        """
        if not self._settings.enabled:
            raise BadInput("URLs are not fetched here: send the image.", code="url_refused")
        target = self._settings.rules.parse(url)
        try:
            async with asyncio.timeout(self._settings.total_s), self._slots:
                return await self._follow(target)
        except TimeoutError:
            raise _failed(f"it took longer than {self._settings.total_s:g} s") from None

    async def _follow(self, target: Target) -> bytes:
        for _ in range(self._settings.max_redirects + 1):
            # One for each: who gives up in the moment after the connection is made leaves it in the
            # pool, and only the pool's end closes it. 22 µs; and by addresses, a pool would hand
            # one host's connection to another host.
            async with httpx.AsyncHTTPTransport(verify=self._trust, trust_env=False) as transport:
                response = await self._ask(transport, target)
                try:
                    if response.status_code not in _REDIRECTS:
                        return await self._read(response)
                    location = response.headers.get("location", "")
                except httpx.HTTPError:
                    raise _failed("the connection broke") from None
                finally:
                    await response.aclose()
            target = self._settings.rules.follow(target, location)
        raise _failed(f"there are more than {self._settings.max_redirects} redirects")

    async def _ask(self, transport: httpx.AsyncHTTPTransport, target: Target) -> httpx.Response:
        """Return the answer's head, from the first permitted address that takes a connection."""
        for address in _tried(await self._addresses(target)):
            try:
                return await transport.handle_async_request(self._request(target, address))
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                _LOG.info("no connection to %s at %s: %r", target.host, address, error)
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                _LOG.info("no answer from %s at %s: %r", target.host, address, error)
                raise _failed("the connection broke") from None
        raise _failed("no connection could be made")

    async def _addresses(self, target: Target) -> Sequence[Address]:
        if target.literal is not None:
            return self._settings.rules.permitted([target.host])
        try:
            resolved = await self._resolve(target.host, target.port)
        except (OSError, UnicodeError):
            resolved = ()
        return self._settings.rules.permitted(resolved)

    def _request(self, target: Target, address: Address) -> httpx.Request:
        settings = self._settings
        timeout = httpx.Timeout(settings.total_s, connect=settings.connect_s).as_dict()
        return httpx.Request(
            "GET",
            httpx.URL(
                scheme=target.scheme,
                host=str(address),
                port=target.port,
                raw_path=target.path.encode("ascii"),
            ),
            headers={
                "host": target.authority,
                "accept": "image/*",
                "accept-encoding": "identity",
                "connection": "close",
                "user-agent": "sluice-vision",
            },
            extensions={"timeout": timeout, "sni_hostname": target.host},
        )

    async def _read(self, response: httpx.Response) -> bytes:
        """Return the body of a 200 that may be an image, as far as the cap allows."""
        headers, most = response.headers, self._settings.max_bytes
        if response.status_code != 200:
            raise _failed(f"it answered with status {response.status_code}")
        if headers.get("content-encoding", "identity").lower() != "identity":
            raise _failed("the answer is compressed, which was not asked for")
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind not in _SNIFFED and not kind.startswith("image/"):
            raise _failed("the answer is not an image")
        declared = headers.get("content-length", "0")
        if declared.isdecimal() and int(declared) > most:
            raise _failed(f"the image has more than {most} bytes")
        body = bytearray()
        async for chunk in response.aiter_raw(_CHUNK_BYTES):
            body += chunk
            if len(body) > most:
                raise _failed(f"the image has more than {most} bytes")
            if kind in _SNIFFED and not _may_be_an_image(body):
                raise _failed("the answer is not an image")
        return bytes(body)


def _tried(addresses: Sequence[Address]) -> Sequence[Address]:
    """Return a few; the second is of the other family: perhaps that one works here."""
    first = addresses[0]
    others = sorted(addresses[1:], key=lambda one: one.version == first.version)
    return (first, *others)[:_MAX_ADDRESSES]


def _may_be_an_image(start: bytes | bytearray) -> bool:
    return any(start.startswith(known[: len(start)]) for known in _SIGNATURES)


def _failed(why: str) -> BadInput:
    return BadInput(f"The image could not be fetched: {why}.", code="url_failed")


async def _resolve(host: str, port: int) -> Sequence[str]:
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(entry[4][0]) for entry in found]
