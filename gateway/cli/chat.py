"""How does somebody talk to a model from a terminal or a pipe, and see how fast it answers?

Everything here blocks, on purpose: there is one person and one answer at a time, and Ctrl-C then
arrives right where the answer is read.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import httpx
import typer
from rich.console import Console

from gateway.cli.stream import (
    Delta,
    Done,
    Event,
    Failure,
    Finish,
    Usage,
    error_message,
    read_events,
)

CONNECT_S = 5.0
READ_S = 300.0
"""A long prompt on a busy engine may take minutes to its first token; Ctrl-C is the shorter way."""

_PROMPT = "you> "
_HELP = "/new forgets the conversation, /exit ends, Ctrl-C stops an answer"
# Everything that could move the cursor or colour the terminal; answers are not to be trusted.
_UNSAFE = {code: None for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}


class ChatError(Exception):
    """The server cannot be used, or an answer failed; the message is for the person."""


@dataclass(slots=True)
class Answer:
    """One answer as far as it has come. Times are seconds on the chat's clock."""

    asked_s: float
    first_s: float | None = None
    last_s: float = 0.0
    text: str = ""
    chunks: int = 0
    completion_tokens: int | None = None
    finish: str = ""

    def speed(self) -> str:
        """Say how fast it came. The rate leaves out the wait for the first token."""
        if self.first_s is None:
            return "no text"
        tokens = self.completion_tokens
        # Without usage, chunks stand in: engines send about one token in each.
        count = f"{self.chunks} chunks" if tokens is None else f"{tokens} tokens"
        said = f"first token after {(self.first_s - self.asked_s) * 1000:.0f} ms · {count}"
        span_s, steps = self.last_s - self.first_s, (tokens or self.chunks) - 1
        if span_s > 0 and steps > 0:
            said += f" · {steps / span_s:.1f} tokens/s"
        return f"{said} · stopped at the token limit" if self.finish == "length" else said


class Chat:
    """A conversation: what was said so far, and where it is shown."""

    def __init__(
        self,
        client: httpx.Client,
        model: str,
        answers: Console,
        notes: Console,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._client = client
        self._model = model
        self._answers = answers
        self._notes = notes
        self._clock = clock
        self._messages: list[dict[str, str]] = []

    def converse(self, lines: Iterable[str]) -> bool:
        """Take each line as a turn or command; return whether every answer came whole."""
        is_well = True
        for line in lines:
            match line.strip():
                case "":
                    continue
                case "/exit" | "/quit":
                    break
                case "/new":
                    self._messages.clear()
                    self._note("forgotten", "dim")
                case "/help":
                    self._note(_HELP, "dim")
                case text:
                    is_well = self.say(text) and is_well
        return is_well

    def say(self, text: str) -> bool:
        """Send one turn and show its answer as it comes; return whether it came whole.

        What was cut or stopped stays part of the conversation, what never began does not.
        """
        turn = {"role": "user", "content": text}
        answer = Answer(self._clock())
        problem = None
        try:
            with contextlib.closing(self._ask([*self._messages, turn])) as events:
                for event in events:
                    with _undisturbed():
                        self._take(event, answer)
        except KeyboardInterrupt:
            problem = "stopped"
        except ChatError as error:
            problem = str(error)
        if answer.chunks:
            self._answers.out()
        if answer.chunks or problem is None:
            self._note(answer.speed(), "dim")
        if answer.text:
            self._messages += [turn, {"role": "assistant", "content": answer.text}]
        if problem is not None:
            self._note(problem, "red")
        return problem is None

    def _ask(self, messages: Sequence[Mapping[str, str]]) -> Generator[Event]:
        body = {
            "model": self._model,
            "messages": messages,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        with (
            _plain_errors(self._client),
            self._client.stream("POST", "chat/completions", json=body) as response,
        ):
            _refuse(response)
            for event in read_events(response.iter_bytes()):
                if isinstance(event, Failure):
                    raise ChatError(event.message)
                if isinstance(event, Done):
                    return
                yield event
        raise ChatError("the answer was cut off: the connection ended before the answer did")

    def _take(self, event: Event, answer: Answer) -> None:
        match event:
            case Delta(text, is_reasoning):
                answer.last_s = self._clock()
                if answer.first_s is None:
                    answer.first_s = answer.last_s
                answer.chunks += 1
                if not is_reasoning:
                    answer.text += text
                shown = text.translate(_UNSAFE)
                self._answers.out(shown, end="", style="dim" if is_reasoning else None)
            case Usage(completion_tokens):
                answer.completion_tokens = completion_tokens
            case Finish(reason):
                answer.finish = reason

    def _note(self, text: str, style: str) -> None:
        self._notes.print(text.translate(_UNSAFE), style=style, markup=False, soft_wrap=True)


def run(url: str, model: str | None, api_key: str | None) -> int:
    """Chat until the input ends; return the exit code.

    1 if the server cannot be used or a piped turn failed, 2 for arguments that cannot be sent.
    """
    notes = Console(stderr=True, highlight=False)
    try:
        with _client(url, api_key) as client:
            chosen = model or _first_model(client, notes)
            chat = Chat(client, chosen, Console(highlight=False, soft_wrap=True), notes)
            if sys.stdin.isatty():
                notes.print(f"{chosen} · {_HELP}", style="dim", markup=False)
                chat.converse(_typed(notes))
                return 0  # The person saw each failure and chose what to do about it.
            return 0 if chat.converse(sys.stdin) else 1
    except UnicodeDecodeError:
        notes.print("the input is not text in the terminal's encoding", style="red")
    except ChatError as error:
        notes.print(str(error).translate(_UNSAFE), style="red", markup=False, soft_wrap=True)
    return 1


def _client(url: str, api_key: str | None) -> httpx.Client:
    """Raises `typer.BadParameter`: httpx would complain in its own words, or only later."""
    if not url.startswith(("http://", "https://")):
        raise typer.BadParameter("--url must begin with http:// or https://")
    if api_key is not None and not (api_key.isascii() and api_key.isprintable()):
        raise typer.BadParameter("--api-key must be printable ASCII")
    headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
    timeout = httpx.Timeout(READ_S, connect=CONNECT_S)
    try:
        return httpx.Client(base_url=url, headers=headers, timeout=timeout)
    except httpx.InvalidURL as error:
        raise typer.BadParameter(f"--url: {error}") from error


def _first_model(client: httpx.Client, notes: Console) -> str:
    with _plain_errors(client):
        response = client.get("models")
        _refuse(response)
    try:
        listed = response.json()["data"]
        names = [str(model["id"]) for model in listed if model.get("kind") != "vision"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ChatError(f"{client.base_url} does not list models as OpenAI's API does") from error
    if not names:
        raise ChatError("no model is served yet; are the engines still starting?")
    if len(names) > 1:
        text = f"{names[0]} it is; also served: {', '.join(names[1:])} (choose with --model)"
        notes.print(text.translate(_UNSAFE), style="dim", markup=False, soft_wrap=True)
    return names[0]


def _typed(notes: Console) -> Iterator[str]:
    """Yield what is typed at the prompt, until Ctrl-D or Ctrl-C."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401, PLC0415 - gives input() line editing, where it exists
    # input() writes its prompt to standard output, where only answers go if that is a pipe.
    has_screen = sys.stdout.isatty()
    while True:
        try:
            if not has_screen:
                notes.print(_PROMPT, end="")
            yield input(_PROMPT if has_screen else "")
        except (EOFError, KeyboardInterrupt):
            notes.print()
            return


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Let Ctrl-C wait: in the middle of a write, rich would write the same text again."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _refuse(response: httpx.Response) -> None:
    if response.is_success:
        return
    message = error_message(response.read().decode(errors="replace"))
    raise ChatError(f"{message or response.reason_phrase} (HTTP {response.status_code})")


@contextlib.contextmanager
def _plain_errors(client: httpx.Client) -> Iterator[None]:
    try:
        yield
    except httpx.ConnectError as error:
        raise ChatError(
            f"cannot reach {client.base_url}: is the gateway running? (`sluice up` starts one)"
        ) from error
    except httpx.TimeoutException as error:
        raise ChatError("the server did not answer in time") from error
    except httpx.HTTPError as error:
        raise ChatError(f"the connection failed: {error}") from error
