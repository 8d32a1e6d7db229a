"""``If-Vector-Space``: what it names, and a 409 in every dialect before an engine is asked."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import httpx
import pytest

from llamafile_mgr.errors import VectorSpaceError
from llamafile_mgr.proxy.routes.embedding import check_space
from tests.support.front import FakeModel, running_front
from tests.support.service import Service

SPACE = "0123456789abcdef"
OTHER = "fedcba9876543210"

#: Route -> a body, and where its error text stands.
CALLS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "/v1/embeddings": ({"input": "x"}, ("error", "message")),
    "/embeddings": ({"input": "x"}, ("error", "message")),
    "/embedding": ({"content": "x"}, ("error", "message")),
    "/api/embed": ({"input": ["x"]}, ("error",)),
    "/api/embeddings": ({"prompt": "x"}, ("error",)),
    "/embed": ({"inputs": "x"}, ("error",)),
    "/v1/embed": ({"texts": ["x"]}, ("message",)),
    "/v2/embed": ({"texts": ["x"]}, ("message",)),
}


@pytest.mark.parametrize(
    "condition",
    [SPACE, f'"{SPACE}"', f"{OTHER}, {SPACE}", f'"{OTHER}","{SPACE}"', "*", f'W/"{SPACE}"', f" {SPACE} "],
)
def test_the_right_space_passes(condition: str) -> None:
    check_space({"if-vector-space": condition}, SPACE, "m")
    check_space({}, SPACE, "m")


@pytest.mark.parametrize("condition", [OTHER, SPACE.upper(), SPACE[:-1], "", ",", f"x{SPACE}", "\x00é"])
def test_any_other_is_refused(condition: str) -> None:
    with pytest.raises(VectorSpaceError, match=SPACE) as refusal:
        check_space({"if-vector-space": condition}, SPACE, "m")
    assert refusal.value.message.isascii()
    again = pickle.loads(pickle.dumps(refusal.value))
    assert (again.message, again.space, again.hint) == (
        refusal.value.message,
        SPACE,
        refusal.value.hint,
    )


async def test_every_dialect_refuses_before_an_engine_is_asked(tmp_path: Path) -> None:
    asked = tmp_path / "asked"
    model = FakeModel("e", switches=f"--body-file {asked}")
    async with (
        running_front(tmp_path, [model]) as running,
        httpx.AsyncClient(base_url=running.url, timeout=20) as http,
    ):
        space = running.front.embedders["e"].vector_space
        for path, (body, place) in CALLS.items():
            reply = await http.post(path, json=body, headers={"If-Vector-Space": OTHER})
            assert reply.status_code == 409, path
            text: Any = reply.json()
            for key in place:
                text = text[key]
            assert space in text
            assert OTHER in text
            assert reply.headers["x-vector-space"] == space
            assert reply.headers["x-should-retry"] == "false"
        empty = await http.post("/api/embed", json={"input": []}, headers={"If-Vector-Space": OTHER})
        assert empty.status_code == 409
        assert not asked.exists()
        assert running.front.metrics.requests.values[("/v1/embeddings", "e", "409")] == 1
        for path, (body, _) in CALLS.items():
            reply = await http.post(path, json=body, headers={"If-Vector-Space": f"{OTHER}, {space}"})
            assert (reply.status_code, reply.headers["x-vector-space"]) == (200, space), path


def test_a_cached_text_is_refused_too(service: Service) -> None:
    body = {"input": "a text that is known by now"}
    space = httpx.post(f"{service.url}/v1/embeddings", json=body).headers["x-vector-space"]
    fits = {"If-Vector-Space": space}
    assert httpx.post(f"{service.url}/v1/embeddings", json=body, headers=fits).headers["x-cached"] == "1"
    reply = httpx.post(f"{service.url}/v1/embeddings", json=body, headers={"If-Vector-Space": OTHER})
    assert reply.status_code == 409
    assert reply.json()["error"]["code"] == "vector_space_mismatch"


def test_the_header_is_documented(service: Service) -> None:
    paths = httpx.get(f"{service.url}/openapi.json").json()["paths"]
    for path in CALLS:
        (parameter,) = paths[path]["post"]["parameters"]
        assert (parameter["name"], parameter["in"]) == ("If-Vector-Space", "header")
        assert "409" in paths[path]["post"]["responses"]
    assert "parameters" not in paths["/v1/chat/completions"]["post"]
