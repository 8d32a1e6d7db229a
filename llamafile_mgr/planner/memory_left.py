"""What is left of main memory while models are planned one after the other. Pure; sizes are bytes."""

from __future__ import annotations

from dataclasses import dataclass, replace

from llamafile_mgr.machine import Machine
from llamafile_mgr.planner.memory import format_size

__all__ = ["HostRoom"]

_MIB = 1 << 20
#: Kept for this program (about 100 MiB with its proxy) and for what others ask meanwhile.
_RESERVE_NOW = 256 * _MIB
#: Of the whole machine an eighth is left to the system; a cgroup's limit is ours but for the reserve.
_SYSTEM_PART = 8


@dataclass(frozen=True, slots=True)
class HostRoom:
    """Main memory: ``now`` can be taken at once, ``ever`` if other programs made room; None is unknown.

    ``size``: of the machine, or of the cgroup where that is less. ``taken``: who took how much.
    """

    now: int | None
    ever: int | None
    size: int | None
    taken: tuple[str, ...] = ()

    @classmethod
    def of(cls, machine: Machine) -> HostRoom:
        """Return the room before any model is planned."""
        memory = machine.memory
        size, usable = memory.ceiling, memory.usable
        ever = None
        if size is not None:
            rooms = [size - _RESERVE_NOW]
            if memory.total is not None:
                rooms.append(memory.total - memory.total // _SYSTEM_PART)
            ever = max(0, min(rooms))
        now = usable if usable is not None else ever
        if usable is not None:
            now = max(0, usable - _RESERVE_NOW)
            now = now if ever is None else min(now, ever)
        return cls(now, ever, size)

    def has_now(self, needed: int) -> bool:
        """Tell whether so much can be taken at once."""
        return self.now is None or needed <= self.now

    def has_ever(self, needed: int) -> bool:
        """Tell whether so much could be taken with every other program gone."""
        return self.ever is None or needed <= self.ever

    def take(self, name: str, amount: int) -> HostRoom:
        """Return what is left after a model took ``amount``."""
        return replace(
            self,
            now=None if self.now is None else max(0, self.now - amount),
            ever=None if self.ever is None else max(0, self.ever - amount),
            taken=(*self.taken, f"{name} ({format_size(amount)})"),
        )

    def describe_now(self) -> str:
        """Return what is free now, in words."""
        return f"{format_size(self.now or 0)} are free now"

    def describe_ever(self) -> str:
        """Return what the machine has, in words."""
        left = format_size(self.ever or 0)
        return f"{left} are left of this machine's {format_size(self.size or 0)}, the system's part aside"
