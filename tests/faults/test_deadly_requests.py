"""Requests that real engines die of: they are blamed after two engines, and nobody else notices."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.support.models import write_tiny_generator
from tests.support.service import Service, read_models, running_service

#: More than the stack of the engine's parser holds.
DEEP_GRAMMAR = "root ::= " + "(" * 60_000 + '"a"' + ")" * 60_000


def chained_schema(steps: int) -> dict[str, Any]:
    """Return a JSON schema whose first definition refers to the second, and so on."""
    definitions: dict[str, Any] = {f"d{n}": {"$ref": f"#/$defs/d{n + 1}"} for n in range(steps)}
    definitions[f"d{steps}"] = {"type": "string"}
    return {"$ref": "#/$defs/d0", "$defs": definitions}


SCHEMA = chained_schema(20_000)
CHAT = [{"role": "user", "content": "x"}]
REQUESTS: dict[str, tuple[str, dict[str, Any]]] = {
    "a deep grammar": ("/v1/chat/completions", {"messages": CHAT, "grammar": DEEP_GRAMMAR}),
    "a deep grammar, streamed": (
        "/v1/chat/completions",
        {"messages": CHAT, "grammar": DEEP_GRAMMAR, "stream": True},
    ),
    "a long chain of references": (
        "/v1/chat/completions",
        {
            "messages": CHAT,
            "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}},
        },
    ),
    "the same through Ollama's format": (
        "/api/chat",
        {"model": "tiny", "messages": CHAT, "format": SCHEMA, "stream": False},
    ),
}


@dataclass
class Honest:
    """A caller that asks for a few words again and again."""

    url: str
    statuses: list[int] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        body = {"messages": CHAT, "max_tokens": 4}
        with httpx.Client(timeout=60) as client:
            while not self.stop.is_set():
                reply = client.post(f"{self.url}/v1/chat/completions", json=body)
                self.statuses.append(reply.status_code)


@contextmanager
def honest_caller(url: str) -> Iterator[Honest]:
    caller = Honest(url)
    thread = threading.Thread(target=caller.run, daemon=True)
    thread.start()
    try:
        yield caller
    finally:
        caller.stop.set()
        thread.join(60)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("deadly")
    write_tiny_generator(path / "tiny.gguf", context=2048)
    return path


@pytest.fixture(scope="module")
def service(home: Path) -> Iterator[Service]:
    with running_service(home, "--generate", str(home / "tiny.gguf")) as running:
        yield running


def restarts(home: Path, service: Service) -> int:
    [model] = read_models(home, service)
    return sum(engine["restarts"] for engine in model["engines"])


@pytest.mark.timeout(180)
@pytest.mark.parametrize("name", REQUESTS)
def test_what_kills_an_engine_is_refused_after_two(service: Service, home: Path, name: str) -> None:
    path, body = REQUESTS[name]
    before = restarts(home, service)
    with honest_caller(service.url) as honest:
        reply = httpx.post(f"{service.url}{path}", json=body, timeout=120)
    assert reply.status_code == 422, reply.text[:300]
    assert "engines died while they computed this" in reply.text
    assert reply.headers["x-should-retry"] == "false"
    assert 1 <= restarts(home, service) - before <= 2
    assert honest.statuses
    assert set(honest.statuses) == {200}


@pytest.mark.timeout(180)
def test_an_openai_client_does_not_repeat_it_and_the_model_lives_on(service: Service, home: Path) -> None:
    before = restarts(home, service)
    rounds = 6
    with openai.OpenAI(base_url=f"{service.url}/v1", api_key="x", max_retries=5) as client:
        for _ in range(rounds):
            with pytest.raises(openai.UnprocessableEntityError):
                client.chat.completions.create(
                    model="tiny",
                    messages=[{"role": "user", "content": "x"}],
                    extra_body={"grammar": DEEP_GRAMMAR},
                )
        answer = client.chat.completions.create(
            model="tiny", messages=[{"role": "user", "content": "x"}], max_tokens=4
        )
    assert answer.choices
    assert restarts(home, service) - before <= 2 * rounds
    [model] = read_models(home, service)
    assert model["ready"], json.dumps(model)
