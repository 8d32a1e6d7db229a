"""Event streams as recorded from engines, in any cut, for each kind of client."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from llamafile_mgr.proxy.server_sent_events import EventFilter, EventStyle, render_event

ROLE = {"choices": [{"index": 0, "delta": {"role": "assistant", "content": None}, "finish_reason": None}]}
WORD = {"choices": [{"index": 0, "delta": {"content": "é"}, "finish_reason": None}]}
USAGE = {"choices": [], "usage": {"completion_tokens": 1}}
V10_STREAM = (
    b": ping\n\n"
    + render_event(ROLE)
    + render_event(WORD)
    + b":\n\n"
    + render_event(USAGE)
    + b"data: [DONE]\n\n"
)
V1_STREAM = render_event({"content": "a", "stop": False}) + render_event({"content": "", "stop": True})


def run(style: EventStyle, data: bytes, size: int = 7) -> bytes:
    events = EventFilter(style)
    return b"".join(events.feed(data[at : at + size]) for at in range(0, len(data), size)) + events.finish()


def payloads(stream: bytes) -> list[object]:
    return [json.loads(line[6:]) for line in stream.split(b"\n") if line.startswith(b"data: {")]


def test_standard_clients_get_everything() -> None:
    assert run(EventStyle.STANDARD, V10_STREAM) == V10_STREAM


def test_a_missing_done_is_added_once() -> None:
    assert run(EventStyle.STANDARD, V1_STREAM) == V1_STREAM + b"data: [DONE]\n\n"
    assert run(EventStyle.STANDARD, V10_STREAM).count(b"[DONE]") == 1


def test_completion_clients_get_data_lines_alone() -> None:
    lines = [line for line in run(EventStyle.COMPLETION, V10_STREAM).split(b"\n") if line]
    assert len(lines) == 3
    assert all(line.startswith(b"data: {") for line in lines)


def test_strict_chat_clients_get_choices_without_nulls() -> None:
    chunks = payloads(run(EventStyle.STRICT_CHAT, V10_STREAM))
    assert chunks == [
        {"choices": [{"index": 0, "delta": {"role": "assistant"}, "finish_reason": None}]},
        WORD,
    ]


def test_error_lines_become_data_events() -> None:
    for style in EventStyle:
        out = run(style, b'error: {"code":500,"message":"boom"}\n\n')
        assert payloads(out)[0] == {"error": {"code": 500, "message": "boom"}}
    assert payloads(run(EventStyle.STANDARD, b"error: plain\n\n"))[0] == {"error": {"message": "plain"}}


def test_line_ends_and_a_last_event_without_its_end() -> None:
    assert payloads(run(EventStyle.COMPLETION, b'data: {"a":1}\r\n\r\ndata: {"a":2}')) == [{"a": 1}, {"a": 2}]


@given(st.sampled_from(list(EventStyle)), st.integers(1, 200))
def test_the_cut_of_the_input_changes_nothing(style: EventStyle, size: int) -> None:
    assert run(style, V10_STREAM, size) == run(style, V10_STREAM, len(V10_STREAM))


@given(st.sampled_from(list(EventStyle)), st.binary(max_size=200), st.integers(1, 50))
def test_garbage_is_survived(style: EventStyle, data: bytes, size: int) -> None:
    run(style, data, size)
