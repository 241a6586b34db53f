"""Which kinds of value do configuration fields hold, and what do all of them refuse?

Pure. The types carry their checks, so that a field's annotation says what may stand there.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr
from pydantic_core import PydanticCustomError

from gateway.config.names import (
    cluster_name,
    endpoint_url,
    header_value,
    model_name,
    store_address,
    url_path,
)


def _no_bool(value: object) -> object:
    # Lax mode would take `true` for the number 1.
    if isinstance(value, bool):
        raise PydanticCustomError("not_a_number", "must be a number, not true or false")
    return value


def _secret(value: object) -> object:
    # `${VLLM_KEY:-}` is how one says "a key if there is one".
    if value == "":
        return None
    if isinstance(value, str):
        header_value(value)
    return value


def _off(value: object) -> object:
    return None if value == "off" or value is False else value


def _workers(value: object) -> object:
    # Said here, because of a union pydantic would complain once for each of its members.
    if value == "auto":
        return value
    try:
        number = int(value) if isinstance(value, (int, str)) and value is not True else 0
    except ValueError:
        number = 0
    if not 1 <= number <= MAX_WORKERS:
        message = f"must be `auto`, or a number from 1 to {MAX_WORKERS}"
        raise PydanticCustomError("not_workers", message)
    return number


MAX_WORKERS = 256
"""More is a mistake: each takes 80 MB."""

# The constraints stand next to the type, or else the JSON Schema would not show them.
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False), BeforeValidator(_no_bool)]
Count = Annotated[int, Field(ge=1), BeforeValidator(_no_bool)]
Port = Annotated[int, Field(ge=0, le=65535), BeforeValidator(_no_bool)]
Workers = Annotated[
    Annotated[int, Field(ge=1, le=MAX_WORKERS)] | Literal["auto"], BeforeValidator(_workers)
]
Text = Annotated[str, Field(min_length=1)]
ClusterName = Annotated[str, AfterValidator(cluster_name)]
ModelName = Annotated[str, AfterValidator(model_name)]
EndpointUrl = Annotated[str, AfterValidator(endpoint_url)]
StoreAddress = Annotated[str, AfterValidator(store_address)]
UrlPath = Annotated[str, AfterValidator(url_path)]
Secret = Annotated[SecretStr | None, BeforeValidator(_secret)]
Switchable = Annotated[Text | None, BeforeValidator(_off)]
Pause = Annotated[float, Field(ge=0, allow_inf_nan=False), BeforeValidator(_no_bool)]
Percent = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False), BeforeValidator(_no_bool)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False), BeforeValidator(_no_bool)]
Weight = Annotated[float, Field(ge=0.001, le=1000, allow_inf_nan=False), BeforeValidator(_no_bool)]


class Spec(BaseModel):
    """A part of the configuration: immutable, unknown keys are errors, input never in messages."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", hide_input_in_errors=True, validate_default=True
    )
