"""The life of one remote engine: reach it, check it, be asked, lose it, try again.

It stands in a pool beside the engines of this machine, with the same states and restart policy. What it
lacks is a process: nothing is started here, and why it was lost is known only from what it said last. A
remote that has failed is tried again after a pause, for it is mended by somebody else, who tells nobody.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import ssl
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from llamafile_mgr.addresses import RemoteConfig
from llamafile_mgr.catalog import Role
from llamafile_mgr.engines.messages import EngineRequest
from llamafile_mgr.engines.remote_client import PeerFacts, RemoteClient, count_ready
from llamafile_mgr.errors import (
    ConfigError,
    EngineError,
    EngineLostError,
    EngineStartError,
    EngineUnreachedError,
    Error,
    StoreError,
)
from llamafile_mgr.paths import read_secrets
from llamafile_mgr.planner.plans import Plan
from llamafile_mgr.supervisor.backend import Backend
from llamafile_mgr.supervisor.diagnosis import Diagnosis
from llamafile_mgr.supervisor.engine_start import EngineChecks
from llamafile_mgr.supervisor.lifecycle import Lifecycle
from llamafile_mgr.supervisor.snapshots import EngineSnapshot, EngineSurroundings
from llamafile_mgr.supervisor.states import EngineEvent, EngineState
from llamafile_mgr.tasks import run_all
from llamafile_mgr.web_access import make_trust

_LOG = logging.getLogger("llamafile_mgr.supervisor")
_HEALTH_SECONDS, _HEALTH_PAUSE_SECONDS = 5.0, 0.5
#: One that has too much to do is left alone for so long.
_BUSY_SECONDS = 1.0
#: All of the checks; slow ones of a large model on a busy remote included.
_CHECK_SECONDS = 300.0
#: So often a known vector is asked for while it serves: another model may be put behind its address.
_PROOF_SECONDS = 30.0
#: Losses under calls, within the policy's window, that are put down to the remote; more may be their doing.
_FREE_LOSSES = 2


class RemoteBackend(Backend):
    """One remote engine. ``make_checks`` is given what a proxy tells; ``width`` is known as far as it
    does."""

    def __init__(
        self,
        name: str,
        remote: RemoteConfig,
        plan: Plan,
        make_checks: Callable[[PeerFacts | None], EngineChecks],
        surroundings: EngineSurroundings,
    ) -> None:
        safe = "".join(c if c.isalnum() or c in "-." else "-" for c in f"{plan.name}-at-{name}")
        super().__init__(name, plan, safe, surroundings, judged=False)
        self._life = Lifecycle(surroundings.restart, plan.settings, changeable=True)
        self._port = remote.port
        self._remote = remote
        self._model = remote.model or plan.name
        self._make_checks = make_checks
        self._facts: PeerFacts | None = None
        self._rest_until = 0.0
        self._losses: deque[float] = deque(maxlen=64)
        self._met_by_call: EngineError | None = None
        self._fault: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    # What others may ask and do.

    @property
    def ready(self) -> bool:
        """Tell whether calls may be sent to ``client``."""
        return self.state is EngineState.READY and time.monotonic() >= self._rest_until

    async def was_ended(self, client: object) -> bool:
        """Tell that no request is to blame for its loss, for machines and networks fail for reasons of their
        own. Only when it is lost under its calls again and again may one of these be what kills it."""
        since = time.monotonic() - self._surroundings.restart.window_seconds
        return sum(1 for at in self._losses if at >= since) <= _FREE_LOSSES

    def snapshot(self) -> EngineSnapshot:
        """Return what ``status`` shows."""
        return replace(super().snapshot(), remote=self._remote.url)

    # Its life; everything below runs in one task.

    async def _live_once(self) -> Diagnosis | None:
        await self._until_over(self._work())
        return None

    def _explain(self, error: Error) -> Diagnosis:
        if self.state is EngineState.READY and self.in_flight and error is not self._met_by_call:
            self._losses.append(time.monotonic())
        passing = isinstance(error, EngineLostError)  # it cannot be reached at all
        return Diagnosis(error.describe(), error.hint, curable=True, passing=passing)

    async def _note_death(self, death: Diagnosis) -> None:
        await self._note(f"lost: {death.cause}")

    async def _work(self) -> None:
        """Become ready, then watch for ever; raises Error for what is wrong with it."""
        key, tls = await asyncio.to_thread(lambda: (_read_key(self._remote), _make_tls(self._remote)))
        client = self.client = RemoteClient(
            self._remote, self._model, api_key=key, tls=tls, note_fault=self._note_fault
        )
        self._facts = await client.find_peer()
        await self._await_health(client)
        self._move(EngineEvent.ANSWERS)
        checks = self._checks = self._make_checks(self._facts)
        try:
            await asyncio.wait_for(checks.check_ready(client, self._rules), _CHECK_SECONDS)
        except TimeoutError:
            raise EngineStartError(f"it did not pass its checks within {_CHECK_SECONDS:g} seconds") from None
        self._suspected.clear()
        self._rest_until = 0.0
        self._fault = asyncio.get_running_loop().create_future()
        proves = self.plan.role is Role.EMBED
        client.serve((lambda: checks.check_alive(client, self._rules)) if proves else None)
        self._move(EngineEvent.CHECKED)
        await self._note("ready")
        watching = self._watch(client, lambda seconds: self._check_health(client, seconds))
        await run_all((watching, self._prove(client), self._meet_fault()))

    async def _meet_fault(self) -> None:
        """Raise the first fault that calls meet."""
        await self._fault

    async def _prove(self, client: RemoteClient) -> None:
        """A proxy that holds our calls while its own engines are gone says so when it is asked."""
        policy, proved = self._surroundings.liveness, time.monotonic()
        while True:
            await asyncio.sleep(policy.silent_seconds)
            if self._facts is not None and self.in_flight:
                await self._check_health(client, policy.health_deadline_seconds)
            if time.monotonic() - proved >= _PROOF_SECONDS:
                await self._checks.check_alive(client, self._rules)
                proved = time.monotonic()

    async def _await_health(self, client: RemoteClient) -> None:
        """Return once it can be asked; a model that loads there has as long as one that loads here."""
        end = time.monotonic() + self._surroundings.stall_seconds
        while True:
            try:
                return await self._check_health(client, _HEALTH_SECONDS)
            except EngineError as error:
                if isinstance(error, EngineLostError) or time.monotonic() >= end:
                    raise
            await asyncio.sleep(_HEALTH_PAUSE_SECONDS)

    async def _check_health(self, client: RemoteClient, seconds: float) -> None:
        """Raise EngineError when it says that it cannot be asked, or says nothing."""
        if self._facts is not None:
            reply = await client.ask_health(EngineRequest("GET", "/ready"), deadline_seconds=seconds)
            engines = count_ready(reply, self._model)
            if not engines:
                raise EngineError(f"{self._model} is not ready there")
            self.width = engines
            return
        request = self._rules.health()
        reply = await client.ask_health(request, deadline_seconds=seconds)
        if reply.status != 200:
            raise EngineError(f"it is not ready: {request.path} answers {reply.status}")

    def _note_fault(self, error: EngineError, busy: bool) -> None:
        """Take no calls for a while, or until it was reached and checked anew."""
        if busy:
            self._rest_until = time.monotonic() + _BUSY_SECONDS
            # A timer may ring a little early, and nobody looks again.
            later = _BUSY_SECONDS + 0.01
            asyncio.get_running_loop().call_later(later, self._surroundings.changed)
        elif not self._fault.done():
            if self.in_flight and not isinstance(error, EngineUnreachedError | EngineStartError):
                # Now, for the call that met it gives its place back before the loss is explained.
                self._met_by_call = error
                self._losses.append(time.monotonic())
            self._rest_until = float("inf")
            self._fault.set_exception(error)

    async def _note(self, text: str) -> None:
        """Log an event where ``logs`` finds it."""
        _LOG.warning("%s (%s): %s", self.name, self.plan.name, text)
        line = f"{time.strftime('%Y-%m-%dT%H:%M:%S')} {text}\n".encode()
        self.log.feed(line)
        # A full disk costs us the log, not the remote.
        with contextlib.suppress(StoreError):
            await asyncio.to_thread(self.log.append, line)

    async def _close(self, grace_seconds: float) -> None:
        await super()._close(grace_seconds)
        await asyncio.to_thread(self.log.close)


def _read_key(remote: RemoteConfig) -> str | None:
    """Return its API key. Blocks on a file; raises ConfigError, as ``_make_tls`` does."""
    if remote.key_file is not None:
        lines = [line for line in read_secrets(Path(remote.key_file)) if line]
        if len(lines) != 1:
            raise ConfigError(f"{remote.key_file} must hold one key", hint="one line, as in the remote's own")
        key = lines[0].split()[-1]
    elif remote.key_env is not None:
        key = os.environ.get(remote.key_env, "").strip()
        if not key:
            raise ConfigError(f"the variable {remote.key_env} with the key of {remote.name} is not set")
    else:
        return None
    if not key.isascii() or not key.isprintable() or " " in key:
        raise ConfigError(f"the key of {remote.name} has characters that no key has")
    return key


def _make_tls(remote: RemoteConfig) -> ssl.SSLContext | None:
    """Trust the system's authorities and the remote's own."""
    if not remote.secure:
        return None
    context = make_trust()
    if remote.ca_file is not None:
        try:
            context.load_verify_locations(remote.ca_file)
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            raise ConfigError(f"cannot use the certificates in {remote.ca_file}: {error}") from error
    return context
