"""Moving the bytes: several ranges at once into one part, until nothing is missing.

The loop in ``run`` is the only place that starts and ends connections; what to ask for, how many
connections there should be, what an answer is worth and how long to wait are decided elsewhere.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import httpx

from llamafile_mgr.config import DownloadConfig
from llamafile_mgr.downloader.client import HubAccess, check_peer
from llamafile_mgr.downloader.hashing import TrailingHasher
from llamafile_mgr.downloader.pacing import JobControl, RateLimit, StallMeter
from llamafile_mgr.downloader.range_planning import SMALL_BYTES, RangePlanner, Segment, segment_bytes
from llamafile_mgr.downloader.resolving import (
    Resolution,
    certificate_error,
    describe_failure,
    relocated,
)
from llamafile_mgr.downloader.responses import RangeOutcome, RangeVerdict, judge
from llamafile_mgr.downloader.retrying import RetryPolicy, next_wait
from llamafile_mgr.errors import DownloadError, Error
from llamafile_mgr.store import BlockHashes, Part, Range
from llamafile_mgr.tasks import run_to_end

_FLUSH_BYTES = 1024 * 1024
_FLUSH_SECONDS = 0.1
_TICK_SECONDS = 0.1
_OBSERVE_SECONDS = 0.4
_CHECKPOINT_SECONDS = 1.0
#: So many bytes since the last failure make it the first of a new row.
_PROGRESS_BYTES = 64 * 1024
_MOST_MOVES = 100


class _RangesIgnoredError(Exception):
    """The server sends the whole file whatever is asked for."""


@dataclass(eq=False)
class Transfer:
    """One file on its way. ``run`` may be cancelled at any time: the part stays good for a resume.

    ``resolution``: where the bytes come from now. ``transferred``: bytes that came.
    """

    _client: httpx.AsyncClient
    _config: DownloadConfig
    _access: HubAccess
    resolution: Resolution
    _part: Part
    resolve_again: Callable[[], Awaitable[Resolution]]
    advanced: Callable[[int, int], None]
    retrying: Callable[[str, float], None]
    noticed: Callable[[str], None]
    transferred: int = 0
    _moves: int = 0
    _moving: asyncio.Lock = field(default_factory=asyncio.Lock)
    _running: set[asyncio.Task[None]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._policy = RetryPolicy(self._config.retries, self._config.retry_seconds)
        self._limit = RateLimit(self._config.limit_rate, time.monotonic())
        small = self.resolution.size is not None and self.resolution.size <= SMALL_BYTES
        self._jobs = JobControl(self._config.jobs or (1 if small else 0))
        self._hasher = TrailingHasher(self._part.data)

    async def run(self) -> BlockHashes:
        """Fetch what is missing and return the hashes of the whole.

        Raises:
            DownloadError: given up; what has arrived is kept.
            DiskFullError: no room; what has arrived is kept.
        """
        try:
            if self.resolution.ranges and self.resolution.size is not None:
                try:
                    await self._run_ranges(self.resolution.size)
                except _RangesIgnoredError:
                    self.noticed("the server ignores ranges: the file comes in one stream from its start")
                    await self._run_whole()
            else:
                await self._run_whole()
            size = self._part.info.size
            if size is None:
                raise DownloadError("the transfer ended without a size")
            syncing = asyncio.create_task(run_to_end(self._part.checkpoint))
            try:
                return await run_to_end(self._hasher.finish, size)
            finally:
                await asyncio.wait((syncing,))
                syncing.result()
        finally:
            await run_to_end(self._hasher.stop)

    # --- ranges ----------------------------------------------------------------------------------

    async def _run_ranges(self, size: int) -> None:
        self._hasher.advance(self._part.prefix)
        gaps = self._part.missing(size)
        planner = RangePlanner(gaps, segment_bytes(size))
        checkpoint: asyncio.Task[None] | None = None
        observed_at = synced_at = time.monotonic()
        observed = self.transferred
        try:
            while not planner.finished:
                self._fill(planner)
                await asyncio.wait(self._running, timeout=_TICK_SECONDS, return_when=asyncio.FIRST_COMPLETED)
                for task in [task for task in self._running if task.done()]:
                    self._running.discard(task)
                    task.result()
                now = time.monotonic()
                if now - observed_at >= _OBSERVE_SECONDS:
                    rate = (self.transferred - observed) / (now - observed_at)
                    self._jobs.observe(rate, saturated=len(self._running) >= self._jobs.target)
                    observed_at, observed = now, self.transferred
                if now - synced_at >= _CHECKPOINT_SECONDS and (checkpoint is None or checkpoint.done()):
                    if checkpoint is not None:
                        checkpoint.result()
                    checkpoint = asyncio.create_task(run_to_end(self._part.checkpoint))
                    synced_at = now
                self.advanced(self._part.have, len(self._running))
        finally:
            await self._end_all(checkpoint)
        self.advanced(self._part.have, 0)

    def _fill(self, planner: RangePlanner) -> None:
        wanted = min(self._jobs.target - len(self._running), planner.waiting)
        for _ in range(wanted):
            self._running.add(asyncio.create_task(self._work(planner)))

    async def _end_all(self, checkpoint: asyncio.Task[None] | None) -> None:
        tasks = list(self._running)
        self._running.clear()
        for task in tasks:
            task.cancel()
        if checkpoint is not None:
            tasks.append(checkpoint)
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _work(self, planner: RangePlanner) -> None:
        """Fetch one piece after the other, until none waits or there are more of us than wanted."""
        failures, mark = 0, self._part.have
        while len(self._running) <= self._jobs.target:
            segment = planner.claim()
            if segment is None:
                return
            try:
                moves = self._moves
                verdict = await self._fetch(segment)
            finally:
                planner.release(segment)
            if verdict is None:
                continue
            if self._part.have - mark > _PROGRESS_BYTES:
                failures = 0
            mark = self._part.have
            failures += 1
            await self._recover(verdict, failures, moves)

    async def _fetch(self, segment: Segment) -> RangeVerdict | None:
        """Ask for a segment and write what comes; None when it is complete, else what went wrong."""
        asked = (segment.position, segment.end)
        resolution = self.resolution
        headers = {"Range": f"bytes={asked[0]}-{asked[1] - 1}", **self._access.headers(resolution.url)}
        if resolution.validator and resolution.validator.startswith('"'):
            headers["If-Range"] = resolution.validator
        try:
            async with self._client.stream("GET", resolution.url, headers=headers) as response:
                if resolution.redirected:
                    check_peer(response, resolution.named, resolution.url)
                verdict = self._judge(asked, response)
                if verdict.outcome is RangeOutcome.PART:
                    return await self._receive(response, segment, verdict.length or 0)
                if verdict.outcome is RangeOutcome.WHOLE:
                    raise _RangesIgnoredError
                return verdict
        except (httpx.HTTPError, OSError) as error:
            return _failed(resolution.url, error)

    def _judge(self, asked: Range | None, response: httpx.Response) -> RangeVerdict:
        return judge(
            asked,
            self.resolution.size,
            self.resolution.validator,
            response.status_code,
            response.headers,
            datetime.now(UTC),
            redirected=self.resolution.redirected,
        )

    async def _receive(self, response: httpx.Response, segment: Segment, length: int) -> RangeVerdict | None:
        """Write the body of a range answer, as it arrives, into the part."""
        end = segment.position + length
        meter = StallMeter(self._least_speed(), self._config.stall_seconds)
        pending: list[bytes] = []
        held = 0
        flushed_at = asked_at = time.monotonic()
        try:
            async for chunk in response.aiter_raw():
                now = time.monotonic()
                self.transferred += len(chunk)
                pending.append(chunk)
                held += len(chunk)
                surplus = held - segment.left
                if surplus > 0:
                    pending[-1] = chunk[: len(chunk) - surplus]
                    held -= surplus
                if held >= _FLUSH_BYTES or held == segment.left or now - flushed_at > _FLUSH_SECONDS:
                    batch, pending, held = pending, [], 0
                    await self._write(segment, batch)
                    flushed_at = time.monotonic()
                if surplus >= 0:
                    return None
                if meter.feed(now - asked_at, len(chunk)):
                    return RangeVerdict(RangeOutcome.RETRY, "the connection became too slow")
                pause = self._limit.delay(len(chunk), now)
                if pause > 0:
                    await asyncio.sleep(pause)
                asked_at = time.monotonic()
        finally:
            if pending:
                # Also on the way out of a failure or a cancellation: these bytes have been paid for.
                await self._write(segment, pending)
        if segment.position == end:
            return None
        return RangeVerdict(RangeOutcome.RETRY, "the server sent less than it announced")

    async def _write(self, segment: Segment, batch: list[bytes]) -> None:
        position = segment.position
        segment.position += sum(map(len, batch))
        try:
            await run_to_end(self._part.write, position, batch)
        except BaseException:
            segment.position = position
            raise
        self._hasher.advance(self._part.prefix)

    def _least_speed(self) -> int:
        """Return the speed below which a connection is stalled, no more than the user's limit allows."""
        if not self._config.limit_rate:
            return self._config.minimum_speed
        return min(self._config.minimum_speed, self._config.limit_rate // (4 * self._jobs.target))

    # --- one stream ------------------------------------------------------------------------------

    async def _run_whole(self) -> None:
        """Fetch the file in one stream from its start, as often as it takes."""
        failures, mark = 0, self._part.have
        while True:
            moves = self._moves
            # Bytes of an earlier attempt may stay only where something tells that they are the same.
            if self._part.have and not (self.resolution.validator or self.resolution.sha256):
                self.noticed("the server cannot resume: starting over")
                self._part.rebind(self._part.info, keep=False)
                await run_to_end(self._hasher.stop)
                self._hasher = TrailingHasher(self._part.data)
                mark = 0
            verdict = await self._fetch_whole()
            if verdict is None:
                return
            if self._part.have - mark > _PROGRESS_BYTES:
                failures = 0
            mark = self._part.have
            failures += 1
            await self._recover(verdict, failures, moves)

    async def _fetch_whole(self) -> RangeVerdict | None:
        resolution = self.resolution
        if resolution.size is not None and self._part.covers(0, resolution.size):
            return None
        try:
            headers = self._access.headers(resolution.url)
            async with self._client.stream("GET", resolution.url, headers=headers) as response:
                if resolution.redirected:
                    check_peer(response, resolution.named, resolution.url)
                verdict = self._judge(None, response)
                if verdict.outcome is not RangeOutcome.WHOLE:
                    return verdict
                framed = "content-length" in response.headers or "transfer-encoding" in response.headers
                if not framed and resolution.size is None and resolution.sha256 is None:
                    raise DownloadError(
                        "the server does not say how long the file is",
                        cause="a file that was cut could not be told from a complete one",
                        hint="fetch it from another server, or pin its sha256",
                    )
                return await self._receive_whole(response)
        except (httpx.HTTPError, OSError) as error:
            return _failed(resolution.url, error)

    async def _receive_whole(self, response: httpx.Response) -> RangeVerdict | None:
        size, position = self.resolution.size, 0
        meter = StallMeter(self._least_speed(), self._config.stall_seconds)
        ticked_at = synced_at = asked_at = time.monotonic()
        async for chunk in response.aiter_raw():
            now = time.monotonic()
            self.transferred += len(chunk)
            end = position + len(chunk)
            if size is not None and end > size:
                return RangeVerdict(RangeOutcome.BROKEN, f"more than the {size:,} bytes that were announced")
            if not self._part.covers(position, end):
                await run_to_end(self._part.write, position, [chunk])
                self._hasher.advance(self._part.prefix)
            position = end
            if now - ticked_at >= _TICK_SECONDS:
                self.advanced(self._part.have, 1)
                ticked_at = now
            if now - synced_at >= _CHECKPOINT_SECONDS:
                await run_to_end(self._part.checkpoint)
                synced_at = now
            if meter.feed(now - asked_at, len(chunk)):
                return RangeVerdict(RangeOutcome.RETRY, "the connection became too slow")
            pause = self._limit.delay(len(chunk), now)
            if pause > 0:
                await asyncio.sleep(pause)
            asked_at = time.monotonic()
        if size is None:
            self._part.set_size(position)
        elif position < size:
            return RangeVerdict(RangeOutcome.RETRY, "the server sent less than it announced")
        self.advanced(self._part.have, 0)
        return None

    # --- failures --------------------------------------------------------------------------------

    async def _recover(self, verdict: RangeVerdict, failures: int, moves: int) -> None:
        """Wait, ask for less, or find the file anew, as the verdict demands; or give up."""
        if verdict.outcome is RangeOutcome.REFUSED:
            raise DownloadError(
                f"{self._part.info.name} cannot be fetched: {verdict.detail}", hint="check the source"
            )
        wait = next_wait(self._policy, failures, random.random(), verdict.retry_after)  # noqa: S311
        if wait is None:
            raise self._given_up(verdict, failures)
        if verdict.outcome is RangeOutcome.BUSY:
            self._jobs.busy()
        self.retrying(verdict.detail, wait)
        await asyncio.sleep(wait)
        if verdict.outcome in (RangeOutcome.EXPIRED, RangeOutcome.CHANGED):
            await self._move(moves)

    def _given_up(self, verdict: RangeVerdict, failures: int) -> Error:
        kept = self._part.have
        cause = f"{failures} attempts in a row brought nothing"
        if verdict.retry_after is not None:
            cause = f"the server asks to come back in {verdict.retry_after:.0f} seconds"
        return DownloadError(
            f"{self._part.info.name} could not be fetched: {verdict.detail}",
            cause=cause,
            hint=f"run the same command again: {kept:,} bytes are kept and it goes on from there",
        )

    async def _move(self, moves: int) -> None:
        """Resolve the file again, once for all connections that found the old address dead."""
        async with self._moving:
            if self._moves != moves:
                return
            if self._moves >= _MOST_MOVES:
                raise DownloadError("the server keeps changing its mind about where the file is")
            after = relocated(self.resolution, await self.resolve_again())
            if after.validator != self.resolution.validator:
                self._part.rebind(replace(self._part.info, validator=after.validator), keep=True)
            self.resolution = after
            self._moves += 1


def _failed(url: str, error: Exception) -> RangeVerdict:
    """Return the verdict on a request that broke; TLS that breaks midway is an ``OSError``."""
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        raise certificate_error(url, error) from error
    return RangeVerdict(RangeOutcome.RETRY, describe_failure(error))
