"""A pool whose engines answer in v10's shapes, one batch at a time, as a test says.

Vectors depend on the text alone. Texts that hold a fault's word make the engine fail in that way.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import numpy as np

from llamafile_mgr.catalog import Model, Pooling, Role, load_catalog
from llamafile_mgr.engines.families import Family
from llamafile_mgr.engines.launch_settings import LaunchSettings
from llamafile_mgr.engines.messages import EngineReply, EngineRequest
from llamafile_mgr.errors import EngineLostError, NotReadyError
from llamafile_mgr.planner.plans import Plan
from llamafile_mgr.supervisor.backend import Backend
from llamafile_mgr.supervisor.calls import BatchPolicy
from llamafile_mgr.supervisor.dispatch import Dispatcher
from llamafile_mgr.supervisor.meters import EngineMeter, MeteredWork, SpeedPolicy
from llamafile_mgr.supervisor.pool import Pool, make_policy
from llamafile_mgr.supervisor.queue import QueueLimits

WIDTH = 16
NAN, ZERO, REFUSED, TOO_LONG, DEADLY = "<nan>", "<zero>", "<refused>", "<too long>", "<deadly>"


def make_plan(
    model: str | Model | None = None,
    *,
    family: Family = Family.V10,
    max_tokens: int | None = 64,
    slots: int = 4,
    digest: str | None = "0" * 64,
    pooling: Pooling | None = None,
) -> Plan:
    """Return a plan that nobody launches."""
    entry = load_catalog().models[model] if isinstance(model, str) else model
    return Plan(
        name="stub",
        role=Role.EMBED,
        family=family,
        program=("stub",),
        settings=LaunchSettings(Role.EMBED, 0, context=64, threads=1, slots=slots, pooling=pooling),
        environment={},
        reasons=(),
        path=Path("stub"),
        weights_digest=digest,
        model=entry,
        dimensions=WIDTH,
        max_tokens=max_tokens,
    )


def vector_of(text: str) -> np.ndarray:
    """Return the unit vector of ``text``."""
    seed = int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "big")
    row = np.random.default_rng(seed).normal(size=WIDTH)
    return (row / np.linalg.norm(row)).astype(np.float32)


def count_tokens(text: str) -> int:
    """Return the stub's tokens: its words and two special ones."""
    return len(text.split()) + 2


class StubClient:
    """One start of a stub engine."""

    last_received = float("inf")

    def __init__(self, engine: StubEngine) -> None:
        self.engine = engine

    async def request(self, request: EngineRequest, *, deadline_seconds: float | None = None) -> EngineReply:
        return await self.engine.answer(self, request)


@dataclass(eq=False)
class StubEngine:
    """Answers one group after another; ``gate`` must be set for it to answer at all."""

    plan: Plan
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    ready: bool = True
    groups: list[list[str]] = field(default_factory=list)
    deaths: int = 0
    suspicions: int = 0
    in_flight: int = 0
    width: int = 1
    most_in_flight: int = 0
    tokenized: list[str] = field(default_factory=list)
    client: StubClient | None = None
    ended: list[StubClient] = field(default_factory=list)
    excused: list[object] = field(default_factory=list)
    name: str = "stub"

    def __post_init__(self) -> None:
        self.meter = EngineMeter(SpeedPolicy(), None)
        self.gate.set()
        self.client = StubClient(self)
        self._turn = asyncio.Lock()

    def suspect(self) -> None:
        self.suspicions += 1

    def begin(self, tokens: int) -> MeteredWork | None:
        return None

    def end(self, job: MeteredWork | None, *, answered: bool) -> None:
        pass

    async def was_ended(self, client: object) -> bool:
        return client in self.ended

    def excuse_death(self, client: object) -> None:
        self.excused.append(client)

    def kill(self) -> None:
        """End this start as somebody with ``kill`` would."""
        assert self.client is not None
        self.ended.append(self.client)
        self.client = StubClient(self)

    async def answer(self, client: StubClient, request: EngineRequest) -> EngineReply:
        body = json.loads(request.body or b"{}")
        if request.path == "/tokenize":
            self.tokenized.append(body["content"])
            return reply({"tokens": list(range(count_tokens(body["content"])))})
        if client is not self.client:
            raise EngineLostError("cannot reach the engine")
        texts = body["input"] if "input" in body else [body["content"]]
        self.groups.append(texts)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            async with self._turn:
                await self.gate.wait()
                await asyncio.sleep(0)
        finally:
            self.in_flight -= 1
        if client is not self.client:
            raise EngineLostError("the engine broke off its answer")
        if any(DEADLY in text for text in texts):
            self.deaths += 1
            self.client = StubClient(self)
            raise EngineLostError("the engine broke off its answer")
        return self._embed(texts, single="content" in body)

    def _embed(self, texts: list[str], *, single: bool) -> EngineReply:
        if any(REFUSED in text for text in texts):
            return reply({"error": {"code": 500, "message": "cannot compute this"}}, 500)
        if any(TOO_LONG in text for text in texts):
            return reply({"error": {"message": "input (99 tokens) is too large to process."}}, 500)
        rows = []
        for text in texts:
            row = vector_of(text)
            if NAN in text:
                row = np.full(WIDTH, np.nan, np.float32)
            if ZERO in text:
                row = np.zeros(WIDTH, np.float32)
            rows.append(row)
        if single:
            return reply({"embedding": [float(value) for value in rows[0]]})
        data = [
            {"index": index, "embedding": base64.b64encode(row.astype("<f4").tobytes()).decode()}
            for index, row in enumerate(rows)
        ]
        return reply({"data": data, "usage": {"prompt_tokens": sum(map(count_tokens, texts))}})


def reply(body: object, status: int = 200) -> EngineReply:
    return EngineReply(status, "application/json", json.dumps(body).encode())


class StubPool:
    """Engines that are always there, until a test says otherwise, behind the real queue and dispatcher."""

    alike = True
    hopeless = False

    def __init__(
        self,
        plan: Plan | None = None,
        replicas: int = 1,
        *,
        policy: BatchPolicy | None = None,
        limits: QueueLimits | None = None,
        hold_seconds: float = 5.0,
    ) -> None:
        self.plan = plan or make_plan()
        self.engines = [StubEngine(self.plan) for _ in range(replicas)]
        self.loads = 0
        self._policy = policy
        self.calls = Dispatcher(self, limits, hold_seconds)

    def replace(self, plan: Plan) -> None:
        """Put new engines in the place of the old, which finish what they have."""
        self.plan = plan
        self.engines = [StubEngine(plan) for _ in self.engines]
        self.calls.look_soon()

    @property
    def groups(self) -> list[list[str]]:
        """Return every batch that was sent, by engine and in order."""
        return [group for engine in self.engines for group in engine.groups]

    def as_pool(self) -> Pool:
        """Return it as what it stands for."""
        return cast(Pool, self)

    @property
    def members(self) -> Sequence[Backend]:
        return cast(Sequence[Backend], self.engines)

    @property
    def policy(self) -> BatchPolicy:
        return self._policy or make_policy(self.plan)

    @property
    def loaded(self) -> bool:
        return bool(self.engines)

    def load_soon(self) -> None:
        self.loads += 1

    def note_idle(self) -> None:
        pass

    def not_ready(self) -> NotReadyError:
        return NotReadyError("the model stub is not ready yet")
