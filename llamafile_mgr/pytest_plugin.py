"""A pytest plugin: the fixture ``llamafile_endpoint``, a served model for a whole test session.

For each ROLE of embed, generate and rerank the models come from ``--llamafile-ROLE``, else from the marker
``@pytest.mark.llamafile(ROLE=...)`` of any collected test, one name or a list, else from the lines of the ini
option ``llamafile_ROLE``. The settings' models are left aside, so that tests mean the same everywhere.
Parallel sessions, such as xdist's workers, share one server. Nothing but pytest is imported before a test
asks for the fixture.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from llamafile_mgr.endpoints.endpoint import Endpoint

_ROLES = ("embed", "generate", "rerank")
_MARKER = "llamafile"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add an option and a setting for each role."""
    group = parser.getgroup("llamafile-mgr")
    for role in _ROLES:
        group.addoption(
            f"--llamafile-{role}",
            action="append",
            metavar="MODEL",
            help=f"model that llamafile_endpoint serves for calls that {role}; may be repeated",
        )
        parser.addini(
            f"llamafile_{role}",
            f"models that llamafile_endpoint serves for calls that {role}, one a line",
            type="linelist",
        )


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
    from llamafile_mgr.endpoints.endpoint import endpoint
    from llamafile_mgr.errors import Error

    embed, generate, rerank = (_choose(request, role) for role in _ROLES)
    if not (embed or generate or rerank):
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


def _choose(request: pytest.FixtureRequest, role: str) -> list[str]:
    config = request.config
    told: list[str] = config.getoption(f"--llamafile-{role}") or []
    if told:
        return told
    marked = sorted(
        {
            (named,) if isinstance(named, str) else tuple(named)
            for item in request.session.items
            for marker in item.iter_markers(_MARKER)
            if (named := marker.kwargs.get(role)) is not None
        }
    )
    if len(marked) > 1:
        names = ", ".join(" and ".join(models) for models in marked)
        raise pytest.UsageError(
            f"llamafile_endpoint serves the same models to all, and markers name {names} to {role}"
        )
    return list(marked[0]) if marked else list(config.getini(f"llamafile_{role}"))
