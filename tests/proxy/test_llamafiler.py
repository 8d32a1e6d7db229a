"""Completions of llamafiler in llamafile's own form."""

from __future__ import annotations

import json

from llamafile_mgr.proxy.dialects.completions import LlamafileCompletion


def test_a_whole_completion() -> None:
    reply = {
        "choices": [{"text": "hi", "finish_reason": "length"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 1},
    }
    shown = LlamafileCompletion("m").translate_whole(reply)
    assert (shown["content"], shown["stop"], shown["stopped_limit"]) == ("hi", True, True)
    assert (shown["tokens_evaluated"], shown["tokens_predicted"]) == (3, 1)
    assert LlamafileCompletion("m").translate_whole({})["content"] == ""


def test_a_stream() -> None:
    stream = LlamafileCompletion("m")
    role = {"choices": [{"delta": {"role": "assistant", "content": ""}, "finish_reason": None}]}
    last = {"choices": [{"text": "", "finish_reason": "stop"}]}
    assert stream.translate(role) == b""
    assert stream.translate({"choices": [{"text": "a"}]}) == b'data: {"content":"a","stop":false}\n\n'
    assert stream.translate(last) == b""
    assert b"boom" in stream.translate({"error": {"message": "boom"}})
    end = json.loads(stream.end().removeprefix(b"data: "))
    assert (end["content"], end["stop"], end["tokens_predicted"]) == ("", True, 1)
