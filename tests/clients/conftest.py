"""Engines for the clients, and the client x engine matrix at the end of a run."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from llamafile_mgr.catalog import Role
from llamafile_mgr.llamafile.family import Family
from tests.support.front import FakeModel, running_front
from tests.support.llamafiles import pack_fake
from tests.support.service import Service, running_service

MATRIX = pytest.StashKey[dict[tuple[str, str], bool]]()


@pytest.fixture(scope="session")
def matrix(request: pytest.FixtureRequest) -> dict[tuple[str, str], bool]:
    """Return (client, engine) -> whether it worked."""
    return request.config.stash.setdefault(MATRIX, {})


@pytest.fixture(scope="session")
def v1_service(
    minilm: Path, tiny_generator: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    """Run the shapes of llamafile 0.8.4 for both roles."""
    home = tmp_path_factory.mktemp("v1")
    embed = pack_fake(minilm, home / "all-minilm-l6-v2.llamafile", version="0.8.4")
    generate = pack_fake(tiny_generator, home / "tiny-generator.llamafile", version="0.8.4")
    with running_service(home, "--embed", str(embed), "--generate", str(generate)) as running:
        yield running


@pytest.fixture(scope="module")
def v2_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[_Front]:
    """Run the shapes of llamafiler for both roles.

    ``serve`` takes llamafiler only where nothing else can run a model; so the proxy is put before it here.
    """
    front = _Front(tmp_path_factory.mktemp("v2"))
    front.start()
    assert front.up.wait(30)
    yield front
    front.loop.call_soon_threadsafe(front.over.set)
    front.join(30)


class _Front(threading.Thread):
    """A proxy before fake v2 engines, in an event loop of its own."""

    def __init__(self, home: Path) -> None:
        super().__init__(daemon=True)
        self.home = home
        self.url = ""
        self.up = threading.Event()

    def run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self.loop, self.over = asyncio.get_running_loop(), asyncio.Event()
        models = [
            FakeModel("all-minilm-l6-v2", family=Family.V2),
            FakeModel("tiny-generator", Role.GENERATE, family=Family.V2),
        ]
        async with running_front(self.home, models) as running:
            self.url = running.url
            self.up.set()
            await self.over.wait()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print which client worked with which engine."""
    found = config.stash.get(MATRIX, {})
    if not found:
        return
    engines = sorted({engine for _, engine in found})
    terminalreporter.section("clients x engines")
    terminalreporter.line(f"{'':34}" + "".join(f"{engine:>14}" for engine in engines))
    for client in dict.fromkeys(client for client, _ in found):
        cells = [found.get((client, engine)) for engine in engines]
        words = ["ok" if cell else "-" if cell is None else "RED" for cell in cells]
        terminalreporter.line(f"{client:34}" + "".join(f"{word:>14}" for word in words))
