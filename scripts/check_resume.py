"""The measurement behind scripts/check-resume: ``embed`` is ended at random moments until it is done.

One job is never interrupted. Another, over the same texts, is ended as often as asked, at random moments and
by SIGINT, SIGTERM and SIGKILL in turn, and started again each time. Their outputs must be the same bytes.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from bench_servers import MODEL, ROOT, run_ours

from llamafile_mgr.benchmarking.texts import read_docstrings

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)


def write_corpus(path: Path, count: int) -> None:
    """Write docstrings of the standard library with ids."""
    texts = read_docstrings(count)
    if len(texts) < count:
        raise SystemExit(f"the standard library has only {len(texts)} docstrings")
    with path.open("w", encoding="utf-8") as stream:
        for number, text in enumerate(texts):
            stream.write(json.dumps({"id": f"doc{number}", "text": text}) + "\n")


def run_job(command: list[str], environment: dict[str, str], end_after: float | None, number: int) -> int:
    """Run ``embed``, end it after so many seconds unless it is done, and return its exit code."""
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    try:
        return process.wait(end_after)
    except subprocess.TimeoutExpired:
        process.send_signal(number)
        return process.wait(60)


def main() -> int:
    """Run the check; the exit code says whether the outputs are the same."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--texts", type=int, default=5000)
    parser.add_argument("--interruptions", type=int, default=10)
    parser.add_argument("--form", choices=["jsonl", "npy", "parquet"], default="jsonl")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--home", type=Path, default=ROOT / "build" / "bench-home")
    options = parser.parse_args()
    home = options.home.absolute()
    run_ours(home, "pull", MODEL)
    folder = home / "resume"
    folder.mkdir(parents=True, exist_ok=True)
    corpus = folder / "corpus.jsonl"
    write_corpus(corpus, options.texts)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "LLAMAFILE_MGR_HOME": str(home)}
    embed = [sys.executable, "-m", "llamafile_mgr", "embed", "--own", "--model", MODEL, str(corpus)]
    whole, cut = folder / f"whole.{options.form}", folder / f"cut.{options.form}"

    began = time.monotonic()
    command = [*embed, "--overwrite", "--restart", "-o"]
    if run_job([*command, str(whole)], environment, None, 0):
        raise SystemExit("the uninterrupted job failed")
    seconds = time.monotonic() - began
    print(f"uninterrupted: {options.texts} texts in {seconds:.0f} s, {options.texts / seconds:.1f} texts/s")

    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(10**6)
    choose = random.Random(seed)
    moments = sorted(choose.uniform(0, seconds) for _ in range(options.interruptions))
    began, ended, before = time.monotonic(), 0, 0.0
    cut.unlink(missing_ok=True)
    for count, moment in enumerate(moments):
        number = SIGNALS[count % len(SIGNALS)]
        # A start costs seconds in which nothing is computed: they are given on top.
        code = run_job([*embed, "-o", str(cut)], environment, 2.0 + moment - before, number)
        before = moment
        print(f"  ended at {moment:.0f} s by {number.name}: exit code {code}")
        if code == 0:
            break
        ended += 1
    code = 0 if cut.exists() else run_job([*embed, "-o", str(cut)], environment, None, 0)
    total = time.monotonic() - began
    same = code == 0 and all(
        path.read_bytes() == whole.with_name(path.name.replace("cut", "whole", 1)).read_bytes()
        for path in folder.glob("cut.*")
        if path.is_file()
    )
    print(f"interrupted {ended} times (seed {seed}): {total:.0f} s, exit code {code}")
    print("the outputs are the same bytes" if same else "THE OUTPUTS DIFFER")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
