"""What ``bench`` measures: a proxy over HTTP, and engines that are asked without one."""

from __future__ import annotations

import urllib.parse
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

from llamafile_mgr.embedding.checked_engines import running_pools
from llamafile_mgr.engines.families import family_rules
from llamafile_mgr.engines.messages import json_request
from llamafile_mgr.engines.replies import error_text, read_json
from llamafile_mgr.engines.transport import EngineClient
from llamafile_mgr.errors import EngineError, UsageError
from llamafile_mgr.launching.local_plans import hold_files
from llamafile_mgr.paths import Paths
from llamafile_mgr.planner.plans import Plan
from llamafile_mgr.supervisor.calls import Caller, Deadline
from llamafile_mgr.supervisor.pool import Pool, PoolOptions, make_policy
from llamafile_mgr.supervisor.supervisor import SupervisorOptions
from llamafile_mgr.web_access import check_token

_SECONDS = 600.0
#: More than anybody sends at once: the engines' own queues are measured.
_MOST_REQUESTS = 1024


class ProxyTarget:
    """Calls of ``/v1/embeddings``, as OpenAI's clients send them; the cache of known texts is left aside."""

    name = "serve"

    def __init__(self, client: EngineClient, model: str | None) -> None:
        self._client = client
        self._model = {"model": model} if model is not None else {}

    async def embed(self, texts: Sequence[str]) -> None:
        """Embed these texts. Raises EngineError."""
        body = {**self._model, "input": list(texts), "encoding_format": "base64", "use_cache": False}
        reply = await self._client.request(json_request("/v1/embeddings", body), deadline_seconds=_SECONDS)
        answer = read_json(reply) if reply.status == 200 else None
        if not isinstance(answer, dict) or len(answer.get("data", ())) != len(texts):
            raise EngineError(f"the proxy answered {reply.status}: {error_text(reply)}")


class DirectTarget:
    """The engines of a plan, asked without prompts, limits, queue and checks of ours."""

    name = "engine"

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._rules = family_rules(pool.plan.family)

    async def embed(self, texts: Sequence[str]) -> None:
        """Embed these texts, one request after the other where the family takes fewer. Raises EngineError."""
        for at in range(0, len(texts), self._rules.max_texts):
            some = texts[at : at + self._rules.max_texts]
            caller = Caller("", Deadline.after(_SECONDS, _SECONDS))
            reply = await self._pool.calls.ask(self._rules.embed(some), caller)
            self._rules.read_vectors(reply, len(some))


@asynccontextmanager
async def proxy_at(url: str, model: str | None, api_key: str | None) -> AsyncIterator[ProxyTarget]:
    """Ask the proxy at ``url`` while inside.

    Raises:
        UsageError: no http address.
        ConfigError: a key that no header can carry.
    """
    address = urllib.parse.urlsplit(url)
    if address.scheme != "http" or not address.hostname:
        raise UsageError(f"{url} is no http:// address", hint="measure on the machine itself, without TLS")
    key = check_token(api_key, "the API key") if api_key else None
    client = EngineClient(address.hostname, address.port or 80, api_key=key)
    try:
        yield ProxyTarget(client, model)
    finally:
        await client.close()


@asynccontextmanager
async def direct_engines(plan: Plan, paths: Paths) -> AsyncIterator[DirectTarget]:
    """Run the engines of ``plan`` while inside, its files held, its remotes beside them.

    Raises:
        NotFoundError: its file was removed meanwhile.
        NotReadyError: none became ready.
    """
    open_door = PoolOptions(policy=replace(make_policy(plan), batch_texts=1, bulk_batches=_MOST_REQUESTS))
    options = SupervisorOptions(pools={plan.name: open_door})
    with hold_files([plan], paths):
        async with running_pools([plan], paths, _SECONDS, options) as (pool,):
            yield DirectTarget(pool)
