"""Every request has an id, a bounded body and, when it fails, a plain answer."""

from __future__ import annotations

import re

import httpx
import pytest

from tests.support.control import JSON, FakeAsk, FakeView, Post, Script, Then, app, model


def client(ask: FakeAsk | None = None, **settings: object) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app(ask, **settings))
    return httpx.AsyncClient(transport=transport, base_url="http://gateway")


async def test_a_request_id_is_echoed_and_forwarded() -> None:
    """A valid id is the request's name on both sides, and stands once in the answer."""
    ask = FakeAsk(Script([b"{}"], headers=[JSON, (b"x-request-id", b"r.1")]))
    async with client(ask) as http:
        answer = await http.post("/v1/chat/m", content=b"{}", headers={"x-request-id": "r.1"})
    assert answer.headers.get_list("x-request-id") == ["r.1"]
    assert ask.asked[0].header(b"x-request-id") == [b"r.1"]


@pytest.mark.parametrize("headers", [{}, {"x-request-id": "a b"}, {"x-request-id": "x" * 129}])
async def test_a_request_id_is_made_where_none_is_valid(headers: dict[str, str]) -> None:
    """Each request gets its own, and the data path gets the same."""
    ask = FakeAsk(Script([b"{}"], headers=[JSON]), Script([b"{}"], headers=[JSON]))
    async with client(ask) as http:
        answers = [await http.post("/v1/chat/m", content=b"{}", headers=headers) for _ in range(2)]
    names = [answer.headers["x-request-id"] for answer in answers]
    assert all(re.fullmatch("[0-9a-f]{32}", name) for name in names)
    assert names[0] != names[1]
    assert [asked.header(b"x-request-id") for asked in ask.asked] == [
        [name.encode()] for name in names
    ]


@pytest.mark.parametrize("path", ["/nope", "/v1/models/nope", "/livez"])
async def test_every_answer_has_an_id(path: str) -> None:
    """Errors too: they are what people ask about."""
    async with client() as http:
        assert len((await http.get(path)).headers["x-request-id"]) == 32


async def test_a_declared_body_over_the_cap_is_refused_unread() -> None:
    """413 comes before any of the body is asked for."""
    body = b"{" + b" " * 100 + b"}"
    post = Post(app(max_body_bytes=100), "/v1/chat/m", body, [(b"content-length", b"102")])
    async with post:
        assert (await post.hear())["status"] == 413
        assert b"request_too_large" in (await post.hear())["body"]
    assert post.unread == 1


async def test_a_streamed_body_over_the_cap_is_refused() -> None:
    """Without a declared length the bytes are counted as they come; the cap itself is allowed."""
    for size, status in ((100, 200), (101, 413)):
        ask = FakeAsk(Script([b"{}"], headers=[JSON]))
        body = b"{" + b" " * (size - 2) + b"}"
        async with Post(app(ask, max_body_bytes=100), "/v1/chat/m", body) as post:
            assert (await post.hear())["status"] == status
            post.leave()
        assert len(ask.asked) == (status == 200)


@pytest.mark.parametrize(("length", "status"), [(b"-1", 400), (b"1e3", 400), (b"9" * 50, 413)])
async def test_an_absurd_length_is_refused(length: bytes, status: int) -> None:
    """Hosts check it too, but not all of them."""
    async with Post(app(), "/v1/chat/m", b"{}", [(b"content-length", length)]) as post:
        assert (await post.hear())["status"] == status


async def test_a_defect_is_logged_and_not_shown(caplog: pytest.LogCaptureFixture) -> None:
    """The client gets the one shape; the traceback stays here."""
    ask = FakeAsk(Script(defect=ZeroDivisionError("secret")))
    async with client(ask) as http:
        answer = await http.post("/v1/chat/m", content=b"{}")
    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "internal_error"
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    assert "secret" not in answer.text
    assert "ZeroDivisionError: secret" in caplog.text
    assert ask.asked[0].left.is_set()


async def test_a_defect_in_the_view_is_an_internal_error_too() -> None:
    """The catch is around every route, not only around those that ask."""

    class Broken(FakeView):
        def models(self) -> list[object]:  # type: ignore[override]
            raise RuntimeError("secret")

    async with client(view=Broken()) as http:
        answer = await http.get("/health")
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal_error")


async def test_an_answer_cut_in_its_middle_stays_unfinished(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The response's end is never sent, so that the host cuts the connection."""
    ask = FakeAsk(Script([b'{"a":'], headers=[JSON], then=Then.CUT))
    async with Post(app(ask), "/v1/chat/m", b"{}") as post:
        assert (await post.hear())["status"] == 200
        assert (await post.hear())["body"] == b'{"a":'
    assert post.silent
    assert "was cut" in caplog.text


async def test_a_client_that_leaves_within_its_body_is_no_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Nothing is asked, answered or logged."""
    ask = FakeAsk()
    post = Post(app(ask), "/v1/chat/m", b"{", more_body=True)
    post.leave()
    async with post:
        pass
    assert post.silent
    assert ask.asked == []
    assert caplog.text == ""


async def test_head_is_get_without_the_body() -> None:
    """Load balancers probe with HEAD; RFC 9110 §9.1 wants it wherever GET is."""
    view = FakeView([model("a")])
    async with client(view=view) as http:
        get, head = await http.get("/v1/models"), await http.head("/v1/models")
        refused = await http.head("/v1/generate")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == get.headers["content-length"]
    assert refused.status_code == 405
