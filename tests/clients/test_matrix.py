"""Every client against every engine family, also while the model is still loading."""

from __future__ import annotations

import asyncio
import gc
import socket
import traceback
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.clients.probes import PROBES
from tests.support.llamafiles import pack_fake
from tests.support.matrix import CELL
from tests.support.service import Service, running_service

#: Longer than the silence after which held answers are kept alive.
LOADING_SECONDS = 13

pytestmark = [
    # What the libraries say of themselves and of Python is not ours to mend.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(autouse=True, scope="module")
def no_sockets_stay_open() -> Iterator[None]:
    """Close what the libraries keep open in their caches; left alone it would warn at the session's end."""
    before = set(map(id, open_sockets()))
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        for loop in [each for each in gc.get_objects() if issubclass(type(each), asyncio.BaseEventLoop)]:
            if not loop.is_running():
                loop.close()
        gc.collect()
    for each in open_sockets():
        if id(each) not in before:
            each.close()


def open_sockets() -> list[socket.socket]:
    # isinstance would ask objects that warn, or do worse, when they are asked for their class.
    found = [each for each in gc.get_objects() if issubclass(type(each), socket.socket)]
    return [each for each in found if each.fileno() >= 0]


def run(probe: Callable[[str], None], url: str) -> str | None:
    """Return why a probe failed, None when it did not."""
    try:
        probe(url)
    except Exception:
        return traceback.format_exc()
    return None


@pytest.mark.parametrize("name", PROBES)
@pytest.mark.parametrize("engine", ["v10", "v2", "v1"])
def test_a_client(
    name: str, engine: str, request: pytest.FixtureRequest, record_property: Callable[[str, object], None]
) -> None:
    service: Service = request.getfixturevalue("service" if engine == "v10" else f"{engine}_service")
    failure = run(PROBES[name], service.url)
    record_property(CELL, [name, engine, failure is None])
    assert failure is None, failure


@pytest.mark.timeout(120)
def test_all_clients_wait_while_the_models_load(
    minilm: Path, tiny_generator: Path, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    slow = ("--slow-load", str(LOADING_SECONDS), "--chatty-load")
    embed = pack_fake(minilm, tmp_path / "all-minilm-l6-v2.llamafile", *slow)
    generate = pack_fake(tiny_generator, tmp_path / "tiny-generator.llamafile", *slow)
    with (
        running_service(tmp_path, "--embed", str(embed), "--generate", str(generate), ready=False) as service,
        ThreadPoolExecutor(len(PROBES)) as threads,
    ):
        results = {name: threads.submit(run, probe, service.url) for name, probe in PROBES.items()}
        failures = {name: result.result() for name, result in results.items()}
    for name, failure in failures.items():
        record_property(CELL, [name, "loading", failure is None])
    assert not [text for text in failures.values() if text], "\n".join(filter(None, failures.values()))
