"""Bodies for llamafiler, and its completions in llamafile's own form."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llamafile_mgr.engines.families import Family, family_rules
from llamafile_mgr.proxy.dialects.completions import LlamafileStream, render_llamafile


@pytest.mark.parametrize(
    ("body", "sent"),
    [
        ({"prompt": "x", "n_predict": 4, "top_k": 40}, {"prompt": "x", "max_tokens": 4}),
        ({"prompt": "x", "n_predict": 4, "max_tokens": 2}, {"prompt": "x", "max_tokens": 2}),
        ({"messages": [], "n": 1, "tools": []}, {"messages": []}),
        ({"messages": [], "tools": [{}]}, {"messages": [], "tools": [{}]}),
        ({"messages": [{"role": "user", "content": "a"}]}, {"messages": [{"role": "user", "content": "a"}]}),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"text": "b"}]}]},
            {"messages": [{"role": "user", "content": "ab"}]},
        ),
        (
            {"messages": [{"content": [{"type": "image_url", "image_url": "data:"}]}, 3]},
            {"messages": [{"content": [{"type": "image_url", "image_url": "data:"}]}, 3]},
        ),
    ],
)
def test_bodies(body: dict[str, Any], sent: dict[str, Any]) -> None:
    assert family_rules(Family.V2).generation_body(body) == sent


def test_a_whole_completion() -> None:
    reply = {
        "choices": [{"text": "hi", "finish_reason": "length"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 1},
    }
    shown = render_llamafile(reply, "m")
    assert (shown["content"], shown["stop"], shown["stopped_limit"]) == ("hi", True, True)
    assert (shown["tokens_evaluated"], shown["tokens_predicted"]) == (3, 1)
    assert render_llamafile({}, "m")["content"] == ""


def test_a_stream() -> None:
    stream = LlamafileStream("m")
    role = {"choices": [{"delta": {"role": "assistant", "content": ""}, "finish_reason": None}]}
    last = {"choices": [{"text": "", "finish_reason": "stop"}]}
    assert stream.feed(role) == b""
    assert stream.feed({"choices": [{"text": "a"}]}) == b'data: {"content":"a","stop":false}\n\n'
    assert stream.feed(last) == b""
    assert b"boom" in stream.feed({"error": {"message": "boom"}})
    end = json.loads(stream.finish().removeprefix(b"data: "))
    assert (end["content"], end["stop"], end["tokens_predicted"]) == ("", True, 1)
