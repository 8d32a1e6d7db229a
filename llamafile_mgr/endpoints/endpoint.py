"""An endpoint in Python: a model that is served for as long as a ``with`` block runs."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from llamafile_mgr.catalog import Role
from llamafile_mgr.client import AsyncClient, Client
from llamafile_mgr.config_reading import load_config
from llamafile_mgr.endpoints.access import ServiceAccess
from llamafile_mgr.endpoints.joining import join_or_start
from llamafile_mgr.endpoints.leasing import Lease
from llamafile_mgr.endpoints.sharing_terms import ServiceChoice, choose
from llamafile_mgr.launching.wanted import read_wanted
from llamafile_mgr.paths import resolve_paths

_LOG = logging.getLogger("llamafile_mgr.endpoint")

#: The models of one role: one, several, or None for those of the settings.
Models = str | Sequence[str] | None


class _Served:
    """What an endpoint knows beside what any client does."""

    def __init__(self, access: ServiceAccess) -> None:
        super().__init__(access.url, api_key=access.api_key)  # type: ignore[call-arg]
        self.api_key = access.api_key
        self.models_by_role = dict(access.models)
        self._access = access

    def openai_kwargs(self) -> dict[str, Any]:
        """Return ``base_url`` and ``api_key`` for OpenAI's clients and what is built on them."""
        return self._access.openai_kwargs()


class Endpoint(_Served, Client):
    """A client of a server that lives at least as long as this object's ``with`` block.

    ``url``: of the server. ``api_key``: None where none is needed. ``models_by_role``: role -> its default.
    """


class AsyncEndpoint(_Served, AsyncClient):
    """``Endpoint`` for asyncio."""


@contextlib.contextmanager
def endpoint(
    embed: Models = None,
    generate: Models = None,
    *,
    rerank: Models = None,
    port: int | None = None,
    config_file: str | Path | None = None,
    keep_seconds: float = 0.0,
) -> Iterator[Endpoint]:
    """Serve models while inside, joining a server that serves them already; `exec` shares it too.

    ``embed``, ``generate``, ``rerank``: a name from the store or a path, or several, of which the first is
    the default; None takes those of the settings, and an empty list none. ``port`` None takes any.
    ``keep_seconds``: how long the server shall outlast its last user.

    Raises:
        UsageError: no model is named anywhere.
        NotFoundError: a model is neither in the store nor a file.
        Error: why the server did not start, as ``llamafile-mgr serve`` would say it.
    """
    roles = {Role.EMBED: embed, Role.GENERATE: generate, Role.RERANK: rerank}
    lease = _join(_choose(roles, port, config_file), keep_seconds)
    try:
        with Endpoint(lease.access) as client:
            yield client
    finally:
        lease.close()


@contextlib.asynccontextmanager
async def aendpoint(
    embed: Models = None,
    generate: Models = None,
    *,
    rerank: Models = None,
    port: int | None = None,
    config_file: str | Path | None = None,
    keep_seconds: float = 0.0,
) -> AsyncIterator[AsyncEndpoint]:
    """Serve models while inside, as ``endpoint`` does, for asyncio."""
    roles = {Role.EMBED: embed, Role.GENERATE: generate, Role.RERANK: rerank}
    choice = await asyncio.to_thread(_choose, roles, port, config_file)
    joining = asyncio.ensure_future(asyncio.to_thread(_join, choice, keep_seconds))
    try:
        lease = await asyncio.shield(joining)
    except asyncio.CancelledError:
        # The thread cannot be stopped; what it gets is given back.
        joining.add_done_callback(_give_back)
        raise
    try:
        async with AsyncEndpoint(lease.access) as client:
            yield client
    finally:
        lease.close()


def _choose(roles: Mapping[Role, Models], port: int | None, config_file: str | Path | None) -> ServiceChoice:
    paths = resolve_paths()
    file = Path(config_file) if config_file is not None else None
    config = load_config(paths.config_file, file=file)
    told = {role: (names,) if isinstance(names, str) else names for role, names in roles.items()}
    wanted = read_wanted(config.serve, roles=told)
    return choose(wanted, config, paths, port=port, config_file=file)


def _join(choice: ServiceChoice, keep_seconds: float) -> Lease:
    return join_or_start(choice, lambda line: _LOG.info("%s", line), keep_seconds=keep_seconds)


def _give_back(joining: asyncio.Future[Lease]) -> None:
    if not joining.cancelled() and joining.exception() is None:
        joining.result().close()
