"""The measurement behind scripts/bench-ray, on a Ray cluster of node processes of this machine.

Overhead: the same texts through ``embed --own`` and through one node, in turn, several times; the median of
each. Equality: one process, against two nodes of which one is killed midway, by a driver that was killed
before. Every row must be there once, and its vector have a cosine of 0.9999 and more with the other's.

Scaling (--scale): 1, 2 and 4 nodes whose engine takes a fixed time for a text, so that cores do not matter,
against what ``bench --scale`` would predict. Counted from the first node's readiness.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(1, str(Path(__file__).parent.parent))

from bench_servers import MODEL, ROOT, run_ours

from llamafile_mgr.bulk import BulkJob, JobProgress, TextInput
from llamafile_mgr.bulk.ray import RayCluster, run_on_ray
from llamafile_mgr.bulk.scaling import ScaleRates, predict
from tests.support.fixed_source import fixed_source
from tests.support.ray_cluster import ray_nodes

COSINE = 0.9999
#: So long that nodes which share one core still keep it.
TEXT_SECONDS = 0.01
WORDS = ["quick", "brown", "fox", "jumps", "over", "lazy", "dog", "while", "it", "rains", "in", "spain"]


def write_corpus(path: Path, count: int) -> Path:
    """Write short texts, each another one, with ids."""
    choose = random.Random(11)
    with path.open("w", encoding="utf-8") as stream:
        for number in range(count):
            text = f"{number} " + " ".join(choose.choices(WORDS, k=choose.randint(2, 6)))
            stream.write(json.dumps({"id": f"doc{number}", "text": text}) + "\n")
    return path


class Jobs:
    """Runs ``embed`` over one corpus."""

    def __init__(self, corpus: Path, home: Path) -> None:
        self._argv = [
            sys.executable,
            "-m",
            "llamafile_mgr",
            "embed",
            "--model",
            MODEL,
            str(corpus),
            "--quiet",
        ]
        self._environment = {**os.environ, "PYTHONPATH": str(ROOT), "LLAMAFILE_MGR_HOME": str(home)}

    def start(self, output: Path, *arguments: str) -> subprocess.Popen[bytes]:
        """Start a job, or go on with it."""
        return subprocess.Popen([*self._argv, "-o", str(output), *arguments], env=self._environment)

    def run(self, output: Path, *arguments: str) -> float:
        """Run a job anew and return its seconds."""
        began = time.monotonic()
        with self.start(output, "--overwrite", "--restart", *arguments) as job:
            pass
        if job.returncode:
            raise SystemExit(f"a job failed with {job.returncode}")
        return time.monotonic() - began


def await_parts(job: subprocess.Popen[bytes], output: Path, count: int) -> int:
    """Wait until so many fragments are finished, and return how many are."""
    folder = output.with_name(f"{output.name}.parts")
    while (found := len(list(folder.rglob("*.part")))) < count:
        if job.poll() is not None:
            raise SystemExit(f"a job ended too soon, with {job.returncode}")
        time.sleep(0.1)
    return found


def same(output: Path, whole: Path) -> tuple[float, bool]:
    """Return the least cosine of two outputs' rows, and whether they are the same bytes."""
    if output.with_suffix(".ids.jsonl").read_bytes() != whole.with_suffix(".ids.jsonl").read_bytes():
        raise SystemExit("ROWS WERE LOST OR DOUBLED")
    one, other = np.load(output), np.load(whole)
    return float(np.min(np.sum(one * other, axis=1))), output.read_bytes() == whole.read_bytes()


def measure_scaling(folder: Path, texts: int) -> bool:
    """Print what 1, 2 and 4 nodes take and what was predicted; tell whether that is within 15 %."""
    source = TextInput(write_corpus(folder / "scale.jsonl", texts))
    rates = ScaleRates(1 / TEXT_SECONDS, 1e9, 1e9, 1e9, 0.0, 64, 32, 4)
    good = True
    with ray_nodes() as cluster:
        for have, nodes in ((0, 1), (1, 2), (2, 4)):
            for _ in range(nodes - have):
                cluster.add(folder)
            job = BulkJob(source, folder / "scale.npy", fragment=rates.fragment, overwrite=True, restart=True)
            ready: list[float] = []
            connect = functools.partial(fixed_source, TEXT_SECONDS)
            where = RayCluster(cluster.address)
            asyncio.run(run_on_ray(job, where, connect, observe=functools.partial(_note_time, ready)))
            took = (ready[-1] - ready[0]) * texts / (texts - rates.fragment)
            predicted = predict(rates, texts, nodes).seconds
            good = good and abs(took / predicted - 1) <= 0.15
            print(
                f"{nodes} nodes: {took:.1f} s, predicted {predicted:.1f} s, {took / predicted:.2f}",
                flush=True,
            )
    return good


def _note_time(times: list[float], progress: JobProgress) -> None:
    if progress.done:
        times.append(time.monotonic())


def main() -> int:
    """Run all of it; the exit code says whether everything is as it should be."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--texts", type=int, default=20_000)
    parser.add_argument("--overhead-texts", type=int, default=8000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--home", type=Path, default=ROOT / "build" / "bench-home")
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--scale", action="store_true", help="check the scaling model, nothing else")
    only.add_argument("--overhead", action="store_true", help="measure the overhead, nothing else")
    options = parser.parse_args()
    home = options.home.absolute()
    run_ours(home, "pull", MODEL)
    folder = home / "ray"
    folder.mkdir(parents=True, exist_ok=True)
    if options.scale:
        return 0 if measure_scaling(folder, options.overhead_texts) else 1
    few = Jobs(write_corpus(folder / "few.jsonl", options.overhead_texts), home)
    many = Jobs(write_corpus(folder / "many.jsonl", options.texts), home)
    whole, cut = folder / "whole.npy", folder / "cut.npy"
    with ray_nodes() as cluster:
        cluster.add(home)
        on_ray = f"--ray={cluster.address}"
        plain, shared = [], []
        for _ in range(options.rounds):
            plain.append(few.run(folder / "plain.npy", "--own"))
            shared.append(few.run(folder / "shared.npy", on_ray))
            print(f"plain {plain[-1]:.1f} s, one Ray node {shared[-1]:.1f} s", flush=True)
        overhead = statistics.median(shared) / statistics.median(plain) - 1
        print(f"overhead of Ray over {options.overhead_texts} texts: {100 * overhead:.1f} %, wanted <= 15 %")
        if options.overhead:
            return 0 if overhead <= 0.15 else 1
        cluster.add(home)
        cut.unlink(missing_ok=True)
        with many.start(cut, "--restart", on_ray) as driver:
            await_parts(driver, cut, options.texts // 128 // 4)
            driver.send_signal(signal.SIGKILL)
        with many.start(cut, on_ray) as driver:
            kept = await_parts(driver, cut, options.texts // 128 // 2)
            cluster.kill(0)
            print(f"driver killed, resumed; a node killed with {kept} fragments finished", flush=True)
        if driver.returncode:
            raise SystemExit(f"the resumed job failed with {driver.returncode}")
    print(f"one process: {many.run(whole, '--own'):.0f} s for {options.texts} texts", flush=True)
    cosine, equal = same(cut, whole)
    print(
        f"{options.texts} rows, each once; least cosine {cosine:.7f}, wanted >= {COSINE}; same bytes: {equal}"
    )
    return 0 if cosine >= COSINE and overhead <= 0.15 else 1


if __name__ == "__main__":
    sys.exit(main())
