"""Thousands of idle connections and hundreds of streams at once, with flat memory."""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.connections import hold_connections, pack_streamer
from tests.support.service import running_service

MIB = 1 << 20


@contextlib.contextmanager
def low_limit() -> Iterator[None]:
    """Start programs with the limit of descriptors that many systems start them with."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 1024), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.timeout(120)
async def test_idle_connections_and_streams_hold_with_flat_memory(
    tiny_generator: Path, tmp_path: Path
) -> None:
    packed = pack_streamer(tiny_generator, tmp_path / "streamer.llamafile")
    config = tmp_path / "config.toml"
    config.write_text("[models.streamer]\nslots = 200\n")
    extra = {"LLAMAFILE_MGR_CONFIG": str(config)}
    with contextlib.ExitStack() as stack:
        with low_limit():
            service = stack.enter_context(
                running_service(tmp_path / "home", "--generate", str(packed), extra=extra)
            )
        seen = await hold_connections(service, idle=2000, streams=200, rounds=2)
    assert seen.answered == 2000
    assert seen.streams == 400
    assert seen.descriptors_idle >= seen.descriptors_start + 2000
    assert seen.descriptors_end <= seen.descriptors_start + 40
    assert seen.idle - seen.start < 100 * MIB  # 50 KiB a connection
    assert seen.rounds[-1] - seen.rounds[0] < 8 * MIB
