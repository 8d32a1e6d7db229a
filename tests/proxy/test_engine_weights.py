"""``/metrics`` and the page say of an engine what ``memory_limit`` acts on: it and its children together."""

from __future__ import annotations

import re
from pathlib import Path

import httpx
import psutil

from llamafile_mgr.supervisor.process_memory import resident_bytes
from tests.support.front import FakeModel, running_front


async def test_an_engine_is_weighed_with_its_child_everywhere(tmp_path: Path) -> None:
    models = [FakeModel("e", switches="--fork")]
    async with running_front(tmp_path, models) as running, httpx.AsyncClient(base_url=running.url) as http:
        (pool,) = running.front.pools
        pid = pool.engines[0].pid
        assert pid is not None
        assert psutil.Process(pid).children(), "the fake engine forks before it is ready"
        weight, alone = resident_bytes(pid), resident_bytes(pid, alone=True)
        page = (await http.get("/ui/status.json")).json()
        metrics = (await http.get("/metrics")).text
    shown = page["models"][0]["engines"][0]["memory_bytes"]
    (measured,) = re.findall(r"^llamafile_engine_memory_bytes\{.*\} (\S+)$", metrics, re.MULTILINE)
    assert weight > alone
    # The engine may have touched a few pages more between the three looks.
    assert abs(shown - weight) < (weight - alone) / 2
    assert abs(float(measured) - weight) < (weight - alone) / 2
    assert page["memory_bytes"] > 0
