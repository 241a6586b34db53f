"""Which values pass between the routes, the scheduler and the shapes of the answers?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from engines.sim import answer, errors, tokenizer
from engines.sim.generation import Ending, Generation, Piece
from engines.sim.sampling import Sampling, Streaming, allowance, check_sampling
from engines.sim.tools import ToolCall

ANY_MODEL = "*"
FINGERPRINT = "vllm-0.32.0-simulated"
DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True, slots=True)
class Served:
    """What the engine serves: the facts that requests are checked against."""

    names: tuple[str, ...]
    root: str
    max_model_len: int
    seed: int = 0

    @property
    def listed(self) -> tuple[str, ...]:
        """The names to show; `*` itself is not one."""
        return tuple(name for name in self.names if name != ANY_MODEL) or (self.root,)

    def resolve(self, model: str | None) -> str:
        """Return the name to answer with; a missing model is the first one. ApiError 404 if not
        served.
        """
        if model is None:
            return self.listed[0]
        if model in self.names or ANY_MODEL in self.names:
            return model
        raise errors.model_not_found(model, self.listed)


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt: text, tokens, and where an answer under way at its end is known to begin."""

    text: str
    tokens: Sequence[int]
    boundary: int | None = None


@dataclass(frozen=True, slots=True)
class Generate:
    """A request for generated tokens. Choice `i` belongs to prompt `i // sampling.n`."""

    model: str
    prompts: tuple[Prompt, ...]
    sampling: Sampling
    streaming: Streaming
    top_p: float | None = None
    seed: int = 0
    endings: tuple[Ending, ...] = ()
    """What ends the answer to each prompt; filled in by `settle`."""
    script: str | None = None
    """The whole text when it is not free: structured output, or the arguments of `tool`."""
    tool: ToolCall | None = None
    return_token_ids: bool = False
    echo: bool = False
    echoed: dict[str, Any] = field(default_factory=dict)
    """Members that the response repeats."""

    @property
    def choices(self) -> int:
        """How many sequences the request needs."""
        return len(self.prompts) * self.sampling.n

    def prompt_of(self, choice: int) -> Prompt:
        """Return the prompt that a choice answers."""
        return self.prompts[choice // self.sampling.n]

    def generation(self, choice: int) -> Generation:
        """Start the sequence of one choice."""
        prompt = self.prompt_of(choice)
        ending = self.endings[choice // self.sampling.n]
        return Generation(self._tokens(prompt, choice % self.sampling.n), ending)

    def _tokens(self, prompt: Prompt, index: int) -> Iterator[int]:
        if self.script is None:
            return answer.rest_tokens(prompt.text, self.seed, index, prompt.boundary)
        begun = prompt.text[prompt.boundary :] if prompt.boundary is not None else ""
        rest = self.script.removeprefix(begun) if self.script.startswith(begun) else self.script
        return iter(tokenizer.encode(rest))


def settle(request: Generate, served: Served) -> Generate:
    """Return `request` with its endings and seed, after the checks that need the prompt's length.

    ApiError 400 for a parameter out of range or a prompt without room for an answer.
    """
    sampling = request.sampling
    # With `echo`, asking for no new tokens is a way to get the prompt's own tokens back.
    check_sampling(sampling, request.top_p, least_tokens=0 if request.echo else 1)
    scripted = request.script is not None
    endings = tuple(
        Ending(
            max_tokens=allowance(sampling, len(prompt.tokens), served.max_model_len),
            min_tokens=0 if scripted else sampling.min_tokens,
            stop=sampling.stop,
            stop_tokens=sampling.stop_tokens,
            ignore_eos=sampling.ignore_eos and not scripted,
            keep_stop=sampling.keep_stop,
        )
        for prompt in request.prompts
    )
    # Greedy decoding has no randomness for a seed to steer.
    wanted = served.seed if sampling.seed is None else sampling.seed
    return replace(request, endings=endings, seed=0 if sampling.temperature == 0 else wanted)


@dataclass(slots=True)
class Tally:
    """The running token counts of one request."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int | None = None
    """Prompt tokens found in the prefix cache; None when the engine runs without one."""
    created_tokens: int = 0
    """Prompt tokens that entered the prefix cache."""

    def usage(self) -> dict[str, Any]:
        """Return the three counts, in vLLM's order."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "completion_tokens": self.completion_tokens,
        }

    def full_usage(self, *, with_created: bool = True) -> dict[str, Any]:
        """Return the usage of a whole answer, with the details that a stream leaves out."""
        details = None
        if self.cached_tokens is not None:
            details = {
                "cached_tokens": self.cached_tokens,
                "created_cache_tokens": self.created_tokens if with_created else None,
                "multimodal_tokens": None,
            }
        tail = {"prompt_tokens_details": details, "completion_tokens_details": None}
        return self.usage() | tail

    def stream_usage(self) -> dict[str, Any]:
        """Return the usage of a stream's last chunk."""
        if self.cached_tokens is None:
            return self.usage()
        details = {
            "cached_tokens": self.cached_tokens,
            "created_cache_tokens": self.created_tokens,
        }
        return self.usage() | {"prompt_tokens_details": details}

    def chunk_usage(self) -> dict[str, Any]:
        """Return the usage that `continuous_usage_stats` puts in every chunk."""
        return self.usage() | {"completion_tokens_details": None}


class Shape(Protocol):
    """How one request's answer is written. Every returned item is one SSE event, sent as one
    HTTP chunk.
    """

    def opening(self, tally: Tally) -> list[bytes]:
        """Return the events that precede the first token."""

    def event(self, choice: int, piece: Piece, tally: Tally) -> bytes:
        """Return the event of one token; empty when it has none."""

    def closing(self, tally: Tally) -> list[bytes]:
        """Return the events after the last token."""

    def failure(self) -> list[bytes]:
        """Return what ends a stream whose engine died."""

    def whole(self, choices: Sequence[Sequence[Piece]], tally: Tally) -> bytes:
        """Return the JSON body of an answer that is not streamed."""
