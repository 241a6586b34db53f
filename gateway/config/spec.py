"""What may an operator configure, in which units, and what holds if they say nothing?

Pure: values only, no files and no environment (`gateway.config.load` reads those). Every field has
a description, because the published JSON Schema is made from these modules. Numbers given as text
are accepted (`port: "${PORT}"`), since interpolated values always are text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, Self

from pydantic import Field, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from gateway.config.cluster import Cluster
from gateway.config.conflicts import References, conflicts
from gateway.config.fields import (
    ClusterName,
    ModelName,
    Seconds,
    Spec,
    StoreAddress,
    Switchable,
    Text,
)
from gateway.config.server import Server


class Model(Spec):
    """A name that clients may ask for."""

    cluster: Text = Field(description="Name of the cluster that serves it.")
    upstream_model: ModelName | None = Field(
        default=None, description="The engines' name of the model; without it the same name."
    )
    aliases: tuple[ModelName, ...] = Field(
        default=(), description="Other names for it, for example those that existing clients use."
    )
    fallbacks: tuple[ModelName, ...] = Field(
        default=(),
        description="Models that answer in its place, in order, when each attempt at it failed, "
        "or when a request is too long for it and not for them. The answer names the one "
        "that gave it.",
    )


class Logging(Spec):
    """What is written where. Prompts, answers and keys never are."""

    access: Switchable = Field(
        default="-",
        description="Access log, one JSON line per request: `-` is standard output, anything "
        "else a file to append to; `off` or null writes none.",
    )
    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info",
        description="Least severe message in the gateway's own log (standard error).",
    )


class Discovery(Spec):
    """How clusters that no model names learn what they serve: from `/v1/models`."""

    interval_s: Seconds = Field(
        default=2, description="Seconds between two looks at an endpoint's /v1/models."
    )
    timeout_s: Seconds = Field(default=2, description="Seconds that one look may take.")


class Config(Spec):
    """Everything. Raises `pydantic.ValidationError` if the parts do not fit together."""

    server: Server = Field(default=Server(), description="The clients' side.")
    clusters: Mapping[ClusterName, Cluster] = Field(
        min_length=1, description="Named sets of equal engine servers."
    )
    models: Mapping[ModelName, Model] = Field(
        default={},
        description="Names for clients. A cluster that no model names serves whatever its "
        "endpoints' /v1/models say.",
    )
    logging: Logging = Field(default=Logging(), description="Logs.")
    policies: tuple[Text, ...] = Field(
        default=(),
        description="Files with policies: names, or patterns such as `policies/*.yaml`, from the "
        "working directory.",
    )
    store: StoreAddress = Field(
        default="memory:",
        description="Where gateway processes keep what they share, such as the state of rollouts: "
        "`memory:` is this process alone, and forgotten with it; `sqlite:PATH` is for the "
        "processes of one host; `redis://HOST:PORT/DB` for several hosts.",
    )
    discovery: Discovery = Field(default=Discovery(), description="Discovery of models.")

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        found = conflicts(
            {
                name: [endpoint.url for endpoint in cluster.endpoints]
                for name, cluster in self.clusters.items()
            },
            {
                name: References(model.cluster, model.aliases, model.fallbacks)
                for name, model in self.models.items()
            },
            {name: cluster.kind for name, cluster in self.clusters.items()},
        )
        errors = [
            InitErrorDetails(
                # The message is a context value, so that braces in names stay what they are.
                type=PydanticCustomError("conflict", "{message}", {"message": conflict.message}),
                loc=conflict.loc,
                input=None,
            )
            for conflict in found
        ]
        if errors:
            # pydantic adopts the errors of a ValidationError raised here, each at its own place.
            raise ValidationError.from_exception_data("Config", errors)
        return self

    @classmethod
    def from_endpoints(
        cls,
        urls: Sequence[str],
        host: str | None = None,
        port: int | None = None,
        *,
        balancer: str | None = None,
        access: str | None = "-",
        vision: Sequence[str] = (),
    ) -> Self:
        """Build the configuration for endpoints alone: one cluster, `default`, models discovered.

        Those that are known to serve `vision` have a cluster of that name. None keeps a field's
        default, except that `access` None is no access log. Raises
        `pydantic.ValidationError`.
        """
        server = {"host": host, "port": port}
        cluster: dict[str, object] = {"endpoints": [{"url": url} for url in urls]}
        if balancer is not None:
            cluster["balancer"] = balancer
        clusters = {"default": cluster}
        if vision:
            clusters["vision"] = {
                **cluster,
                "kind": "vision",
                "endpoints": [{"url": url} for url in vision],
            }
        return cls.model_validate(
            {
                "server": {key: value for key, value in server.items() if value is not None},
                "clusters": clusters,
                "logging": {"access": access},
            }
        )
