"""May the stream of a request be resumed, how, and what is another endpoint asked for then?

Pure. Only `/v1/chat/completions` and `/v1/completions` with one choice: their answers are text, and
an engine goes on with a text that it is given. Bodies are changed by splices, so that everything
else that the client wrote reaches the engine as it was.

A stop string cannot straddle the seam with vLLM: it holds back the characters that may still become
one, so they are generated again. An engine that does not hold back would miss it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import msgspec

from gateway.api.body import Facts, spans
from gateway.relay.delivered import Delivered, Mode
from gateway.relay.watch import DECODE_ERRORS

GREEDY_REPLAY_TOKENS = 512
"""Up to so many tokens a greedy answer is asked for again first: it repeats itself to the byte,
whereas the text of a beginning may come apart into other tokens. A second or two at the 200 to 500
tokens a second that an engine gives to one stream; above that, continuing is the faster.
"""
_COMPLETIONS_MAX_TOKENS = 16  # OpenAI's default for /v1/completions, which vLLM keeps.
_ROUTES = frozenset({"chat", "completions"})


class Wishes(Facts, gc=False):
    """The fields of a body that decide about resuming."""

    messages: msgspec.Raw = msgspec.Raw()
    temperature: Any = None
    max_tokens: Any = msgspec.UNSET  # With null, vLLM sets no limit even where it has a default.
    max_completion_tokens: Any = None
    min_tokens: Any = None
    best_of: Any = None
    use_beam_search: Any = None
    echo: Any = None
    suffix: Any = None
    truncate_prompt_tokens: Any = None
    prompt_embeds: Any = None
    return_token_ids: Any = None
    response_format: Any = None
    structured_outputs: Any = None
    guided_json: Any = None  # These four were vLLM's names before 0.12.
    guided_regex: Any = None
    guided_choice: Any = None
    guided_grammar: Any = None
    tool_choice: Any = None
    add_generation_prompt: Any = None
    continue_final_message: Any = None


_WISHES = msgspec.json.Decoder(Wishes)
_MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_LIST = msgspec.json.Decoder(list[msgspec.Raw])


def read_wishes(body: bytes) -> Wishes | None:
    """Return what a body that `read_json` has let in asks for; None if that cannot be told."""
    try:
        return _WISHES.decode(body)
    except msgspec.MsgspecError:  # A number or a surrogate that only the skipped parts may have.
        return None


def may_resume(route: str, wishes: Wishes, delivered: Delivered) -> str:
    """Return why the stream cannot be resumed, in words; empty if it may be.

    `route` is the route's name.
    """
    if route not in _ROUTES:
        return "the route has no streams that can be resumed"
    if delivered.finished:
        return "the answer is whole"
    if wishes.choices != 1:
        return "more than one choice was asked for"
    if delivered.obstacle is not None:
        return delivered.obstacle.value
    return ""


def modes(setting: str, route: str, wishes: Wishes, delivered: Delivered) -> tuple[Mode, ...]:
    """Return the ways to try, in order, by the cluster's `resume` setting; none: the stream ends.

    `auto` continues, then replays; a greedy answer that is not long yet the other way round.
    """
    if setting == "off" or may_resume(route, wishes, delivered):
        return ()
    if not (delivered.text or delivered.reasoning):
        return (Mode.REPLAY,)  # There is nothing to repeat: any answer goes on.
    replays = _may_replay(wishes, delivered)
    ways = [Mode.REPLAY] if replays and setting != Mode.CONTINUE else []
    if setting != Mode.REPLAY and _may_continue(route, wishes, delivered):
        greedy = wishes.temperature == 0 and wishes.temperature is not False
        first = greedy and delivered.tokens <= GREEDY_REPLAY_TOKENS
        ways.insert(len(ways) if first else 0, Mode.CONTINUE)
    return tuple(ways)


def _may_replay(wishes: Wishes, delivered: Delivered) -> bool:
    """Whether an answer can be cut at a character: what belongs to whole tokens cannot."""
    return not (delivered.logprobs or wishes.return_token_ids)


def _may_continue(route: str, wishes: Wishes, delivered: Delivered) -> bool:
    """Whether an engine, given the text so far, would go on as it would have gone on."""
    if delivered.reasoning or not prefix(route, delivered).text:
        return False  # A template puts reasoning elsewhere, or leaves it out.
    if _is_structured(wishes) or wishes.best_of not in (None, 1) or wishes.use_beam_search:
        return False
    if wishes.echo or wishes.truncate_prompt_tokens is not None:
        return False
    if route == "chat":
        return _may_continue_chat(wishes)
    per_token = delivered.logprobs or wishes.return_token_ids  # Offsets and the prompt's own ids.
    other = wishes.suffix or wishes.prompt_embeds
    return not (per_token or other) and _text_prompt(wishes) is not None


def _may_continue_chat(wishes: Wishes) -> bool:
    if wishes.tool_choice == "required" or isinstance(wishes.tool_choice, dict):
        return False  # What looks like text is a call in the making.
    if wishes.add_generation_prompt is False and not wishes.continue_final_message:
        return False  # The answer is no message of an assistant's.
    return bool(_messages(wishes))


def _is_structured(wishes: Wishes) -> bool:
    """Whether a grammar steers the answer: it would begin anew in the middle."""
    form = wishes.response_format
    if form is not None and not (isinstance(form, dict) and form.get("type") == "text"):
        return True
    return any(
        value is not None
        for value in (
            wishes.structured_outputs,
            wishes.guided_json,
            wishes.guided_regex,
            wishes.guided_choice,
            wishes.guided_grammar,
        )
    )


@dataclass(frozen=True, slots=True)
class Prefix:
    """The beginning of an answer as an engine is given it."""

    text: str
    seam: str
    """The space at the end of what was delivered, which is left out of `text`."""
    tokens: int
    """How many tokens `text` is, by the events that were delivered: an estimate."""


def prefix(route: str, delivered: Delivered) -> Prefix:
    """Return what to send of the text so far.

    Chat templates trim a message (Llama 3's does), and a model that finds a space in front of it
    seldom writes the next word as it would have. So the space at the end is generated again, and
    `ResumedWatcher` drops it. A plain prompt is taken as it is.
    """
    text = delivered.text.rstrip() if route == "chat" else delivered.text
    seam = delivered.text[len(text) :]
    return Prefix(text, seam, max(0, delivered.tokens - bool(seam)))


def allowance(route: str, wishes: Wishes, tokens: int) -> int | None:
    """Return how many tokens the answer may still have; None if the request sets no limit.

    With 0 or less the answer is whole: `length_ending` closes the stream.
    """
    limit = wishes.max_tokens
    if route == "chat" and wishes.max_completion_tokens is not None:
        limit = wishes.max_completion_tokens
    if limit is msgspec.UNSET and route == "completions":
        limit = _COMPLETIONS_MAX_TOKENS
    return limit - tokens if isinstance(limit, int) else None


def continue_body(body: bytes, route: str, wishes: Wishes, text: str, tokens: int) -> bytes:
    """Return the request for the rest of an answer that begins with `text`, `tokens` long.

    Only where `modes` has offered CONTINUE and `allowance` is above 0. A text that ends inside a
    token comes apart into more tokens than it was: a limit may then be reached some tokens early.
    """
    if route == "chat":
        body = _put(body, "messages", _begun(wishes, text))
        body = _put(body, "continue_final_message", b"true")
        body = _put(body, "add_generation_prompt", b"false")
    else:
        body = _put(body, "prompt", _string((_text_prompt(wishes) or "") + text))
    left = allowance(route, wishes, tokens)
    if left is not None:
        for key in _limits(route, wishes):
            body = _put(body, key, b"%d" % left)
    if isinstance(wishes.min_tokens, int) and wishes.min_tokens:
        body = _put(body, "min_tokens", b"%d" % max(0, wishes.min_tokens - tokens))
    return body


def _limits(route: str, wishes: Wishes) -> list[str]:
    """Return the keys that hold the limit; engines differ in which of two they obey."""
    if route == "completions" or wishes.max_completion_tokens is None:
        return ["max_tokens"]
    both = wishes.max_tokens not in (None, msgspec.UNSET)
    return ["max_completion_tokens", "max_tokens"] if both else ["max_completion_tokens"]


def _begun(wishes: Wishes, text: str) -> bytes:
    """Return the messages with an assistant's last that begins with `text`."""
    messages = [bytes(message) for message in _messages(wishes)]
    if wishes.continue_final_message:
        messages[-1] = _extended(messages[-1], text) or b""
    else:
        messages.append(b'{"role":"assistant","content":%b}' % _string(text))
    return b"[%b]" % b",".join(messages)


def _messages(wishes: Wishes) -> list[msgspec.Raw]:
    """Return the messages; none if they cannot be continued."""
    try:
        messages = _LIST.decode(wishes.messages)
        if messages and wishes.continue_final_message and not _extended(messages[-1], ""):
            return []
    except msgspec.MsgspecError:
        return []
    return messages


def _extended(message: bytes | msgspec.Raw, text: str) -> bytes | None:
    """Return a message with `text` after its own; None if it does not end with text."""
    message = bytes(message)
    content = _MEMBERS.decode(message).get("content", msgspec.Raw(b"null"))
    value = msgspec.json.decode(content)
    if isinstance(value, str):
        return _put(message, "content", _string(value + text))
    if not isinstance(value, list) or not value:
        return None
    parts = [bytes(part) for part in _LIST.decode(content)]
    last = value[-1]
    if not isinstance(last, dict) or not isinstance(last.get("text"), str):
        return None
    parts[-1] = _put(parts[-1], "text", _string(last["text"] + text))
    return _put(message, "content", b"[%b]" % b",".join(parts))


def _text_prompt(wishes: Wishes) -> str | None:
    """Return the prompt of a completion; None if it is not one text."""
    try:
        prompt = msgspec.json.decode(wishes.prompt)
    except msgspec.MsgspecError:
        return None
    if isinstance(prompt, list) and len(prompt) == 1:
        prompt = prompt[0]
    return prompt if isinstance(prompt, str) else None


def _put(body: bytes, key: str, value: bytes) -> bytes:
    """Return a JSON object with `key` set to `value`, JSON text; the rest byte for byte."""
    places = spans(body, key)
    if not places:
        at = body.index(b"{") + 1
        return b'%b"%b":%b,%b' % (body[:at], key.encode(), value, body[at:])
    start, end = places[-1]  # Of duplicate keys the last counts, as in every parser we met.
    return b"".join((body[:start], value, body[end:]))


def _string(text: str) -> bytes:
    return json.dumps(text, ensure_ascii=False).encode()


def tokenize_body(model: str, text: str) -> bytes:
    """Return the body that asks `/tokenize` of an engine how many tokens `text` is.

    `model` is the engine's name. Events may carry several tokens, so their count is an estimate.
    """
    value = {"model": model, "prompt": text, "add_special_tokens": False}
    return msgspec.json.encode(value)


class _Tokens(msgspec.Struct):
    count: int


def read_count(answer: bytes) -> int | None:
    """Return the number in an answer of `/tokenize`; None if it is not one."""
    try:
        count = msgspec.json.decode(answer, type=_Tokens).count
    except DECODE_ERRORS:
        return None
    return count if count >= 0 else None
