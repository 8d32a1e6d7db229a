"""The real classic server, as llamafiles up to 0.8.12 carry it, behind ``serve``."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import string
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest

from llamafile_mgr.changes import Changes
from llamafile_mgr.supervisor.engine import Engine
from llamafile_mgr.supervisor.states import EngineState
from tests.support.engine_builds import CLASSIC, build_engine
from tests.support.lives import Checks, fake_plan, surroundings
from tests.support.llamafiles import pack_classic
from tests.support.models import write_large_generator, write_letter_embedder
from tests.support.service import Service, read_models, running_service

#: The engine may still be compiled, and a long prompt takes its time.
pytestmark = pytest.mark.timeout(900)
MODEL = "large-generator"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a home with little patience for engines that hang, and a llamafile of 520 million weights."""
    home = tmp_path_factory.mktemp("classic")
    (home / "config.toml").write_text("[serve]\nliveness_seconds = 2\n")
    weights = write_large_generator(home / "weights.gguf")
    pack_classic(weights, home / f"{MODEL}.llamafile")
    weights.unlink()
    return home


@pytest.fixture(scope="module")
def generating(home: Path) -> Iterator[Service]:
    with running_service(home, "--generate", str(home / f"{MODEL}.llamafile")) as running:
        yield running


def ask(service: Service, letters: int, seed: int, seconds: float = 600) -> httpx.Response:
    """Ask for one token after so many letters, each of which is a token."""
    prompt = "".join(random.Random(seed).choices(string.ascii_lowercase, k=letters))
    body = {"prompt": prompt, "n_predict": 1}
    return httpx.post(f"{service.url}/completion", json=body, timeout=seconds)


def engine_of(home: Path, service: Service) -> dict[str, object]:
    [model] = read_models(home, service)
    [engine] = model["engines"]
    assert isinstance(engine, dict)
    return engine


def test_a_long_prompt_is_computed_to_its_end(home: Path, generating: Service) -> None:
    before = engine_of(home, generating)
    began = time.monotonic()
    reply = ask(generating, 1500, seed=1)
    took = time.monotonic() - began
    after = engine_of(home, generating)
    assert reply.status_code == 200, reply.text
    assert reply.json()["tokens_evaluated"] >= 1500
    assert (after["pid"], after["restarts"], after["state"]) == (before["pid"], 0, "ready")
    print(f"a prompt of 1,500 tokens took {took:.0f} s")


def test_what_its_caller_gave_up_is_computed_in_peace(home: Path, generating: Service) -> None:
    """The server cannot stop it, and answers nothing else meanwhile, also not to who looks after it."""
    before = engine_of(home, generating)
    with pytest.raises(httpx.ReadTimeout):
        ask(generating, 500, seed=3, seconds=1)
    deadline = time.monotonic() + 300
    process = psutil.Process(int(str(before["pid"])))
    spent = sum(process.cpu_times()[:2])
    while time.monotonic() < deadline:
        time.sleep(2)
        spent, earlier = sum(process.cpu_times()[:2]), spent
        if spent - earlier < 0.2:
            break
    assert ask(generating, 1, seed=4).status_code == 200
    after = engine_of(home, generating)
    assert (after["pid"], after["restarts"]) == (before["pid"], before["restarts"])


def test_an_engine_that_is_stopped_while_it_computes_is_found(home: Path, generating: Service) -> None:
    replies: list[httpx.Response] = []
    call = threading.Thread(target=lambda: replies.append(ask(generating, 200, seed=2)))
    call.start()
    while not (before := engine_of(home, generating))["in_flight"]:
        time.sleep(0.01)
    psutil.Process(int(str(before["pid"]))).send_signal(signal.SIGSTOP)
    deadline = time.monotonic() + 60
    while engine_of(home, generating)["restarts"] != 1 and time.monotonic() < deadline:
        time.sleep(0.2)
    after = engine_of(home, generating)
    assert after["restarts"] == 1
    assert "it hangs" in str(after["cause"])
    call.join(300)
    # Somebody stopped it, so the call is not to blame, and is computed by the next engine.
    assert replies[0].status_code == 200, replies[0].text


async def test_a_page_of_usage_does_not_hide_which_flag_is_unknown(tmp_path: Path) -> None:
    changes = Changes()
    around = replace(surroundings(tmp_path), changed=changes.announce)
    newer = replace(fake_plan(), program=(str(build_engine(CLASSIC) / "server"),))  # with flags of today's
    engine = Engine("m", newer, Checks(), around)
    living = asyncio.create_task(engine.run())
    assert await changes.wait_for(lambda: engine.state is EngineState.FAILED, 20.0)
    engine.request_stop(0.0)
    await living
    assert engine.cause is not None
    assert engine.cause.cause == "this engine does not know the flag --server"


def complete(service: Service, **body: object) -> httpx.Response:
    return httpx.post(f"{service.url}/v1/completions", json={"max_tokens": 2, **body}, timeout=120)


def test_text_completions_of_several_texts(generating: Service) -> None:
    reply = complete(generating, prompt=["ab", "cd"], n=2, echo=True, seed=1)
    assert reply.status_code == 200, reply.text
    choices = reply.json()["choices"]
    assert [each["index"] for each in choices] == [0, 1, 2, 3]
    assert [each["text"][:2] for each in choices] == ["ab", "ab", "cd", "cd"]
    assert all(len(each["text"]) > 2 for each in choices)
    assert reply.json()["usage"]["completion_tokens"] == 8


def test_text_completions_of_token_ids(generating: Service) -> None:
    [choice] = complete(generating, prompt=[260, 261, 262]).json()["choices"]
    assert choice["text"]


def test_an_echo_in_a_stream(generating: Service) -> None:
    lines = complete(generating, prompt="ab", echo=True, stream=True).text.splitlines()
    events = [json.loads(line[5:]) for line in lines if line.startswith("data: {")]
    assert events[0]["choices"][0]["text"].startswith("ab")
    assert lines[-2] == "data: [DONE]"


@pytest.mark.parametrize(
    "asked", [{"logprobs": 1}, {"suffix": "x"}, {"best_of": 2}, {"n": 2, "stream": True}]
)
def test_what_the_classic_server_cannot_do_is_refused(generating: Service, asked: dict[str, object]) -> None:
    reply = complete(generating, prompt="ab", **asked)
    assert reply.status_code == 400
    assert "too old" in reply.json()["error"]["message"]


@pytest.fixture(scope="module")
def embedding(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Service]]:
    home = tmp_path_factory.mktemp("classic-embed")
    weights = write_letter_embedder(home / "weights.gguf")
    packed = pack_classic(weights, home / "letter-embedder.llamafile")
    one = "[models.letter-embedder]\nreplicas = 2\nthreads = 1\nany_meaning = true\n"
    (home / "config.toml").write_text(f"[serve]\ncache_bytes = 0\n{one}")
    with running_service(home, "--embed", str(packed)) as running:
        yield home, running


def embed(service: Service, texts: list[str]) -> httpx.Response:
    reply = httpx.post(f"{service.url}/v1/embeddings", json={"input": texts}, timeout=60)
    assert reply.status_code == 200, reply.text
    return reply


def test_usage_that_nothing_counted_says_so(embedding: tuple[Path, Service]) -> None:
    _, service = embedding
    reply = embed(service, ["one text", "and another"])
    assert reply.json()["usage"]["estimated"] is True
    assert reply.json()["usage"]["prompt_tokens"] > 0
    assert reply.headers["x-tokens-estimated"] == "true"


def test_thirty_kills_and_no_failed_call(embedding: tuple[Path, Service]) -> None:
    home, service = embedding
    choose, texts = random.Random(3), [f"{word} and {word} again" for word in string.ascii_lowercase]
    right = [row["embedding"] for row in embed(service, texts).json()["data"]]
    failures: list[str] = []
    answered = [0]
    stop = threading.Event()

    def work(seed: int) -> None:
        own = random.Random(seed)
        while not stop.is_set():
            chosen = own.sample(range(len(texts)), own.randint(1, 4))
            try:
                rows = embed(service, [texts[at] for at in chosen]).json()["data"]
                for at, row in zip(chosen, rows, strict=True):
                    assert np.dot(row["embedding"], right[at]) >= 0.9999
            except Exception as error:  # whatever it is, it is what a client would have seen
                failures.append(f"{type(error).__name__}: {error}")
                return
            answered[0] += 1

    workers = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for worker in workers:
        worker.start()
    killed: set[int] = set()
    before = answered[0]
    while len(killed) < 30 and not failures:
        # Mostly engines that serve, now and then one that is just being started.
        states = ("ready", "starting", "warming") if len(killed) % 5 == 4 else ("ready",)
        [model] = read_models(home, service)
        engines = [each for each in model["engines"] if each["state"] in states]
        pids = [each["pid"] for each in engines if each["pid"] not in (None, *killed)]
        if pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid := choose.choice(pids), signal.SIGKILL)
                killed.add(pid)
        time.sleep(choose.uniform(0.0, 0.5))
    stop.set()
    for worker in workers:
        worker.join(60)
    assert failures == []
    assert len(killed) == 30
    assert answered[0] > before
