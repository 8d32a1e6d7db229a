"""Reads the captured texts beside it; ``captures/SOURCES.md`` says where each comes from."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent / "captures"


def capture(name: str) -> str:
    """Return one captured text."""
    return (FOLDER / name).read_text(encoding="utf-8")


def topology(name: str) -> tuple[dict[int, str], dict[int, str], str | None]:
    """Return siblings, capacities and the list of efficiency CPUs of a ``*.topology.txt``."""
    siblings: dict[int, str] = {}
    capacities: dict[int, str] = {}
    efficiency = None
    for line in capture(f"{name}.topology.txt").splitlines():
        path, _, value = line.partition(": ")
        if path == "efficiency":
            efficiency = value
            continue
        cpu, _, file = path.removeprefix("cpu").partition("/")
        (capacities if file == "cpu_capacity" else siblings)[int(cpu)] = value
    return siblings, capacities, efficiency
