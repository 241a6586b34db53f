"""What may an operator configure of a cluster, in which units, and what holds if they say nothing?

Pure: values only. Each default cites its precedent where there is one.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from gateway.config.fields import (
    Count,
    EndpointUrl,
    Pause,
    Percent,
    Seconds,
    Secret,
    Share,
    Spec,
    Text,
    UrlPath,
    Weight,
)

BALANCERS = ("round_robin", "weighted", "least_inflight", "p2c", "session", "prefix")
"""The names of the rules in `gateway.upstream.balancer`; a test keeps the two equal."""


def _balancer(name: str) -> str:
    if name not in BALANCERS:
        raise ValueError(f"is not a balancer; choose one of {', '.join(BALANCERS)}")
    return name


def _session_key(text: str) -> str:
    place, _, name = text.partition(":")
    if text != "body:user" and not (place == "header" and _TOKEN.fullmatch(name)):
        raise ValueError("is not a place of a key; write header:NAME or body:user")
    return text.lower()


SessionKey = Annotated[str, AfterValidator(_session_key)]
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")


class Endpoint(Spec):
    """One engine server."""

    url: EndpointUrl = Field(
        description="http or https URL of the engine, without /v1; a base path is allowed. "
        "IPv6 addresses stand in brackets.",
        examples=["http://gpu-1:8000", "http://[fd00::1]:8000"],
    )
    weight: Weight = Field(
        default=1.0,
        description="How much this endpoint can carry relative to the cluster's others; every "
        "balancer but `round_robin` counts by it.",
    )
    max_inflight: Count | None = Field(
        default=None,
        description="Most requests that it works on at once; null for no cap. vLLM's own is "
        "--max-num-seqs, 256 by default.",
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
        description="Seconds for a whole answer, queueing, retries and resumes included. "
        "openai-python's own default is 600.",
    )
    keepalive_s: Pause = Field(
        default=10,
        description="Seconds of waiting after which a streaming client gets a comment "
        "(`: ping`), and again after as many, so that nothing on its way takes the "
        "connection for dead; 0 for never. nginx cuts at 60, Cloudflare at 100.",
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
    metrics_path: UrlPath | None = Field(
        default="/metrics",
        description="Path of the engine's own metrics, read for its load with each probe (vLLM's "
        "names, or the vision service's); null for never.",
    )


class Retries(Spec):
    """Further attempts before the client has seen anything."""

    attempts: Count = Field(
        default=3, description="Attempts in all, on different endpoints where there are any."
    )
    budget_percent: Percent = Field(
        default=20,
        description="Retries that a cluster may add, in percent of its requests of the last 10 s. "
        "Envoy's and Finagle's default is 20.",
    )
    budget_min_per_s: float = Field(
        default=3,
        ge=0,
        allow_inf_nan=False,
        description="Retries a second that are allowed whatever the traffic. Envoy's minimum is 3.",
    )
    max_wait_s: Pause = Field(
        default=10,
        description="Seconds of an engine's Retry-After that are waited for at the most, when no "
        "other endpoint can take the request.",
    )


class Breaker(Spec):
    """When an endpoint is not tried for a while."""

    failures: Count = Field(
        default=5, description="Failures in a row that open it. Envoy and Finagle: 5."
    )
    open_s: Seconds = Field(
        default=5,
        description="Seconds until one request may try again; grows by as many with each "
        "failure of that try.",
    )
    max_open_s: Seconds = Field(default=300, description="Seconds that it grows to.")


class Outliers(Spec):
    """When an endpoint that does worse than the others leaves the pool."""

    failures: Count = Field(
        default=5, description="Failures in a row that eject an endpoint. Envoy's default is 5."
    )
    min_success: Share = Field(
        default=0.8,
        description="Share of successes over 30 s below which an endpoint is ejected, if the "
        "others do better. Finagle's default is 0.8.",
    )
    min_requests: Count = Field(
        default=20, description="Attempts in those 30 s before a share means anything."
    )
    eject_s: Seconds = Field(
        default=30,
        description="Seconds out of the pool, times the number of ejections. Envoy: 30.",
    )
    max_eject_s: Seconds = Field(
        default=300, description="Seconds of the longest ejection. Envoy's default is 300."
    )
    max_ejected_percent: Percent = Field(
        default=50, description="Most of a pool that may be ejected at once."
    )
    panic_percent: Percent = Field(
        default=50,
        description="When fewer than this share of a pool is available, ejections do not count. "
        "Envoy's default is 50.",
    )


class Hedging(Spec):
    """A second attempt beside a slow first one; the quicker wins, the other is cancelled."""

    enabled: bool = Field(default=False, description="Whether to hedge. It costs engine time.")
    quantile: Share = Field(
        default=0.95,
        description="Quantile of the cluster's recent times to the first token after which the "
        "second attempt starts.",
    )
    max_load: Share = Field(
        default=0.7,
        description="No hedge while the cluster is busier than this share of its max_inflight.",
    )


class Queue(Spec):
    """Where requests wait when the cluster's or every endpoint's max_inflight is reached."""

    size: int = Field(default=256, ge=0, description="Most requests that wait; more are refused.")
    timeout_s: Seconds = Field(
        default=30, description="Seconds after which a waiting request is refused with 503."
    )


class Session(Spec):
    """What the balancer `session` takes for a session."""

    keys: tuple[SessionKey, ...] = Field(
        default=("header:x-session-id", "header:x-user-id", "body:user"),
        min_length=1,
        description="Where its key stands: `header:NAME` or `body:user`; the first that a request "
        "has counts.",
    )
    max_load: float = Field(
        default=1.25,
        gt=1,
        le=10,
        description="An endpoint gets no further session while it has more than this times the "
        "average load (consistent hashing with bounded loads: 1.25). Up to four requests it always "
        "takes. The balancer `prefix` allows as much over the least busy endpoint.",
    )


class UpstreamTls(Spec):
    """How https:// endpoints are trusted."""

    ca_file: Text | None = Field(
        default=None, description="PEM bundle of authorities to trust instead of the system's."
    )
    verify: bool = Field(default=True, description="Check certificate and host name. Keep it true.")


class Cluster(Spec):
    """A named set of equal replicas."""

    kind: Literal["llm", "vision"] | None = Field(
        default=None,
        description="What the endpoints serve: `llm`, language models by an OpenAI API, or "
        "`vision`, models of images by /v1/predict. Without it as they say of each model in their "
        "/v1/models (`owned_by: sluice-vision`).",
    )
    endpoints: tuple[Endpoint, ...] = Field(
        default=(),
        description="The replicas; none if they register themselves (`registration`).",
    )
    registration: bool = Field(
        default=False,
        description="Let endpoints join through POST /admin/endpoints, for as long as they renew.",
    )
    allow_empty: bool = Field(
        default=False,
        description="Let the cluster run out of endpoints. Without it the last ones stay, whatever "
        "discovery says, until others come.",
    )
    balancer: Annotated[str, AfterValidator(_balancer)] = Field(
        default="p2c",
        description="How the next endpoint is chosen.",
        json_schema_extra={"enum": list(BALANCERS)},
    )
    timeouts: Timeouts = Field(default=Timeouts(), description="Limits on waiting for an engine.")
    health: Health = Field(default=Health(), description="Active health probes.")
    retries: Retries = Field(default=Retries(), description="Attempts before the first token.")
    breaker: Breaker = Field(default=Breaker(), description="One for each endpoint.")
    outliers: Outliers = Field(default=Outliers(), description="Ejection from the pool.")
    hedging: Hedging = Field(default=Hedging(), description="Racing a slow endpoint.")
    resume: Literal["auto", "continue", "replay", "off"] = Field(
        default="auto",
        description="How a stream that broke off goes on elsewhere: `continue` sends the text so "
        "far as the beginning of the answer, `replay` asks again and drops what the client has; "
        "`auto` tries the one that fits the request, then the other.",
    )
    slow_start_s: Pause = Field(
        default=30,
        description="Seconds over which an endpoint that appears or returns is given its share, "
        "from 10 % up; 0 for at once.",
    )
    max_inflight: Count | None = Field(
        default=None,
        description="Most requests that the cluster works on at once; null for no cap but the "
        "endpoints' own.",
    )
    queue: Queue = Field(default=Queue(), description="What waits beyond max_inflight.")
    session: Session = Field(default=Session(), description="For the balancer `session`.")
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
    def _has_endpoints(self) -> Self:
        if not self.endpoints and not self.registration:
            raise ValueError("has no endpoints, and none can register")
        return self

    @model_validator(mode="after")
    def _one_authorization(self) -> Self:
        if self.api_key is not None and self.forward_authorization:
            raise ValueError("has both api_key and forward_authorization; only one can be sent")
        return self
