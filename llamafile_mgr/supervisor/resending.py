"""The one rule for sending again what an engine was lost with. Pure.

An engine that somebody ended, or that was dead before it could see the request, costs the call nothing. What
an engine died *of* may be any item that it had: each is a suspect, is tried again alone, and is blamed when
a second engine dies while it has nothing else.
"""

from __future__ import annotations

from enum import Enum

#: Engines that one item may cost.
_MOST_DEATHS = 2


class EngineLoss(Enum):
    """How an engine was lost. ``INNOCENT``: it was ended by somebody, or never saw the request. ``DEATH``: it
    died, or hung, while it had the request."""

    INNOCENT = "innocent"
    DEATH = "death"


class Resend(Enum):
    """What becomes of an item. ``AGAIN``: it is sent again as if nothing had been. ``ALONE``: it is a
    suspect. ``BLAMED``: engines die of it."""

    AGAIN = "again"
    ALONE = "alone"
    BLAMED = "blamed"


def judge_loss(loss: EngineLoss, deaths: int, *, alone: bool) -> Resend:
    """Return what becomes of an item. ``deaths``: engines that have died with it, this one included if it
    did. ``alone``: this one had nothing else."""
    if loss is EngineLoss.INNOCENT:
        return Resend.ALONE if deaths else Resend.AGAIN
    return Resend.BLAMED if alone and deaths >= _MOST_DEATHS else Resend.ALONE
