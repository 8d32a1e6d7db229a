"""HTTP to a remote engine: another proxy of ours, or a llama.cpp server, that serves one model of this one.

A remote is asked as a local engine is, with its own name for the model and texts that have their prompts
already. What it says of itself rather than of the request (a refused key, too much to do, not ready) is no
reply: it is the loss of the remote, after which another engine is asked. Behind an address another model may
stand tomorrow, so every new connection is proved before what came over it is believed.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any

import orjson

from llamafile_mgr.addresses import RemoteConfig, is_private, public_address
from llamafile_mgr.engines.messages import EngineReply, EngineRequest
from llamafile_mgr.engines.replies import error_text, read_json
from llamafile_mgr.engines.transport import EngineClient, EngineStream
from llamafile_mgr.errors import EngineError, EngineLostError, EngineStartError, EngineUnreachedError

_OWNER = "llamafile-mgr"
_EMBED_PATHS = frozenset({"/v1/embeddings", "/embedding"})
#: Statuses that never say anything of the remote; that of a stream is known before its first byte.
_ABOUT_THE_REQUEST = frozenset({200, 400, 413, 422, 500, 501})
_ERROR_OBJECT = re.compile(rb'\s*\{"error"')
_FACTS_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Fault:
    """What a remote says of itself. ``busy``: it is well and asks for a pause."""

    message: str
    hint: str | None = None
    busy: bool = False


@dataclass(frozen=True, slots=True)
class PeerFacts:
    """What another proxy of ours tells of the model. ``remotes``: where it passes calls on to itself."""

    vector_space: str | None
    max_tokens: int | None
    remotes: int


def address_request(request: EngineRequest, model: str) -> EngineRequest:
    """Return the request as a remote takes it: with its name for the model, and no prompt before texts."""
    body = request.body
    if body is None or not body.startswith(b"{"):
        return request
    fields: dict[str, str] = {"model": model}
    if request.path in _EMBED_PATHS:
        fields["input_type"] = "none"
    if body.startswith(b'{"model":') or body == b"{}":
        return replace(request, body=orjson.dumps({**orjson.loads(body), **fields}))
    # The texts of a batch are not parsed again for this.
    return replace(request, body=orjson.dumps(fields)[:-1] + b"," + body[1:])


def find_fault(reply: EngineReply) -> Fault | None:
    """Return what a reply says of the remote, None when it is about the request."""
    status = reply.status
    if status == 200:
        # A call that was kept alive while the model loaded has its status already.
        if _ERROR_OBJECT.match(reply.body) is None or _by_engine(reply):
            return None
        return Fault(f"it gave up: {error_text(reply)}")
    if status in (401, 403):
        hint = "give it the right key: key_file or key_env of this remote"
        return Fault(f"it refuses us ({status}): {error_text(reply)}", hint if status == 401 else None)
    if status == 404:
        return Fault(f"it does not know the route or the model: {error_text(reply)}")
    if status in (408, 429):
        return Fault(f"it is busy: {error_text(reply)}", busy=True)
    if 300 <= status < 400:
        return Fault(f"it sends us elsewhere ({status})", "name the address itself")
    if status in (503, 504) or (status == 502 and not _by_engine(reply)):
        return Fault(f"it answered {status}: {error_text(reply)}")
    return None


def _by_engine(reply: EngineReply) -> bool:
    """Tell whether a proxy of ours says that its engine failed on the request."""
    try:
        error = orjson.loads(reply.body)["error"]
        return bool(error["src"] == "engine" and error["code"] == EngineError.code)
    except (orjson.JSONDecodeError, LookupError, TypeError):
        return False


def read_peer(reply: EngineReply, model: str) -> PeerFacts | None:
    """Return what a reply to ``/v1/models`` tells of ``model``; None when another program gave it.

    Raises:
        EngineStartError: a proxy of ours that does not serve it.
        EngineError: anything but a list of models.
    """
    body = read_json(reply)
    entries = body.get("data") if isinstance(body, dict) else None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        return None
    ours = {entry.get("id"): entry.get("meta") for entry in entries if entry.get("owned_by") == _OWNER}
    if not ours:
        return None
    meta = ours.get(model)
    if not isinstance(meta, dict):
        raise EngineStartError(
            f"it does not serve {model}",
            cause=f"it serves {', '.join(sorted(map(str, ours)))}",
            hint="name the model as it is called there: model of this remote",
        )
    space, tokens, remotes = meta.get("vector_space"), meta.get("max_tokens"), meta.get("remotes")
    return PeerFacts(
        space if isinstance(space, str) else None,
        tokens if isinstance(tokens, int) else None,
        remotes if isinstance(remotes, int) else 0,
    )


def count_ready(reply: EngineReply, model: str) -> int:
    """Return how many engines of ``model`` can be asked, from a reply to ``/ready`` of a proxy of ours."""
    try:
        models = orjson.loads(reply.body)["models"]
        engines = next(entry["engines"] for entry in models if entry["model"] == model and entry["ready"])
        return sum(1 for engine in engines if engine["state"] == "ready")
    except (orjson.JSONDecodeError, LookupError, TypeError, StopIteration):
        return 0


class RemoteClient(EngineClient):
    """The connections to one remote. ``note_fault`` is told what it has done, and whether it is only busy.

    Until ``serve`` is called errors say what is wrong with the remote; from then on they are losses of it.
    """

    def __init__(
        self,
        remote: RemoteConfig,
        model: str,
        *,
        api_key: str | None,
        tls: ssl.SSLContext | None,
        note_fault: Callable[[EngineError, bool], None],
    ) -> None:
        self.model = model
        self._remote = remote
        self._note_fault = note_fault
        self._serving = False
        self._space: str | None = None
        self._prove: Callable[[], Awaitable[None]] | None = None
        self._proved = 0
        self._proving = asyncio.Lock()
        self._prover: asyncio.Task[Any] | None = None
        clear = remote.secure or remote.allow_plain_http
        super().__init__(
            remote.host,
            remote.port,
            api_key=api_key,
            prefix=remote.prefix,
            tls=tls,
            check_address=None if clear else self._check_address_is_private,
        )

    def _check_address_is_private(self, address: str) -> None:
        if not is_private(address):
            error = public_address(f"{self._remote.name} ({address})")
            raise EngineStartError(error.message, hint=error.hint)

    async def find_peer(self) -> PeerFacts | None:
        """Return what another proxy of ours tells of the model, None for any other server.

        Raises:
            EngineError: it cannot be reached, refuses us, or does not serve the model.
        """
        reply = await super().request(EngineRequest("GET", "/v1/models"), deadline_seconds=_FACTS_SECONDS)
        if reply.status in (404, 405, 501):
            return None
        fault = find_fault(reply)
        if fault is not None:
            raise EngineStartError(fault.message, hint=fault.hint)
        return read_peer(reply, self.model)

    async def ask_health(self, request: EngineRequest, *, deadline_seconds: float) -> EngineReply:
        """Return the reply to a health request, whatever it says. Raises as ``EngineClient.request`` does."""
        return await super().request(request, deadline_seconds=deadline_seconds)

    def serve(self, prove: Callable[[], Awaitable[None]] | None) -> None:
        """Take calls from now on. ``prove`` raises EngineError when it is no longer the model that was
        checked; it is awaited for every new connection, before what came over it is handed out."""
        self._serving = True
        self._prove = prove
        self._proved = self.connections_made

    async def request(self, request: EngineRequest, *, deadline_seconds: float | None = None) -> EngineReply:
        """Return a reply that is about the request.

        Raises:
            EngineLostError: no connection, it broke, or the remote said something of itself.
            EngineStartError: the same, before ``serve``.
            EngineError: no whole answer within ``deadline_seconds``.
        """
        try:
            reply = await super().request(
                address_request(request, self.model), deadline_seconds=deadline_seconds
            )
        except (EngineLostError, EngineStartError) as error:
            raise self._lose(error) from error
        self._check_fault(reply)
        self._check_space(reply.vector_space)
        await self._prove_connection()
        return reply

    async def open_stream(
        self, request: EngineRequest, *, deadline_seconds: float | None = None
    ) -> EngineStream:
        """Return a stream as soon as its head is there; raises as ``request`` does."""
        addressed = address_request(request, self.model)
        try:
            stream = await super().open_stream(addressed, deadline_seconds=deadline_seconds)
        except (EngineLostError, EngineStartError) as error:
            raise self._lose(error) from error
        if stream.status in _ABOUT_THE_REQUEST:
            return stream
        try:
            reply = await stream.read(deadline_seconds or _FACTS_SECONDS)
        finally:
            stream.close()
        self._check_fault(reply)
        raise EngineError(f"the engine answered {reply.status}: {error_text(reply)}")

    def _check_fault(self, reply: EngineReply) -> None:
        fault = find_fault(reply)
        if fault is not None:
            raise self._lose(EngineStartError(fault.message, hint=fault.hint), busy=fault.busy)

    def _check_space(self, space: str | None) -> None:
        if space is None or space == self._space:
            return
        if self._serving and self._space is not None:
            raise self._lose(EngineStartError(f"its vector space is now {space} instead of {self._space}"))
        self._space = space

    async def _prove_connection(self) -> None:
        """Ask for a known vector when there are connections that were made since the last time."""
        if self._prove is None or self._prover is asyncio.current_task():
            return
        while self.connections_made > self._proved:
            async with self._proving:
                made = self.connections_made
                if made <= self._proved:
                    return
                self._prover = asyncio.current_task()
                try:
                    await self._prove()
                except EngineError as error:
                    raise self._lose(error) from error
                finally:
                    self._prover = None
                self._proved = made

    def _lose(self, error: EngineError, *, busy: bool = False) -> EngineError:
        """Return the error to raise; once calls are served it is the loss of this remote."""
        if not self._serving:
            return error
        self._note_fault(error, busy)
        if isinstance(error, EngineLostError):
            return error
        # What it says of itself it says instead of computing: no request is to blame for it.
        return EngineUnreachedError(error.message, cause=error.cause, hint=error.hint)
