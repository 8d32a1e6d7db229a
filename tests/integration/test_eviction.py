"""Several models in memory for fewer, on real engines: the least recently used one makes room."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.models import write_tiny_generator
from tests.support.service import Service, read_models, run_program, running_service, share_store

EMBEDDER, NAMES = "all-minilm-l6-v2", ("one", "two", "three")


@pytest.fixture
def home(model_home: Path, tmp_path: Path) -> Path:
    """Return a home with an embedding model and three generators, and memory for all but one generator."""
    share_store(model_home, tmp_path)
    for name in NAMES:
        # With a context that takes longer to fill than others take to load.
        write_tiny_generator(tmp_path / f"{name}.gguf", context=16384)
    result = run_program(tmp_path, "plan", EMBEDDER, str(tmp_path / "one.gguf"), "--json")
    assert result.returncode == 0, result.stderr
    embed, generate = (joint_memory(plan) for plan in json.loads(result.stdout)["plans"])
    limit = embed + int(2.5 * generate)
    (tmp_path / "config.toml").write_text(f'[serve]\nmemory_limit = "{limit}"\n')
    return tmp_path


def joint_memory(plan: dict[str, Any]) -> int:
    memory = plan["memory"]
    assert isinstance(memory, dict)
    return int(memory["joint"])


@contextlib.contextmanager
def served(home: Path) -> Iterator[Service]:
    models = [str(home / f"{name}.gguf") for name in NAMES]
    with running_service(home, EMBEDDER, *models) as service:
        yield service


def generate(service: Service, model: str) -> None:
    body = {"model": model, "messages": [{"role": "user", "content": "x"}], "max_tokens": 2}
    reply = httpx.post(f"{service.url}/v1/chat/completions", json=body, timeout=40)
    assert reply.status_code == 200, reply.text
    assert reply.headers["x-model"] == model


def loaded(home: Path, service: Service) -> set[str]:
    return {model["model"] for model in read_models(home, service) if model["loaded"]}


def embedder_pids(home: Path, service: Service) -> list[int]:
    models = read_models(home, service)
    return [e["pid"] for model in models if model["model"] == EMBEDDER for e in model["engines"]]


def test_the_least_recently_used_makes_room(home: Path) -> None:
    with served(home) as service:
        assert loaded(home, service) == {EMBEDDER, "one", "two"}
        ready = httpx.get(f"{service.url}/ready")
        assert ready.status_code == 200  # the third needs nothing but its first call
        assert "unloaded; the next call starts it" in run_program(home, "status").stdout
        pinned = embedder_pids(home, service)
        generate(service, "two")
        generate(service, "one")
        generate(service, "three")
        assert loaded(home, service) == {EMBEDDER, "one", "three"}
        generate(service, "two")
        assert loaded(home, service) == {EMBEDDER, "two", "three"}
        assert embedder_pids(home, service) == pinned


def test_a_busy_model_stays(home: Path) -> None:
    with served(home) as service:
        body = {"model": "one", "prompt": "x", "n_predict": 100_000, "stream": True, "ignore_eos": True}
        with httpx.stream("POST", f"{service.url}/completion", json=body, timeout=30) as reply:
            lines = reply.iter_lines()
            next(lines)
            generate(service, "two")  # "one" began longer ago than this, and is busy still
            generate(service, "three")
            assert loaded(home, service) == {EMBEDDER, "one", "three"}
            assert any(line.startswith("data:") for line in lines)
        generate(service, "one")


def test_what_fits_nowhere_is_refused_with_the_reason(home: Path) -> None:
    (home / "config.toml").write_text('[serve]\nmemory_limit = "1MB"\n')
    result = run_program(home, "serve", "--port", "0", str(home / "one.gguf"))
    assert result.returncode == 14
    assert "one does not fit into serve.memory_limit" in result.stderr
