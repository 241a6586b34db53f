"""The shapes of what FastAPI and Starlette refuse by themselves."""

import pytest
from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.testclient import TestClient

from vision.api import failures


@pytest.fixture
def http() -> TestClient:
    app = FastAPI()
    failures.install(app)

    @app.get("/v1/{number}")
    @app.get("/v2/{number}")
    async def number(number: int) -> None:
        raise HTTPException(418, "a teapot")

    return TestClient(app)


def test_a_value_that_does_not_fit_is_a_400_that_names_it(http: TestClient) -> None:
    error = http.get("/v1/x").json()["error"]
    assert (error["code"], error["param"]) == ("invalid_request", "path.number")
    assert http.get("/v1/x").status_code == http.get("/v2/x").status_code == 400
    assert http.get("/v2/x").json()["error"].startswith("`path.number`: ")


def test_whatever_else_a_framework_raises_is_told_in_shape(http: TestClient) -> None:
    assert http.get("/v1/1").json()["error"]["message"] == "a teapot"
    assert http.get("/v2/1").json() == {"error": "a teapot"}
