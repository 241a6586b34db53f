"""Is this body a JSON object that every parser behind us reads in the same way?

Pure. The data path checks again what it is sent; here the same rules hold for the fields that a
control route reads before it asks.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import msgspec

from gateway.api.body import spans
from gateway.errors import bad_request


def read_object(body: bytes) -> dict[str, object]:
    """Return `body` as an object: UTF-8, RFC 8259 (no NaN), at most one `model` at the top.

    Raises `GatewayError` 400.
    """
    try:
        value = msgspec.json.decode(body)
    except UnicodeDecodeError:
        raise bad_request("The request body is not valid UTF-8.") from None
    except msgspec.DecodeError as error:
        raise bad_request(f"The request body is not valid JSON: {error}.") from None
    except RecursionError:
        raise bad_request("The request body is nested too deeply.") from None
    if not isinstance(value, dict):
        raise bad_request("The request body must be a JSON object.")
    if "model" in value and len(spans(body, "model")) > 1:
        raise bad_request("The request body has more than one `model`.", "model")
    return value


def add_members(body: bytes, members: Mapping[str, object]) -> bytes:
    """Return the valid JSON object `body` with `members` in front, the rest byte for byte.

    The caller knows that `body` does not have them: twice the same key is what nobody reads alike.
    """
    at = body.index(b"{") + 1
    rest = body[at:]
    comma = b"" if rest.lstrip().startswith(b"}") else b","
    return b"".join((body[:at], json.dumps(dict(members)).encode()[1:-1], comma, rest))
