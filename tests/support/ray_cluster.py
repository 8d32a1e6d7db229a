"""A Ray cluster of several node processes on this machine; run as a program, it is told what to do by lines.

``add HOME [NAME=VALUE...]``: another node, whose programs have this home. ``kill N``: end
the Nth node (from 0) without a farewell. Every line is answered by one, the first is the cluster's address.
Its argument: how many processors a node says it has.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent
#: Small, since the store of objects is taken from shared memory at once.
OBJECT_BYTES = 100_000_000


class RayNodes:
    """The program seen from outside."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.address = self._answer()

    def add(self, home: Path, **variables: str) -> None:
        """Add a node and wait until the cluster has it."""
        self._tell(f"add {home} " + " ".join(f"{name}={value}" for name, value in variables.items()))

    def kill(self, number: int) -> None:
        """End a node."""
        self._tell(f"kill {number}")

    def _tell(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        assert self._answer() == "done"

    def _answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


@contextlib.contextmanager
def ray_nodes(cpus: int = 1) -> Iterator[RayNodes]:
    """Run a cluster whose head computes nothing while inside; so many processors are said to be a node's."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0"}
    # Else Ray's workers yield to whatever else runs on this machine, and a comparison would measure that.
    environment["RAY_worker_niceness"] = "0"
    argv = [sys.executable, "-m", "tests.support.ray_cluster", str(cpus)]
    with subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True, cwd=ROOT
    ) as process:
        try:
            yield RayNodes(process)
        finally:
            process.communicate()


def main() -> None:
    """Serve the lines of standard input; its end ends the cluster."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what Ray prints is no answer
    from ray.cluster_utils import Cluster

    sizes: dict[str, Any] = {"object_store_memory": OBJECT_BYTES, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **sizes})
    nodes = []
    print(cluster.address, file=answers)
    for line in sys.stdin:
        command, first, *rest = line.split()
        if command == "add":
            variables = {"LLAMAFILE_MGR_HOME": first, **dict(each.split("=", 1) for each in rest)}
            nodes.append(cluster.add_node(num_cpus=int(sys.argv[1]), env_vars=variables, **sizes))
        else:
            cluster.remove_node(nodes[int(first)], allow_graceful=False)
        print("done", file=answers)
    cluster.shutdown()


if __name__ == "__main__":
    main()
