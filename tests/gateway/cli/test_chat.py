"""Does the terminal chat show answers as they come, and failures in plain words?"""

from __future__ import annotations

import io
import json
import os
import pty
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

from gateway.cli.chat import Answer, Chat
from gateway.cli.root import build

DONE = b"data: [DONE]\n\n"


def chunk(text: str = "", **members: object) -> bytes:
    """One event of a stream, with text and with whatever else it should have."""
    choices = [{"delta": {"content": text}}] if text else []
    return b"data: " + json.dumps({"choices": choices, **members}).encode() + b"\n\n"


class Engine(ThreadingHTTPServer):
    """A server of one process that answers each question by a script."""

    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Exchange)
        self.url = f"http://127.0.0.1:{self.server_address[1]}/v1"
        self.models: Any = {"data": [{"id": "llama"}]}
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.client_left = threading.Event()


class Exchange(BaseHTTPRequestHandler):
    """Answers: `stall` never ends, `refuse` is a 404, `fail` and `cut` break off, else an echo."""

    server: Engine

    def do_GET(self) -> None:
        self._send(200, json.dumps(self.server.models).encode())

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.asked.append(body)
        self.server.keys.append(self.headers["authorization"])
        question = body["messages"][-1]["content"]
        if question == "refuse":
            self._send(404, b'{"error":{"message":"no such\\u001b[31m model"}}')
        elif question == "stall":
            self._stall()
        elif question == "fail":
            self._send(
                200, chunk("half") + b'data: {"error":{"message":"out of memory"}}\n\n' + DONE
            )
        elif question == "cut":
            self._send(200, chunk("half"))
        else:
            usage = {"completion_tokens": 5}
            self._send(200, chunk("you said ") + chunk(question) + chunk(usage=usage) + DONE)

    def log_message(self, format: str, *args: object) -> None:
        """Keep the tests' output clean."""

    def _send(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _stall(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(chunk("endless"))
        self.connection.recv(1)  # Returns when the client closes.
        self.server.client_left.set()


@pytest.fixture
def engine() -> Iterator[Engine]:
    with Engine() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def chat(engine: Engine, said: str, *arguments: str, **environ: str) -> Result:
    """Pipe lines into `sluice chat`."""
    command = ["chat", "--url", engine.url, *arguments]
    return CliRunner().invoke(build(), command, input=said, prog_name="sluice", env=environ)


def test_a_conversation_remembers(engine: Engine) -> None:
    """Each turn carries those before it; standard output has the answers and nothing else."""
    result = chat(engine, "one\n\ntwo\n/exit\nthree\n")
    assert result.exit_code == 0, result.output
    assert result.stdout == "you said one\nyou said two\n"
    assert result.stderr.count("first token after ") == 2
    assert " 5 tokens" in result.stderr
    assert [message["content"] for message in engine.asked[1]["messages"]] == [
        "one",
        "you said one",
        "two",
    ]
    assert (engine.asked[0]["model"], engine.asked[0]["stream"]) == ("llama", True)
    assert len(engine.asked) == 2


def test_new_forgets(engine: Engine) -> None:
    """/new begins a conversation without the past; /help explains."""
    result = chat(engine, "one\n/new\n/help\ntwo\n")
    assert [len(each["messages"]) for each in engine.asked] == [1, 1]
    assert "/exit ends" in result.stderr


def test_failures_are_plain_and_the_chat_goes_on(engine: Engine) -> None:
    """A refusal, an error in the stream and a cut are told apart; the exit code remembers them."""
    result = chat(engine, "refuse\nfail\ncut\nhello\n")
    assert result.exit_code == 1
    assert "no such[31m model (HTTP 404)" in result.stderr
    assert "out of memory" in result.stderr
    assert "the answer was cut off" in result.stderr
    assert result.stdout == "half\nhalf\nyou said hello\n"
    said = [message["content"] for message in engine.asked[-1]["messages"]]
    assert said == ["fail", "half", "cut", "half", "hello"]


def test_an_answer_cannot_touch_the_terminal(engine: Engine) -> None:
    """Escape sequences in an answer are shown without their escape."""
    result = chat(engine, "\x1b[2J\x07[red]wiped\x9b[/red]\n")
    assert result.stdout == "you said [2J[red]wiped[/red]\n"


def test_the_model_may_be_chosen(engine: Engine) -> None:
    """--model is used as it is; without it the first is, and the others are named."""
    chat(engine, "hi\n", "--model", "qwen")
    engine.models = {"data": [{"id": "llama"}, {"id": "mistral"}]}
    result = chat(engine, "hi\n")
    assert [each["model"] for each in engine.asked] == ["qwen", "llama"]
    assert "also served: mistral (choose with --model)" in " ".join(result.stderr.split())


def test_the_key_is_sent_and_never_shown(engine: Engine) -> None:
    """From the environment or the option, as a bearer token; without one there is no header."""
    results = [
        chat(engine, "hi\n", SLUICE_API_KEY="sk-env"),
        chat(engine, "refuse\n", "--api-key", "sk-option"),
        chat(engine, "hi\n"),
        CliRunner().invoke(build(), ["chat", "--help"], env={"SLUICE_API_KEY": "sk-env"}),
    ]
    assert engine.keys == ["Bearer sk-env", "Bearer sk-option", None]
    assert "sk-" not in "".join(result.output for result in results)


@pytest.mark.parametrize(
    ("models", "said"),
    [
        ({"data": []}, "no model is served yet"),
        ({"data": [7]}, "does not list models"),
        ([], "does not list models"),
    ],
)
def test_without_a_model_there_is_no_chat(engine: Engine, models: object, said: str) -> None:
    """An empty or strange list of models ends it, in plain words."""
    engine.models = models
    result = chat(engine, "hi\n")
    assert result.exit_code == 1
    assert said in result.stderr


def test_an_unreachable_gateway_is_said_plainly() -> None:
    """No traceback, but what to do."""
    with Engine() as closed:
        pass
    result = chat(closed, "hi\n")
    assert result.exit_code == 1
    assert "cannot reach http://127.0.0.1" in result.stderr
    assert "sluice up" in result.stderr


@pytest.mark.parametrize(
    "arguments", [["--url", "gpu:8000"], ["--url", "http://a:b"], ["--api-key", "kéy"]]
)
def test_what_cannot_be_sent_is_wrong_usage(engine: Engine, arguments: list[str]) -> None:
    """URLs and keys that no request can carry are the caller's mistake."""
    assert chat(engine, "hi\n", *arguments).exit_code == 2


def test_input_that_is_not_text_is_said_plainly(engine: Engine) -> None:
    """Bytes from a pipe that are no text end the chat with code 1."""
    result = CliRunner().invoke(build(), ["chat", "--url", engine.url], input=b"\xff\xfe\n")
    assert result.exit_code == 1
    assert "not text" in result.stderr


def test_ctrl_c_stops_the_answer_and_not_the_chat(engine: Engine) -> None:
    """At a terminal: the engine is let go, the half answer kept, and the next turn works."""
    master, slave = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "gateway", "chat", "--url", engine.url],
        stdin=slave,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "NO_PROXY": "127.0.0.1"},
    ) as process:
        os.close(slave)
        try:
            assert process.stdout is not None
            os.write(master, b"stall\n")
            assert process.stdout.read(7) == b"endless"
            process.send_signal(signal.SIGINT)
            assert engine.client_left.wait(timeout=30)
            os.write(master, b"hello\n/exit\n")
            out, notes = process.communicate(timeout=30)
        finally:
            process.kill()
            os.close(master)
    assert out == b"\nyou said hello\n"
    assert notes.count(b"you> ") == 3
    assert b"stopped" in notes
    assert b"Traceback" not in notes
    assert process.returncode == 0
    assert [message["content"] for message in engine.asked[1]["messages"]] == [
        "stall",
        "endless",
        "hello",
    ]


def ticking(*times_s: float) -> Callable[[], float]:
    """A clock that says each of these times once."""
    return iter(times_s).__next__


def test_times_are_those_of_the_clock() -> None:
    """The first token counts from the question, the rate from the first token to the last."""

    def answer(_: httpx.Request) -> httpx.Response:
        body = chunk("a") + chunk("b") + chunk("c") + chunk(usage={"completion_tokens": 21}) + DONE
        return httpx.Response(200, content=body)

    out, notes = io.StringIO(), io.StringIO()
    with httpx.Client(base_url="http://x", transport=httpx.MockTransport(answer)) as client:
        clock = ticking(10.0, 10.25, 11.0, 12.25)
        talk = Chat(client, "m", Console(file=out), Console(file=notes, width=100), clock)
        assert talk.say("hi")
    assert out.getvalue() == "abc\n"
    assert notes.getvalue() == "first token after 250 ms · 21 tokens · 10.0 tokens/s\n"


def test_speed_says_only_what_is_known() -> None:
    """Without usage chunks are counted, without a span there is no rate, without text no time."""
    assert Answer(0.0).speed() == "no text"
    assert Answer(0.0, 0.5, 0.5, chunks=1).speed() == "first token after 500 ms · 1 chunks"
    assert Answer(0.0, 1.0, 3.0, chunks=5, finish="length").speed() == (
        "first token after 1000 ms · 5 chunks · 2.0 tokens/s · stopped at the token limit"
    )
