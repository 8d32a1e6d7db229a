"""Stock ``llama-server`` programs under supervision: vectors, chat, reranking, kills, hangs, a drain.

Always on the wheel's server behind a program of that name, and on a native build where this machine has one.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest

from llamafile_mgr.engines.families import Family, family_rules
from llamafile_mgr.store import Store
from tests.support.golden import GOLDEN, golden_cosine
from tests.support.llama_programs import HELP, find_native, write_llama_server
from tests.support.llamafiles import pack_embedded
from tests.support.reranker import ANSWERS, fit_reranker
from tests.support.service import Service, read_models, run_program, running_service

MODEL = "all-minilm-l6-v2"
NO_CACHE = {"LLAMAFILE_MGR_SERVE_CACHE_BYTES": "0", "LLAMAFILE_MGR_SERVE_LIVENESS_SECONDS": "2"}
TEXTS = [text for text in GOLDEN if len(text) < 200]


@pytest.fixture(scope="module", params=["wheel", "native"])
def program(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a program that is called ``llama-server``."""
    if request.param == "wheel":
        return write_llama_server(tmp_path_factory.mktemp("bin"))
    native = find_native()
    if native is None:
        pytest.skip("nobody has built llama.cpp here: scripts/build-engines current")
    return native


@pytest.fixture(scope="module")
def served(program: Path, model_home: Path, tiny_generator: Path) -> Iterator[Service]:
    models = ("--embed", MODEL, "--generate", str(tiny_generator))
    with running_service(model_home, *models, "--engine", str(program), extra=NO_CACHE) as service:
        yield service


def embed(service: Service, texts: list[str]) -> list[list[float]]:
    reply = httpx.post(f"{service.url}/v1/embeddings", json={"model": MODEL, "input": texts}, timeout=60)
    assert reply.status_code == 200, reply.text
    return [item["embedding"] for item in reply.json()["data"]]


def engines_of(home: Path, service: Service, model: str = MODEL) -> list[psutil.Process]:
    """Return the processes of a model's engines once all are ready."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        [engines] = [each["engines"] for each in read_models(home, service) if each["model"] == model]
        if all(engine["state"] == "ready" and engine["pid"] for engine in engines):
            return [psutil.Process(engine["pid"]) for engine in engines]
        time.sleep(0.1)
    raise AssertionError(f"not ready: {engines}")


def test_its_vectors_are_right_and_of_the_one_space(
    served: Service, service: Service, model_home: Path
) -> None:
    assert all(
        golden_cosine(text, vector) >= 0.999 for text, vector in zip(TEXTS, embed(served, TEXTS), strict=True)
    )
    # What was indexed with the wheel is searched with this, and the other way round.
    mine, wheel = (np.array(embed(each, TEXTS)) for each in (served, service))
    assert (mine * wheel).sum(axis=1).min() >= 0.9999
    spaces = {
        httpx.get(f"{each.url}/v1/models").json()["data"][0]["meta"]["vector_space"]
        for each in (served, service)
    }
    assert len(spaces) == 1


def test_it_chats(served: Service, tiny_generator: Path) -> None:
    body = {"model": tiny_generator.stem, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 8}
    url = f"{served.url}/v1/chat/completions"
    reply = httpx.post(url, json={**body, "ignore_eos": True}, timeout=60)
    assert reply.status_code == 200, reply.text
    assert reply.json()["usage"]["completion_tokens"] == 8
    with httpx.stream("POST", url, json={**body, "stream": True}, timeout=60) as stream:
        lines = [line for line in stream.iter_lines() if line]
    assert lines[-1] == "data: [DONE]"
    assert len(lines) > 2


def test_every_flag_is_in_its_own_help(served: Service, program: Path, model_home: Path) -> None:
    help_text = subprocess.run([program, "--help"], capture_output=True, text=True, check=True).stdout
    known = family_rules(Family.LLAMA_CPP).read_flags(help_text)
    for model in {each["model"] for each in read_models(model_home, served)}:
        for engine in engines_of(model_home, served, model):
            command = engine.cmdline()
            told = command[command.index("--host") :]
            assert {word for word in told if word.startswith("-")} <= known, command


def test_killed_ones_are_replaced_and_no_call_fails(served: Service, model_home: Path) -> None:
    failures: list[str] = []
    stop = threading.Event()

    def call() -> None:
        with httpx.Client(timeout=60) as client:
            while not stop.is_set():
                reply = client.post(f"{served.url}/v1/embeddings", json={"model": MODEL, "input": TEXTS[:3]})
                vectors = [item["embedding"] for item in reply.json().get("data", [])]
                if len(vectors) != 3 or min(map(golden_cosine, TEXTS[:3], vectors)) < 0.999:
                    failures.append(reply.text[:300])

    threads = [threading.Thread(target=call) for _ in range(3)]
    for thread in threads:
        thread.start()
    killed: set[int] = set()
    try:
        while len(killed) < 8 and not failures:
            for engine in engines_of(model_home, served)[:1]:
                engine.kill()
                killed.add(engine.pid)
            time.sleep(0.5)
    finally:
        stop.set()
        for thread in threads:
            thread.join(70)
    assert failures == []
    assert len(killed) == 8


def test_one_that_hangs_is_replaced_and_its_call_completes(served: Service, model_home: Path) -> None:
    hung = engines_of(model_home, served)
    for engine in hung:
        engine.suspend()
    [vector] = embed(served, ["hello world"])
    assert golden_cosine("hello world", vector) >= 0.999
    assert not psutil.wait_procs(hung, timeout=40)[1]


def test_it_is_restarted_without_a_gap(served: Service, model_home: Path) -> None:
    before = {engine.pid for engine in engines_of(model_home, served)}
    port = served.url.rsplit(":", 1)[1]
    result = run_program(model_home, "restart", MODEL, "--port", port)
    assert result.returncode == 0, result.stderr
    assert golden_cosine("hello world", embed(served, ["hello world"])[0]) >= 0.999
    assert before.isdisjoint(engine.pid for engine in engines_of(model_home, served))


def test_what_was_accepted_is_answered_at_the_end(program: Path, model_home: Path) -> None:
    with running_service(model_home, MODEL, "--engine", str(program), extra=NO_CACHE) as service:
        engines = engines_of(model_home, service)
        replies: list[int] = []

        def call() -> None:
            texts = [f"{number} {text}" for number in range(20) for text in TEXTS]
            reply = httpx.post(f"{service.url}/v1/embeddings", json={"input": texts}, timeout=60)
            replies.append(reply.status_code)

        caller = threading.Thread(target=call)
        caller.start()
        time.sleep(0.5)
        assert service.stop(signal.SIGTERM) == 0
        caller.join(60)
        assert replies == [200]
        assert not psutil.wait_procs(engines, timeout=0)[1]


def test_it_reranks(program: Path, model_home: Path, minilm: Path, tmp_path: Path) -> None:
    reranker = fit_reranker(minilm, tmp_path / "tiny-reranker.gguf")
    arguments = ("--rerank", str(reranker), "--engine", str(program))
    with running_service(model_home, *arguments, extra=NO_CACHE) as service:
        documents = list(ANSWERS.values())
        for question, answer in ANSWERS.items():
            body = {"query": question, "documents": documents}
            reply = httpx.post(f"{service.url}/v1/rerank", json=body, timeout=60)
            assert reply.status_code == 200, reply.text
            best = max(reply.json()["results"], key=lambda result: result["relevance_score"])
            assert documents[best["index"]] == answer


def test_weights_inside_a_llamafile_are_unpacked_once(
    program: Path, model_home: Path, minilm: Path, tmp_path: Path
) -> None:
    packed = pack_embedded(minilm, tmp_path / "packed model.llamafile")
    places = model_home / "state" / "engines" / "tmp"
    before = set(places.glob("llamafile-mgr-*/*.gguf"))
    config = tmp_path / "config.toml"
    config.write_text(f"[engines]\nprograms = [{json.dumps(str(program))}]\n")
    extra = {**NO_CACHE, "LLAMAFILE_MGR_CONFIG": str(config)}
    for _ in range(2):
        with running_service(model_home, "--embed", str(packed), extra=extra) as service:
            [vector] = [
                item["embedding"]
                for item in httpx.post(f"{service.url}/v1/embeddings", json={"input": "hello world"})
                .raise_for_status()
                .json()["data"]
            ]
            assert golden_cosine("hello world", vector) >= 0.999
            # One process each: the unpacker has become the engine.
            manager = psutil.Process(service.process.pid)
            engines = manager.children(recursive=True)
            assert [each.name() for each in engines if "unpacking" in " ".join(each.cmdline())] == []
    copies = set(places.glob("llamafile-mgr-*/*.gguf")) - before
    assert [copy.stat().st_size for copy in copies] == [minilm.stat().st_size]


def test_one_on_the_path_is_preferred_to_the_wheel(program: Path, model_home: Path, tmp_path: Path) -> None:
    folder = tmp_path / "path"
    folder.mkdir()
    (folder / "llama-server").symlink_to(program)
    extra = {"PATH": f"{folder}:{os.environ['PATH']}", "LLAMAFILE_MGR_ENGINES_SEARCH_PATH": "yes"}
    result = run_program(model_home, "plan", MODEL, "--json", extra=extra)
    assert result.returncode == 0, result.stderr
    [plan] = json.loads(result.stdout)["plans"]
    assert (plan["family"], plan["command"][0]) == (Family.LLAMA_CPP.value, str(folder / "llama-server"))
    shown = json.loads(run_program(model_home, "doctor", "--json", "--port", "0", extra=extra).stdout)
    [stock] = [engine for engine in shown["engines"] if engine["family"] == Family.LLAMA_CPP.value]
    assert stock["version"] == "0.5.0-dev (build 1)"
    assert stock["devices"] == []
    assert Family.EMBEDDED.value in {engine["family"] for engine in shown["engines"]}


def test_the_recorded_help_is_that_of_the_native_build() -> None:
    native = find_native()
    if native is None:
        pytest.skip("nobody has built llama.cpp here: scripts/build-engines current")
    shown = subprocess.run([native, "--help"], capture_output=True, text=True, check=True).stdout
    assert shown == HELP.read_text(encoding="utf-8")


def test_a_program_that_is_none_ends_serve_before_it_listens(model_home: Path, tmp_path: Path) -> None:
    assert Store(model_home / "store").find(MODEL)
    plain = tmp_path / "llama-server"
    shutil.copy("/bin/true", plain)
    result = run_program(model_home, "serve", MODEL, "--engine", str(plain), "--port", "0")
    assert result.returncode == 3
    assert "cannot be used as an engine" in result.stderr
    assert "Traceback" not in result.stderr
