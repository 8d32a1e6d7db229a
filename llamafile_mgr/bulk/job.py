"""A bulk job: texts in, vectors out, and every finished fragment kept until all are.

Nothing of a job depends on when it was interrupted: fragments are fixed pieces of the input, each is computed
by itself, and the output is made of all of them at the end. Memory holds a few fragments however long the
input is.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llamafile_mgr.bulk.fragments import Fragment, split_fragments
from llamafile_mgr.bulk.parts import FinishedFragment, Parts, parts_folder
from llamafile_mgr.bulk.readers import TextInput, count_texts, form_of, read_texts
from llamafile_mgr.bulk.records import TextResult
from llamafile_mgr.bulk.sources import EmbedSettings, VectorSource
from llamafile_mgr.bulk.writers import OutputFacts, output_form, write_output
from llamafile_mgr.errors import CheckpointError, NotFoundError, UsageError
from llamafile_mgr.store.files import store_errors

__all__ = ["Job", "JobReport", "Observe", "Progress", "check_job", "embed_file", "run_job", "stream_job"]

_READ_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Job:
    """What to embed, how, and where to. ``batch``: texts of a request. ``concurrency``: requests under way.

    ``fragment``: texts that are kept together; about two of them are computed again after an interruption.
    ``overwrite``: replace an output that is there. ``restart``: forget what an earlier run has finished.
    """

    source: TextInput
    output: Path | None = None
    settings: EmbedSettings = field(default_factory=EmbedSettings)
    batch: int = 32
    concurrency: int = 4
    fragment: int = 128
    overwrite: bool = False
    restart: bool = False

    def __post_init__(self) -> None:
        if self.batch < 1 or self.concurrency < 1 or self.fragment < 1:
            raise UsageError("batch, concurrency and fragment must be at least 1")


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a job is. ``done``: texts, of them ``kept`` from an earlier run. ``total``: about, if known."""

    done: int
    kept: int
    failed: int
    total: int | None


@dataclass(frozen=True, slots=True)
class JobReport:
    """What a job made. ``exact``: the same job would give the same bytes again. ``kept``: texts that an
    earlier run had finished."""

    model: str
    vector_space: str
    dimensions: int
    texts: int
    failed: int
    truncated: int
    kept: int
    exact: bool


Observe = Callable[[Progress], None]


def embed_file(
    job: Job,
    connect: Callable[[], AbstractAsyncContextManager[VectorSource]],
    observe: Observe = lambda _: None,
) -> JobReport:
    """Run a job to its end, or go on with it; ``connect`` gives the source of vectors.

    Raises:
        UsageError: there is an output already, or a name does not say what a file holds.
        CheckpointError: the input, the settings or the vector space changed since the job was begun.
        NotFoundError, InvalidFileError: the input cannot be read.
        Error: the source failed as a whole. What is finished is kept.
    """

    async def run() -> JobReport:
        check_job(job)
        async with connect() as source:
            return await run_job(job, source, observe)

    return asyncio.run(run())


def check_job(job: Job) -> None:
    """Refuse what can be refused before an engine starts. Raises UsageError and NotFoundError."""
    if job.source.texts is None:
        form_of(job.source)
        if job.source.path is not None and not job.source.path.is_file():
            raise NotFoundError(f"there is no file {job.source.path}")
    if job.output is None:
        return
    output_form(job.output)
    if not job.output.parent.is_dir():
        raise NotFoundError(f"there is no directory {job.output.parent}")
    begun = Parts(parts_folder(job.output)).read_job() is not None
    if job.output.exists() and not job.overwrite and not begun:
        raise UsageError(f"{job.output} is there already", hint="name another output, or say --overwrite")


async def run_job(job: Job, source: VectorSource, observe: Observe = lambda _: None) -> JobReport:
    """Run a job with a source that is at hand; see ``embed_file``."""
    output = job.output
    if output is None:
        raise UsageError("a job that is kept needs an output")
    check_job(job)
    total = await asyncio.to_thread(count_texts, job.source)
    parts = Parts(parts_folder(output))
    described = await asyncio.to_thread(_describe, job, source)
    with parts.opened(described, restart=job.restart):
        counts = _Counts(total, observe)
        await _finish_fragments(job, source, parts, counts)
        width = counts.width if counts.width is not None else source.dimensions or 0
        settings = job.settings
        kind = settings.input_type.value if settings.input_type else None
        facts = OutputFacts(
            source.model, source.vector_space, width, counts.texts, kind, settings.truncation.value
        )
        fragments = counts.fragments
        await asyncio.to_thread(write_output, output, lambda: parts.read_all(fragments), facts, parts.folder)
        parts.remove()
    return counts.report(source, width)


async def _finish_fragments(job: Job, source: VectorSource, parts: Parts, counts: _Counts) -> None:
    """See that every fragment is kept.

    Raises:
        CheckpointError: a finished fragment's texts changed.
    """
    fragments = split_fragments(read_texts(job.source), job.fragment)
    todo = _skip_finished(fragments, parts, counts)
    async for part in _compute(todo, source, job):
        await asyncio.to_thread(parts.write, part)
        counts.add(part, kept=False)


def _skip_finished(fragments: Iterable[Fragment], parts: Parts, counts: _Counts) -> Iterator[Fragment]:
    for fragment in fragments:
        part = parts.read(fragment.index)
        if part is None:
            yield fragment
            continue
        if part.digest != fragment.digest:
            raise CheckpointError(
                f"the job in {parts.folder} cannot go on: its input changed",
                cause=f"texts of fragment {fragment.index} are not those that were embedded",
                hint="begin it anew with --restart",
            )
        counts.add(part, kept=True)


async def stream_job(
    job: Job,
    source: VectorSource,
    write: Callable[[FinishedFragment], None],
    observe: Observe = lambda _: None,
) -> JobReport:
    """Give the fragments of a job to ``write`` in order as they are finished; nothing is kept."""
    total = await asyncio.to_thread(count_texts, job.source)
    counts = _Counts(total, observe)
    async for part in _compute(split_fragments(read_texts(job.source), job.fragment), source, job):
        counts.add(part, kept=False)
        write(part)
    return counts.report(source, counts.width or source.dimensions or 0)


async def _compute(
    fragments: Iterator[Fragment], source: VectorSource, job: Job
) -> AsyncIterator[FinishedFragment]:
    """Yield computed fragments in order, some of them under way at once."""
    gate = asyncio.Semaphore(job.concurrency)
    window = 1 + -(-job.concurrency * job.batch // job.fragment)
    under_way: deque[asyncio.Task[FinishedFragment]] = deque()
    try:
        while True:
            while len(under_way) < window:
                fragment = await _read_next(fragments)
                if fragment is None:
                    break
                under_way.append(asyncio.create_task(embed_fragment(fragment, source, job.batch, gate)))
            if not under_way:
                return
            yield await under_way[0]
            under_way.popleft()
    finally:
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)


async def _read_next(fragments: Iterator[Fragment]) -> Fragment | None:
    """Return the next fragment, read by a thread that nobody waits for: standard input may never end."""
    loop = asyncio.get_running_loop()
    read: asyncio.Future[Fragment | None] = loop.create_future()

    def settle(fragment: Fragment | None, error: BaseException | None) -> None:
        if read.done():
            return
        if error is not None:
            read.set_exception(error)
        else:
            read.set_result(fragment)

    def work() -> None:
        fragment, failure = None, None
        try:
            fragment = next(fragments, None)
        except BaseException as error:  # handed on, whatever it is: the loop raises it
            failure = error
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(settle, fragment, failure)

    threading.Thread(target=work, name="reader", daemon=True).start()
    return await read


async def embed_fragment(
    fragment: Fragment, source: VectorSource, batch: int, gate: asyncio.Semaphore
) -> FinishedFragment:
    """Return what becomes of a fragment's texts, asked for ``batch`` at a time through ``gate``."""
    rows = [row for row, record in enumerate(fragment.records) if record.failure is None]
    results = [TextResult(failure=record.failure) for record in fragment.records]

    async def embed(some: list[int]) -> None:
        async with gate:
            answers = await source.embed([fragment.records[row].text for row in some])
        for row, answer in zip(some, answers, strict=True):
            results[row] = answer

    tasks = [asyncio.ensure_future(embed(rows[at : at + batch])) for at in range(0, len(rows), batch)]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    width = next((len(each.vector) for each in results if each.vector is not None), source.dimensions or 0)
    return FinishedFragment.collect(fragment, results, width, exact=source.exact)


class _Counts:
    """What a job has done so far; tells ``observe`` after every fragment."""

    def __init__(self, total: int | None, observe: Observe) -> None:
        self._total = total
        self._observe = observe
        self.texts = self.kept = self.failed = self.truncated = self.fragments = 0
        self.width: int | None = None
        self._exact = True

    def add(self, part: FinishedFragment, *, kept: bool) -> None:
        """Count one fragment.

        Raises:
            CheckpointError: its vectors have another width than the others'.
        """
        width = part.vectors.shape[1] if len(part.failures) < len(part.ids) else self.width
        if self.width is not None and width != self.width:
            raise CheckpointError(f"vectors of {width} dimensions among vectors of {self.width}")
        self.width = width
        self.texts += len(part.ids)
        self.kept += len(part.ids) if kept else 0
        self.failed += len(part.failures)
        self.truncated += len(part.truncated)
        self.fragments += 1
        self._exact = self._exact and part.exact
        self._observe(Progress(self.texts, self.kept, self.failed, self._total))

    def report(self, source: VectorSource, width: int) -> JobReport:
        """Return the end's figures."""
        return JobReport(
            source.model,
            source.vector_space,
            width,
            self.texts,
            self.failed,
            self.truncated,
            self.kept,
            self._exact,
        )


def _describe(job: Job, source: VectorSource) -> dict[str, Any]:
    """Return what must be the same when a job goes on."""
    settings, texts = job.settings, job.source
    return {
        "input": _identify(texts),
        "settings": {
            "input_type": settings.input_type.value if settings.input_type else None,
            "truncation": settings.truncation.value,
            "dimensions": settings.dimensions,
            "task": settings.task,
            "form": form_of(texts).value if texts.texts is None else None,
            "text_column": texts.text_column,
            "id_column": texts.id_column,
        },
        "model": source.model,
        "vector_space": source.vector_space,
        "fragment": job.fragment,
    }


def _identify(source: TextInput) -> dict[str, Any]:
    """Return what tells an input from another: a file's digest, nothing for what cannot be read twice."""
    if source.path is None:
        return {"texts": list(source.texts) if source.texts is not None else None}
    digest, size = hashlib.blake2b(digest_size=16), 0
    with store_errors(source.path), source.path.open("rb") as stream:
        for block in itertools.takewhile(bool, iter(lambda: stream.read(_READ_BYTES), None)):
            digest.update(block)
            size += len(block)
    return {"bytes": size, "digest": digest.hexdigest()}
