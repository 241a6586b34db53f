"""What may an operator configure, in which units, and what holds if they say nothing?

Pure: values only, no files and no environment (`gateway.config.load` reads those). Every field has
a description, because the published JSON Schema is made from this module. Numbers given as text
are accepted (`port: "${PORT}"`), since interpolated values always are text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from gateway.config.conflicts import conflicts
from gateway.config.fields import (
    ClusterName,
    Count,
    EndpointUrl,
    ModelName,
    Port,
    Seconds,
    Secret,
    Spec,
    Switchable,
    Text,
    UrlPath,
    Weight,
)

BALANCERS = ("round_robin", "least_inflight")
"""The names of the rules in `gateway.upstream.balancer`; a test keeps the two equal."""


def _balancer(name: str) -> str:
    if name not in BALANCERS:
        raise ValueError(f"is not a balancer; choose one of {', '.join(BALANCERS)}")
    return name


class Tls(Spec):
    """What the gateway shows to its clients on the main port."""

    cert_file: Text = Field(description="PEM file with the certificate chain, leaf first.")
    key_file: Text = Field(description="PEM file with the private key, not encrypted.")


class Server(Spec):
    """The clients' side: where to listen and what to refuse."""

    host: Text = Field(default="0.0.0.0", description="Address to listen on.")  # noqa: S104 - a server's job
    port: Port = Field(default=8000, description="TCP port for clients; 0 lets the system choose.")
    tls: Tls | None = Field(default=None, description="Serve HTTPS; without it plain HTTP.")
    keep_alive_s: Seconds = Field(
        default=75,
        description="Seconds that an idle client connection stays open. "
        "Longer than the 60 s at which common load balancers stop reusing one (nginx: 75).",
    )
    head_timeout_s: Seconds = Field(
        default=15, description="Seconds for a whole request head (slow-loris guard)."
    )
    body_timeout_s: Seconds = Field(
        default=15,
        description="Seconds for a request body, and one more for each KiB that has come.",
    )
    max_body_bytes: Count = Field(
        default=32 * 1024 * 1024,
        description="Largest request body; more is answered with 413. Default 32 MiB.",
    )
    max_header_bytes: Count = Field(
        default=64 * 1024,
        description="Largest request head; more is answered with 431. Default 64 KiB.",
    )
    max_headers: Count = Field(
        default=100,
        description="Most header fields in a request; more is 431. Apache's default is 100.",
    )
    max_json_depth: Count = Field(
        default=128,
        description="Deepest nesting of arrays and objects in a JSON body; deeper is 400.",
    )
    drain_s: Seconds = Field(
        default=30,
        description="Seconds that running requests have to finish after SIGTERM. "
        "Kubernetes' own grace period is 30 s by default.",
    )


class Endpoint(Spec):
    """One engine server."""

    url: EndpointUrl = Field(
        description="http or https URL of the engine, without /v1; a base path is allowed. "
        "IPv6 addresses stand in brackets.",
        examples=["http://gpu-1:8000", "http://[fd00::1]:8000"],
    )
    weight: Weight = Field(
        default=1.0,
        description="How much this endpoint can carry relative to the cluster's others; "
        "`least_inflight` counts by it.",
    )


class Timeouts(Spec):
    """How long an engine may take for each stage of an answer."""

    connect_s: Seconds = Field(default=2, description="Seconds to open a connection, TLS included.")
    first_token_s: Seconds = Field(
        default=60,
        description="Seconds from the request sent to the first meaningful byte (prefill).",
    )
    idle_s: Seconds = Field(
        default=30,
        description="Seconds of silence in the middle of an answer before it counts as dead.",
    )
    total_s: Seconds = Field(
        default=600,
        description="Seconds for a whole answer. openai-python's own default is 600.",
    )


class Health(Spec):
    """Active probes; they never spend tokens."""

    path: UrlPath = Field(
        default="/health",
        description="Path to GET, below the endpoint's base path; 2xx is healthy.",
    )
    interval_s: Seconds = Field(
        default=2, description="Seconds between probes. HAProxy's default is 2."
    )
    timeout_s: Seconds = Field(default=1, description="Seconds that a probe may take.")
    rise: Count = Field(
        default=2,
        description="Good probes in a row that bring an endpoint back. HAProxy's default is 2.",
    )
    fall: Count = Field(
        default=3,
        description="Failed probes in a row that take an endpoint out. HAProxy's default is 3.",
    )


class UpstreamTls(Spec):
    """How https:// endpoints are trusted."""

    ca_file: Text | None = Field(
        default=None, description="PEM bundle of authorities to trust instead of the system's."
    )
    verify: bool = Field(default=True, description="Check certificate and host name. Keep it true.")


class Cluster(Spec):
    """A named set of equal replicas."""

    kind: Literal["llm"] = Field(
        default="llm", description="What the endpoints speak: an OpenAI API."
    )
    endpoints: tuple[Endpoint, ...] = Field(min_length=1, description="The replicas.")
    balancer: Annotated[str, AfterValidator(_balancer)] = Field(
        default="round_robin",
        description="How the next endpoint is chosen.",
        json_schema_extra={"enum": list(BALANCERS)},
    )
    timeouts: Timeouts = Field(default=Timeouts(), description="Limits on waiting for an engine.")
    health: Health = Field(default=Health(), description="Active health probes.")
    api_key: Secret = Field(
        default=None,
        description="Sent to the engines as `Authorization: Bearer`; best taken from the "
        "environment. Empty means none.",
        examples=["${VLLM_KEY}"],
    )
    forward_authorization: bool = Field(
        default=False,
        description="Pass the client's own keys on to the engines: the fields Authorization, "
        "x-api-key and api-key.",
    )
    tls: UpstreamTls = Field(default=UpstreamTls(), description="Trust of https:// endpoints.")
    max_idle_connections: Count = Field(
        default=1024, description="Idle connections kept open to each endpoint."
    )

    @model_validator(mode="after")
    def _one_authorization(self) -> Self:
        if self.api_key is not None and self.forward_authorization:
            raise ValueError("has both api_key and forward_authorization; only one can be sent")
        return self


class Model(Spec):
    """A name that clients may ask for."""

    cluster: Text = Field(description="Name of the cluster that serves it.")
    upstream_model: ModelName | None = Field(
        default=None, description="The engines' name of the model; without it the same name."
    )
    aliases: tuple[ModelName, ...] = Field(
        default=(), description="Other names for it, for example those that existing clients use."
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
    discovery: Discovery = Field(default=Discovery(), description="Discovery of models.")

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        found = conflicts(
            {
                name: [endpoint.url for endpoint in cluster.endpoints]
                for name, cluster in self.clusters.items()
            },
            {name: (model.cluster, model.aliases) for name, model in self.models.items()},
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
    ) -> Self:
        """Build the configuration for endpoints alone: one cluster, `default`, models discovered.

        None keeps a field's default, except that `access` None is no access log. Raises
        `pydantic.ValidationError`.
        """
        server = {"host": host, "port": port}
        cluster: dict[str, object] = {"endpoints": [{"url": url} for url in urls]}
        if balancer is not None:
            cluster["balancer"] = balancer
        return cls.model_validate(
            {
                "server": {key: value for key, value in server.items() if value is not None},
                "clusters": {"default": cluster},
                "logging": {"access": access},
            }
        )
