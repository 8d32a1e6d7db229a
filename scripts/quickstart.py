"""The demonstration behind scripts/quickstart: pull, pack, serve, embed, rank."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import numpy as np

ROOT = Path(__file__).parent.parent
HOME = ROOT / ".quickstart"
MODEL = "all-minilm-l6-v2"
QUESTION = "How do I get back into my account?"
PASSAGES = (
    "Bananas are rich in potassium and keep for about a week at room temperature.",
    "To recover a forgotten password, open the sign-in page and choose 'Forgot password'.",
    "The museum is open from ten to six, except on Mondays.",
    "A llamafile holds an engine and the weights of a model in one executable file.",
)
ANSWER = 1


def run(*arguments: str) -> None:
    """Run one of our commands the way a user would, and show it."""
    print(f"\n$ llamafile-mgr {' '.join(arguments)}", flush=True)
    subprocess.run([sys.executable, "-m", "llamafile_mgr", *arguments], check=True)


def start_service(model: Path, port: int) -> tuple[subprocess.Popen[str], str]:
    """Start ``serve`` and return it with its URL once it is ready."""
    shown = os.path.relpath(model)
    print(f"\n$ llamafile-mgr serve --embed {shown} --port {port}", flush=True)
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "llamafile_mgr",
            "serve",
            "--embed",
            str(model),
            "--port",
            str(port),
            "--json",
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        event = json.loads(line)
        if event["event"] == "ready":
            return process, event["url"]
    raise SystemExit(process.wait() or 1)


def rank(url: str) -> list[tuple[float, int]]:
    """Return (cosine, passage number), best first, through the OpenAI route of the proxy."""
    body = {"input": [QUESTION, *PASSAGES]}
    # A web proxy of the environment cannot reach our loopback address.
    reply = httpx.post(f"{url}/v1/embeddings", json=body, timeout=60, trust_env=False)
    reply.raise_for_status()
    vectors = np.array([item["embedding"] for item in reply.json()["data"]])
    return sorted(((float(vectors[0] @ vectors[1 + n]), n) for n in range(len(PASSAGES))), reverse=True)


def main() -> int:
    """Run the demonstration and return an exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--once", action="store_true", help="end after the ranking")
    parser.add_argument("--port", type=int, default=8080, help="where the proxy listens (0: any)")
    options = parser.parse_args()
    os.environ["LLAMAFILE_MGR_HOME"] = str(HOME)
    packed = HOME / f"{MODEL}.llamafile"

    run("pull", MODEL)
    run("pack", "--runtime", "embedded", "--weights", MODEL, "-o", str(packed), "--force")
    process, url = start_service(packed, options.port)
    try:
        ranking = rank(url)
        print(f"\nquestion: {QUESTION}")
        for cosine, number in ranking:
            print(f"  {cosine:6.3f}  {PASSAGES[number]}")
        print(
            f"\nendpoint: {url}/v1/embeddings\n"
            f'  curl {url}/v1/embeddings -d \'{{"input": "hello world"}}\'\n'
            f'  OpenAI(base_url="{url}/v1", api_key="none")  ·  LlamafileEmbeddings(base_url="{url}")'
        )
        if ranking[0][1] != ANSWER:
            print("the wrong passage came first", file=sys.stderr)
            return 1
        if not options.once:
            print("\nserving until Ctrl-C", flush=True)
            process.wait()
    except KeyboardInterrupt:
        pass
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        process.wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
