"""The way down: what to try instead when an engine dies of something that other settings avoid. Pure.

GPU out of memory: fewer layers, then a shorter context, then the processor. An unknown flag: without it.
Every step taken is said in ``status``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from llamafile_mgr.catalog import Role
from llamafile_mgr.engines.launch_settings import LaunchSettings
from llamafile_mgr.supervisor.diagnosis import Diagnosis, Kind

_SHORTEST_CONTEXT = 1024
#: Without these an engine would serve the wrong thing, or everybody.
_ESSENTIAL = frozenset(
    {"--server", "--host", "--port", "-l", "-m", "--embedding", "--pooling", "--rerank", "--api-key-file"}
)


@dataclass(frozen=True, slots=True)
class Degradation:
    """Settings to try next; ``dropped``: a flag to leave out; ``text``: what ``status`` says of it."""

    settings: LaunchSettings
    text: str
    dropped: str | None = None


def degrade(settings: LaunchSettings, diagnosis: Diagnosis, dropped: Sequence[str]) -> Degradation | None:
    """Return the next step for this cause of death, None when there is none."""
    if diagnosis.kind is Kind.UNKNOWN_FLAG:
        flag = diagnosis.subject
        if flag is None or flag in _ESSENTIAL or flag in dropped or flag in settings.asked:
            return None
        return Degradation(settings, f"started without {flag}, which this engine does not know", flag)
    if diagnosis.kind is Kind.OUT_OF_MEMORY:
        return _need_less(settings)
    return None


def _need_less(settings: LaunchSettings) -> Degradation | None:
    on_gpu = settings.gpu not in (None, "disable")
    layers = settings.gpu_layers
    if on_gpu and layers is not None and layers > 1:
        fewer = 16 if layers > 64 else layers // 2
        return Degradation(
            replace(settings, gpu_layers=fewer), f"{fewer} layers on the GPU: its memory was not enough"
        )
    if settings.role is Role.GENERATE and settings.context > _SHORTEST_CONTEXT:
        half = max(_SHORTEST_CONTEXT, settings.context // 2)
        return Degradation(
            replace(settings, context=half), f"context cut to {half} tokens: memory was not enough"
        )
    if on_gpu and not settings.gpu_required:
        return Degradation(
            replace(settings, gpu="disable", gpu_layers=None),
            "on the processor: the GPU's memory was not enough",
        )
    if settings.slots > 1:
        return Degradation(replace(settings, slots=1), "one slot: memory was not enough")
    return None
