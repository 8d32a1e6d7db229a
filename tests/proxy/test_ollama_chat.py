"""Ollama's chat in terms of OpenAI's, and back; every line of a stream is one object."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamafile_mgr.errors import EngineLostError, RequestError
from llamafile_mgr.proxy.dialects.ollama import (
    OllamaAnswer,
    OllamaCall,
    parse_chat,
    parse_generate,
    render_loaded,
)

MESSAGES = [{"role": "user", "content": "hi"}]


def answer(call: OllamaCall) -> OllamaAnswer:
    return OllamaAnswer(call, "m", lambda: 1.0)


def test_chat_becomes_openai_chat() -> None:
    nulls = {"num_predict": 16, "temperature": 0, "num_ctx": 99, "top_k": None}
    call = parse_chat({"messages": MESSAGES, "stream": False, "options": nulls, "tools": []})
    assert call.body == {"messages": MESSAGES, "max_tokens": 16, "temperature": 0}
    streamed = parse_chat({"messages": MESSAGES})
    assert streamed.stream
    assert streamed.body is not None
    assert streamed.body["stream_options"] == {"include_usage": True}


def test_generate_becomes_one_message() -> None:
    call = parse_generate({"prompt": "hi", "system": "be brief", "stream": False, "format": "json"})
    assert call.body == {
        "messages": [{"role": "system", "content": "be brief"}, *MESSAGES],
        "response_format": {"type": "json_object"},
    }


@pytest.mark.parametrize("call", [parse_chat({"messages": []}), parse_generate({"stream": False})])
def test_no_question_loads_the_model(call: Any) -> None:
    line = render_loaded(call, "m")
    assert (line["done"], line["done_reason"]) == (True, "load")


def test_tools_there_and_back() -> None:
    function = {"name": "f", "arguments": {"x": 1}}
    call = parse_chat(
        {
            "messages": [{"role": "assistant", "tool_calls": [{"function": function}]}],
            "tools": [{"a": 1}],
            "stream": False,
        }
    )
    assert call.body is not None
    assert call.body["messages"][0]["tool_calls"][0]["function"] == {"name": "f", "arguments": '{"x":1}'}
    reply = {"choices": [{"message": {"tool_calls": [{"function": {"name": "f", "arguments": '{"x":1}'}}]}}]}
    stream = answer(call)
    assert stream.translate_whole(reply)["message"]["tool_calls"] == [{"function": function}]
    for part in (
        {"index": 0, "function": {"name": "f", "arguments": '{"x"'}},
        {"index": 0, "function": {"arguments": ":1}"}},
    ):
        assert stream.translate({"choices": [{"delta": {"tool_calls": [part]}}]}) == b""
    first, last = map(json.loads, stream.end().splitlines())
    assert first["message"]["tool_calls"] == [{"function": function}]
    assert last["done"]


def test_a_stream_of_lines() -> None:
    stream = answer(parse_chat({"messages": MESSAGES}))
    out = stream.translate({"choices": [{"delta": {"role": "assistant", "content": None}}]})
    out += stream.translate({"choices": [{"delta": {"content": "a"}, "finish_reason": None}]})
    out += stream.translate({"choices": [{"delta": {}, "finish_reason": "length"}]})
    out += stream.translate({"choices": [], "usage": {"prompt_tokens": 2, "completion_tokens": 1}})
    lines = [json.loads(line) for line in (out + stream.end()).splitlines()]
    assert [line["message"]["content"] for line in lines] == ["a", ""]
    assert (lines[1]["done_reason"], lines[1]["eval_count"], lines[1]["prompt_eval_count"]) == (
        "length",
        1,
        2,
    )


def test_errors_are_lines_with_a_text() -> None:
    stream = answer(parse_generate({"prompt": "x"}))
    assert json.loads(stream.translate({"error": {"message": "boom"}})) == {"error": "boom"}
    assert json.loads(stream.fail(EngineLostError("gone")))["error"] == "gone"


@given(st.text(min_size=1))
def test_a_line_has_no_line_end_inside(text: str) -> None:
    stream = answer(parse_generate({"prompt": "x"}))
    line = stream.translate({"choices": [{"delta": {"content": text}}]})
    assert line.count(b"\n") == 1
    assert json.loads(line)["response"] == text


def test_images_become_parts_of_the_content() -> None:
    parts = [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
        {"type": "text", "text": "what is it?"},
    ]
    message = {"role": "user", "content": "what is it?", "images": ["AAAA"]}
    for call in (
        parse_chat({"messages": [message]}),
        parse_generate({"prompt": "what is it?", "images": ["AAAA"]}),
    ):
        assert call.body is not None
        assert call.body["messages"] == [{"role": "user", "content": parts}]


@pytest.mark.parametrize(
    "body",
    [
        {"messages": 3},
        {"messages": ["x"]},
        {"messages": [{"content": "x"}]},
        {"messages": [{"role": "user", "content": "x", "images": "AAAA"}]},
        {"messages": [{"role": "user", "content": "x", "images": [3]}]},
        {"messages": MESSAGES, "stream": "yes"},
        {"messages": MESSAGES, "options": 3},
        {"messages": [{"role": "assistant", "tool_calls": [{}]}]},
    ],
)
def test_wrong_chats(body: dict[str, Any]) -> None:
    with pytest.raises(RequestError):
        parse_chat(body)


@pytest.mark.parametrize(
    "body", [{"prompt": 3}, {"prompt": "x", "raw": True}, {"prompt": "x", "images": "A"}]
)
def test_wrong_generations(body: dict[str, Any]) -> None:
    with pytest.raises(RequestError):
        parse_generate(body)
