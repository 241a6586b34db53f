"""How do clients say what an answer was worth?"""

from __future__ import annotations

from typing import Annotated, Protocol, Self

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from gateway.control.failures import invalid
from gateway.control.strict import read_object
from gateway.errors import GatewayError
from gateway.telemetry.feedback import MAX_SCORE, Given

MAX_ID_CHARS = 128
"""The longest request id that the gateway takes over."""

MAX_LABEL_CHARS = 200

Id = Annotated[str, Field(min_length=1, max_length=MAX_ID_CHARS)]


class Feedback(Protocol):
    """Where scores go."""

    def give(self, name: str, score: float, label: str = "") -> Given:
        """Count a score for the request, or the last one of the trace, with this id."""


class Nobody:
    """Knows no request: a gateway without policies."""

    def give(self, name: str, score: float, label: str = "") -> Given:
        """Say so."""
        return Given.UNKNOWN


class FeedbackBody(BaseModel):
    """What somebody thinks of one answer."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    request_id: Id | None = Field(
        default=None, description="The answer's `x-request-id`; this or trace_id is needed."
    )
    trace_id: Id | None = Field(
        default=None,
        description="The trace of the request's `traceparent`, 32 hexadecimal digits, or the "
        "`trace_id` of an answer of /v1/generate.",
    )
    score: Annotated[float, Field(ge=-MAX_SCORE, le=MAX_SCORE, allow_inf_nan=False)] = Field(
        description="Higher is better; 0 and 1, or 1 to 5, whatever is used throughout."
    )
    label: Annotated[str, Field(max_length=MAX_LABEL_CHARS)] = Field(
        default="", description="A word for the log, such as what was wrong."
    )

    @model_validator(mode="after")
    def _one_id(self) -> Self:
        if (self.request_id is None) is (self.trace_id is None):
            raise ValueError("needs either request_id or trace_id")
        return self


def router(feedback: Feedback) -> APIRouter:
    """Return the route."""
    routes = APIRouter(tags=["policies"])
    schema = {"content": {"application/json": {"schema": FeedbackBody.model_json_schema()}}}

    @routes.post(
        "/v1/feedback",
        status_code=202,
        openapi_extra={"requestBody": {"required": True, **schema}},
    )
    async def give(request: Request) -> Response:
        """Count a score for the arm that a policy sent the request to: the first one it gets."""
        try:
            body = FeedbackBody.model_validate(read_object(await request.body()))
        except ValidationError as error:
            raise invalid(error) from None
        param = "request_id" if body.request_id is not None else "trace_id"
        given = feedback.give(body.request_id or body.trace_id or "", body.score, body.label)
        if given is Given.UNKNOWN:
            message = "No request of a policy is known by this id; it may be too long ago."
            raise GatewayError(404, "request_not_found", message, param=param)
        return JSONResponse({"status": given}, 202)

    return routes
