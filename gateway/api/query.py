"""Which model does a query ask for, and how is another put in its place?

    ?model=digits&top_k=3

Pure. For bodies that are an image and nothing else. What else the query says travels on byte for
byte.
"""

from __future__ import annotations

import re
from urllib.parse import quote, unquote_plus

from gateway.errors import bad_request

# As a request line may hold it: anything else could end the line, or begin another one.
_PLAIN = re.compile(rb"[\x21-\x7e]*")


def model_of(query: bytes) -> str:
    """Return the query's one `model`. Raises `GatewayError` 400."""
    if not _PLAIN.fullmatch(query):
        raise bad_request("The query must be visible ASCII; percent-encode the rest.", "model")
    found = [value for name, value in map(_pair, query.split(b"&")) if name == "model"]
    if len(found) > 1:
        raise bad_request("The query has more than one `model`.", "model")
    if not found or not found[0] or not found[0].isprintable():
        raise bad_request("An image needs `?model=` in the query: a name, not empty.", "model")
    return found[0]


def with_model(query: bytes, name: str) -> bytes:
    """Return a query that `model_of` has let in, with `name` as its model."""
    value = b"model=" + quote(name, safe="").encode()
    return b"&".join(value if _pair(one)[0] == "model" else one for one in query.split(b"&"))


def _pair(text: bytes) -> tuple[str, str]:
    name, _, value = text.decode("ascii").partition("=")
    return unquote_plus(name), unquote_plus(value)
