"""What to do after a failure. Pure: chance and counts come in as values."""

from __future__ import annotations

import email.utils
from dataclasses import dataclass
from datetime import UTC, datetime

_LONGEST_SECONDS = 30.0
#: A server that asks for a longer pause gets a clear message instead of a silent program.
_LONGEST_PAUSE_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """``retries``: failures in a row before giving up. ``first_seconds``: the first wait's upper bound."""

    retries: int
    first_seconds: float


def next_wait(
    policy: RetryPolicy, failures: int, chance: float, retry_after: float | None = None
) -> float | None:
    """Return the seconds to wait after the ``failures``-th failure in a row, None to give up.

    Exponential with full jitter (``chance`` is uniform in [0, 1)); ``retry_after`` is the least.
    """
    if failures > policy.retries or (retry_after or 0.0) > _LONGEST_PAUSE_SECONDS:
        return None
    bound = min(_LONGEST_SECONDS, policy.first_seconds * 2.0 ** min(failures - 1, 16))
    return max(chance * bound, retry_after or 0.0)


def parse_retry_after(value: str | None, now: datetime) -> float | None:
    """Return the seconds that a ``Retry-After`` header asks for, as a number or a date."""
    if value is None:
        return None
    text = value.strip()
    if text.isascii() and text.isdecimal():
        return float(text)
    try:
        when = email.utils.parsedate_to_datetime(text)
    except ValueError:
        return None
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    return max(0.0, (when - now).total_seconds())
