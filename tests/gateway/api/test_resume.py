"""What another endpoint is asked for gives exactly the rest of the answer."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.sim.api.tokens import tokenize
from gateway.api.resume import (
    GREEDY_REPLAY_TOKENS,
    Wishes,
    allowance,
    continue_body,
    may_resume,
    modes,
    prefix,
    read_count,
    read_wishes,
    tokenize_body,
)
from gateway.relay.delivered import Delivered, Mode, Obstacle
from gateway.relay.resumed import ResumedWatcher
from gateway.relay.transcript import Transcript
from tests.support.answers import SERVED, said, sim_stream
from tests.support.engine import DEEP

C, R = Mode.CONTINUE, Mode.REPLAY
HAVE = Delivered("so far", id="c", role=True, tokens=2)
KEYS = {"chat": "content", "completions": "text"}
MESSAGES = [{"role": "user", "content": "Hi"}]
BASE: dict[str, dict[str, Any]] = {
    "chat": {"model": "m", "messages": MESSAGES},
    "completions": {"model": "m", "prompt": "Hi.\n"},
}


def wishes(route: str = "chat", **fields: Any) -> Wishes:
    found = read_wishes(json.dumps(BASE[route] | fields).encode())
    assert found is not None
    return found


def body_after(
    route: str = "chat", text: str = "so far", tokens: int = 2, **fields: Any
) -> dict[str, Any]:
    body = json.dumps(BASE[route] | fields).encode()
    after = continue_body(body, route, wishes(route, **fields), text, tokens)
    return dict(json.loads(after))


# The whole way: a stream that breaks anywhere, twice.


def go_on(route: str, body: bytes, before: Delivered, limit: int) -> tuple[bytes, Delivered]:
    """Continue a stream as the gateway does, for `limit` events; return what the client gets."""
    asked = read_wishes(body)
    assert asked is not None
    start = prefix(route, before)
    answer = tokenize(json.loads(tokenize_body("m", start.text)), SERVED)
    count = read_count(json.dumps(answer).encode())
    assert count is not None
    assert (allowance(route, asked, count) or 0) > 0
    after = continue_body(body, route, asked, start.text, count)
    watched = ResumedWatcher(before, C, strip_usage=False, tokens=count, seam=start.seam)
    out = watched.see(b"".join(sim_stream(route, after, "9", 9)[:limit]))
    assert watched.failure is None
    return out, watched.delivered()


@given(
    st.sampled_from(["chat", "completions"]),
    st.integers(2, 39),
    st.integers(0, 39),
    st.sampled_from(
        [
            {},
            {"seed": 7},
            {"temperature": 0, "min_tokens": 30},
            {"stop": [" the b"], "max_tokens": 400},
        ]
    ),
)
def test_a_continued_answer_is_the_whole_one(
    route: str, first: int, second: int, extra: dict[str, Any]
) -> None:
    """Twice broken and continued: the same text, as many tokens, one usage that adds up."""
    asked = {"stream": True, "stream_options": {"include_usage": True}, "max_tokens": 40} | extra
    body = json.dumps(BASE[route] | asked).encode()
    whole = sim_stream(route, body)
    transcript = Transcript()
    transcript.plain(b"".join(whole[:first]))
    shown, have = b"".join(whole[:first]), transcript.state()
    for limit in (second, 99):
        if have.finished:
            return
        out, have = go_on(route, body, have, limit)
        shown += out
    assert said(shown, KEYS[route]) == said(b"".join(whole), KEYS[route])
    assert shown.endswith(b"data: [DONE]\n\n")
    old, new = (json.loads(one.split(b"data: ")[-2])["usage"] for one in (b"".join(whole), shown))
    if "stop" not in extra:  # What a stop string cut off is generated, but not delivered.
        assert new == old


# Whether, and how.


@pytest.mark.parametrize(
    ("route", "fields", "have", "reason"),
    [
        ("chat", {}, HAVE, ""),
        ("completions", {}, HAVE, ""),
        ("responses", {}, HAVE, "the route has no streams that can be resumed"),
        ("chat", {"n": 2}, HAVE, "more than one choice was asked for"),
        ("completions", {"prompt": ["a", "b"]}, HAVE, "more than one choice was asked for"),
        ("chat", {}, Delivered(obstacle=Obstacle.CALL), "a tool call is under way"),
        ("chat", {}, Delivered("a", finished=True), "the answer is whole"),
    ],
)
def test_why_a_stream_may_not_be_resumed(
    route: str, fields: dict[str, Any], have: Delivered, reason: str
) -> None:
    """The reason is for the log; with one there is no way to try."""
    asked = wishes("completions" if "prompt" in fields else "chat", **fields)
    assert may_resume(route, asked, have) == reason
    if reason:
        assert modes("auto", route, asked, have) == ()


@pytest.mark.parametrize(
    ("setting", "ways"),
    [("auto", (C, R)), ("continue", (C,)), ("replay", (R,)), ("off", ())],
)
def test_the_setting_decides_which_ways_there_are(setting: str, ways: tuple[Mode, ...]) -> None:
    """`auto` continues first."""
    assert modes(setting, "chat", wishes(), HAVE) == ways


@pytest.mark.parametrize(
    ("temperature", "tokens", "ways"),
    [
        (0, GREEDY_REPLAY_TOKENS, (R, C)),
        (0.0, 1, (R, C)),
        (0, GREEDY_REPLAY_TOKENS + 1, (C, R)),
        (0.1, 1, (C, R)),
        (None, 1, (C, R)),
        (False, 1, (C, R)),
    ],
)
def test_a_short_greedy_answer_is_asked_for_again_first(
    temperature: object, tokens: int, ways: tuple[Mode, ...]
) -> None:
    """It repeats itself to the byte; a long one is continued."""
    have = Delivered("so far", tokens=tokens)
    assert modes("auto", "chat", wishes(temperature=temperature), have) == ways


@pytest.mark.parametrize("setting", ["auto", "continue", "replay"])
def test_with_nothing_delivered_any_answer_goes_on(setting: str) -> None:
    """There is nothing to continue from and nothing to repeat."""
    assert modes(setting, "chat", wishes(), Delivered(id="c", role=True)) == (R,)


@pytest.mark.parametrize(
    ("route", "fields"),
    [
        ("chat", {"response_format": {"type": "json_object"}}),
        ("chat", {"response_format": "json"}),
        ("chat", {"structured_outputs": {"regex": "a"}}),
        ("completions", {"guided_json": {}}),
        ("completions", {"guided_regex": "a"}),
        ("completions", {"guided_choice": ["a"]}),
        ("completions", {"guided_grammar": "a"}),
        ("completions", {"best_of": 2}),
        ("completions", {"use_beam_search": True}),
        ("completions", {"echo": True}),
        ("completions", {"suffix": "end"}),
        ("completions", {"prompt_embeds": "AAAA"}),
        ("completions", {"prompt": [1, 2, 3]}),
        ("completions", {"prompt": [[1, 2, 3]]}),
        ("completions", {"prompt": None}),
        ("chat", {"truncate_prompt_tokens": 9}),
        ("chat", {"tool_choice": "required"}),
        ("chat", {"tool_choice": {"type": "function", "function": {"name": "f"}}}),
        ("chat", {"add_generation_prompt": False}),
        ("chat", {"messages": []}),
        ("chat", {"messages": "Hi"}),
        ("chat", {"continue_final_message": True, "messages": ["x"]}),
        ("chat", {"continue_final_message": True, "messages": [{"role": "assistant"}]}),
        ("chat", {"continue_final_message": True, "messages": [{"content": []}]}),
        ("chat", {"continue_final_message": True, "messages": [{"content": ["x"]}]}),
        ("chat", {"continue_final_message": True, "messages": [{"content": [{"image": 1}]}]}),
    ],
)
def test_what_an_engine_would_not_go_on_with_is_only_replayed(
    route: str, fields: dict[str, Any]
) -> None:
    """The exact prefix protects the replay; a continuation could not be told from a good one."""
    assert modes("auto", route, wishes(route, **fields), HAVE) == (R,)
    assert modes("continue", route, wishes(route, **fields), HAVE) == ()


def test_a_body_without_prompt_is_only_replayed() -> None:
    """The engine that answered it knows what it read; we do not."""
    asked = read_wishes(b'{"model":"m"}')
    assert asked is not None
    assert modes("auto", "completions", asked, HAVE) == (R,)
    assert modes("auto", "chat", asked, HAVE) == (R,)


@pytest.mark.parametrize(
    ("route", "fields", "have"),
    [
        ("chat", {"response_format": {"type": "text"}}, HAVE),
        ("completions", {"best_of": 1}, HAVE),
        ("completions", {"prompt": ["a"]}, HAVE),
        ("chat", {"tool_choice": "auto"}, HAVE),
        ("chat", {"add_generation_prompt": False, "continue_final_message": True}, HAVE),
    ],
)
def test_what_does_not_stand_in_the_way(
    route: str, fields: dict[str, Any], have: Delivered
) -> None:
    """Defaults that were written out are no obstacle."""
    assert modes("auto", route, wishes(route, **fields), have) == (C, R)


@pytest.mark.parametrize(
    "have", [Delivered("a", "thought"), Delivered("", "thought"), Delivered(" \n", tokens=1)]
)
def test_thoughts_and_mere_space_are_only_replayed(have: Delivered) -> None:
    """A template puts a thought elsewhere, and trims the space."""
    assert modes("auto", "chat", wishes(), have) == (R,)


@pytest.mark.parametrize("field", ["logprobs", "return_token_ids"])
def test_what_belongs_to_whole_tokens_is_not_cut(field: str) -> None:
    """A chat goes on with the next token; a completion would count its offsets anew."""
    have = Delivered("so far", logprobs=field == "logprobs")
    fields = {"return_token_ids": True} if field == "return_token_ids" else {}
    assert modes("auto", "chat", wishes(**fields), have) == (C,)
    assert modes("auto", "completions", wishes("completions", **fields), have) == ()


def test_a_body_that_cannot_be_read_again_has_no_wishes() -> None:
    """Strict JSON may hold numbers and surrogates that no string or float can."""
    assert read_wishes(b'{"model":"m","response_format":{"maximum":1e999}}') is None


# The bodies.


def test_a_conversation_gets_an_assistants_beginning() -> None:
    """The last message is left open; the rest of the body is the client's, byte for byte."""
    body = b'{ "model":"m", "big":123456789012345678901234567890, "x":1.50, "messages":[{"a":1E2}]}'
    asked = read_wishes(body)
    assert asked is not None
    assert continue_body(body, "chat", asked, 'sø "far"', 2) == (
        b'{"add_generation_prompt":false,"continue_final_message":true, "model":"m", '
        b'"big":123456789012345678901234567890, "x":1.50, '
        b'"messages":[{"a":1E2},{"role":"assistant","content":"s\xc3\xb8 \\"far\\""}]}'
    )


@pytest.mark.parametrize(
    ("content", "after"),
    [
        ("Well,", "Well, so far"),
        ([{"type": "text", "text": "Well,"}], [{"type": "text", "text": "Well, so far"}]),
    ],
)
def test_a_beginning_of_the_clients_own_is_extended(content: object, after: object) -> None:
    """The client asked for the rest of a message: it stays one."""
    messages = [*MESSAGES, {"role": "assistant", "content": content}]
    flags = {"continue_final_message": True, "add_generation_prompt": False}
    assert modes("auto", "chat", wishes(messages=messages, **flags), HAVE) == (C, R)
    found = body_after(text=" so far", messages=messages, **flags)
    assert found == {
        "model": "m",
        "messages": [*MESSAGES, {"role": "assistant", "content": after}],
        **flags,
    }


@pytest.mark.parametrize("prompt", ["Once", ["Once"]])
def test_a_prompt_gets_the_text(prompt: object) -> None:
    """One text in a list is one prompt. The default limit is written out: 16 was for both."""
    found = body_after("completions", " upon", 3, prompt=prompt)
    assert found == {"model": "m", "prompt": "Once upon", "max_tokens": 13}


def test_a_limit_of_null_is_none() -> None:
    """vLLM takes the default of completions only where nothing is said: null must cut nothing."""
    assert allowance("completions", wishes("completions"), 20) == -4
    assert allowance("completions", wishes("completions", max_tokens=None), 20) is None
    found = body_after("completions", max_tokens=None)
    assert found == {"model": "m", "prompt": "Hi.\nso far", "max_tokens": None}


@pytest.mark.parametrize(
    ("fields", "after"),
    [
        ({}, {}),
        ({"max_tokens": 10}, {"max_tokens": 8}),
        ({"max_completion_tokens": 10}, {"max_completion_tokens": 8}),
        (
            {"max_completion_tokens": 10, "max_tokens": 99},
            {"max_completion_tokens": 8, "max_tokens": 8},
        ),
        ({"max_tokens": 10, "min_tokens": 5}, {"max_tokens": 8, "min_tokens": 3}),
        ({"min_tokens": 1}, {"min_tokens": 0}),
        ({"min_tokens": 0, "seed": 4, "stop": "x"}, {"min_tokens": 0, "seed": 4, "stop": "x"}),
        ({"max_tokens": "10"}, {"max_tokens": "10"}),
    ],
)
def test_limits_are_less_by_what_was_delivered(
    fields: dict[str, Any], after: dict[str, Any]
) -> None:
    """Both names of the limit; all else is kept."""
    found = body_after(**fields)
    assert {key: found[key] for key in found.keys() - {*BASE["chat"], *_FLAGS}} == after


_FLAGS = {"continue_final_message", "add_generation_prompt"}


@pytest.mark.parametrize(
    ("route", "fields", "left"),
    [
        ("chat", {}, None),
        ("chat", {"max_tokens": 9}, 4),
        ("chat", {"max_tokens": 9, "max_completion_tokens": 5}, 0),
        ("completions", {}, 11),
        ("completions", {"max_tokens": 3, "max_completion_tokens": 90}, -2),
    ],
)
def test_the_allowance_is_what_is_left(
    route: str, fields: dict[str, Any], left: int | None
) -> None:
    """None where the request sets no limit; 0 or less where the answer is whole."""
    assert allowance(route, wishes(route, **fields), 5) == left


def test_space_at_the_end_is_generated_again_in_a_chat() -> None:
    """Templates trim it; a plain prompt keeps it."""
    have = Delivered("so far \n", tokens=3)
    start = prefix("chat", have)
    assert (start.text, start.seam, start.tokens) == ("so far", " \n", 2)
    start = prefix("completions", have)
    assert (start.text, start.seam, start.tokens) == ("so far \n", "", 3)


@pytest.mark.parametrize(
    ("answer", "count"),
    [
        (b'{"count":5,"max_model_len":512,"tokens":[1],"token_strs":null}', 5),
        (b'{"count":-1}', None),
        (b'{"error":{"message":"no"}}', None),
        (b"\xff", None),
        (b'{"count":"\xff"}', None),
        pytest.param(b'{"tokens":%b,"count":5}' % DEEP, None, id="too deep"),
    ],
)
def test_the_count_of_tokenize_is_read(answer: bytes, count: int | None) -> None:
    """Whatever else came is no count."""
    assert read_count(answer) == count
