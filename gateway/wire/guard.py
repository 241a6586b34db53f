"""May this request head come in, and which of its fields travel on?

Pure. uvicorn accepts a request without a Host, with two, or with a megabyte of headers; what a
gateway must refuse before it forwards anything is decided here, in one pass over the fields that
also builds the block to forward (the pass costs about 0.15 µs a field).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from gateway.errors import GatewayError, bad_request

Headers = list[tuple[bytes, bytes]]
"""Header fields in order of arrival; names in lower case."""

# RFC 9110 §7.6.1 and the two that only proxies sent; never passed on in either direction.
HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)

# Fields with a meaning on this hop: read here and written anew, or dropped, on the next one.
# accept-encoding is dropped because compressed bytes cannot be watched; expect is answered here.
_OURS = HOP_BY_HOP | {
    b"host",
    b"content-length",
    b"content-encoding",
    b"content-type",
    b"expect",
    b"api-key",
    b"authorization",
    b"x-api-key",
    b"accept-encoding",
    b"x-request-id",
    b"x-request-timeout-ms",  # Written anew with what is left of it.
}

# Read here, and passed on as they are. The second is openai-python's and counts silence, the third
# openai-node's and ends with the response head: both are seconds until the first byte.
_NOTED = frozenset({b"x-priority", b"x-stainless-read-timeout", b"x-stainless-timeout"})

_CREDENTIALS = frozenset({b"authorization", b"x-api-key", b"api-key"})

# Response fields that this hop replaces.
_RESPONSE_OURS = HOP_BY_HOP | {b"content-length", b"date", b"server", b"x-request-id"}

# A registered name, an IPv4 or a bracketed IPv6 address, with an optional port (RFC 3986 §3.2.2).
_HOST = re.compile(rb"(?:[A-Za-z0-9._~%-]+|\[[0-9A-Fa-f:.%A-Za-z0-9]+\])(?::[0-9]{0,5})?")
_NUMBER = re.compile(rb"[0-9]+(?:\.[0-9]*)?")
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")
_PERSISTENCE = frozenset({b"keep-alive", b"close", b""})


@dataclass(frozen=True, slots=True)
class Limits:
    """Caps of one listener. Envoy's defaults are 60 KiB and 100 headers."""

    header_bytes: int = 64 * 1024
    headers: int = 100
    body_bytes: int = 32 * 1024 * 1024
    json_depth: int = 128
    head_timeout_s: float = 15.0
    body_timeout_s: float = 15.0


@dataclass(slots=True)
class Head:
    """What the gateway needs of a request head once the guard has let it in."""

    forward: bytes
    """Header lines, each with its CRLF, that may travel upstream as they are."""
    content_length: int | None = None
    content_type: bytes = b""
    credentials: bytes = field(default=b"", repr=False)
    """The client's own keys as header lines: Authorization, Anthropic's and Azure's fields."""
    request_id: bytes | None = None
    expects_continue: bool = False
    total_s: float = 0.0
    """How long the client waits for the whole answer: x-request-timeout-ms; 0 without it."""
    patience_s: float = 0.0
    """How long the client's SDK waits for the first byte; 0 if it does not say."""
    priority: bytes = b""
    """What the client wrote as x-priority."""
    query: bytes = b""
    """What stands behind the path's `?`, as it was written; only where a route reads it."""
    _found: dict[bytes, bytes] | None = field(default=None, repr=False, compare=False)

    def field(self, name: bytes) -> bytes:
        """Return the value of a field that travels on, `name` in lower case; b"" without one.

        What was looked up is kept: all requests of a client that repeats its head share this.
        """
        found = self._found
        if found is None:
            found = self._found = {}
        value = found.get(name)
        if value is None:
            value = found[name] = self._look_up(name)
        return value

    def _look_up(self, name: bytes) -> bytes:
        lines = b"\r\n" + self.forward
        at = lines.find(b"\r\n%b: " % name)
        if at < 0:
            return b""
        start = at + len(name) + 4
        return lines[start : lines.find(b"\r\n", start)]


def read_head(headers: Headers, limits: Limits, *, http_1_0: bool = False) -> Head:
    """Check the fields of one request head and split them into ours and the engine's.

    Raises `GatewayError` 400 for a head that two servers could read differently, 413 for a
    declared body over the cap, 415 for a compressed one, 431 for a block over the caps.
    """
    head = Head(b"")
    hosts = size = 0
    forward: list[bytes] = []
    named: list[bytes] = []
    for name, value in headers:
        size += len(name) + len(value) + 4
        if name not in _OURS:
            forward.append(b"%b: %b\r\n" % (name, value))
            if name in _NOTED:
                _note(head, name, value)
        elif name == b"host":
            hosts += 1
            _check_host(value)
        elif name == b"content-length":
            head.content_length = _read_length(value, limits)
        elif name == b"content-type":
            head.content_type = value
        elif name == b"connection":
            named += [token.strip() for token in value.lower().split(b",")]
        else:
            _read_rare(head, name, value, http_1_0=http_1_0)
    _check_whole(size, len(headers), limits)
    if hosts != 1 and not (http_1_0 and hosts == 0):
        raise bad_request("The request needs exactly one Host header.")
    if named and not _PERSISTENCE.issuperset(named):
        forward = [line for line in forward if line.partition(b":")[0] not in named]
    head.forward = b"".join(forward)
    return head


def _check_whole(size: int, count: int, limits: Limits) -> None:
    if size > limits.header_bytes or count > limits.headers:
        raise head_too_large(limits)


def _check_host(value: bytes) -> None:
    if _HOST.fullmatch(value) is None:
        raise bad_request("The Host header is not a valid host.")


def _read_length(value: bytes, limits: Limits) -> int:
    if not value.isdigit():
        raise bad_request("The Content-Length header is not a number.")
    # Length first: int() of a megabyte of digits would be a denial of service of its own.
    if len(value) > 19 or int(value) > limits.body_bytes:
        raise body_too_large(limits)
    return int(value)


def _read_rare(head: Head, name: bytes, value: bytes, *, http_1_0: bool) -> None:
    if name == b"transfer-encoding":
        if http_1_0 or value.strip().lower() != b"chunked":
            raise bad_request("The only transfer coding accepted is `chunked`, on HTTP/1.1.")
    elif name == b"content-encoding":
        if value.strip().lower() not in {b"", b"identity"}:
            raise GatewayError(
                415, "unsupported_media_type", "Compressed request bodies are not accepted."
            )
    elif name == b"expect":
        if value.strip().lower() != b"100-continue":
            raise GatewayError(417, "expectation_failed", "Only `100-continue` may be expected.")
        head.expects_continue = not http_1_0  # RFC 9110 §10.1.1: it would not understand.
    else:
        _read_said(head, name, value)


def _read_said(head: Head, name: bytes, value: bytes) -> None:
    if name in _CREDENTIALS:
        head.credentials += b"%b: %b\r\n" % (name, value)
    elif name == b"x-request-timeout-ms":
        head.total_s = _seconds(value) / 1000
        if not head.total_s:
            raise bad_request("The X-Request-Timeout-Ms header is not a positive number.")
    elif name == b"x-request-id":
        head.request_id = value if _REQUEST_ID.fullmatch(value) else None


def _note(head: Head, name: bytes, value: bytes) -> None:
    if name == b"x-priority":
        head.priority = value.strip().lower()
    else:
        head.patience_s = _seconds(value)  # An SDK's "no time-out" is no number.


def _seconds(value: bytes) -> float:
    return float(value) if len(value) <= 15 and _NUMBER.fullmatch(value) else 0.0


def body_too_large(limits: Limits) -> GatewayError:
    """Return the refusal of a body over the cap."""
    return GatewayError(
        413, "request_too_large", f"The request body is over {limits.body_bytes} bytes."
    )


def head_too_large(limits: Limits) -> GatewayError:
    """Return the refusal of a header block over the caps."""
    return GatewayError(
        431,
        "headers_too_large",
        f"The request head is over {limits.header_bytes} bytes or {limits.headers} headers.",
    )


@dataclass(frozen=True, slots=True)
class ResponseHead:
    """What the gateway needs of an engine's response head."""

    status: int
    lines: bytes
    """Header lines, each with its CRLF, that may travel to the client as they are."""
    content_type: bytes
    streams: bool
    """Whether the body is a stream of server-sent events."""
    length: int | None
    """The declared length of the body, where there is one; a template's is its first one's."""


def read_response_head(status: int, headers: Headers) -> ResponseHead:
    """Split an engine's response fields into ours and the client's.

    `date` is replaced by this server's own, as nginx and Envoy do.
    """
    content_type, length = b"", None
    lines: list[bytes] = []
    named: list[bytes] = []
    for name, value in headers:
        if name == b"content-type":
            content_type = value
        elif name == b"content-length":
            length = int(value)
        elif name == b"connection":
            named += [token.strip() for token in value.lower().split(b",")]
        if name not in _RESPONSE_OURS:
            lines.append(b"%b: %b\r\n" % (name, value))
    if named and not _PERSISTENCE.issuperset(named):
        lines = [line for line in lines if line.partition(b":")[0] not in named]
    streams = status == 200 and content_type.lower().startswith(b"text/event-stream")
    if streams:
        # A proxy in front of us must not buffer events (nginx honours the second field).
        lines.append(b"cache-control: no-cache\r\nx-accel-buffering: no\r\n")
    return ResponseHead(status, b"".join(lines), content_type, streams, length)
