"""Who gets at the operators' routes: the token, foreign pages, rebound names."""

from __future__ import annotations

import logging

import pytest

from gateway.control.admin_guard import is_local_name
from tests.gateway.control.test_admin import client, code


@pytest.mark.parametrize(
    "given", [None, "Bearer", "Bearer ", "Bearer wrong", "Basic right", "right", "Bearer rightx"]
)
@pytest.mark.parametrize("path", ["/admin/endpoints", "/metrics", "/docs", "/openapi.json", "/x"])
async def test_without_the_token_nothing_but_liveness(given: str | None, path: str) -> None:
    """401 also for routes that do not exist: who has no token learns nothing."""
    async with client(token="right") as http:
        headers = {} if given is None else {"authorization": given}
        assert code(await http.get(path, headers=headers)) == (401, "invalid_admin_token")
        assert (await http.get("/livez")).status_code == 200


@pytest.mark.parametrize("given", ["Bearer right", "bearer right", "Bearer  right"])
async def test_the_token_opens(given: str, caplog: pytest.LogCaptureFixture) -> None:
    """The scheme's case is free (RFC 9110 §11.1); any host name will do; it is never logged."""
    caplog.set_level(logging.DEBUG)
    async with client(token="right", host="gateway.example") as http:
        answer = await http.get("/admin/endpoints", headers={"authorization": given})
    assert answer.status_code == 200
    assert "right" not in caplog.text


@pytest.mark.parametrize("token", [None, "right"])
async def test_pages_of_other_sites_are_refused(token: str | None) -> None:
    """A browser sends Origin with every POST; one of the same host may ask."""
    headers = {"authorization": "Bearer right"}
    async with client(token=token) as http:
        foreign = {**headers, "origin": "https://evil.example"}
        assert code(await http.post("/admin/drain", headers=foreign)) == (403, "origin_not_allowed")
        own = {**headers, "origin": "http://127.0.0.1:9090"}
        assert (await http.post("/admin/drain", headers=own)).status_code == 202


async def test_without_a_token_a_name_may_have_been_rebound() -> None:
    """A page of rebound.example is of the same origin as this listener, once its name is."""
    async with client(host="rebound.example:9090") as http:
        own = {"origin": "http://rebound.example:9090"}
        assert code(await http.post("/admin/drain", headers=own)) == (403, "host_not_allowed")
        assert (await http.get("/livez")).status_code == 200


@pytest.mark.parametrize(
    ("authority", "local"),
    [
        ("127.0.0.1:9090", True),
        ("127.0.0.1", True),
        ("[::1]:9090", True),
        ("localhost:9090", True),
        ("LOCALHOST", True),
        ("10.1.2.3:80", True),
        ("localhost.evil.example", False),
        ("127.0.0.1.nip.io", False),
        ("evil.example", False),
        ("[::1", False),
        ("", False),
    ],
)
def test_names_that_nobody_can_rebind(authority: str, local: bool) -> None:
    """Addresses and localhost."""
    assert is_local_name(authority) is local
