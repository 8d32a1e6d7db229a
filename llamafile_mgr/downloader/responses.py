"""What an answer to a range request is worth, from its status and headers alone. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from llamafile_mgr.downloader.retrying import parse_retry_after
from llamafile_mgr.store import Range

_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)", re.IGNORECASE)


class RangeOutcome(StrEnum):
    """What to do with an answer.

    ``PART``: take the body as the range asked for. ``WHOLE``: the server ignores ranges; the body is
    the file from its first byte. ``BUSY``: ask for less, later. ``RETRY``: ask again. ``EXPIRED``: the
    address is no longer good, resolve it again. ``CHANGED``: the file is another one now. ``BROKEN``:
    the answer contradicts itself. ``REFUSED``: asking again will not help.
    """

    PART = "part"
    WHOLE = "whole"
    BUSY = "busy"
    RETRY = "retry"
    EXPIRED = "expired"
    CHANGED = "changed"
    BROKEN = "broken"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class RangeVerdict:
    """``detail`` says why, for people; ``retry_after`` is what the server asked for, in seconds;
    ``length`` is how many bytes of the range the server sends."""

    outcome: RangeOutcome
    detail: str = ""
    retry_after: float | None = None
    length: int | None = None


@dataclass(frozen=True, slots=True)
class ContentRange:
    """A ``Content-Range`` header, half open; ``size`` is None for ``*``."""

    start: int
    end: int
    size: int | None


def parse_content_range(value: str | None) -> ContentRange | None:
    """Read a ``Content-Range`` header; None when it is absent or makes no sense."""
    match = _CONTENT_RANGE.fullmatch(value.strip()) if value else None
    if match is None:
        return None
    start, last = int(match[1]), int(match[2])
    size = None if match[3] == "*" else int(match[3])
    if last < start or (size is not None and last >= size):
        return None
    return ContentRange(start, last + 1, size)


def validator_of(headers: Mapping[str, str]) -> str | None:
    """Return what tells this version of the file from another: the ETag, else Last-Modified."""
    return headers.get("etag") or headers.get("last-modified")


def judge(
    asked: Range | None,
    size: int | None,
    validator: str | None,
    status: int,
    headers: Mapping[str, str],
    now: datetime,
    *,
    redirected: bool,
) -> RangeVerdict:
    """Weigh an answer. ``asked``: None for the whole file. ``redirected``: the address came from a hub.

    ``headers`` has lower-case keys.
    """
    if status in (200, 206):
        return _judge_body(asked, size, validator, status, headers)
    pause = parse_retry_after(headers.get("retry-after"), now)
    detail = f"the server answered {status}"
    if status == 429 or (status == 503 and pause is not None):
        return RangeVerdict(RangeOutcome.BUSY, detail, pause)
    if status in (408, 425) or status >= 500:
        return RangeVerdict(RangeOutcome.RETRY, detail, pause)
    if status == 416:
        return RangeVerdict(RangeOutcome.CHANGED, "the server has fewer bytes than it promised")
    if status == 412:
        return RangeVerdict(RangeOutcome.CHANGED, detail)
    if 300 <= status < 400 or (redirected and status in (400, 401, 403, 404, 410)):
        return RangeVerdict(RangeOutcome.EXPIRED, detail)
    return RangeVerdict(RangeOutcome.REFUSED, detail)


def _judge_body(
    asked: Range | None, size: int | None, validator: str | None, status: int, headers: Mapping[str, str]
) -> RangeVerdict:
    encoding = headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        return RangeVerdict(
            RangeOutcome.BROKEN, f"the server sent the file {encoding}-encoded although asked not to"
        )
    now_has = validator_of(headers)
    if validator is not None and now_has is not None and now_has != validator:
        return RangeVerdict(RangeOutcome.CHANGED, f"its version is {now_has}, not {validator}")
    length = _number(headers.get("content-length"))
    if status == 200:
        if size is not None and length is not None and length != size:
            return RangeVerdict(RangeOutcome.CHANGED, f"it has {length:,} bytes, not {size:,}")
        if asked is None or asked[0] == 0:
            return RangeVerdict(RangeOutcome.WHOLE, "the server sends the whole file")
        return RangeVerdict(RangeOutcome.WHOLE, "the server ignores ranges")
    found = parse_content_range(headers.get("content-range"))
    if asked is None:
        return RangeVerdict(RangeOutcome.BROKEN, "a part although the whole was asked for")
    if found is None:
        return RangeVerdict(RangeOutcome.BROKEN, f"a part with the range {headers.get('content-range')!r}")
    if size is not None and found.size is not None and found.size != size:
        return RangeVerdict(RangeOutcome.CHANGED, f"it has {found.size:,} bytes, not {size:,}")
    if found.start != asked[0] or found.end > asked[1]:
        return RangeVerdict(
            RangeOutcome.BROKEN,
            f"bytes {found.start}-{found.end - 1} instead of {asked[0]}-{asked[1] - 1}",
        )
    if length is not None and length != found.end - found.start:
        return RangeVerdict(
            RangeOutcome.BROKEN, f"{length:,} bytes announced for a range of {found.end - found.start:,}"
        )
    # A server may send less than the range asked for; the rest is asked for again.
    return RangeVerdict(RangeOutcome.PART, length=found.end - found.start)


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.strip().isdecimal() else None
