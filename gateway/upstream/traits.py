"""What does one request tell a balancer about itself?

Pure. A balancer says by `needs_session` and `needs_prompt` what it wants to know; a request whose
balancer needs neither is one of the two values here, so that it costs no object of its own.
"""

from __future__ import annotations

from typing import NamedTuple


class Traits(NamedTuple):
    """What the choice of an endpoint may depend on. A tuple, because it is cheap and immutable."""

    stream: bool
    """Streams are judged by their time to the first token, other answers by their whole time."""
    session: bytes = b""
    """The key of the session that the request belongs to; b"" if it has none."""
    prompt: bytes = b""
    """Raw JSON of `messages` or `prompt` from its start; b"" if the balancer does not need it."""

    def __repr__(self) -> str:
        # Prompts and keys of sessions never are in a log, in a traceback neither.
        return (
            f"<Traits stream={self.stream}, session of {len(self.session)} bytes, "
            f"prompt of {len(self.prompt)} bytes>"
        )


STREAM = Traits(stream=True)
"""A request for a stream, and no more is said of it."""

WHOLE = Traits(stream=False)
"""A request for a whole answer, and no more is said of it."""
