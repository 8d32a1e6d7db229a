"""Measure requests a second and latency through nginx, our proxy and LiteLLM's before one upstream."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from llamafile_mgr.catalog import Role
from llamafile_mgr.config import ServeConfig
from llamafile_mgr.engines.families import Family
from llamafile_mgr.engines.launch_settings import LaunchSettings
from llamafile_mgr.planner.plans import Plan
from tests.support.front import running_front

ANSWER_BYTES = 8500
WRK_SCRIPT = """wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.body = '{"model": "m", "messages": [{"role": "user", "content": "hello"}]}'
"""
PATH = "/v1/chat/completions"


def nginx_text(port: int, folder: Path, server: str) -> str:
    return f"""daemon off; master_process off; worker_rlimit_nofile 8192;
pid {folder}/pid; error_log /dev/null;
events {{ worker_connections 4096; }}
http {{ access_log off; keepalive_requests 100000000;
client_body_temp_path {folder}; proxy_temp_path {folder};
fastcgi_temp_path {folder}; uwsgi_temp_path {folder}; scgi_temp_path {folder};
{server} }}
"""


def run_upstream(flags: Sequence[str]) -> None:
    """Become an nginx that answers one static JSON of 8.5 KB; started by the supervisor as an engine."""
    port = int(flags[flags.index("--port") + 1])
    folder = Path(tempfile.mkdtemp(prefix="bench-upstream-"))
    text = "x" * (ANSWER_BYTES - 140)
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "finish_reason": "stop", "message": message}
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    head = {"id": "1", "object": "chat.completion", "created": 1, "model": "m"}
    answer = json.dumps({**head, "choices": [choice], "usage": usage})
    (folder / "answer.json").write_text(answer)
    server = f"""server {{ listen 127.0.0.1:{port} reuseport; root {folder}; default_type application/json;
location = /health {{ return 200 '{{"status":"ok"}}'; }}
location / {{ error_page 405 =200 /answer.json; try_files /answer.json =404; }} }}"""
    (folder / "nginx.conf").write_text(nginx_text(port, folder, server))
    os.execvp("nginx", ["nginx", "-c", str(folder / "nginx.conf")])


@dataclass(frozen=True)
class StaticModel:
    """A generation model whose engine is that upstream."""

    def plan(self) -> Plan:
        return Plan(
            name="m",
            role=Role.GENERATE,
            family=Family.V10,
            program=(sys.executable, __file__, "upstream"),
            settings=LaunchSettings(role=Role.GENERATE, port=0, context=512, threads=1, slots=64),
            environment={**os.environ},
            reasons=(),
            path=Path(__file__),
        )


async def run_proxy() -> None:
    """Serve until the parent ends us; prints our address and the upstream's port."""
    with tempfile.TemporaryDirectory() as home:
        async with running_front(Path(home), [StaticModel()], ServeConfig()) as running:
            [engine] = running.supervisor.pools[0].engines
            print(json.dumps({"url": running.url, "upstream": engine.snapshot().port}), flush=True)
            await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


@contextmanager
def litellm_proxy(program: str | None, upstream: int) -> Iterator[dict[str, str]]:
    """Start LiteLLM's proxy where its program is given; yields name -> base URL."""
    if program is None:
        yield {}
        return
    with tempfile.TemporaryDirectory() as folder, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        parameters = {
            "model": "openai/m",
            "api_base": f"http://127.0.0.1:{upstream}/v1",
            "api_key": "none",
        }
        config = {"model_list": [{"model_name": "m", "litellm_params": parameters}]}
        (Path(folder) / "config.yaml").write_text(json.dumps(config))  # JSON is YAML
        command = [program, "--config", f"{folder}/config.yaml", "--host", "127.0.0.1", "--port", str(port)]
        quiet = {**os.environ, "LITELLM_LOG": "ERROR", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
        quiet["LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY"] = "true"  # loopback, for seconds
        process = subprocess.Popen(command, env=quiet, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            yield {"litellm": f"http://127.0.0.1:{port}"}
        finally:
            process.terminate()
            process.wait(20)


@contextmanager
def proxies(litellm: str | None = None) -> Iterator[dict[str, str]]:
    """Start ours, nginx and, where its program is given, LiteLLM's; yields name -> base URL."""
    ours = subprocess.Popen(
        [sys.executable, __file__, "proxy"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert ours.stdout is not None
    started = json.loads(ours.stdout.readline())
    folder = Path(tempfile.mkdtemp(prefix="bench-nginx-"))
    port = started["upstream"] + 1 if started["upstream"] < 65000 else started["upstream"] - 1000
    server = f"""upstream engine {{ server 127.0.0.1:{started["upstream"]}; keepalive 64;
keepalive_requests 100000000; }}
server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://engine; proxy_http_version 1.1;
proxy_set_header Connection ""; }} }}"""
    (folder / "nginx.conf").write_text(nginx_text(port, folder, server))
    nginx = subprocess.Popen(["nginx", "-c", str(folder / "nginx.conf")])
    urls = {
        "direct": f"http://127.0.0.1:{started['upstream']}",
        "nginx": f"http://127.0.0.1:{port}",
        "ours": started["url"],
    }
    try:
        with litellm_proxy(litellm, started["upstream"]) as more:
            urls |= more
            for url in urls.values():
                await_answer(url)
            yield urls
    finally:
        nginx.terminate()
        nginx.wait(5)
        ours.communicate(timeout=10)
        shutil.rmtree(folder, ignore_errors=True)


def await_answer(url: str) -> None:
    body = b'{"model": "m", "messages": [{"role": "user", "content": "x"}]}'
    request = urllib.request.Request(url + PATH, body, {"content-type": "application/json"})
    for _ in range(2400):
        try:
            with urllib.request.urlopen(request, timeout=5) as reply:
                assert len(reply.read()) > ANSWER_BYTES * 0.9
                return
        except OSError:
            time.sleep(0.05)
    raise SystemExit(f"{url} does not answer")


@dataclass(frozen=True)
class Measured:
    """One run of wrk: requests a second, and the median latency in milliseconds."""

    rate: float
    median_ms: float


def run_wrk(url: str, connections: int, seconds: float, script: Path) -> Measured:
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "--latency"]
    command += ["-s", str(script), url]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "Non-2xx" not in text, text
    rate = float(re.search(r"Requests/sec:\s+([\d.]+)", text).group(1))  # type: ignore[union-attr]
    median = re.search(r"50%\s+([\d.]+)(us|ms|s)", text)
    assert median is not None
    return Measured(rate, float(median.group(1)) * {"us": 0.001, "ms": 1.0, "s": 1000.0}[median.group(2)])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--litellm", metavar="PROGRAM", help="measure LiteLLM's proxy too")
    options = parser.parse_args()
    with proxies(options.litellm) as urls, tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "post.lua"
        script.write_text(WRK_SCRIPT)
        found: dict[tuple[str, int], list[Measured]] = {}
        for _ in range(options.rounds):
            for connections in (1, 16):
                for name, url in urls.items():
                    measured = run_wrk(url + PATH, connections, options.seconds, script)
                    found.setdefault((name, connections), []).append(measured)
    rates = {key: statistics.median(each.rate for each in runs) for key, runs in found.items()}
    medians = {key: statistics.median(each.median_ms for each in runs) for key, runs in found.items()}
    for (name, connections), rate in rates.items():
        median = medians[name, connections]
        print(f"{name:8} {connections:3} connections {rate:9.0f} requests/s  median {median:7.3f} ms")
    print(f"ours / nginx, 16 connections: {rates['ours', 16] / rates['nginx', 16]:.2f}")
    if ("litellm", 16) in rates:
        print(f"ours / LiteLLM, 16 connections: {rates['ours', 16] / rates['litellm', 16]:.0f}")
    print(f"added median latency, 1 connection: {medians['ours', 1] - medians['direct', 1]:.3f} ms")


if __name__ == "__main__":
    if sys.argv[1:2] == ["upstream"]:
        run_upstream(sys.argv[2:])
    elif sys.argv[1:2] == ["proxy"]:
        import uvloop

        uvloop.run(run_proxy())
    else:
        main()
