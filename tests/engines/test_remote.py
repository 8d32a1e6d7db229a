"""How remotes are asked and understood: bodies, faults and what a proxy of ours tells."""

from __future__ import annotations

import json

import pytest

from llamafile_mgr.engines.messages import EngineReply, EngineRequest, json_request
from llamafile_mgr.engines.remote_client import address_request, count_ready, find_fault, read_peer
from llamafile_mgr.errors import EngineStartError


def reply(body: object, status: int = 200) -> EngineReply:
    return EngineReply(
        status, "application/json", body if isinstance(body, bytes) else json.dumps(body).encode()
    )


@pytest.mark.parametrize(
    ("path", "body", "sent"),
    [
        ("/v1/embeddings", {"input": ["a"]}, {"model": "m", "input_type": "none", "input": ["a"]}),
        ("/embedding", {"content": "a"}, {"model": "m", "input_type": "none", "content": "a"}),
        ("/tokenize", {"content": "a"}, {"model": "m", "content": "a"}),
        ("/v1/chat/completions", {"model": "ours", "n": 1}, {"model": "m", "n": 1}),
        ("/completion", {}, {"model": "m"}),
    ],
)
def test_bodies_name_the_remotes_model(path: str, body: object, sent: object) -> None:
    assert json.loads(address_request(json_request(path, body), "m").body or b"") == sent


def test_requests_without_an_object_stay() -> None:
    for request in (EngineRequest("GET", "/health"), json_request("/x", [1])):
        assert address_request(request, "m") is request


ENGINE = {"error": {"message": "zero vector", "code": "engine", "src": "engine"}}
BUSY = {"error": {"message": "the queue is full", "code": "busy", "src": "llamafile-mgr"}}


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (reply({"data": []}), None),
        (reply({"error": "x"}, 400), None),
        (reply({"error": {"message": "input is too large to process"}}, 500), None),
        (reply(ENGINE, 502), None),
        (reply(ENGINE), None),
        (reply(b"<html>Bad Gateway</html>", 502), "it answered 502"),
        (reply({"error": {"message": "Loading model"}}, 503), "Loading model"),
        (
            reply(b'   \n {"error": {"message": "not ready", "code": "not_ready", "src": "x"}}'),
            "it gave up: not ready",
        ),
        (reply({"error": {"message": "Invalid API Key"}}, 401), "it refuses us (401): Invalid API Key"),
        (reply(b"", 302), "it sends us elsewhere"),
        (reply(b"", 404), "does not know the route or the model"),
        (reply(b"", 504), "it answered 504"),
        (reply(BUSY, 429), "it is busy"),
    ],
)
def test_faults_are_told_from_replies(answer: EngineReply, message: str | None) -> None:
    fault = find_fault(answer)
    assert (fault is None) == (message is None)
    if fault is not None and message is not None:
        assert message in fault.message
        assert fault.busy == (answer.status == 429)


def entry(name: str, **meta: object) -> dict[str, object]:
    return {"id": name, "owned_by": "llamafile-mgr", "meta": meta}


def test_a_proxy_of_ours_is_known() -> None:
    models = {"data": [entry("a"), entry("b", vector_space="00ff", max_tokens=512, remotes=1)]}
    facts = read_peer(reply(models), "b")
    assert facts is not None
    assert (facts.vector_space, facts.max_tokens, facts.remotes) == ("00ff", 512, 1)
    with pytest.raises(EngineStartError, match="it does not serve c") as raised:
        read_peer(reply(models), "c")
    assert "a, b" in (raised.value.cause or "")


@pytest.mark.parametrize(
    "body", [{}, [], {"data": None}, {"data": [3]}, {"data": [{"id": "x", "owned_by": "llamacpp"}]}]
)
def test_another_server_is_no_proxy_of_ours(body: object) -> None:
    assert read_peer(reply(body), "x") is None


READY, DEAD = {"state": "ready"}, {"state": "backing-off"}


@pytest.mark.parametrize(
    ("body", "engines"),
    [
        ({"models": [{"model": "a", "ready": True, "engines": [READY, DEAD, READY]}]}, 2),
        ({"models": [{"model": "a", "ready": False, "engines": [DEAD]}]}, 0),
        ({"models": [{"model": "b", "ready": True, "engines": [READY]}]}, 0),
        ({"models": [{"model": "a", "ready": True}]}, 0),
        ({"models": 3}, 0),
        (b"no", 0),
        ([], 0),
    ],
)
def test_engines_that_can_be_asked_are_counted(body: object, engines: int) -> None:
    assert count_ready(reply(body, 503), "a") == engines
