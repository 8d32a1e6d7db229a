"""Flags and HTTP shapes of each family, against the tables of their sources and recorded replies."""

from __future__ import annotations

import base64
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from llamafile_mgr.catalog import Pooling, Role
from llamafile_mgr.engines.families import family_rules
from llamafile_mgr.engines.launch_settings import LaunchSettings
from llamafile_mgr.engines.messages import EngineReply
from llamafile_mgr.errors import EngineError
from llamafile_mgr.llamafile import Family

EMBED = LaunchSettings(
    role=Role.EMBED,
    port=8123,
    context=512,
    threads=4,
    slots=4,
    batch=512,
    pooling=Pooling.CLS,
    gpu="disable",
    api_key_file=Path("/k"),
)
GENERATE = replace(EMBED, role=Role.GENERATE, slots=2, batch=None, pooling=None, gpu="nvidia", gpu_layers=999)
#: llamafile 0.8.4 llama.cpp/server/server.cpp.
V1_FLAGS = {
    *("--server", "--nobrowser", "--host", "--port", "-m", "-c", "-t", "-tb", "--embedding"),
    *("-np", "--gpu", "-ngl", "--alias", "--api-key-file"),
}
#: llamafile 0.9.3 llamafile/flags.cpp.
V2_FLAGS = {"--server", "--v2", "-l", "--trust", "-m", "-c", "-s", "-t", "-tb", "--gpu", "-ngl"}


def argv(family: Family, settings: LaunchSettings) -> list[str]:
    return list(family_rules(family).arguments(settings))


def flags_of(arguments: list[str]) -> set[str]:
    return {a for a in arguments if a.startswith("-")}


def value(arguments: list[str], flag: str) -> str:
    return arguments[arguments.index(flag) + 1]


def test_v1_knows_only_the_flags_of_its_time() -> None:
    for settings in (EMBED, GENERATE, replace(EMBED, model=Path("/w"), alias="a")):
        assert flags_of(argv(Family.V1, settings)) <= V1_FLAGS
    embed = argv(Family.V1, EMBED)
    assert embed[0] == "--server"
    # More slots null the vectors, any -b shrinks the batch.
    assert value(embed, "-np") == "1"
    assert value(embed, "-c") == "512"
    # What is passed is divided among the slots.
    generate = argv(Family.V1, replace(GENERATE, context=1024, slots=2))
    assert (value(generate, "-c"), value(generate, "-np")) == ("2048", "2")


def test_v2_takes_no_host_port_or_slots_by_their_usual_names() -> None:
    for settings in (EMBED, GENERATE, replace(EMBED, model=Path("/w"))):
        assert flags_of(argv(Family.V2, settings)) <= V2_FLAGS
    assert value(argv(Family.V2, EMBED), "-l") == "127.0.0.1:8123"


@pytest.mark.parametrize("family", [Family.V1, Family.V2])
def test_prompts_take_no_more_threads_than_planned(family: Family) -> None:
    for settings in (EMBED, GENERATE):
        told = argv(family, settings)
        assert value(told, "-t") == value(told, "-tb") == "4"


def test_v10_multiplies_the_context_by_its_slots() -> None:
    embed = argv(Family.V10, EMBED)
    assert (value(embed, "-c"), value(embed, "-np")) == ("2048", "4")
    assert value(embed, "-b") == value(embed, "-ub") == "512"
    assert value(embed, "--pooling") == "cls"
    assert "--embedding" not in argv(Family.V10, GENERATE)
    assert not {"--nobrowser", "--v2", "--fast", "--recompile"} & set(embed)


def test_secrets_are_files_in_every_family() -> None:
    for family in (Family.V1, Family.V10, Family.EMBEDDED):
        arguments = argv(family, EMBED)
        assert value(arguments, "--api-key-file") == "/k"
        assert "--api-key" not in arguments


def reply(body: object, status: int = 200, content_type: str = "application/json") -> EngineReply:
    return EngineReply(status, content_type, body if isinstance(body, bytes) else orjson.dumps(body))


def packed(*numbers: float) -> str:
    return base64.b64encode(np.array(numbers, dtype="<f4").tobytes()).decode()


def test_v10_vectors_in_index_order() -> None:
    body = {
        "object": "list",
        "data": [{"index": 1, "embedding": packed(0, 1)}, {"index": 0, "embedding": packed(1, 0)}],
        "usage": {"prompt_tokens": 7, "total_tokens": 7},
    }
    vectors = family_rules(Family.V10).read_vectors(reply(body), 2)
    assert vectors.vectors.tolist() == [[1.0, 0.0], [0.0, 1.0]]
    assert vectors.prompt_tokens == 7


def test_v1_and_v2_vectors() -> None:
    assert family_rules(Family.V1).read_vectors(reply({"embedding": [1, 2]}), 1).vectors.tolist() == [[1, 2]]
    body = {"tokens_provided": 3, "tokens_used": 3, "embedding": [1, 2]}
    vectors = family_rules(Family.V2).read_vectors(reply(body), 1)
    assert (vectors.vectors.tolist(), vectors.prompt_tokens) == ([[1, 2]], 3)


@pytest.mark.parametrize(
    ("family", "answer", "message"),
    [
        (Family.V1, reply(None), "200 without a vector"),
        (Family.V1, reply({"embedding": []}), "empty vector"),
        (Family.V1, reply({"embedding": None}), "empty vector|no vector"),
        (Family.V1, reply({"embedding": [1, "x"]}), "no vector"),
        (Family.V1, reply(b"Service Unavailable", 503, "text/plain"), "never answers embeddings"),
        (Family.V2, reply({"embedding": [1], "tokens_provided": 9, "tokens_used": 3}), "3 of the text's 9"),
        (Family.V2, reply(b"<html>", 400, "text/html"), "answered 400"),
        (Family.V10, reply({"data": []}), "0 vectors for 1 texts"),
        (Family.V10, reply({"data": [{"index": 0, "embedding": "!!"}]}), "no vector"),
        (Family.V10, reply({"data": [{"index": 0, "embedding": packed()}]}), "empty vector"),
        (Family.V10, reply({"nothing": 1}), "has no vectors"),
        (Family.V10, reply([]), "has no vectors"),
        (Family.V10, reply(b"null"), "has no vectors"),
        (Family.V10, reply(b"{"), "no JSON"),
        (
            Family.V10,
            reply({"error": {"code": 501, "message": "Start it with --embeddings"}}, 501),
            "501: Start",
        ),
    ],
)
def test_failures_hidden_in_replies_are_errors(family: Family, answer: EngineReply, message: str) -> None:
    with pytest.raises(EngineError, match=message):
        family_rules(family).read_vectors(answer, 1)


def test_vectors_of_two_widths_are_refused() -> None:
    body = {"data": [{"index": 0, "embedding": [1]}, {"index": 1, "embedding": [1, 2]}]}
    with pytest.raises(EngineError, match="different widths"):
        family_rules(Family.V10).read_vectors(reply(body), 2)


def test_v2_tells_texts_of_tokens_and_wants_a_prompt() -> None:
    rules = family_rules(Family.V2)
    asked = rules.tokenize("a b")
    assert orjson.loads(asked.body or b"") == {"prompt": "a b", "add_special": True}
    assert rules.count_tokens(reply({"add_special": True, "tokens": ["[CLS]", "a", "b", "[SEP]"]})) == 4
    with pytest.raises(EngineError):
        rules.count_tokens(reply({"tokens": "a"}))


def test_rerankers_are_told_to_rerank() -> None:
    settings = replace(EMBED, role=Role.RERANK, pooling=Pooling.RANK)
    for family in (Family.V10, Family.EMBEDDED):
        words = argv(family, settings)
        assert "--rerank" in words
        assert words[words.index("--pooling") + 1] == "rank"
        assert "--embedding" not in words


def test_tokens_plain_or_with_pieces() -> None:
    rules = family_rules(Family.V10)
    assert rules.count_tokens(reply({"tokens": [1, 2]})) == 2
    assert rules.count_tokens(reply({"tokens": [{"id": 3, "piece": "x"}]})) == 1
    with pytest.raises(EngineError):
        rules.count_tokens(reply({"content": ""}))


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
def test_v2_is_sent_what_it_reads(body: dict[str, Any], sent: dict[str, Any]) -> None:
    assert family_rules(Family.V2).generation_body(body) == sent
