"""The RAG programs as a user runs them: questions find their passages; what the tiny model says is noise."""

from __future__ import annotations

import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import llamafile_mgr
from tests.support.service import Service

ROOT = Path(__file__).parent.parent.parent
PAIRS = json.loads((ROOT / "tests/embedding/data/retrieval.json").read_text(encoding="utf-8"))
QUESTIONS = (PAIRS[0], PAIRS[2], PAIRS[7])


RAG = runpy.run_path(str(ROOT / "scripts" / "rag"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty passages in thirty files of two folders."""
    place = tmp_path_factory.mktemp("notes")
    (place / "more").mkdir()
    for number, pair in enumerate(PAIRS):
        name = f"more/{number}.md" if number % 2 else f"{number}.txt"
        (place / name).write_text(pair["passage"], encoding="utf-8")
    (place / "picture.png").write_bytes(b"\x89PNG")
    (place / "empty.txt").touch()
    (place / "folder.md").mkdir()
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
    assert "index again" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("ask", "x"), "is no index"),
        (("index", "."), "no .txt or .md file"),
    ],
)
def test_a_mistake_is_explained(
    service: Service, tmp_path: Path, arguments: tuple[str, ...], words: str
) -> None:
    place = str(tmp_path) if arguments[0] == "index" else arguments[1]
    result = run("rag", service, "--index", str(tmp_path / "none.npz"), arguments[0], place)
    assert result.returncode == 1
    assert words in result.stderr
    assert "Traceback" not in result.stderr


def test_texts_longer_than_the_model_reads_are_cut_and_lose_nothing(service: Service, tmp_path: Path) -> None:
    """Full passages are embedded whole, special tokens and all: the proxy refuses none, and none is lost."""
    text = " ".join(pair["passage"] for pair in PAIRS) + " "
    text += "".join(f"unending{n}" for n in range(400))
    (tmp_path / "long.txt").write_text(text, encoding="utf-8")
    with llamafile_mgr.Client(service.url) as client:
        passages, vectors, _ = RAG["read"](tmp_path, client)
        limit = next(model.max_tokens for model in client.models() if model.role == "embed")
        alone = client.embed([passage for _, passage in passages], input_type="document", as_numpy=True)
    assert len(passages) == len(vectors) > 3
    assert (alone * vectors).sum(1).min() > 0.999
    counts = [count(service, passage) for _, passage in passages]
    assert limit is not None
    assert 0.85 * limit < max(counts) <= limit
    place = 0
    for _, passage in passages:
        start = text.index(passage, max(0, place - len(passage)))
        assert not text[place:start].strip()
        place = max(place, start + len(passage))
    assert place == len(text)


def count(service: Service, text: str) -> int:
    body = {"model": "all-minilm-l6-v2", "content": text, "add_special": True}
    return len(httpx.post(f"{service.url}/tokenize", json=body, timeout=50).json()["tokens"])


def test_passages_that_the_generation_model_cannot_read_give_way(
    indexed: Path, service: Service, tmp_path: Path
) -> None:
    """Thirty passages are far more than the tiny model's 512 tokens; it is asked with the best of them."""
    result = run("rag", service, "--index", str(indexed), "ask", QUESTIONS[0]["question"], "-k", "30")
    assert result.returncode == 0, result.stderr
    passages, _, answer = result.stdout.partition("\n\n")
    assert len(passages.splitlines()) == 30
    assert answer.strip()


@pytest.mark.parametrize("name", ["rag-langchain", "rag-llamaindex"])
def test_the_libraries_say_how_they_are_called(name: str, service: Service) -> None:
    result = run(name, service)
    assert result.returncode == 1
    assert f"scripts/{name} FOLDER" in result.stderr
    assert "Traceback" not in result.stderr


@given(st.text(alphabet="ab .\n", max_size=4000))
def test_paragraphs_stay_whole(text: str) -> None:
    passages = list(RAG["split"](text))
    assert all(passages)
    assert "".join("".join(passages).split()) == "".join(text.split())
    paragraphs = [each for each in re.split(r"\n\s*\n", text.strip()) if each]
    assert [each for passage in passages for each in passage.split("\n\n")] == paragraphs
    assert all(len(each) <= RAG["PASSAGE_CHARACTERS"] + 100 or "\n\n" not in each for each in passages)
