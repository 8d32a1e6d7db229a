"""What a running service takes of changed settings: at once, or not before a restart."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from llamafile_mgr.catalog import Role
from llamafile_mgr.config import Config, ModelConfig, ServeConfig, parse_duration, parse_size
from llamafile_mgr.errors import ConfigError
from llamafile_mgr.planner.plans import Plan
from llamafile_mgr.proxy.app import Proxy
from llamafile_mgr.proxy.front import Front
from llamafile_mgr.proxy.keys import KeyRing, read_keys, user_secret
from llamafile_mgr.proxy.leases import Leases
from llamafile_mgr.proxy.listening import require_loopback
from llamafile_mgr.proxy.server import HttpServer
from llamafile_mgr.supervisor.liveness import LivenessPolicy
from llamafile_mgr.supervisor.meters import SpeedPolicy
from llamafile_mgr.supervisor.pool import PoolOptions
from llamafile_mgr.supervisor.queue import QueueLimits
from llamafile_mgr.supervisor.supervisor import Supervisor, SupervisorOptions

_LOG = logging.getLogger("llamafile_mgr.serve")
#: Keys of ``[serve]`` that count at a start alone: sockets, the models, the cache's file, running watches.
_AT_START = (
    *("host", "port", "embed", "generate", "rerank"),
    *("cache_bytes", "load_stall_seconds", "liveness_seconds"),
)


def needs_restart(started: ServeConfig, told: ServeConfig) -> tuple[str, ...]:
    """Return the changed settings that count after a restart alone, as ``serve.port``. Pure."""
    names = [name for name in _AT_START if getattr(started, name) != getattr(told, name)]
    if (started.tls_certificate is None) != (told.tls_certificate is None):
        names.append("tls_certificate")
    return tuple(f"serve.{name}" for name in names)


def read_key_ring(settings: ServeConfig) -> KeyRing:
    """Return the API keys; none without a file of them. Blocks; raises ConfigError."""
    return read_keys(Path(settings.keys_file)) if settings.keys_file else KeyRing()


@dataclass(slots=True)
class LiveSettings:
    """The settings of one running service. ``started``: those of its start. ``waiting``: what of the present
    ones a restart is needed for."""

    supervisor: Supervisor
    front: Front
    proxy: Proxy
    server: HttpServer
    leases: Leases
    sockets: Sequence[socket.socket]
    started: Config
    waiting: tuple[str, ...] = field(default=())

    async def apply(self, config: Config) -> None:
        """Take all that can be taken now, or nothing where something is wrong with it.

        Raises:
            ConfigError: keys, certificate or aliases are wrong, or an address that others reach would be left
                without keys.
        """
        settings = config.serve
        keys = await asyncio.to_thread(read_key_ring, settings)
        if not keys.keys:
            for each in self.sockets:
                require_loopback(each, "name a keys file again, or restart on 127.0.0.1")
        options = supervisor_options([pool.plan for pool in self.supervisor.pools], config)
        router = self.front.make_router(settings, collect_aliases(config.models))
        if settings.tls_certificate is not None:
            await asyncio.to_thread(self.server.load_certificate, settings)
        # From here on nothing waits and nothing fails.
        self.front.apply(settings, router)
        self.proxy.apply(settings, keys)
        self.server.apply(settings)
        self.supervisor.apply(options)
        self.leases.give_key(user_secret(keys))
        self.waiting = needs_restart(self.started.serve, settings)
        if self.waiting:
            _LOG.warning("reload: only a restart applies %s", ", ".join(self.waiting))


def supervisor_options(plans: Sequence[Plan], config: Config) -> SupervisorOptions:
    """Return what the settings say of engines and of the queues before them. Raises ConfigError."""
    patience, limit = config.serve.liveness_seconds, config.serve.memory_limit
    return SupervisorOptions(
        stall_seconds=config.serve.load_stall_seconds,
        memory_limit_bytes=parse_size(limit, "serve.memory_limit") if limit else None,
        liveness=LivenessPolicy(
            tick_seconds=patience * 0.1,
            silent_seconds=patience * 0.3,
            health_deadline_seconds=patience * 0.5,
            idle_seconds=patience * 3,
            work_deadline_seconds=patience * 3,
        ),
        speed=SpeedPolicy(window_seconds=patience * 2),
        pools={
            plan.name: _pool_options(plan, config.models.get(plan.name, ModelConfig()), config.serve)
            for plan in plans
        },
    )


def _pool_options(plan: Plan, model: ModelConfig, settings: ServeConfig) -> PoolOptions:
    idle, limit = model.idle_unload, model.memory_limit
    return PoolOptions(
        idle_unload_seconds=parse_duration(idle, "idle_unload") if idle else None,
        pinned=plan.role is Role.EMBED if model.pinned is None else model.pinned,
        hold_seconds=settings.wait_seconds,
        limits=QueueLimits(settings.queue_items, settings.queue_tokens),
        memory_limit_bytes=parse_size(limit, "memory_limit") if limit else None,
        drain_seconds=settings.drain_seconds,
    )


def collect_aliases(models: Mapping[str, ModelConfig]) -> dict[str, str]:
    """Return alias -> model name.

    Raises:
        ConfigError: two models share an alias.
    """
    aliases: dict[str, str] = {}
    for name, model in models.items():
        for alias in model.aliases:
            if aliases.setdefault(alias, name) != name:
                raise ConfigError(f"{alias!r} is an alias of both {aliases[alias]} and {name}")
    return aliases
