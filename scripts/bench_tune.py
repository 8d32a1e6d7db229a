"""The comparison behind scripts/bench-tune: default plan against tuned plan, interleaved, medians.

A round measures every plan once, in an order that turns by one each round, so that a busy moment of the
machine hits all alike. The first round warms up and does not count.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from llamafile_mgr.benchmarking.tune_runs import running_variant
from llamafile_mgr.config import Config
from llamafile_mgr.launching.local_plans import make_plans
from llamafile_mgr.launching.tunables import find_tunable
from llamafile_mgr.launching.wanted import Wanted, WantedModels
from llamafile_mgr.paths import resolve_paths
from llamafile_mgr.planner.tuning import Variant, variant_of

ROOT = Path(__file__).parent.parent
MODEL = "all-minilm-l6-v2"
TURN_SECONDS = 2.0


def main() -> int:
    """Tune, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--budget", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--home", type=Path, default=ROOT / ".quickstart")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    os.environ["LLAMAFILE_MGR_HOME"] = str(options.home.absolute())
    program = [sys.executable, "-m", "llamafile_mgr"]
    subprocess.run([*program, "pull", MODEL], check=True, stdout=sys.stderr)
    started = time.monotonic()
    subprocess.run([*program, "tune", MODEL, "--budget", str(options.budget)], check=True, stdout=sys.stderr)
    tune_seconds = time.monotonic() - started
    speeds, variants = asyncio.run(measure(options.rounds))
    report(speeds, variants, tune_seconds, as_json=options.json)
    return 0


async def measure(rounds: int) -> tuple[dict[str, list[float]], dict[str, Variant]]:
    """Return the speed of every plan in every round, in texts a second."""
    paths = resolve_paths()
    tunable = find_tunable(MODEL, Config(), paths)
    (tuned,) = make_plans(WantedModels((Wanted(MODEL),)), Config(), paths)
    default = variant_of(tunable.plan)
    cores = tunable.machine.cpu.usable_cores
    variants = {
        "default": default,
        "tuned": variant_of(tuned),
        "one engine": replace(default, replicas=1, threads=cores),
    }
    own = replace(paths, state=paths.state / "bench", runtime=paths.runtime / f"bench-{os.getpid()}")
    speeds: dict[str, list[float]] = {name: [] for name in variants}
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(shutil.rmtree, own.runtime, ignore_errors=True)
        runners = {
            name: await stack.enter_async_context(
                running_variant(tunable.plan, variant, own, f"{name.replace(' ', '-')}-")
            )
            for name, variant in variants.items()
        }
        began = time.monotonic()
        await runners["default"].measure(4)
        units = max(4, round(TURN_SECONDS * 4 / (time.monotonic() - began)))
        order = list(variants)
        for _ in range(rounds + 1):
            for name in order:
                speeds[name].append(await runners[name].measure(units))
            order.append(order.pop(0))
    return {name: values[1:] for name, values in speeds.items()}, variants


def report(
    speeds: dict[str, list[float]], variants: dict[str, Variant], tune_seconds: float, *, as_json: bool
) -> None:
    """Print medians and ratios to the default plan, with how far the ratios scatter."""
    rows: list[dict[str, Any]] = []
    for name, values in speeds.items():
        ratios = sorted(value / base for value, base in zip(values, speeds["default"], strict=True))
        rows.append(
            {
                "plan": name,
                "settings": asdict(variants[name]),
                "texts_per_second": round(statistics.median(values), 2),
                "ratio": round(statistics.median(ratios), 3),
                "ratio_range": [round(ratios[len(ratios) // 4], 3), round(ratios[-1 - len(ratios) // 4], 3)],
            }
        )
    if as_json:
        print(json.dumps({"tune_seconds": round(tune_seconds, 1), "load": os.getloadavg(), "plans": rows}))
        return
    print(f"tune took {tune_seconds:.0f} s; load average now {os.getloadavg()[0]:.1f}")
    for row in rows:
        low, high = row["ratio_range"]
        print(
            f"{row['plan']:<11} {row['texts_per_second']:>8} texts/s  {row['ratio']:.3f} x the default"
            f" (middle half {low} to {high})  {variants[row['plan']].describe()}"
        )
    same = variants["tuned"] == variants["default"]
    print("the tuned plan is the default plan" if same else "the tuned plan differs from the default")


if __name__ == "__main__":
    sys.exit(main())
