"""Are JSON bodies read as pydantic reads them, and refused in the words of vLLM 0.32?"""

from collections.abc import Callable
from typing import Any

import pytest

from engines.sim.api import chat
from engines.sim.api.model import Served
from engines.sim.errors import ApiError
from engines.sim.fields import decode_object

_CHAT = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8}


def _refusal(read: Callable[..., Any], *arguments: Any) -> ApiError:
    with pytest.raises(ApiError) as caught:
        read(*arguments)
    return caught.value


def _error(message: str, kind: str, param: str | None, code: int) -> dict[str, object]:
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


@pytest.mark.parametrize(
    ("body", "content_type", "message", "param"),
    [
        (
            b'{"model": "tiny", ',
            "application/json",
            (
                "1 validation error:\n  {'type': 'json_invalid', 'loc': 'body.18', 'msg': 'JSON "
                "decode "
                "error', 'input': '<dict of 0 items>', 'ctx': {'error': 'Expecting property name "
                "enclosed in double quotes'}}"
            ),
            "body.18",
        ),
        (
            b"",
            "application/json",
            (
                "1 validation error:\n  {'type': 'missing', 'loc': 'body', 'msg': 'Field "
                "required', "
                "'input': 'None'}"
            ),
            "body",
        ),
        (
            b"[1, 2]",
            "application/json; charset=utf-8",
            (
                "1 validation error:\n  {'type': 'model_attributes_type', 'loc': 'body', 'msg': "
                "'Input "
                "should be a valid dictionary or object to extract fields from', 'input': "
                "'<list of 2 "
                "items>'}"
            ),
            "body",
        ),
        (
            b'{"model": "tiny"}',
            "text/plain",
            "1 validation error:\n  Unsupported Media Type: Only 'application/json' is allowed",
            None,
        ),
    ],
)
def test_bodies_that_are_not_json_objects(
    body: bytes, content_type: str, message: str, param: str | None
) -> None:
    """Always 400, never 415 or 422."""
    refusal = _refusal(decode_object, body, content_type)
    assert refusal.status == 400
    assert refusal.body == _error(message, "Bad Request", param, 400)


@pytest.mark.parametrize("body", [b"\xff\xfe", b'{"a": "\xff"}', b"[" * 200_000])
def test_hostile_bodies_are_refused(body: bytes) -> None:
    """Broken encodings and bottomless nesting are client errors too."""
    assert _refusal(decode_object, body, "application/json").status == 400


@pytest.mark.parametrize(
    ("member", "value", "kind"),
    [
        ("max_tokens", 1.5, "int_from_float"),
        ("max_tokens", [], "int_type"),
        ("temperature", "warm", "float_parsing"),
        ("temperature", {}, "float_type"),
        ("stream", "yes", "bool_type"),
        ("model", 3, "string_type"),
        ("messages", "hi", "list_type"),
        ("response_format", "json", "dict_type"),
    ],
)
def test_wrong_types_are_named(served: Served, member: str, value: Any, kind: str) -> None:
    """Each wrong type gives pydantic's kind and the member's place."""
    refusal = _refusal(chat.read, _CHAT | {member: value}, served)
    error = refusal.body["error"]
    assert isinstance(error, dict)
    assert f"'type': '{kind}'" in error["message"]
    assert error["param"] == f"body.{member}"


def test_numbers_in_strings_are_numbers(served: Served) -> None:
    """pydantic's lax mode takes them, and so does the engine."""
    request = chat.read(_CHAT | {"max_tokens": "5", "temperature": "0.5"}, served)
    assert request.endings[0].max_tokens == 5
    assert request.sampling.temperature == 0.5
