"""The check of engines that run: are they where their plans put them?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from llamafile_mgr.machine.findings import Check, passed, warned


def check_running(models: Iterable[Mapping[str, Any]]) -> tuple[Check, ...]:
    """Judge the engines of a running serve, as its status tells of them; nothing where none is ready."""
    engines = [engine for model in models for engine in model["engines"] if engine["actual"]]
    differs = [f"{engine['name']}: {text}" for engine in engines for text in engine["deviations"]]
    if differs:
        return tuple(
            warned(
                "engines",
                text,
                "it runs otherwise than `plan` says, and may be far slower or take other memory",
                "llamafile-mgr restart MODEL once the cause is mended; require_gpu = true makes it a failure",
            )
            for text in differs
        )
    if not engines:
        return ()
    where = sorted({engine["actual"]["device"] or "a device that they do not tell" for engine in engines})
    return (passed("engines", f"{len(engines)} running as planned, on {' and '.join(where)}"),)
