"""Engines for the clients, and the client x engine matrix at the end of a run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

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
