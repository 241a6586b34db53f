"""Which route answers a request, and what happens to it before it does?

Order as in vLLM's server: API key, then routing, then the body. Injected faults come right after
routing.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from engines.sim import delivery, errors, faults, metrics
from engines.sim.api import chat, completions, messages, pooling, responses, tokens, transcription
from engines.sim.api.model import Generate, Served, Shape, Tally
from engines.sim.clock import WallClock
from engines.sim.engine import Engine
from engines.sim.errors import ApiError
from engines.sim.exchange import Exchange
from engines.sim.faults import Faults
from engines.sim.fields import decode_object
from engines.sim.job import Job
from engines.sim.lenient import overlook
from engines.sim.output import StreamOutput, WholeOutput
from engines.sim.settings import Settings

_log = logging.getLogger(__name__)

VERSION = "0.32.0"
FAULT_HEADER = "x-sim-fault"
_GUARDED = ("/v1", "/v2")
"""Path prefixes that need the API key; vLLM leaves the rest open, `/tokenize` included."""

Body = dict[str, Any]
Reader = Callable[[Body, Served], Generate]
ShapeMaker = Callable[[Generate, str, int], Shape]
Compute = Callable[[Body, Served, str, int], Mapping[str, object]]
Action = Callable[["Application", Exchange, Faults], None]


@dataclass(slots=True)
class Application:
    """Everything that a route needs to answer."""

    settings: Settings
    engine: Engine
    chance: random.Random
    """Decides which requests fail by injection."""
    ids: random.Random
    clock: WallClock
    started_s: int
    draining: bool = False

    def serve(self, exchange: Exchange) -> None:
        """Answer one request, now or through a job."""
        request = exchange.request
        try:
            self._check_key(exchange)
            action = _find(request.path, request.method)
            self._name_request(exchange)
            chosen = self._faults(exchange)
        except ApiError as error:
            delivery.send_error(exchange, error)
            return
        if chosen.delay_headers_s > 0:
            loop = asyncio.get_running_loop()
            timer = loop.call_later(chosen.delay_headers_s, self._answer, exchange, action, chosen)
            exchange.on_gone = timer.cancel
        else:
            self._answer(exchange, action, chosen)

    def _answer(self, exchange: Exchange, action: Action, chosen: Faults) -> None:
        exchange.on_gone = None
        if delivery.send_instead(exchange, chosen):
            return
        try:
            if self.draining and exchange.request.method == "POST":
                delivery.send_error(exchange, errors.internal(errors.SHUTTING_DOWN))
            else:
                action(self, exchange, chosen)
        except ApiError as error:
            delivery.send_error(exchange, error)
        except Exception:
            # The outermost edge: a defect must look like a server's 500, not hang the client.
            _log.exception("%s %s failed", exchange.request.method, exchange.request.path)
            if exchange.begun:
                exchange.cut()
            else:
                delivery.send_error(exchange, errors.internal("Internal server error"))

    def _check_key(self, exchange: Exchange) -> None:
        key = self.settings.api_key
        if key is None or not exchange.request.path.startswith(_GUARDED):
            return
        scheme, _, given = exchange.request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(given.encode(), key.encode()):
            raise errors.unauthorized()

    def _name_request(self, exchange: Exchange) -> None:
        if self.settings.request_id_headers:
            given = exchange.request.headers.get("x-request-id")
            exchange.extra.append(("x-request-id", given or self._hex(128)))

    def _faults(self, exchange: Exchange) -> Faults:
        settings = self.settings.faults
        asked = exchange.request.headers.get(FAULT_HEADER)
        if settings.allow_headers and asked is not None:
            try:
                return faults.parse(asked)
            except ValueError as error:
                raise errors.bad_request(str(error), FAULT_HEADER) from error
        if exchange.request.method != "POST":
            return faults.NONE
        if settings.always != faults.NONE:
            return settings.always
        return faults.draw(settings.rate_percent, settings.types, self.chance)

    def ident(self, exchange: Exchange) -> str:
        """Return what the answer's id ends with: the client's request id, or a random one."""
        return exchange.request.headers.get("x-request-id") or self._hex(64)

    def _hex(self, bits: int) -> str:
        return f"{self.ids.getrandbits(bits):0{bits // 4}x}"


def _find(path: str, method: str) -> Action:
    actions = ROUTES.get(path)
    if actions is None:
        if path.startswith("/v1/responses/"):
            raise _unknown_response(path.removeprefix("/v1/responses/"))
        raise errors.not_found()
    action = actions.get(method)
    if action is None:
        raise errors.method_not_allowed(", ".join(actions))
    return action


def _unknown_response(ident: str) -> ApiError:
    message = f"Response with id '{ident}' not found."
    body = errors.error_body(404, "invalid_request_error", message, "response_id")
    return ApiError(404, body)


def _json_body(app: Application, exchange: Exchange) -> Body:
    request = exchange.request
    body = decode_object(request.body, request.headers.get("content-type", ""))
    return overlook(body) if app.settings.lenient else body


def _generate(read: Reader, make_shape: ShapeMaker) -> Action:
    def action(app: Application, exchange: Exchange, chosen: Faults) -> None:
        request = read(_json_body(app, exchange), app.settings.served)
        app.engine.check_room(request.choices)
        shape = make_shape(request, app.ident(exchange), app.clock.now_s())
        tally = Tally(prompt_tokens=sum(len(prompt.tokens) for prompt in request.prompts))
        job = Job(app.engine, exchange, request, tally, chosen)
        app.engine.add(job)
        if request.streaming.stream:
            job.start(StreamOutput(exchange, shape, tally, chosen))
        else:
            job.start(WholeOutput(exchange, shape, tally, chosen, request.choices))

    return action


def _compute(compute: Compute) -> Action:
    def action(app: Application, exchange: Exchange, chosen: Faults) -> None:
        body = _json_body(app, exchange)
        answer = compute(body, app.settings.served, app.ident(exchange), app.clock.now_s())
        delivery.send_whole(exchange, msgspec.json.encode(answer), chosen.broken)

    return action


def _transcribe(app: Application, exchange: Exchange, chosen: Faults) -> None:
    request = exchange.request
    content_type = request.headers.get("content-type", "")
    text, wanted = transcription.transcribe(request.body, content_type, app.settings.served)
    if wanted == "text":
        exchange.send(200, text.encode(), "text/plain; charset=utf-8")
        return
    usage = {"type": "duration", "seconds": 0}
    body = msgspec.json.encode({"text": text, "usage": usage})
    delivery.send_whole(exchange, body, chosen.broken)


def _models(app: Application, exchange: Exchange, chosen: Faults) -> None:
    served = app.settings.served
    cards = [_card(name, served, app.started_s) for name in served.listed]
    body = msgspec.json.encode({"object": "list", "data": cards})
    delivery.send_whole(exchange, body, chosen.broken)


def _card(name: str, served: Served, created: int) -> dict[str, object]:
    permission = {
        "id": f"modelperm-{name}",
        "object": "model_permission",
        "created": created,
        "allow_create_engine": False,
        "allow_sampling": True,
        "allow_logprobs": True,
        "allow_search_indices": False,
        "allow_view": True,
        "allow_fine_tuning": False,
        "organization": "*",
        "group": None,
        "is_blocking": False,
    }
    return {
        "id": name,
        "object": "model",
        "created": created,
        "owned_by": "sluice-sim",
        "root": served.root,
        "parent": None,
        "max_model_len": served.max_model_len,
        "permission": [permission],
    }


def _alive(app: Application, exchange: Exchange, chosen: Faults) -> None:
    # vLLM answers 200 even while it drains.
    exchange.send(200, b"", None)


def _version(app: Application, exchange: Exchange, chosen: Faults) -> None:
    exchange.send(200, msgspec.json.encode({"version": VERSION}))


def _load(app: Application, exchange: Exchange, chosen: Faults) -> None:
    exchange.send(200, msgspec.json.encode({"server_load": app.engine.load}))


def _metrics(app: Application, exchange: Exchange, chosen: Faults) -> None:
    model = app.settings.served.listed[0]
    text = metrics.render(app.engine.counters, app.engine.scheduler, model)
    exchange.send(200, text.encode(), "text/plain; version=1.0.0; charset=utf-8")


_rerank = _compute(lambda body, served, ident, created: pooling.rerank(body, served, ident))
_score = _compute(pooling.score)

ROUTES: Mapping[str, Mapping[str, Action]] = {
    "/v1/chat/completions": {"POST": _generate(chat.read, chat.ChatShape)},
    "/v1/completions": {"POST": _generate(completions.read, completions.CompletionShape)},
    "/v1/responses": {"POST": _generate(responses.read, responses.ResponseShape)},
    "/v1/messages": {"POST": _generate(messages.read, messages.MessageShape)},
    "/v1/messages/count_tokens": {
        "POST": _compute(lambda body, served, ident, created: messages.count(body, served))
    },
    "/v1/embeddings": {"POST": _compute(pooling.embeddings)},
    "/v1/rerank": {"POST": _rerank},
    "/rerank": {"POST": _rerank},
    "/v1/score": {"POST": _score},
    "/score": {"POST": _score},
    "/v1/audio/transcriptions": {"POST": _transcribe},
    "/tokenize": {
        "POST": _compute(lambda body, served, ident, created: tokens.tokenize(body, served))
    },
    "/detokenize": {
        "POST": _compute(lambda body, served, ident, created: tokens.detokenize(body, served))
    },
    "/v1/models": {"GET": _models},
    "/health": {"GET": _alive},
    "/ping": {"GET": _alive, "POST": _alive},
    "/version": {"GET": _version},
    "/load": {"GET": _load},
    "/metrics": {"GET": _metrics},
}
