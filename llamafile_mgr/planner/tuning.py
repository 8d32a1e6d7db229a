"""Tuning, the pure part: what to try, and which measurement is worth a change."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["TunedSettings"]


@dataclass(frozen=True, slots=True)
class TunedSettings:
    """Settings that were the fastest on this machine. ``gain``: times the default plan's speed."""

    threads: int
    replicas: int
    slots: int
    batch: int | None
    flash_attention: bool | None
    gain: float

    def describe(self) -> str:
        """Return the reason that plans print."""
        return f"measured on this machine by tune: {self.gain:.2f} times the speed of the default plan"
