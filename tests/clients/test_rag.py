"""The RAG programs as a user runs them: questions find their passages; what the tiny model says is noise."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.service import Service

ROOT = Path(__file__).parent.parent.parent
PAIRS = json.loads((ROOT / "tests/embedding/data/retrieval.json").read_text(encoding="utf-8"))
QUESTIONS = (PAIRS[0], PAIRS[2], PAIRS[7])


def load_rag() -> ModuleType:
    loader = SourceFileLoader("rag", str(ROOT / "scripts" / "rag"))
    spec = spec_from_loader("rag", loader)
    assert spec is not None
    module = module_from_spec(spec)
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = before
    return module


RAG = load_rag()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty passages in thirty files of two folders."""
    place = tmp_path_factory.mktemp("notes")
    (place / "more").mkdir()
    for number, pair in enumerate(PAIRS):
        name = f"more/{number}.md" if number % 2 else f"{number}.txt"
        (place / name).write_text(pair["passage"], encoding="utf-8")
    (place / "picture.png").write_bytes(b"\x89PNG")
    return place


def run(name: str, service: Service, *arguments: str) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "LLAMAFILE_URL": service.url, "OPENAI_API_KEY": "none"}
    argv = [sys.executable, "-W", "ignore", str(ROOT / "scripts" / name), *arguments]
    return subprocess.run(argv, env=environ, capture_output=True, text=True, timeout=55, check=False)


@pytest.fixture(scope="module")
def indexed(folder: Path, service: Service) -> Path:
    file = folder.parent / "index.npz"
    result = run("rag", service, "--index", str(file), "index", str(folder))
    assert (result.returncode, result.stdout) == (0, f"30 passages in {file}\n"), result.stderr
    return file


@pytest.mark.parametrize("pair", QUESTIONS, ids=["account", "moon", "seven"])
def test_the_right_passage_comes_first(indexed: Path, service: Service, pair: dict[str, str]) -> None:
    result = run("rag", service, "--index", str(indexed), "ask", pair["question"])
    assert result.returncode == 0, result.stderr
    first = result.stdout.splitlines()[0]
    assert first.endswith(pair["passage"])
    passages, _, answer = result.stdout.partition("\n\n")
    assert len(passages.splitlines()) == 3
    assert answer.strip()  # noise, but an answer


@pytest.mark.parametrize("name", ["rag-langchain", "rag-llamaindex"])
def test_the_libraries_find_the_same(name: str, folder: Path, service: Service) -> None:
    result = run(name, service, str(folder), QUESTIONS[0]["question"])
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[0] == f"0.txt: {QUESTIONS[0]['passage']}"


def test_an_index_of_another_vector_space_is_refused(indexed: Path, service: Service, tmp_path: Path) -> None:
    with np.load(indexed) as stored:
        vectors, facts = stored["vectors"], json.loads(str(stored["facts"]))
    stale = tmp_path / "stale.npz"
    np.savez(stale, vectors=vectors, facts=json.dumps({**facts, "space": "0123456789abcdef"}))
    result = run("rag", service, "--index", str(stale), "ask", "anything")
    assert result.returncode == 1
    assert "Index again" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(("ask", "x"), "there is no index"), (("index", "."), "no .txt or .md file")],
)
def test_a_mistake_is_explained(
    service: Service, tmp_path: Path, arguments: tuple[str, ...], words: str
) -> None:
    place = str(tmp_path) if arguments[0] == "index" else arguments[1]
    result = run("rag", service, "--index", str(tmp_path / "none.npz"), arguments[0], place)
    assert result.returncode == 1
    assert words in result.stderr
    assert "Traceback" not in result.stderr


def test_no_chunk_is_longer_than_the_model_reads(service: Service) -> None:
    """Full chunks are embedded whole: each has as many tokens as fit, and the proxy refuses nothing."""
    proxy = RAG.Proxy(service.url)
    text = " ".join(pair["passage"] for pair in PAIRS) + " " + "unendingword" * 400
    limit = proxy.room()
    chunks = list(RAG.chunk(text, limit, proxy.count))
    counts = [proxy.count(each) for each in chunks]
    proxy.close()
    assert max(counts) <= limit
    assert max(counts) > 0.85 * limit
    assert "".join("".join(chunks).split()) == "".join(text.split())
    body = {"input": chunks, "input_type": "document"}
    assert httpx.post(f"{service.url}/v1/embeddings", json=body, timeout=50).status_code == 200


@given(st.text(alphabet="ab .!?\n", max_size=200), st.integers(1, 20))
def test_cutting_loses_nothing(text: str, limit: int) -> None:
    chunks = list(RAG.chunk(text, limit, len))
    assert all(1 <= len(each) <= limit for each in chunks)
    assert "".join("".join(chunks).split()) == "".join(text.split())
