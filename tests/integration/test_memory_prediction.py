"""The predicted memory against what the real embedded engine takes, with the flags of the plan.

The whole process is compared, by its resident pages: they hold the mapped weights whether or not another
process maps them too. The prediction must never be below; above it no more than 1.3 times for models of more
than 500 MB, and one and a half times for small ones, or by what builds of a program differ in.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import threading
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import psutil
import pytest

from llamafile_mgr.catalog import Role
from llamafile_mgr.config import EnginesConfig, ModelConfig
from llamafile_mgr.launching.local_plans import make_toolbox
from llamafile_mgr.llamafile import inspect_file
from llamafile_mgr.machine.detection import detect_machine
from llamafile_mgr.paths import resolve_paths
from llamafile_mgr.planner.model_specs import ModelSpec
from llamafile_mgr.planner.planning import plan_models
from llamafile_mgr.planner.plans import Plan
from llamafile_mgr.supervisor.engine_start import read_listening_port
from tests.support.large_models import Shape, write_large_encoder, write_large_generator
from tests.support.llama_programs import find_native

MIB = 1 << 20
LARGE, SMALL_RATIO, LARGE_RATIO = 500 * 10**6, 1.5, 1.3
#: A static build of one back end takes so much less than one with modules for all.
PROGRAM_BYTES = 16 * MIB


@pytest.fixture(params=["wheel", "native"])
def engines(request: pytest.FixtureRequest) -> EnginesConfig:
    """Return the settings with the embedded engine alone, or with a native build before it."""
    native = find_native()
    if request.param == "native" and native is None:
        pytest.skip("nobody has built llama.cpp here: scripts/build-engines current")
    programs = (str(native),) if request.param == "native" else ()
    return EnginesConfig(programs, search_path=False)


def plan_for(path: Path, role: Role, home: Path, wish: ModelConfig, engines: EnginesConfig) -> Plan:
    """Plan one model for one of these engines."""
    toolbox = replace(make_toolbox(resolve_paths({"LLAMAFILE_MGR_HOME": str(home)}), engines), runtimes=())
    subject = ModelSpec("model", role, path, inspect_file(path))
    (plan,) = plan_models((subject,), detect_machine(), toolbox, os.environ, {"model": wish})
    return plan


@contextmanager
def running_engine(plan: Plan) -> Iterator[tuple[psutil.Process, str]]:
    """Start one engine of the plan and yield its process and its address."""
    child = subprocess.Popen(
        plan.command(0, None),
        env=dict(plan.environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    ports: queue.Queue[int] = queue.Queue()
    assert child.stdout is not None
    output = child.stdout

    def drain() -> None:
        for line in output:
            port = read_listening_port(line)
            if port:
                ports.put(port)

    reader = threading.Thread(target=drain, daemon=True)
    reader.start()
    try:
        yield psutil.Process(child.pid), f"http://127.0.0.1:{ports.get(timeout=30)}"
    finally:
        child.kill()
        child.wait()
        reader.join(5)
        output.close()


def ask(url: str, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=300) as reply:
        return json.load(reply)


def check(plan: Plan, process: psutil.Process) -> None:
    """Hold the prediction for one engine against the process."""
    assert plan.memory is not None
    predicted, taken = plan.memory.host, process.memory_info().rss
    figures = f"predicted {predicted / MIB:.1f}, resident {taken / MIB:.1f} MiB"
    assert taken <= predicted, figures
    ratio = LARGE_RATIO if plan.memory.weights > LARGE else SMALL_RATIO
    assert predicted <= max(ratio * taken, taken + PROGRAM_BYTES), figures


@pytest.mark.parametrize("wish", [ModelConfig(), ModelConfig(context=256, threads=1, slots=2)])
def test_minilm_takes_what_was_predicted(
    minilm: Path, tmp_path: Path, wish: ModelConfig, engines: EnginesConfig
) -> None:
    plan = plan_for(minilm, Role.EMBED, tmp_path, wish, engines)
    assert plan.max_tokens is not None
    # "word" is one token; two are special.
    longest, short = "word " * (plan.max_tokens - 2), "word " * 60
    with running_engine(plan) as (process, url):
        groups = [[longest], [longest, short], [short] * 8, *([["word"] * 32] * 12)]
        with ThreadPoolExecutor(8) as callers:
            replies = list(callers.map(lambda texts: ask(f"{url}/v1/embeddings", {"input": texts}), groups))
        assert [len(reply["data"]) for reply in replies] == [len(texts) for texts in groups]
        check(plan, process)


@pytest.mark.parametrize("wish", [ModelConfig(), ModelConfig(context=256, slots=4)])
def test_the_tiny_generator_takes_what_was_predicted(
    tiny_generator: Path, tmp_path: Path, wish: ModelConfig, engines: EnginesConfig
) -> None:
    plan = plan_for(tiny_generator, Role.GENERATE, tmp_path, wish, engines)
    with running_engine(plan) as (process, url):
        bodies = [
            {"prompt": f"{chr(97 + n)} " * 40, "n_predict": 100, "ignore_eos": True, "cache_prompt": True}
            for n in range(12)
        ]
        with ThreadPoolExecutor(4) as callers:
            replies = list(callers.map(lambda body: ask(f"{url}/completion", body), bodies))
        assert all("content" in reply for reply in replies)
        check(plan, process)


#: More than a physical batch of 512 tokens, so that every buffer is used.
PROMPT = "w1 " * 520


@pytest.mark.parametrize(
    ("wish", "blocks", "kind"),
    [
        (ModelConfig(context=16384, slots=1), 18, gguf.GGMLQuantizationType.Q8_0),
        (ModelConfig(context=4096), 32, gguf.GGMLQuantizationType.Q4_0),
    ],
)
@pytest.mark.timeout(150)  # half a thousand tokens of almost a billion weights, beside other tests
def test_a_large_generator_takes_what_was_predicted(
    tmp_path: Path, wish: ModelConfig, blocks: int, kind: gguf.GGMLQuantizationType, engines: EnginesConfig
) -> None:
    shape = Shape(width=1536, hidden=4608, blocks=blocks, heads=12, kv_heads=4)
    model = write_large_generator(tmp_path / "large.gguf", shape, kind)
    plan = plan_for(model, Role.GENERATE, tmp_path, wish, engines)
    with running_engine(plan) as (process, url):
        reply = ask(f"{url}/completion", {"prompt": PROMPT, "n_predict": 4})
        assert "content" in reply
        check(plan, process)


def test_a_large_encoder_takes_what_was_predicted(tmp_path: Path, engines: EnginesConfig) -> None:
    shape = Shape(blocks=24, vocabulary=30522, context=512)
    model = write_large_encoder(tmp_path / "large.gguf", shape)
    plan = plan_for(model, Role.EMBED, tmp_path, ModelConfig(), engines)
    assert plan.memory is not None
    assert plan.memory.weights > LARGE
    with running_engine(plan) as (process, url):
        reply = ask(f"{url}/v1/embeddings", {"input": ["w1 " * 508]})
        assert len(reply["data"]) == 1
        check(plan, process)
