"""What may an operator configure of the gateway's own side: listeners, limits, its end?

Pure: values only.
"""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from gateway.config.fields import Count, Pause, Port, Seconds, Secret, Spec, Text, Workers

LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
"""Addresses that only this machine reaches."""


class Tls(Spec):
    """What the gateway shows to its clients on the main port."""

    cert_file: Text = Field(description="PEM file with the certificate chain, leaf first.")
    key_file: Text = Field(description="PEM file with the private key, not encrypted.")


class Admin(Spec):
    """The operators' listener: state, drain, reload, registration, and a liveness of its own."""

    host: Text = Field(
        default="127.0.0.1",
        description="Address to listen on. Any but loopback needs a token.",
    )
    port: Port = Field(
        default=9090,
        description="TCP port; 0 lets the system choose. If the default port is taken, the gateway "
        "goes on without this listener and says so; a port that is written here must be free.",
    )
    token: Secret = Field(
        default=None,
        description="Required as `Authorization: Bearer` on every admin route; best taken from "
        "the environment. Empty means none.",
        examples=["${SLUICE_ADMIN_TOKEN}"],
    )

    @model_validator(mode="after")
    def _guarded(self) -> Self:
        if self.token is None and self.host not in LOOPBACK:
            raise ValueError("needs a token: its host can be reached from other machines")
        return self


class Server(Spec):
    """The clients' side: where to listen and what to refuse."""

    host: Text = Field(default="0.0.0.0", description="Address to listen on.")  # noqa: S104 - a server's job
    port: Port = Field(default=8000, description="TCP port for clients; 0 lets the system choose.")
    workers: Workers = Field(
        default=1,
        description="Processes that share the port and are one gateway; `auto` is one for each "
        "core that may be used.",
    )
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
    drain_delay_s: Pause = Field(
        default=5,
        description="Seconds after SIGTERM that new connections are still accepted, so that load "
        "balancers can read the 503 of /readyz first. SIGINT (Ctrl-C) does not wait.",
    )
    max_event_loop_lag_s: Seconds = Field(
        default=1,
        description="Seconds that the event loop may run late; while it is later, new requests "
        "are refused with 503.",
    )
    admin: Admin | None = Field(
        default=Admin(), description="The operators' listener; null for none."
    )
    route_header: bool = Field(
        default=False,
        description="Say in each answer, as `x-sluice-route`, which policy, arm, cluster and "
        "endpoint it came from.",
    )
    watch: bool = Field(
        default=True,
        description="Reload when the configuration file changes; SIGHUP and "
        "POST /admin/reload do so in any case.",
    )
