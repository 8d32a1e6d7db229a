"""The real classic server, as llamafiles up to 0.8.12 carry it, behind ``serve``."""

from __future__ import annotations

import random
import signal
import string
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from tests.support.llamafiles import pack_classic
from tests.support.models import write_large_generator
from tests.support.service import Service, read_models, running_service

#: The engine may still be compiled, and a long prompt takes its time.
pytestmark = pytest.mark.timeout(900)
MODEL = "large-generator"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a home with the settings that users have, and a llamafile of 520 million weights in it."""
    home = tmp_path_factory.mktemp("classic")
    weights = write_large_generator(home / "weights.gguf")
    pack_classic(weights, home / f"{MODEL}.llamafile")
    weights.unlink()
    return home


@pytest.fixture(scope="module")
def generating(home: Path) -> Iterator[Service]:
    with running_service(home, "--generate", str(home / f"{MODEL}.llamafile")) as running:
        yield running


def ask(service: Service, letters: int, seed: int) -> httpx.Response:
    """Ask for one token after so many letters, each of which is a token."""
    prompt = "".join(random.Random(seed).choices(string.ascii_lowercase, k=letters))
    body = {"prompt": prompt, "n_predict": 1}
    return httpx.post(f"{service.url}/completion", json=body, timeout=600)


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


def test_an_engine_that_is_stopped_while_it_computes_is_found(home: Path, generating: Service) -> None:
    replies: list[httpx.Response] = []
    call = threading.Thread(target=lambda: replies.append(ask(generating, 600, seed=2)))
    call.start()
    time.sleep(2)
    before = engine_of(home, generating)
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
