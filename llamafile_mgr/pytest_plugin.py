"""A pytest plugin: the fixture ``llamafile_endpoint``, a served model for a whole test session.

For each ROLE of embed, generate and rerank the model comes from ``--llamafile-ROLE``, else from the marker
``@pytest.mark.llamafile(ROLE=...)`` of any collected test, else from the ini option ``llamafile_ROLE``.
Parallel sessions, such as xdist's workers, share one server. Nothing but pytest is imported before a test
asks for the fixture.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from llamafile_mgr.endpoints.blocks import Endpoint

__all__ = ["llamafile_endpoint", "pytest_addoption", "pytest_configure"]

_ROLES = ("embed", "generate", "rerank")
_MARKER = "llamafile"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add an option and a setting for each role."""
    group = parser.getgroup("llamafile-mgr")
    for role in _ROLES:
        group.addoption(
            f"--llamafile-{role}",
            metavar="MODEL",
            help=f"model that llamafile_endpoint serves for calls that {role}",
        )
        parser.addini(f"llamafile_{role}", f"model that llamafile_endpoint serves for calls that {role}")


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker."""
    config.addinivalue_line(
        "markers",
        f"{_MARKER}(embed=None, generate=None, rerank=None): the models that llamafile_endpoint serves",
    )


@pytest.fixture(scope="session")
def llamafile_endpoint(request: pytest.FixtureRequest) -> Iterator[Endpoint]:
    """Serve the chosen models for the session and return a client of them.

    Raises:
        pytest.UsageError: no model is chosen, or markers disagree.
    """
    from llamafile_mgr.endpoints.blocks import endpoint
    from llamafile_mgr.errors import Error

    embed, generate, rerank = (_choose(request, role) for role in _ROLES)
    if embed is None and generate is None and rerank is None:
        raise pytest.UsageError(
            "llamafile_endpoint needs a model: set llamafile_embed in the ini file, use --llamafile-embed, "
            f"or mark a test with @pytest.mark.{_MARKER}(embed=...)"
        )
    with contextlib.ExitStack() as stack:
        try:
            client = stack.enter_context(endpoint(embed, generate, rerank=rerank))
        except Error as error:
            pytest.fail(f"llamafile_endpoint: {error.describe()}", pytrace=False)
        yield client


def _choose(request: pytest.FixtureRequest, role: str) -> str | None:
    config = request.config
    told = config.getoption(f"--llamafile-{role}")
    if told:
        return str(told)
    marked = sorted(
        {
            str(marker.kwargs[role])
            for item in request.session.items
            for marker in item.iter_markers(_MARKER)
            if marker.kwargs.get(role) is not None
        }
    )
    if len(marked) > 1:
        raise pytest.UsageError(
            f"llamafile_endpoint serves one model to {role}, and markers name {', '.join(marked)}"
        )
    return marked[0] if marked else (str(config.getini(f"llamafile_{role}")) or None)
