"""Which sampling parameters does a request ask for, and are they in vLLM's ranges?"""

from __future__ import annotations

from dataclasses import dataclass

from engines.sim import errors
from engines.sim.fields import Fields

MAX_LOGPROBS = 20


@dataclass(frozen=True, slots=True)
class Sampling:
    """The parameters that change what the simulated engine answers; the rest are accepted and
    ignored.
    """

    max_tokens: int | None
    min_tokens: int
    temperature: float
    seed: int | None
    n: int
    stop: tuple[str, ...]
    stop_tokens: frozenset[int]
    ignore_eos: bool
    keep_stop: bool
    logprobs: int | None
    """How many alternatives to show beside each token's logprob; None for no logprobs at all."""


@dataclass(frozen=True, slots=True)
class Streaming:
    """How the answer is to be sent."""

    stream: bool
    include_usage: bool = False
    continuous_usage: bool = False


def read_sampling(
    fields: Fields, *, max_tokens: int | None, stop_name: str, logprobs: int | None
) -> Sampling:
    """Read what all generating routes share; range checks wait for `check_sampling`."""
    stop_tokens = fields.array("stop_token_ids") or []
    temperature = fields.number("temperature")
    n = fields.integer("n")
    return Sampling(
        max_tokens=max_tokens,
        min_tokens=fields.integer("min_tokens") or 0,
        temperature=1.0 if temperature is None else temperature,
        seed=fields.integer("seed"),
        n=1 if n is None else n,
        stop=fields.stops(stop_name),
        stop_tokens=frozenset(token for token in stop_tokens if isinstance(token, int)),
        ignore_eos=fields.flag("ignore_eos"),
        keep_stop=fields.flag("include_stop_str_in_output"),
        logprobs=logprobs,
    )


def read_streaming(fields: Fields) -> Streaming:
    """Read `stream` and `stream_options`; ApiError 400 for options without a stream."""
    stream = fields.flag("stream")
    options = fields.object("stream_options")
    fields.check()
    if options is None:
        return Streaming(stream)
    if not stream:
        raise errors.bad_parameter(
            "Stream options can only be defined when `stream=True`.", "stream_options"
        )
    inner = Fields(options, "body.stream_options")
    streaming = Streaming(stream, inner.flag("include_usage"), inner.flag("continuous_usage_stats"))
    inner.check()
    return streaming


def check_sampling(sampling: Sampling, top_p: float | None, *, least_tokens: int = 1) -> None:
    """Raise ApiError 400 for the first parameter that is out of range, in vLLM's order and
    words.
    """
    if sampling.n < 1:
        raise errors.bad_request(f"n must be at least 1, got {sampling.n}.")
    temperature = sampling.temperature
    if temperature < 0:
        message = f"temperature must be non-negative, got {temperature}."
        raise errors.bad_parameter(message, "temperature", temperature)
    if temperature > 2:
        message = f"temperature must be in [0, 2], got {temperature}."
        raise errors.bad_parameter(message, "temperature", temperature)
    if top_p is not None and not 0 < top_p <= 1:
        raise errors.bad_parameter(f"top_p must be in (0, 1], got {top_p}.", "top_p", top_p)
    asked = sampling.max_tokens
    if asked is not None and asked < least_tokens:
        message = f"max_tokens must be at least {least_tokens}, got {asked}."
        raise errors.bad_parameter(message, "max_tokens", asked)
    if asked is not None and sampling.min_tokens > asked:
        raise errors.bad_request(
            f"min_tokens must be less than or equal to max_tokens={asked}, "
            f"got {sampling.min_tokens}."
        )
    if sampling.logprobs is not None and sampling.logprobs > MAX_LOGPROBS:
        raise errors.bad_parameter(
            f"Requested sample logprobs of {sampling.logprobs}, "
            f"which is greater than max allowed: {MAX_LOGPROBS}",
            "logprobs",
            sampling.logprobs,
        )
    if temperature == 0 and sampling.n > 1:
        raise errors.bad_request(f"n must be 1 when using greedy sampling, got {sampling.n}.")


def allowance(sampling: Sampling, prompt_tokens: int, max_model_len: int) -> int:
    """Return how many tokens the answer may have; ApiError 400 when prompt and answer cannot
    fit.
    """
    asked = sampling.max_tokens
    if asked is not None and asked > max_model_len:
        raise errors.bad_parameter(
            f"max_tokens={asked} cannot be greater than max_model_len={max_model_len}. "
            "Please request fewer output tokens.",
            "max_tokens",
            asked,
        )
    room = max_model_len - prompt_tokens
    if room < (1 if asked is None else min(asked, 1)):
        raise errors.prompt_too_long(max_model_len)
    if asked is None:
        return room
    if asked > room:
        raise errors.bad_parameter(
            f"This model's maximum context length is {max_model_len} tokens. However, you "
            f"requested {asked} output tokens and your prompt contains at least {prompt_tokens} "
            f"input tokens, for a total of at least {prompt_tokens + asked} tokens. Please reduce "
            "the length of the input prompt or the number of requested output tokens.",
            "input_tokens",
            prompt_tokens,
        )
    return asked
