"""OpenAI's text completions from engines that know ``/completion`` alone: several texts, or a refusal."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llamafile_mgr.errors import RequestError
from llamafile_mgr.proxy.dialects.completions import TextCompletion, to_llamafile


def answer(body: dict[str, Any], *contents: str) -> dict[str, Any]:
    form = TextCompletion("m", "1", body)
    replies = [{"content": each, "tokens_evaluated": 3, "tokens_predicted": 2} for each in contents]
    return form.translate_several(replies)


def test_one_prompt_is_one_request() -> None:
    assert to_llamafile({"prompt": "a", "max_tokens": 4, "n": 1, "echo": True, "stream": True}) == [
        {"prompt": "a", "n_predict": 4, "stream": True}
    ]
    assert to_llamafile({"prompt": [1, 2, 3]}) == [{"prompt": [1, 2, 3], "n_predict": 16}]
    assert to_llamafile({"prompt": ["a"], "stream": True}) == [
        {"prompt": "a", "n_predict": 16, "stream": True}
    ]


def test_each_prompt_and_choice_is_a_request() -> None:
    sent = to_llamafile({"prompt": ["a", "b"], "n": 2, "seed": 7, "best_of": 2})
    assert [(each["prompt"], each["seed"]) for each in sent] == [("a", 7), ("a", 8), ("b", 7), ("b", 8)]
    assert {key for each in sent for key in each} == {"prompt", "seed", "n_predict"}
    assert [each["prompt"] for each in to_llamafile({"prompt": [[1], [2, 3]]})] == [[1], [2, 3]]


def test_choices_are_numbered_and_prompts_counted_once() -> None:
    shown = answer({"prompt": ["a", "b"], "n": 2}, "w", "x", "y", "z")
    assert [(each["index"], each["text"]) for each in shown["choices"]] == list(enumerate("wxyz"))
    assert shown["usage"] == {"prompt_tokens": 6, "completion_tokens": 8, "total_tokens": 14}


def test_an_echo_stands_in_front() -> None:
    shown = answer({"prompt": ["a", "b"], "n": 2, "echo": True}, "w", "x", "y", "z")
    assert [each["text"] for each in shown["choices"]] == ["aw", "ax", "by", "bz"]
    stream = TextCompletion("m", "1", {"prompt": "a", "echo": True})
    pieces = [stream.translate({"content": each}) for each in ("x", "y")]
    texts = [json.loads(each.removeprefix(b"data: "))["choices"][0]["text"] for each in pieces]
    assert texts == ["ax", "y"]


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ({"prompt": "a", "logprobs": 2}, "too old for 'logprobs'"),
        ({"prompt": "a", "logprobs": 0}, "too old for 'logprobs'"),
        ({"prompt": "a", "suffix": "b"}, "too old for 'suffix'"),
        ({"prompt": "a", "best_of": 3}, "too old for 'best_of'"),
        ({"prompt": ["a", "b"], "stream": True}, "stream several texts"),
        ({"prompt": "a", "n": 2, "stream": True}, "stream several texts"),
        ({"prompt": "a", "n": 0}, "'n' must be"),
        ({"prompt": "a", "n": 17}, "'n' must be"),
        ({"prompt": "a", "n": "2"}, "'n' must be"),
        ({"prompt": "a", "n": True}, "'n' must be"),
        ({"prompt": []}, "'prompt' must be"),
        ({"prompt": None}, "'prompt' must be"),
        ({}, "'prompt' must be"),
        ({"prompt": ["a", 1]}, "'prompt' must be"),
        ({"prompt": ["a", []]}, "'prompt' must be"),
        ({"prompt": [1, True]}, "'prompt' must be"),
        ({"prompt": [1, 2], "echo": True}, "echo token ids"),
        ({"prompt": ["a"] * 257}, "at most 256 prompts"),
    ],
)
def test_what_cannot_be_done_is_refused(body: dict[str, Any], why: str) -> None:
    with pytest.raises(RequestError, match=why):
        to_llamafile(body)
