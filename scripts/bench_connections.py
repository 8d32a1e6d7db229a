"""Hold idle connections and streams at once before a fake engine, and print the proxy's memory."""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from pathlib import Path

from tests.support.connections import Measured, hold_connections, pack_streamer
from tests.support.models import write_tiny_generator
from tests.support.service import running_service


def show(measured: Measured, idle: int, streams: int, seconds: float) -> bool:
    """Print what was measured; tells whether everything held."""

    def mib(count: int) -> str:
        return f"{count / (1 << 20):7.1f} MiB"

    each = (measured.idle - measured.start) / max(1, idle)
    print(f"memory after {streams} streams at once   {mib(measured.start)}")
    print(f"with {idle} idle connections beside  {mib(measured.idle)}  ({each / 1024:.1f} KiB each)")
    for number, height in enumerate(measured.rounds, 1):
        print(f"round {number}: {streams} streams beside them   {mib(height)}")
    print(f"all closed                        {mib(measured.end)}")
    descriptors = (measured.descriptors_start, measured.descriptors_idle, measured.descriptors_end)
    print("descriptors", " -> ".join(map(str, descriptors)))
    print(f"idle connections that answered at the end: {measured.answered} of {idle}")
    print(f"streams that came whole: {measured.streams} of {streams * len(measured.rounds)}")
    print(f"{seconds:.0f} seconds")
    return measured.answered == idle and measured.streams == streams * len(measured.rounds)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--idle", type=int, default=2000)
    parser.add_argument("--streams", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        packed = pack_streamer(write_tiny_generator(home / "g.gguf"), home / "streamer.llamafile")
        (home / "config.toml").write_text(f"[models.streamer]\nslots = {options.streams}\n")
        with running_service(home, "--generate", str(packed)) as service:
            began = time.monotonic()
            work = hold_connections(
                service, idle=options.idle, streams=options.streams, rounds=options.rounds
            )
            measured = asyncio.run(work)
            held = show(measured, options.idle, options.streams, time.monotonic() - began)
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
