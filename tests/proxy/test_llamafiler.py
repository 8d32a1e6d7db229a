"""Completions of llamafiler in llamafile's own form."""

from __future__ import annotations

import json

from llamafile_mgr.proxy.dialects.completions import LlamafileStream, render_llamafile


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
