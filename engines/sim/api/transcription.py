"""What does `/v1/audio/transcriptions` answer to an uploaded file?

Nothing listens to the audio: the text says that it is simulated and how large the file was.
"""

from __future__ import annotations

from dataclasses import dataclass
from email.message import Message

from engines.sim import errors
from engines.sim.api.model import Served


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a multipart form."""

    name: str
    filename: str | None
    content: bytes


def transcribe(body: bytes, content_type: str, served: Served) -> tuple[str, str]:
    """Return the transcription's text and the wanted response format; ApiError 400 for a bad
    form.
    """
    parts = {part.name: part for part in read_form(body, content_type)}
    file = parts.get("file")
    if file is None:
        line = repr(
            {"type": "missing", "loc": "body.file", "msg": "Field required", "input": "None"}
        )
        raise errors.invalid([line], "body.file")
    model = parts.get("model")
    served.resolve(model.content.decode("utf-8", "replace") if model else None)
    if _text(parts, "stream") in ("true", "True", "1"):
        raise errors.bad_request("streamed transcriptions are not simulated", "stream")
    text = f"Simulated transcription of a file of {len(file.content)} bytes; no model listened."
    return text, _text(parts, "response_format") or "json"


def _text(parts: dict[str, Part], name: str) -> str:
    return parts[name].content.decode("utf-8", "replace") if name in parts else ""


def read_form(body: bytes, content_type: str) -> list[Part]:
    """Return the parts of a `multipart/form-data` body (RFC 7578); ApiError 400 if it is not
    one.
    """
    header = Message()
    header["content-type"] = content_type
    boundary = header.get_param("boundary")
    if header.get_content_type() != "multipart/form-data" or not isinstance(boundary, str):
        raise errors.bad_request("The body must be multipart/form-data with a boundary")
    mark = b"\r\n--" + boundary.encode("latin-1", "replace")
    sections = (b"\r\n" + body).split(mark)
    if len(sections) < 2 or not sections[-1].startswith(b"--"):
        raise errors.bad_request("There was an error parsing the body")
    return [_part(section) for section in sections[1:-1]]


def _part(section: bytes) -> Part:
    head, found, content = section.partition(b"\r\n\r\n")
    header = Message()
    for line in head.split(b"\r\n"):
        name, colon, value = line.decode("utf-8", "replace").partition(":")
        if colon:
            header[name] = value.strip()
    field = header.get_param("name", header="content-disposition")
    if not found or not isinstance(field, str):
        raise errors.bad_request("There was an error parsing the body")
    return Part(field, header.get_filename(), content)
